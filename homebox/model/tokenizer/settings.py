"""Reads what stands beside a vocabulary: begin and end of text, named tokens, the chat template.

Files: `tokenizer_config.json` and `chat_template.jinja` of a Hugging Face directory.
Invariant: ids in `Settings` are tokens of the vocabulary; a template is bounded, not yet parsed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from homebox.errors import ModelFormatError
from homebox.model.files.json_file import read_bytes, read_json_file, show
from homebox.model.tokenizer.base import Settings

CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
WITH_TOOLS = "tool_use"  # name of the template for when tools are offered
MAX_CONFIG_BYTES = 8 << 20  # some list every token of a large vocabulary
MAX_TEMPLATE = 1 << 18  # bytes
# Tokens that end an assistant's turn in the formats in use, by family: ChatML, Llama 3, Gemma,
# Phi, gpt-oss, Granite, OLMo, DeepSeek.
END_MARKS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
# Where these end a turn, <|end|> only ends one of its parts.
_PARTS = {"<|return|>": "<|end|>"}

Find = Callable[[str], int | None]  # text of a token -> id


def read_settings(
    directory: Path, find: Find, prefix: tuple[int, ...] | None, suffix: tuple[int, ...]
) -> Settings:
    """Return the settings of a model directory.

    `prefix` and `suffix` are what the vocabulary's own file says; the configuration overrides them.
    Raises ModelFormatError naming file and field.
    """
    path = directory / CONFIG
    raw = read_json_file(path, MAX_CONFIG_BYTES) if path.exists() else None
    named = {} if raw is None else _named_tokens(raw, str(path))
    if raw is not None and (prefix is None or raw.get("add_bos_token") is not None):
        prefix = _asked(raw, "bos", named, find, str(path))
    if raw is not None and raw.get("add_eos_token") is not None:
        suffix = _asked(raw, "eos", named, find, str(path)) or ()
    template = _template_file(directory / TEMPLATE)
    tool_template = None
    if template is None and raw is not None:
        template = _template_of(raw, str(path))
        tool_template = _named_template(raw, WITH_TOOLS, str(path))
    return Settings(
        prefix=prefix,
        suffix=suffix,
        end_ids=end_ids(find, named.get("eos_token")),
        template=template,
        tool_template=tool_template,
        variables=tuple(sorted(named.items())),
        # Hugging Face's classes put the space there only for vocabularies called legacy.
        marks_begin=raw is None or raw.get("legacy") is True,
    )


def end_ids(find: Find, eos: str | None = None) -> tuple[int, ...]:
    """Return the ids of `eos` and of the known tokens that end a turn, as far as there are any."""
    texts = [text for text in END_MARKS if find(text) is not None]
    for whole, part in _PARTS.items():
        if whole in texts and part in texts:
            texts.remove(part)
    found = (find(text) for text in ([] if eos is None else [eos]) + texts)
    return tuple(dict.fromkeys(index for index in found if index is not None))


def bounded_template(text: Any, where: str) -> str:
    """Return a template if it is a text of a size that one can have; else ModelFormatError."""
    if not isinstance(text, str):
        raise ModelFormatError(f"{where}: must be a text, not {show(text)}")
    if len(text) > MAX_TEMPLATE:
        raise ModelFormatError(f"{where}: longer than {MAX_TEMPLATE} characters")
    return text


def _named_tokens(raw: Mapping[str, Any], where: str) -> dict[str, str]:
    named = {}
    for name, value in raw.items():
        if not name.endswith("_token") or name.startswith("add_") or value is None:
            continue
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise ModelFormatError(f"{where}: {name}: must be a text, not {show(value)}")
        named[name] = text
    return named


def _asked(
    raw: Mapping[str, Any], which: str, named: dict[str, str], find: Find, where: str
) -> tuple[int, ...] | None:
    value = raw.get(f"add_{which}_token")
    if value is None:
        return None
    if not isinstance(value, bool):
        raise ModelFormatError(f"{where}: add_{which}_token: must be true or false")
    if not value or f"{which}_token" not in named:
        return ()
    index = find(named[f"{which}_token"])
    if index is None:
        raise ModelFormatError(
            f"{where}: {which}_token: {show(named[f'{which}_token'])} is not in the vocabulary"
        )
    return (index,)


def _template_file(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return bounded_template(read_bytes(path, 4 * MAX_TEMPLATE).decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise ModelFormatError(f"{path}: not UTF-8 text") from None


def _template_of(raw: Mapping[str, Any], where: str) -> str | None:
    """Return the template of a configuration; of several named ones the one named default."""
    value = raw.get("chat_template")
    if value is None or isinstance(value, str):
        return value and bounded_template(value, f"{where}: chat_template")
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ModelFormatError(f"{where}: chat_template: must be a text or a list of named ones")
    for name in ("default", *(entry.get("name") for entry in value)):
        found = _named_template(raw, name, where)
        if found is not None:
            return found
    return None


def _named_template(raw: Mapping[str, Any], name: Any, where: str) -> str | None:
    """Return one of the templates of a configuration that has several."""
    value = raw.get("chat_template")
    for entry in value if isinstance(value, list) else ():
        if entry.get("name") == name:
            return bounded_template(entry.get("template"), f"{where}: chat_template: {name}")
    return None

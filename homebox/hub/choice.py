"""Which files of a repository are brought here: those that are read, and no others.

The one idea: a repository holds the same weights several times and programs beside them; a model is
either Hugging Face's layout with safetensors, or one GGUF file. Invariant: nothing that could run
code (pickles, *.py) is ever chosen.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.hub.catalogue import amount
from homebox.model.files.weight_files import INDEX, SINGLE
from homebox.model.loading.mistakes import PICKLES

CONFIG = "config.json"
SMALL = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    INDEX,
)
_TYPE = re.compile(r"(?:^|[.\-_])((?:UD-)?(?:IQ|Q|TQ)\d\w*|BF16|F16|F32|MXFP4\w*)$", re.IGNORECASE)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SHOWN = 12

Sizes = Mapping[str, int | None]


def choose_gguf(repo: str, sizes: Sizes, asked: str) -> str | None:
    """Return the one GGUF file to bring, None if the repository is to be had as a folder.

    `asked` is a file's name, or the type of its numbers (Q8_0), or "". Raises ModelNotFoundError,
    and ModelFormatError for files in parts.
    """
    files = [name for name in sizes if name.endswith(".gguf") and not _beside(name)]
    if not asked:
        if CONFIG in sizes and (SINGLE in sizes or INDEX in sizes):
            return None
        if not files:
            return None
        found = files
    else:
        found = [name for name in files if asked in (name, PurePosixPath(name).name)]
        found = found or [name for name in files if type_of(name).lower() == asked.lower()]
    if len(found) == 1:
        if _SPLIT.search(found[0]):
            raise ModelFormatError(
                f"{repo}: {found[0]}: files in parts are not supported; take another one: "
                f"{_listed((name for name in files if not _SPLIT.search(name)), sizes)}"
            )
        return found[0]
    if not files:
        raise ModelNotFoundError(f"{repo} has no GGUF files; leave --file away")
    what = "has several GGUF files" if found else f"has no GGUF file {asked[:100]!a}"
    raise ModelNotFoundError(
        f"{repo} {what}; say which with --file and a name or a type: {_listed(files, sizes)}"
    )


def type_of(name: str) -> str:
    """Return the type of the numbers that a GGUF file's name speaks of, or its stem."""
    stem = PurePosixPath(name).name.removesuffix(".gguf")
    found = _TYPE.search(stem)
    return found[1] if found else stem


def small_files(repo: str, sizes: Sizes) -> list[str]:
    """Return the files beside the weights of a folder, in the order in which they are brought.

    Raises ModelNotFoundError or ModelFormatError for a repository that holds no such model.
    """
    if CONFIG in sizes and (SINGLE in sizes or INDEX in sizes):
        return [name for name in SMALL if name in sizes and (name != INDEX or SINGLE not in sizes)]
    if any(name.endswith(PICKLES) for name in sizes):
        raise ModelFormatError(
            f"{repo}: holds its weights only as pickles, which can run any code and are never "
            "brought here; look for a repository with safetensors or GGUF files"
        )
    if "adapter_config.json" in sizes:
        raise ModelFormatError(
            f"{repo}: is an adapter; download it, and add it to its base model with "
            '"homebox import adapter PATH"'
        )
    raise ModelNotFoundError(
        f"{repo} holds no model: there is neither {CONFIG} with {SINGLE} nor a GGUF file"
    )


def weight_files(repo: str, sizes: Sizes, index: Mapping[str, str]) -> list[str]:
    """Return the files with weights; `index` is the weight map of a model in several files."""
    names = sorted(set(index.values())) if index else [SINGLE]
    missing = [name for name in names if name not in sizes]
    if missing:
        raise ModelNotFoundError(f"{repo} lacks {missing[0]}, which its {INDEX} names")
    return names


def _beside(name: str) -> bool:
    """Whether a GGUF file is no language model, but what sees for one or was measured for one."""
    last = PurePosixPath(name).name.lower()
    return last.startswith("mmproj") or "imatrix" in last


def _listed(names: Iterable[str], sizes: Sizes) -> str:
    found = sorted(names, key=lambda name: (sizes[name] or 0, name))
    texts = []
    for name in found[:_SHOWN]:
        size = sizes[name]
        texts.append(name if size is None else f"{name} ({amount(size)})")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(texts) + more

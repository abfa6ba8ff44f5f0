"""Checks the steps around a vocabulary in `tokenizer.json`: before it, after it, and back to text.

Format: the serialisation of the `tokenizers` package (https://huggingface.co/docs/tokenizers).
The one idea: each step is copied field by field; a kind of step that is not known is refused.
Invariant: no step makes a text much longer, and patterns are short. A pattern can still be slow, as
its author wishes: the package gives up after ten million steps of one search.
"""

import base64
import re
from typing import Any

from homebox.model.files.json_file import show
from homebox.model.tokenizer.json_parts import JsonParts, Raw
from homebox.model.tokenizer.sentencepiece_file import check_charsmap

_MAX_PATTERN = 4096
_MAX_REPEATS = 10_000  # product of the counts {n} in a pattern
_MAX_STEPS = 16
_MAX_GROWTH = 16  # characters that a step may put in for one
_COUNT = re.compile(r"\{(\d*),?(\d*)\}")
_BEHAVIOURS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_SCHEMES = ("always", "first", "never")


class TokenizerSteps(JsonParts):
    """The steps of one file."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._steps = 0
        self._growth = 1

    def normalizer(self, raw: Any, field: str) -> dict[str, Any] | None:
        """Return a copy of a step that changes text."""
        if raw is None:
            return None
        kind = self._step(raw, field)
        if kind == "Sequence":
            steps = self.entries(raw, "normalizers", f"{field}.normalizers", _MAX_STEPS)
            return {"type": kind, "normalizers": [self.normalizer(s, field) for s in steps]}
        if kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
            return {"type": kind}
        if kind == "Strip":
            return {
                "type": kind,
                "strip_left": self.flag(raw, "strip_left", field),
                "strip_right": self.flag(raw, "strip_right", field),
            }
        if kind == "Prepend":
            return {"type": kind, "prepend": self._short(raw, "prepend", field)}
        if kind == "Replace":
            pattern = self._pattern(raw, field)
            return {"type": kind, "pattern": pattern, "content": self._short(raw, "content", field)}
        if kind == "Precompiled":
            return {"type": kind, "precompiled_charsmap": self._charsmap(raw, field)}
        raise self.fail(f"{field}.type", f"{show(kind)} is not supported")

    def pre_tokenizer(self, raw: Any, field: str) -> dict[str, Any] | None:
        """Return a copy of a step that cuts text into words."""
        if raw is None:
            return None
        kind = self._step(raw, field)
        if kind == "Sequence":
            steps = self.entries(raw, "pretokenizers", f"{field}.pretokenizers", _MAX_STEPS)
            return {"type": kind, "pretokenizers": [self.pre_tokenizer(s, field) for s in steps]}
        if kind == "ByteLevel":
            return {
                "type": kind,
                "add_prefix_space": self.flag(raw, "add_prefix_space", field),
                "trim_offsets": True,
                "use_regex": self.flag(raw, "use_regex", field, default=True),
            }
        if kind == "Split":
            return {
                "type": kind,
                "pattern": self._pattern(raw, field),
                "behavior": self.choice(raw, "behavior", _BEHAVIOURS, field),
                "invert": self.flag(raw, "invert", field),
            }
        if kind == "Digits":
            single = self.flag(raw, "individual_digits", field)
            return {"type": kind, "individual_digits": single}
        if kind == "Punctuation":
            return {"type": kind, "behavior": self.choice(raw, "behavior", _BEHAVIOURS, field)}
        if kind in ("Whitespace", "WhitespaceSplit"):
            return {"type": kind}
        if kind == "Metaspace":
            return {
                "type": kind,
                "replacement": self._space(raw, field),
                "prepend_scheme": self._scheme(raw, field),
                "split": self.flag(raw, "split", field, default=True),
            }
        raise self.fail(f"{field}.type", f"{show(kind)} is not supported")

    def _step(self, raw: Any, field: str) -> Any:
        self._steps += 1
        if self._steps > 2 * _MAX_STEPS:
            raise self.fail(field, f"more than {2 * _MAX_STEPS} steps")
        if not isinstance(raw, dict):
            raise self.fail(field, f"must be an object, not {show(raw)}")
        return raw.get("type")

    def _pattern(self, raw: Raw, field: str) -> dict[str, str]:
        pattern = raw.get("pattern")
        if not isinstance(pattern, dict) or len(pattern) != 1:
            raise self.fail(f"{field}.pattern", 'must be {"String": ...} or {"Regex": ...}')
        ((kind, text),) = pattern.items()
        if kind not in ("String", "Regex") or not isinstance(text, str) or not text:
            raise self.fail(f"{field}.pattern", 'must be {"String": ...} or {"Regex": ...}')
        repeats = 1
        for low, high in _COUNT.findall(text):
            repeats *= max(int(low[:9] or 0), int(high[:9] or 0), 1)
        if len(text) > _MAX_PATTERN or repeats > _MAX_REPEATS:
            raise self.fail(f"{field}.pattern", "is too large")
        return {kind: text}

    def _short(self, raw: Raw, name: str, field: str) -> str:
        text = raw.get(name)
        if not isinstance(text, str):
            raise self.fail(f"{field}.{name}", f"must be a text, not {show(text)}")
        self._growth *= max(1, len(text))
        if self._growth > _MAX_GROWTH:
            raise self.fail(f"{field}.{name}", "makes texts too long")
        return text

    def _charsmap(self, raw: Raw, field: str) -> str:
        text = raw.get("precompiled_charsmap")
        if not isinstance(text, str):
            raise self.fail(f"{field}.precompiled_charsmap", "must be a text")
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            raise self.fail(f"{field}.precompiled_charsmap", "is not base64") from None
        check_charsmap(data, self.where)
        return text

    def _space(self, raw: Raw, field: str) -> str:
        text = raw.get("replacement", "\u2581")
        if not isinstance(text, str) or len(text) != 1:
            raise self.fail(f"{field}.replacement", f"must be one character, not {show(text)}")
        return text

    def _scheme(self, raw: Raw, field: str) -> str:
        if "prepend_scheme" in raw:
            return self.choice(raw, "prepend_scheme", _SCHEMES, field)
        return "always" if self.flag(raw, "add_prefix_space", field, default=True) else "never"

    def decoder(self, raw: Any) -> tuple[str, bool]:
        """Return "bytes" or "spaces", and whether the first space is taken away."""
        if not isinstance(raw, dict):
            raise self.fail("decoder", f"must be an object, not {show(raw)}")
        kind = raw.get("type")
        if kind == "ByteLevel":
            return "bytes", False
        if kind == "Metaspace":
            return "spaces", self._scheme(raw, "decoder") != "never"
        if kind == "Sequence":
            kinds = self.entries(raw, "decoders", "decoder.decoders", _MAX_STEPS)
            names = [str(s.get("type")) if isinstance(s, dict) else "" for s in kinds]
            if names == ["ByteLevel"]:
                return "bytes", False
            if set(names) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
                strips = any(
                    s["type"] == "Metaspace" or (s["type"] == "Strip" and s.get("start"))
                    for s in kinds
                )
                return "spaces", strips
        raise self.fail("decoder.type", f"{show(kind)} is not supported")

    def surround(
        self, raw: Any, tokens: dict[int, str]
    ) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
        """Return the ids before and after a text; None before it if the file says nothing."""
        if raw is None:
            return None, ()
        if not isinstance(raw, dict):
            raise self.fail("post_processor", f"must be an object or null, not {show(raw)}")
        kind = raw.get("type")
        if kind == "Sequence":
            prefix: tuple[int, ...] = ()
            suffix: tuple[int, ...] = ()
            field = "post_processor.processors"
            for step in self.entries(raw, "processors", field, _MAX_STEPS):
                if not isinstance(step, dict) or step.get("type") == "Sequence":
                    raise self.fail(field, "must be a flat list of objects")
                before, after = self.surround(step, tokens)
                prefix, suffix = (*(before or ()), *prefix), (*suffix, *after)
            return prefix, suffix
        if kind == "ByteLevel":
            return (), ()
        if kind == "TemplateProcessing":
            return self._template(raw, tokens)
        raise self.fail("post_processor.type", f"{show(kind)} is not supported")

    def _template(
        self, raw: Raw, tokens: dict[int, str]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        sides: tuple[list[int], list[int]] = ([], [])
        passed = 0
        specials = raw.get("special_tokens") or {}
        field = "post_processor.single"
        for part in self.entries(raw, "single", field, 64):
            if not isinstance(part, dict) or len(part) != 1:
                raise self.fail(field, "must be a list of Sequence and SpecialToken")
            if "Sequence" in part:
                passed += 1
                continue
            name = part.get("SpecialToken")
            name = str(name.get("id")) if isinstance(name, dict) else ""
            entry = specials.get(name) if isinstance(specials, dict) else None
            ids = entry.get("ids") if isinstance(entry, dict) else None
            if (
                not isinstance(ids, list)
                or len(ids) > 8
                or any(type(i) is not int or i not in tokens for i in ids)
            ):
                raise self.fail(field, f"{show(name)} is no special token with ids")
            sides[min(passed, 1)].extend(ids)
        if passed != 1:
            raise self.fail(field, "must hold the text once")
        return tuple(sides[0]), tuple(sides[1])

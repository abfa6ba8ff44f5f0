"""JSON values that know the text in which they were written, so that they can be written so again.

The one idea: clients read a call's arguments and write them anew, in another layout; a template
that writes JSON gets the model's own text back, as it stands for the same value.
Invariant: a value is what its text says; whoever does not ask for the text sees an ordinary value.
"""

import json
from collections.abc import Callable, Mapping
from json.decoder import JSONArray, JSONObject  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

_DEPTH = 2  # arguments, and what each of them is


class WrittenObject(dict[str, Any]):
    """An object with its text; see `text_of_value`."""

    # With an underscore, as templates may not reach for such names; `text` would hide a key.
    __slots__ = ("_text",)
    _text: str


class WrittenList(list[Any]):
    """A list with its text."""

    __slots__ = ("_text",)
    _text: str


def written(text: str) -> Any:
    """Return the value of a JSON text, in which objects and lists know theirs.

    Raises ValueError or RecursionError if it is none.
    """
    return _Decoder(text).decode(text)


def text_of_value(value: Any) -> str | None:
    """Return the text in which a value was written, if it knows."""
    return value._text if isinstance(value, WrittenObject | WrittenList) else None


def written_alike(value: Any, inner: Any, change: Callable[[str], str]) -> Any:
    """Return `inner`, a changed copy of `value`, with the text of `value` changed as well."""
    text = text_of_value(value)
    return inner if text is None else _knowing(inner, change(text))


def same_value(value: Any) -> str:
    """Return a text that is the same for what programs regard as the same JSON value.

    Numbers are compared as doubles, as most clients hold them. Raises what `json.dumps` raises.
    """
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value) + 0.0  # and -0.0 as 0.0
        except OverflowError:
            return str(value)
    return value


def _knowing(value: Any, text: str) -> Any:
    made = WrittenObject(value) if isinstance(value, dict) else WrittenList(value)
    made._text = text
    return made


class _Decoder(json.JSONDecoder):
    """The library's decoder, which tells where objects and lists begin and end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._whole = text
        self._depth = 0
        self.parse_object = self._noting(JSONObject)
        self.parse_array = self._noting(JSONArray)
        self.scan_once = py_make_scanner(self)

    def _noting(self, parse: Callable[..., tuple[Any, int]]) -> Callable[..., tuple[Any, int]]:
        def noting(text_and_end: tuple[str, int], *args: Any) -> tuple[Any, int]:
            start = text_and_end[1] - 1
            self._depth += 1
            value, end = parse(text_and_end, *args)
            self._depth -= 1
            if self._depth < _DEPTH:
                value = _knowing(value, self._whole[start:end])
            return value, end

        return noting

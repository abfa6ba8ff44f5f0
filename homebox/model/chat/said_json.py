"""Writes JSON of texts that know who said them, character by character as `json.dumps` would.

Invariant: the text is that of `json.dumps`, or the value's own (`written.py`); quotes, brackets and
numbers that are written here are the template's words.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homebox.model.chat.said import Said, joined, runs_of
from homebox.model.chat.written import text_of_value


@dataclass(frozen=True, slots=True)
class Style:
    """How JSON is laid out: the arguments of `json.dumps`."""

    ensure_ascii: bool = False
    indent: int | None = None
    separators: tuple[str, str] | None = None
    sort_keys: bool = False

    @property
    def between(self) -> tuple[str, str]:
        """Return what stands between items, and between a name and its value."""
        if self.separators is not None:
            return self.separators[0], self.separators[1]
        return ("," if self.indent is not None else ", "), ": "


def said_json(value: Any, style: Style) -> str:
    """Return the JSON text of a value; raises TypeError and ValueError as `json.dumps` does."""
    return joined(_parts(value, style, 0))


def _parts(value: Any, style: Style, level: int) -> Iterator[str]:
    text = text_of_value(value)
    if text is not None:
        yield text
    elif isinstance(value, Mapping):
        items = sorted(value.items()) if style.sort_keys else value.items()
        colon = style.between[1]
        pairs = ((*_key(key, style), colon, item) for key, item in items)
        yield from _group("{}", list(pairs), style, level)
    elif isinstance(value, list | tuple):
        yield from _group("[]", [(item,) for item in value], style, level)
    elif isinstance(value, str):
        yield from _text(value, style)
    else:
        yield json.dumps(value)


def _group(ends: str, items: list[tuple[Any, ...]], style: Style, level: int) -> Iterator[str]:
    """Yield a list or an object; of each item all but the last are texts already."""
    if not items:
        yield ends
        return
    deep = "" if style.indent is None else "\n" + " " * style.indent * (level + 1)
    yield ends[0] + deep
    for number, (*before, item) in enumerate(items):
        if number:
            yield style.between[0] + deep
        yield from before
        yield from _parts(item, style, level + 1)
    yield ("" if style.indent is None else "\n" + " " * style.indent * level) + ends[1]


def _key(key: Any, style: Style) -> tuple[str, ...]:
    if isinstance(key, str):
        return tuple(_text(key, style))
    return (json.dumps({key: 0}).partition(":")[0][1:],)


def _text(text: str, style: Style) -> Iterator[str]:
    yield '"'
    place = 0
    for length, source in runs_of(text):
        part = str.__getitem__(text, slice(place, place + length))
        shown = json.dumps(part, ensure_ascii=style.ensure_ascii)[1:-1]
        yield Said(shown, ((len(shown), source),))
        place += length
    yield '"'

"""A text, what is searched in it, and what is found there.

The one idea: besides its letters a text is looked at as a row of classes (letter, digit, other), in
which candidates are found by searching for bytes. Invariant: a place is the same in every such row.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from homebox.memory.secrets.numerals import Numerals
from homebox.memory.secrets.signs import LONG, Scan, each_alone, thinned

Span = tuple[int, int]


class Found(NamedTuple):
    """A secret in a text: where it begins, where it ends, what it is."""

    start: int
    end: int
    kind: str


LEAST = 16  # characters of a run that may hold a key


def _classes(letters: bytes, digits: bytes, joining: bytes) -> bytes:
    """Return a table that maps latin-1 to one byte for each class; the rest becomes a blank."""
    table = bytearray(b" " * 256)
    for code in range(256):
        text = chr(code)
        if text.isalpha():
            table[code] = letters[0] if code < 128 else 0x78
        elif text.isdigit() and code < 128:
            table[code] = digits[0]
        elif text in "_-.+/=~:":
            table[code] = joining[0]
    return bytes(table)


_SHAPES = _classes(b"a", b"0", b" ")
_RUNS = bytes(0x61 if code in b"a0-" else 0x20 for code in _classes(b"a", b"0", b"-"))


class View:
    """A text, and what is searched in it."""

    def __init__(self, text: str, scan: Scan | None = None) -> None:
        self.text = text
        lower = text.lower()
        if len(lower) != len(text):  # a few letters have two small ones
            lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        self.lower = lower
        # Where signs stand so close together that the ones behind are not looked at one by one.
        self.crowds: list[tuple[int, int]] = []
        self._signs: dict[str, list[int]] = {}
        if scan and len(text) >= LONG:
            self._signs, self.crowds = thinned(scan.places(lower), len(text))
        self.latin = text.encode("latin-1", "replace")
        # A blank before, so that what stands first is found like the rest.
        self.shape = b" " + self.latin.translate(_SHAPES) + b" "

    @cached_property
    def numerals(self) -> Numerals:
        """The numbers that may be codes."""
        return Numerals(self.text)

    def signs(self, sign: str) -> list[int]:
        """Return where a sign in lower case stands."""
        places = self._signs.get(sign)
        return each_alone(self.lower, sign) if places is None else places

    def places(self, shape: bytes) -> Iterator[int]:
        """Yield where a shape that begins with a blank stands, behind that blank."""
        place = self.shape.find(shape)
        while place >= 0:
            yield place
            place = self.shape.find(shape, place + 1)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of the long runs of what keys consist of."""
        runs = self.latin.translate(_RUNS) + b" "
        place = runs.find(b"a" * LEAST)
        while place >= 0:
            end = runs.find(b" ", place)
            yield place, end
            place = runs.find(b"a" * LEAST, end)

"""The form of every table of secrets, and the one reader of them all.

The one idea: a row names short signs; where one of them stands in a text, the row's patterns are
tried in their order, and the first of which something passes the row's check counts. All rows lie
in one index, in which a sign that contains another is looked for only where that one stands.
Invariant: what is done at one place takes a bounded time, so a text takes time in proportion to its
length; which rows found something never depends on the order of signs in a text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from homebox.memory.secrets.view import Found, Span, View

# From a text and what a pattern matched in it to the secrets among that.
Check = Callable[[View, "re.Match[str]"], Iterable[Span]]
# From a pattern, a text and the place of a sign to what matches there.
Seek = Callable[["re.Pattern[str]", str, int], "re.Match[str] | None"]
# What a secret that was found is called.
Naming = Callable[[str, "re.Match[str]", Span], str]

_NUMBER = re.compile(r"\d{3}|\d[ -]\d")
_LINE = 200  # characters before a sign at which a pattern may begin with the line


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern that minds no case; made when first needed, for there are some hundred."""
    return re.compile(pattern, re.IGNORECASE)


def at_sign(pattern: re.Pattern[str], text: str, place: int) -> "re.Match[str] | None":
    """Try a pattern where the sign begins."""
    return pattern.match(text, place)


def at_word(pattern: re.Pattern[str], text: str, place: int) -> "re.Match[str] | None":
    """Try a pattern where the sign begins, unless that is within a word."""
    return None if _within(text, place) else pattern.match(text, place)


def at_line(pattern: re.Pattern[str], text: str, place: int) -> "re.Match[str] | None":
    """Try a pattern where the line of the sign begins."""
    start = max(text.rfind("\n", max(0, place - _LINE), place) + 1, place - _LINE, 0)
    return None if _within(text, start) else pattern.match(text, start)


def at_name(pattern: re.Pattern[str], text: str, place: int) -> "re.Match[str] | None":
    """Try a pattern where the name around the sign begins, or the word before it."""
    start = place
    least = max(0, place - 48)
    while start > least and (text[start - 1].isalnum() or text[start - 1] in "_-."):
        start -= 1
    if start > least and text[start - 1] == " ":
        word = start - 1
        while word > least and text[word - 1].isalpha():
            word -= 1
        return pattern.match(text, word) or pattern.match(text, start)
    return pattern.match(text, start)


def around(back: int, ahead: int) -> Seek:
    """Return what tries a pattern at the characters before and behind a sign."""

    def seek(pattern: re.Pattern[str], text: str, place: int) -> "re.Match[str] | None":
        return pattern.search(text, max(0, place - back), place + ahead)

    return seek


def near_number(pattern: re.Pattern[str], text: str, place: int) -> "re.Match[str] | None":
    """Try a pattern at the fifty characters before a sign, if a long number follows the sign."""
    number = _NUMBER.search(text, place, place + 48)
    return pattern.search(text, max(0, place - 50), place + 120) if number else None


def behind_number(pattern: re.Pattern[str], text: str, place: int) -> "re.Match[str] | None":
    """Try a pattern at the twenty characters before a sign, if a number ends where it begins."""
    if not place or not (text[place - 1].isdigit() or text[place - 1] in "#*"):
        return None
    return pattern.search(text, max(0, place - 20), place + 70)


def _within(text: str, place: int) -> bool:
    return bool(place) and text[place - 1].isalnum() and text[place : place + 1].isalnum()


def one(check: "Callable[[str, re.Match[str]], Span | None]") -> Check:
    """Return the check of a row that has one secret at most."""

    def checked(view: View, match: re.Match[str]) -> Iterable[Span]:
        span = check(view.text, match)
        return () if span is None else (span,)

    return checked


def the_value(view: View, match: re.Match[str]) -> Iterable[Span]:
    """Take the group `value` as it is."""
    return (match.span("value"),)


@dataclass(frozen=True)
class Cue:
    """What stands around a secret, and how it is told from what only looks like one."""

    kind: str
    signs: tuple[str, ...]  # in lower case; where one stands, the patterns are tried
    patterns: tuple[str, ...]  # the first of which something passes the check counts
    check: Check = the_value
    seek: Seek = at_sign
    head: str = ""  # what every one of the patterns begins with
    naming: Naming | None = None  # names a secret more closely than `kind`


def cue(
    kind: str,
    signs: str,
    pattern: str,
    *,
    check: Check = the_value,
    seek: Seek = at_word,
) -> Cue:
    """Return a row with one pattern; its signs are parted by bars."""
    return Cue(kind, tuple(signs.split("|")), (pattern,), check, seek)


class Index:
    """All rows, by those of their signs that contain no other."""

    def __init__(self, cues: Sequence[Cue]) -> None:
        self._cues = cues
        rows: dict[str, list[int]] = {}
        for number, row in enumerate(cues):
            for sign in row.signs:
                rows.setdefault(sign, []).append(number)
        inner = {sign: _parts(sign) & rows.keys() for sign in rows}
        self._roots = {sign: _Root(sign, rows[sign]) for sign in sorted(rows) if not inner[sign]}
        for sign, parts in inner.items():
            if parts:
                root = min(parts & self._roots.keys(), key=lambda each: (-len(each), each))
                self._roots[root].add(sign, rows[sign])

    @property
    def signs(self) -> tuple[str, ...]:
        """The signs that are looked for."""
        return tuple(self._roots)

    def found(self, view: View) -> list[Found]:
        """Return what the rows find, in the order of rows."""
        hits: dict[tuple[int, Found], None] = {}
        for sign, root in self._roots.items():
            for place in view.signs(sign):
                for start, numbers in root.at(view.lower, place):
                    for number in numbers:
                        for found in _read(self._cues[number], view, start):
                            hits[number, found] = None
        return [found for _, found in sorted(hits, key=lambda hit: hit[0])]


def _parts(sign: str) -> set[str]:
    """Return all that stands within a sign and is shorter."""
    ends = range(1, len(sign) + 1)
    return {sign[start:end] for end in ends for start in range(end)} - {sign}


class _Root:
    """A sign, and those that contain it, by the letter before or behind it."""

    def __init__(self, sign: str, rows: list[int]) -> None:
        self._length = len(sign)
        self._sign = sign
        self._rows = rows
        self._before: dict[str, list[tuple[str, int, list[int]]]] = {}
        self._behind: dict[str, list[tuple[str, int, list[int]]]] = {}

    def add(self, sign: str, rows: list[int]) -> None:
        """Add a sign that contains this one."""
        offset = sign.index(self._sign)
        if offset:
            self._before.setdefault(sign[offset - 1], []).append((sign, offset, rows))
        else:
            self._behind.setdefault(sign[self._length], []).append((sign, 0, rows))

    def at(self, lower: str, place: int) -> Iterator[tuple[int, list[int]]]:
        """Yield where signs begin at a place of the root, and their rows."""
        yield place, self._rows
        end = place + self._length
        for sign, _, rows in self._behind.get(lower[end : end + 1], ()):
            if lower.startswith(sign, place):
                yield place, rows
        if place:
            for sign, offset, rows in self._before.get(lower[place - 1], ()):
                if place >= offset and lower.startswith(sign, place - offset):
                    yield place - offset, rows


def _read(row: Cue, view: View, place: int) -> list[Found]:
    text, seek = view.text, row.seek
    if row.head and seek(compiled(row.head), text, place) is None:
        return []
    for pattern in row.patterns:
        match = seek(compiled(pattern), text, place)
        spans = [*row.check(view, match)] if match is not None else []
        if spans and match is not None:
            naming = row.naming
            return [
                Found(*span, naming(text, match, span) if naming else row.kind) for span in spans
            ]
    return []

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
Check = Callable[[str, "re.Match[str]"], Iterable[Span]]
# From a pattern, a text and the place of a sign to what matches there.
Seek = Callable[["re.Pattern[str]", str, int], "re.Match[str] | None"]
# What a secret that was found is called.
Naming = Callable[[str, "re.Match[str]", Span], str]

_DIGIT = re.compile(r"\d")
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
    """Try a pattern at the fifty characters before a sign, if a number follows the sign."""
    number = _DIGIT.search(text, place, place + 40)
    return pattern.search(text, max(0, place - 50), place + 120) if number else None


def _within(text: str, place: int) -> bool:
    return bool(place) and text[place - 1].isalnum() and text[place : place + 1].isalnum()


def one(check: "Callable[[str, re.Match[str]], Span | None]") -> Check:
    """Return the check of a row that has one secret at most."""

    def checked(text: str, match: re.Match[str]) -> Iterable[Span]:
        span = check(text, match)
        return () if span is None else (span,)

    return checked


def the_value(text: str, match: re.Match[str]) -> Iterable[Span]:
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
        signs = {sign for cue in cues for sign in cue.signs}
        roots = [sign for sign in signs if not any(o in sign for o in signs if o != sign)]
        self._rooted: dict[str, list[tuple[str, int, int]]] = {root: [] for root in sorted(roots)}
        for number, row in enumerate(cues):
            for sign in row.signs:
                root = min(
                    (each for each in roots if each in sign), key=lambda each: (-len(each), each)
                )
                self._rooted[root].append((sign, sign.index(root), number))

    @property
    def signs(self) -> tuple[str, ...]:
        """The signs that are looked for."""
        return tuple(self._rooted)

    def found(self, view: View) -> list[Found]:
        """Return what the rows find, in the order of rows."""
        hits: list[tuple[int, Found]] = []
        lower = view.lower
        for root, rows in self._rooted.items():
            for place in view.signs(root):
                for sign, offset, number in rows:
                    start = place - offset
                    if len(sign) == len(root) or (start >= 0 and lower.startswith(sign, start)):
                        found = _read(self._cues[number], view.text, start)
                        hits += [(number, each) for each in found]
        hits.sort(key=lambda hit: hit[0])
        return [found for _, found in hits]


def _read(row: Cue, text: str, place: int) -> Iterator[Found]:
    if row.head and row.seek(compiled(row.head), text, place) is None:
        return
    for pattern in row.patterns:
        match = row.seek(compiled(pattern), text, place)
        spans = row.check(text, match) if match is not None else ()
        found = False
        for span in spans:
            found = True
            kind = row.naming(text, match, span) if row.naming and match else row.kind
            yield Found(*span, kind)
        if found:
            return

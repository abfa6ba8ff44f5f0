"""Finds the words of wallets, twelve to twenty-four in a row, and codes for a lost key.

The one idea: a phrase is a row of small words of three to eight letters, and no sentence gets far
without "the", "of" or "is". Invariant: a text takes time in proportion to its length; a long one is
first looked over for such rows as a whole, which finds the same as looking at each line.
"""

import itertools
import re
from collections.abc import Iterator

from homebox.memory.secrets.signs import LONG
from homebox.memory.secrets.view import Found, Span, View
from homebox.memory.secrets.vocabulary import SENTENCE

_SEED = re.compile(
    r"(?:\d{1,2}[.):]?[ \t]?)?[A-Za-z]{3,8}"
    r"(?:[\s,;]{1,3}(?:\d{1,2}[.):]?[ \t]?)?[A-Za-z]{3,8}){11,23}\b"
)
_CODES = re.compile(
    r"(?:[-*•\d]{1,2}[.)]?[ \t]{1,3})?[\"'`]?(?P<code>[A-Za-z\d]{3,16}(?:-[A-Za-z\d]{3,16}){0,5})"
    r"[\"'`]?[\s,;|]{0,4}"
)
_ROWS = (12, 15, 18, 21, 24)  # words of a phrase (BIP 39)
_LETTERS = bytes((chr(code).isalpha() and chr(code).islower()) or code == 63 for code in range(256))


def phrases(view: View) -> Iterator[Found]:
    """Yield the words of a wallet where they stand in a row."""
    text = view.text
    done = 0
    for first, last in _rows_of_words(view.latin) if len(text) >= LONG else ((0, len(text)),):
        place = max(done, text.rfind("\n", 0, first) + 1)
        while place < last:
            end = text.find("\n", place)
            end = len(text) if end < 0 else end
            yield from _in_line(text, place, end)
            place = end + 1
        done = max(done, place)


def _rows_of_words(latin: bytes) -> Iterator[tuple[int, int]]:
    """Yield where twelve or more small words stand in a row, whatever is between them."""
    import numpy as np

    text = np.frombuffer(latin, np.uint8)
    letters = np.frombuffer(_LETTERS, np.uint8)[text]
    breaks = np.concatenate(([-1], np.flatnonzero(letters == 0), [len(text)]))
    lengths = np.diff(breaks) - 1
    # A question mark may stand for a letter that latin-1 has not.
    other = np.flatnonzero((lengths < 3) | (lengths > 9))
    edges = np.concatenate(([-1], other, [len(lengths)]))
    for index in np.flatnonzero(np.diff(edges) > _ROWS[0]):
        yield int(breaks[edges[index] + 1]) + 1, int(breaks[edges[index + 1]])


def _in_line(text: str, start: int, end: int) -> Iterator[Found]:
    if end - start <= 46 or text.count(" ", start, end) <= 10:
        return
    rows = list(_rows(text[start:end].split(" ")))
    if not rows or any(_is_list(line) for line in _beside(text, start, end)):
        return
    for place, row in rows:
        yield Found(start + place, start + place + len(row), "seed-phrase")


def _beside(text: str, start: int, end: int) -> Iterator[str]:
    """Yield the lines before and after a line, as far as they could be words of a list."""
    if start:
        before = text.rfind("\n", 0, start - 1) + 1
        yield text[before : start - 1]
    if end < len(text):
        after = text.find("\n", end + 1)
        yield text[end + 1 : len(text) if after < 0 else after]


def _rows(words: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the rows of as many words as phrases have, with where they begin in the line."""
    # Of twelve words in a row, one is the twelfth, the twenty-fourth and so on of the line.
    index = _ROWS[0] - 1
    starts: list[int] = []
    while index < len(words):
        first, last = index, index + 1
        if _is_named(words[index]):
            while first and _is_named(words[first - 1]):
                first -= 1
            while last < len(words) and _is_named(words[last].rstrip(".,!?")):
                last += 1
            if last - first in _ROWS:
                starts = starts or [0, *itertools.accumulate(len(word) + 1 for word in words)]
                yield starts[first], " ".join(words[first:last]).rstrip(".,!?")
        index = last + _ROWS[0] - 1


def _is_list(line: str) -> bool:
    """Say whether a line is words alone, so that its neighbour is one of a list's, too."""
    words = line.strip(" \t\"'(),").split(" ")
    return len(words) >= 6 and all(_is_named(word) for word in words)


def _is_named(word: str) -> bool:
    return 3 <= len(word) <= 8 and word.isalpha() and word.islower() and word not in SENTENCE


def words(text: str, match: re.Match[str]) -> Span | None:
    """Take the words from which a wallet is made again."""
    found = _SEED.match(text, match.end())
    if found is None:
        return None
    said = list(re.finditer(r"[A-Za-z]+", found.group()))
    for count in (24, 21, 18, 15, 12):
        plain = sum(word.group().lower() in SENTENCE for word in said[:count])
        if len(said) >= count and plain <= count // 12:
            return found.start(), found.start() + said[count - 1].end()
    return None


def codes(text: str, match: re.Match[str]) -> Span | None:
    """Take a list of codes for the day on which a key is lost."""
    start = end = 0
    place = match.end()
    while place < match.end() + 800:
        found = _CODES.match(text, place)
        code = found["code"] if found else ""
        if found is None or len(code) < 6 or not re.search(r"\d", code):
            break
        start = start or found.start("code")
        end, place = found.end("code"), found.end()
    return (start, end) if end else None

"""Finds where a text repeats a secret that was told elsewhere, whole or a telling part of it.

The one idea: every four letters in a row of the secrets are looked for at once; where they stand,
as much as agrees with the secret is taken, and judged by its form: a part that mixes letters with
digits or signs tells much of a password, a plain word or a short number does so only beside a word
for a way in. Invariant: each place of a text is compared with a bounded number of places of the
secrets, so a text takes time in proportion to its length.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from homebox.memory.secrets.finding import PLACEHOLDER, SIGN
from homebox.memory.secrets.redaction import digest_of, placeholder
from homebox.memory.secrets.replacing import Replacer
from homebox.memory.secrets.signs import Scan, each_alone
from homebox.memory.secrets.view import Found
from homebox.memory.secrets.vocabulary import PLAIN, SENTENCE

GRAM = 4  # letters in a row that must agree before anything is compared
_LONGEST = 512  # characters of a secret that are looked for
_ALL = 4096  # characters of all secrets that are looked for
_ALIKE = 8  # places of the secrets that a place of a text is compared with
_BACK = 32  # characters before such a place that may agree as well
_MOST = 50_000  # places that are compared; in a text that has more, secrets are looked for whole
_WORDS = 4096  # words of all texts whose digests are compared
_NEAR = 60  # characters before a plain part in which its secret's use must be spoken of
_EDGES = " \t\r\n.,;:!?\"'`()[]{}<>-_/=|"
_ALONE = re.compile(r"(?:\A|[^\w.,:/-])\w{3}(?:\Z|[^\w%.,:/-]|[.,:/-](?:\W|\Z))")
_GROUPED = re.compile(r"\d+(?:[ -]\d+)+")
_USE = re.compile(
    r"pass|\bp[wi]n?\b|\bcodes?\b|wi-?fi|wlan|secret|log(?:ged)?[ -]?in|sign[ -]?in|token|\bkeys?\b"
    r"|unlock|combination|credential",
    re.IGNORECASE,
)


class _Secret(NamedTuple):
    lower: str
    mark: str  # what stands in its place


class Echoes(Replacer):
    """Replaces what repeats some secrets."""

    def __init__(self, told: Mapping[str, str], salt: bytes, digests: Iterable[str] = ()) -> None:
        """`told` maps each secret to its kind, the last one told at its end.

        Of those that only have `digests`, whole words are found.
        """
        self._salt = salt
        self._digests = frozenset(digests)
        self._words = _WORDS
        self._secrets: list[_Secret] = []
        self._grams: dict[str, list[tuple[_Secret, int]]] = {}
        self._short: dict[str, str] = {}
        left = _ALL
        for text, kind in list(told.items())[::-1]:
            mark = placeholder(kind, text, salt)
            for form in _forms(text):
                left -= len(form)
                if left >= 0:
                    self._add(_Secret(_lower(form), mark))
        self._scan = Scan(self._grams)

    def __bool__(self) -> bool:
        return bool(self._secrets or self._digests)

    def _add(self, secret: _Secret) -> None:
        self._secrets.append(secret)
        if len(secret.lower) < GRAM:
            self._short.setdefault(secret.lower, secret.mark)
        for place in range(len(secret.lower) - GRAM + 1):
            alike = self._grams.setdefault(secret.lower[place : place + GRAM], [])
            if len(alike) < _ALIKE:
                alike.append((secret, place))

    def found(self, text: str) -> Sequence[tuple[Found, str]]:
        """Return what repeats a secret, in order and apart, each with what stands instead."""
        if len(text) < GRAM - 1:
            return []
        marks = [each.span() for each in PLACEHOLDER.finditer(text)] if SIGN in text else []
        found: list[tuple[Found, str]] = []
        done = index = 0
        for start, end, mark in sorted([*self._repeated(text), *self._known_words(text)]):
            while index < len(marks) and marks[index][1] <= start:
                index += 1
            if start >= done and not (index < len(marks) and marks[index][0] < end):
                found.append((Found(start, end, "echo"), mark))
                done = end
        return found

    def _repeated(self, text: str) -> Iterator[tuple[int, int, str]]:
        lower = _lower(text)
        for short, mark in self._short.items():
            for place in each_alone(lower, short):
                if _ALONE.match(lower[max(0, place - 1) : place + len(short) + 2]):
                    yield place, place + len(short), mark
        places = self._scan.places(lower) if self._grams else {}
        if sum(map(len, places.values())) > _MOST:
            yield from self._whole(lower)
            return
        hits = sorted((place, gram) for gram in self._grams for place in places[gram])
        done = 0
        for place, gram in hits:
            if place < done:
                continue
            start, end, secret = max(
                (_agreed(lower, place, *each) for each in self._grams[gram]),
                key=lambda found: (found[1] - found[0], found[2].lower == lower[slice(*found[:2])]),
            )
            done = end - GRAM + 1
            if _tells(text, lower, start, end, secret.lower):
                done = end
                yield start, end, secret.mark

    def _whole(self, lower: str) -> Iterator[tuple[int, int, str]]:
        for secret in self._secrets:
            if len(secret.lower) >= GRAM:
                for place in each_alone(lower, secret.lower):
                    yield place, place + len(secret.lower), secret.mark

    def _known_words(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield words with a known digest: of secrets told before the daemon was started."""
        if not self._digests:
            return
        for word in re.finditer(r"\S{4,128}", text):
            self._words -= 1
            if self._words < 0:
                return
            plain = word.group().strip(_EDGES)
            for each in dict.fromkeys((word.group(), plain)) if plain else ():
                digest = digest_of(each, self._salt)
                if digest in self._digests:
                    start = word.start() + word.group().find(each)
                    yield start, start + len(each), f"{SIGN}password:{digest}]"
                    break


def _forms(text: str) -> Iterator[str]:
    """Yield what of a secret is looked for: its lines, and numbers also without their gaps."""
    for line in text.split("\n"):
        plain = line.strip()[:_LONGEST]
        if len(plain) < GRAM - 1 or plain.startswith("-----") or plain.lower() in PLAIN | SENTENCE:
            continue
        yield plain
        if _GROUPED.fullmatch(plain):
            yield re.sub(r"\D", "", plain)


def _lower(text: str) -> str:
    """Return a text in small letters, each at its place."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _agreed(lower: str, place: int, secret: _Secret, offset: int) -> tuple[int, int, _Secret]:
    """Return how far a text agrees with a secret around a place, without marks at the edges."""
    before, told = 0, secret.lower
    while (
        before < min(place, offset, _BACK)
        and lower[place - before - 1] == told[offset - before - 1]
    ):
        before += 1
    start, length = place - before, before + GRAM
    most = min(len(lower) - start, len(told) - (offset - before))
    while length < most and lower[start + length] == told[offset - before + length]:
        length += 1
    end = start + length
    if length < len(told):
        while end > start and lower[end - 1] in _EDGES:
            end -= 1
        while start < end and lower[start] in _EDGES:
            start += 1
    return start, end, secret


def _tells(text: str, lower: str, start: int, end: int, secret: str) -> bool:
    """Say whether what agrees with a secret gives away much of it."""
    length, before, after = end - start, lower[max(0, start - 1) : start], lower[end : end + 1]
    part = text[start:end]
    edges = (not before.isalnum()) + (not after.isalnum())
    if lower[start:end] == secret:
        counted = part.isdigit() and re.match(r"[.,:]\d", lower[end : end + 2])
        return (edges == 2 and not counted) or length >= 8
    if length < GRAM or not edges or (edges < 2 and length < 6):
        return False
    if part.isdigit():
        return length >= 5 and 2 * length >= len(secret) and edges == 2
    if part.isalpha():
        cased = re.search(r"[a-z][A-Z]", part) is not None and length >= 5
        spoken = _USE.search(lower, max(0, start - _NEAR), start) is not None
        return cased or (edges == 2 and 2 * length >= len(secret) and spoken)
    if re.search(r"\d|[!$&*#@%^?+]", part) and re.search(r"[^\W\d_]", part):
        return True
    words = [word for word in re.split(r"[\W_]+", lower[start:end]) if word]
    plain = all(word in PLAIN or word in SENTENCE or word.isdigit() for word in words)
    return len(words) >= 2 and length >= 8 and 3 * length >= len(secret) and not plain

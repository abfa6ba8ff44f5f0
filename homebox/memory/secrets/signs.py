"""Finds where some hundred short signs stand in a long text, all of them in one pass.

The one idea: each sign is known by four of its letters in a row, the ones least often seen; every
four letters of a text are looked up at once in a table of bits, and only where a bit is set the
sign itself is compared. Invariant: the places are exactly those that looking for each sign alone
finds, in order.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONG = 2048  # characters from which on one pass is faster than looking for each sign alone
_SEEN = " etaoinsrhldcumfpgwyb"  # letters by how often they are seen, the most frequent first
# Three letters that many words have, and those of programs.
_COMMON = frozenset(
    "ing ter mon ver tim car eed con fro com wor par nam box typ tex pen get cou use umb ack ord "
    "ken cks nin tin ask ock dic key ers tor ect ate ion ent her tha the for and ess est ile "
    "ame ode cod ser tom rom bac ont nec ace ass val str ret".split()
)
CROWD = 10  # bits of the places that lie in one block
MOST = 58  # signs of a block that are looked at; a text of secrets alone has up to 60
_BITS = 16
_BLOCK = 1 << 16  # places looked at together, so that they stay in a cache
_FACTOR = 0x9E3779B1  # 2 ** 32 divided by the golden ratio: spreads neighbouring numbers


class Scan:
    """Signs in lower case, and the tables that find them together."""

    def __init__(self, signs: Iterable[str]) -> None:
        self.signs = sorted({*signs})
        self._alone = [sign for sign in self.signs if len(sign) < 3 or not _is_latin(sign)]
        self._grams: dict[bytes, list[tuple[str, int]]] = {}
        for sign in self.signs:
            if sign not in self._alone:
                offset = _rarest(sign)
                gram = sign[offset : offset + 4].encode("latin-1")
                self._grams.setdefault(gram, []).append((sign, offset))

    def places(self, lower: str) -> dict[str, list[int]]:
        """Return where each sign stands in a text that is in lower case already."""
        found: dict[str, list[int]] = {sign: [] for sign in self.signs}
        for sign in self._alone:
            found[sign] = each_alone(lower, sign)
        latin = lower.encode("latin-1", "replace") + b"    "
        grams = self._grams
        for length, place in self._hits(latin):
            for sign, offset in grams.get(latin[place : place + length], ()):
                if lower.startswith(sign, place - offset) and place >= offset:
                    found[sign].append(place - offset)
        return found

    def _hits(self, latin: bytes) -> Iterator[tuple[int, int]]:
        """Yield the places of three or four letters that may be a sign's, and how many."""
        import numpy as np

        three, four = self._tables
        # Every place as a number of four bytes, of which a sign of three letters has three.
        words = np.ndarray((len(latin) - 4,), "<u4", latin, strides=(1,))
        for start in range(0, len(words), _BLOCK):
            block = words[start : start + _BLOCK] * np.uint32(_FACTOR)
            block >>= np.uint32(32 - _BITS)
            for place in np.flatnonzero(four[block]).tolist():
                yield 4, start + place
            block = words[start : start + _BLOCK] & np.uint32(0xFFFFFF)
            block *= np.uint32(_FACTOR)
            block >>= np.uint32(32 - _BITS)
            for place in np.flatnonzero(three[block]).tolist():
                yield 3, start + place

    @cached_property
    def _tables(self) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
        import numpy as np

        three, four = np.zeros(1 << _BITS, bool), np.zeros(1 << _BITS, bool)
        for gram in self._grams:
            number = int.from_bytes(gram, "little") * _FACTOR & 0xFFFFFFFF
            (three if len(gram) == 3 else four)[number >> (32 - _BITS)] = True
        return three, four


def thinned(
    places: dict[str, list[int]], length: int
) -> tuple[dict[str, list[int]], list[tuple[int, int]]]:
    """Return the first signs of each block, and from where to where others were left out."""
    import numpy as np

    total = sum(map(len, places.values()))
    if total <= MOST:
        return places, []
    every = np.fromiter((place for each in places.values() for place in each), np.int64, total)
    counts = np.bincount(every >> CROWD)
    if counts.max() <= MOST:
        return places, []
    every.sort()
    firsts = np.cumsum(counts) - counts
    crowded = np.flatnonzero(counts > MOST)
    limits = np.full(len(counts), length)
    limits[crowded] = every[firsts[crowded] + MOST]
    kept = {}
    for sign, each in places.items():
        known = np.array(each, np.int64)
        kept[sign] = known[known < limits[known >> CROWD]].tolist()
    ends = np.minimum((crowded + 1) << CROWD, length)
    return kept, list(zip(limits[crowded].tolist(), ends.tolist(), strict=True))


def each_alone(lower: str, sign: str) -> list[int]:
    """Return where a sign stands in a text, by looking for it alone."""
    places = []
    place = lower.find(sign)
    while place >= 0:
        places.append(place)
        place = lower.find(sign, place + 1)
    return places


def _is_latin(sign: str) -> bool:
    return all(ord(letter) < 256 for letter in sign)


def _rarest(sign: str) -> int:
    """Return where the four letters begin that other words have least often."""

    def often(offset: int) -> int:
        gram = sign[offset : offset + 4]
        common = sum(gram[place : place + 3] in _COMMON for place in (0, 1))
        return 40 * common + sum(
            len(_SEEN) - place if (place := _SEEN.find(c)) >= 0 else 0 for c in gram
        )

    return min(range(max(1, len(sign) - 3)), key=often)

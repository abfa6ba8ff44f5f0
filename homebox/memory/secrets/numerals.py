"""The numbers of a text that may be codes: those behind which nothing is counted.

The one idea: the clauses of neighbouring topics overlap, so that numbers are looked for a block at
a time, and each block once. Invariant: which numbers there are does not depend on who asks, nor in
which order.
"""

import bisect
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

# A number as codes are written: alone, in groups, digit by digit, in words.
DIGIT = r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)"
_NUMBER = (
    r"(?:[A-Z]-)?#?\d{4,8}#?|\d{2,4}(?:[ -]\d{2,4}){1,3}|\d(?:[ -]\d){3,7}"
    rf"|{DIGIT}(?:[ ,-]{{1,2}}{DIGIT}){{3,7}}"
)
# Behind a number that counts nothing, its sentence ends or goes on with a small word.
ALONE = (
    r"(?![\w%€$£°@]|[.,:/]\d|-\w)(?=[\"'`)*#]{0,3}(?:[.,;:!?)]|[ \t]*(?:[\r\n]|\Z)|[ ][-–—(]|[ ]"
    r"(?:and|but|so|or|where|when|to|then|it|it's|its|is|if|again|please|pls|which|now|right|thx"
    r"|thanks|btw|ok|expires?|as|because|lol|left|before|after|first|asap|by|did|didn't|does"
    r"|doesn't|do|into|what|who|why|how|i|you|we|they|he|she|for|on|in|at|from|until|till|works?"
    r"|enter|hash|pound|star|does|came|just|wants|today|this|the|my|your)\b))"
)
_CODE = re.compile(
    rf"(?<![\w.,:/#&+£€$-])(?<!\w[ ]['’])(?P<value>{_NUMBER}|\d{{3}}){ALONE}", re.IGNORECASE
)
ROUND = re.compile(r"\d*00\Z|(?:19|20)\d\d\Z")
_START = attrgetter("start")
_BLOCK = 512  # characters in which numbers are looked for together
_LONGEST = 48  # characters of a number that begins before a block, and what tells that it is alone


class Numeral(NamedTuple):
    """A number that stands alone."""

    start: int
    end: int
    digits: int  # none where it is spelt in words
    round: bool  # as years and estimates are


class Numerals:
    """The numbers of one text, found where they are asked for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._blocks: dict[int, list[Numeral]] = {}
        # What is known of numbers, by where they begin and how much of a clause stands before.
        self.judged: dict[tuple[int, int], bool] = {}
        # Where the numbers begin that each reader took, so that it takes none twice.
        self.taken: dict[object, set[int]] = {}

    def between(self, begin: int, end: int) -> list[Numeral]:
        """Return the numbers that begin from one place on and end before another."""
        found: list[Numeral] = []
        for block in range(begin // _BLOCK, end // _BLOCK + 1):
            numbers = self._blocks.get(block)
            if numbers is None:
                numbers = self._blocks[block] = [*self._in_block(block)]
            if numbers:
                first = bisect.bisect_left(numbers, begin, key=_START)
                last = bisect.bisect_left(numbers, end, first, key=_START)
                found += numbers[first:last]
        while found and found[-1].end > end:
            found.pop()
        return found

    def _in_block(self, block: int) -> Iterator[Numeral]:
        start, end = block * _BLOCK, (block + 1) * _BLOCK
        for each in _CODE.finditer(self._text, max(0, start - _LONGEST), end + _LONGEST):
            if start <= each.start() < end:
                value = each["value"]
                digits = sum(map(str.isdigit, value))
                yield Numeral(*each.span("value"), digits, ROUND.fullmatch(value) is not None)

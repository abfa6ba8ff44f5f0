"""What JSON must not become, beyond what its grammar says: no key twice, no endless number.

The one idea: grammars cannot count keys, so this looks at the JSON that is being written and takes
those tokens out of the mask that would end a key which its object has already, carry on a number
that is long enough, or nest too deeply. Invariant: what passes here is JSON that every reader
understands alike, in particular the one of `homebox/model/answers`.
"""

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cached_property
from weakref import WeakKeyDictionary

from homebox.model.generation.guide import Bits
from homebox.model.guides.vocabulary import Vocabulary, bits_of

LONGEST_NUMBER = 24  # characters, more than doubles can tell apart
DEEPEST = 24
_EXPONENT = 2  # digits
_DIGITS = re.compile(rb"[0-9]*")
_OVERFLOW = re.compile(rb"[-0-9.]*[eE][-+]?[0-9]{3,}")
_NUMBER_BYTES = frozenset(b"+-.0123456789eE")


class JsonTokens:
    """Sets of tokens by what they would do to JSON; made once for a vocabulary.

    They do not refer to it, so that they are gone when it is.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._size = vocabulary.size
        self._texts = [
            (data, index)
            for index, data in enumerate(vocabulary.tokens)
            if data and index not in vocabulary.steering
        ]
        self._quotes: dict[int, Bits] = {}
        self._digits: dict[int, Bits] = {}
        self._holding: dict[bytes, Bits] = {}
        # Now, not while somebody waits for a token.
        for count in range(1, 5):
            self.quoting(count)
        for count in range(_EXPONENT + 1):
            self.digits(count)
        _ = self._sorted, self.numeric, self.overflowing, self.opening

    def _those(self, wanted: Callable[[bytes], object]) -> Bits:
        return bits_of(self._size, (index for data, index in self._texts if wanted(data)))

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted(self._texts)

    def beginning(self, start: bytes) -> Bits:
        """Return the tokens that begin with these bytes."""
        tokens = self._sorted
        place = bisect_left(tokens, (start, -1))
        found = []
        while place < len(tokens) and tokens[place][0].startswith(start):
            found.append(tokens[place][1])
            place += 1
        return bits_of(self._size, found)

    def quoting(self, count: int) -> Bits:
        """Return the tokens with at least `count` quotation marks."""
        if count not in self._quotes:
            self._quotes[count] = self._those(lambda data: data.count(b'"') >= count)
        return self._quotes[count]

    def digits(self, count: int) -> Bits:
        """Return the tokens that begin with more than `count` digits."""
        if count not in self._digits:
            self._digits[count] = self._those(lambda data: _digits(data) > count)
        return self._digits[count]

    def holding(self, text: bytes) -> Bits:
        """Return the tokens in which a text stands."""
        if text not in self._holding:
            self._holding[text] = self._those(lambda data: text in data)
        return self._holding[text]

    @cached_property
    def numeric(self) -> Bits:
        """The tokens that carry on a number."""
        return self._those(lambda data: data[0] in _NUMBER_BYTES)

    @cached_property
    def overflowing(self) -> Bits:
        """The tokens with an exponent of three digits."""
        return self._those(_OVERFLOW.match)

    @cached_property
    def opening(self) -> Bits:
        """The tokens that open a bracket."""
        return self._those(lambda data: b"{" in data or b"[" in data)


def _digits(data: bytes) -> int:
    found = _DIGITS.match(data)
    return 0 if found is None else found.end()


_lock = threading.Lock()
_known: "WeakKeyDictionary[Vocabulary, JsonTokens]" = WeakKeyDictionary()


def tokens_of(vocabulary: Vocabulary) -> JsonTokens:
    """Return the sets of a vocabulary; the first call takes a second for 150,000 tokens."""
    with _lock:
        if vocabulary not in _known:
            _known[vocabulary] = JsonTokens(vocabulary)
        return _known[vocabulary]


class JsonGuard:
    """Follows one text of JSON, or several of them with other words between."""

    def __init__(self, vocabulary: Vocabulary, never: tuple[bytes, ...] = ()) -> None:
        self._tokens = tokens_of(vocabulary)
        self._never = never  # what no text may hold
        self.over = False  # something came behind a value that JSON cannot go on with
        self._within: list[set[bytes] | None] = []  # the keys of each object; None for an array
        self._string: bytearray | None = None
        self._escaped = False
        self._is_key = False
        self._number = bytearray()
        self._value = True  # a value may come next

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the text."""
        for code in data:
            if self._string is not None:
                self._in_string(code)
            else:
                self._outside(code)

    def banned(self) -> list[Bits]:
        """Return sets of tokens that must not come next, though the grammar may allow them."""
        tokens = self._tokens
        if self._string is not None:
            return self._banned_in_string(self._string)
        sets = [tokens.overflowing]
        if self._number:
            exponent = re.search(rb"[eE][-+]?([0-9]*)", self._number)
            if exponent is not None:
                sets.append(tokens.digits(max(0, _EXPONENT - len(exponent[1]))))
            elif len(self._number) >= LONGEST_NUMBER and chr(self._number[-1]).isdigit():
                sets.append(tokens.numeric)
        if len(self._within) >= DEEPEST:
            sets.append(tokens.opening)
        if any(self._within):
            sets.append(tokens.quoting(4 if self._value else 2))
        return sets

    def _banned_in_string(self, text: bytearray) -> list[Bits]:
        sets = [each for text_end in self._never for each in self._completing(text, text_end)]
        keys = self._within[-1] if self._within else None
        if self._is_key and keys and not self._escaped:
            written = bytes(text)
            for key in keys:
                if key.startswith(written):
                    sets.append(self._tokens.beginning(key[len(written) :] + b'"'))
        elif any(self._within):
            sets.append(self._tokens.quoting(3))
        if len(self._within) >= DEEPEST:
            sets.append(self._tokens.quoting(1) & self._tokens.opening)
        return sets

    def _completing(self, text: bytearray, never: bytes) -> Iterator[Bits]:
        yield self._tokens.holding(never)
        for size in range(1, len(never)):
            if text.endswith(never[:size]):
                yield self._tokens.beginning(never[size:])

    def _in_string(self, code: int) -> None:
        text = self._string
        if text is None:
            return
        if self._escaped:
            self._escaped = False
        elif code == 0x5C:
            self._escaped = True
        elif code == 0x22:
            keys = self._within[-1] if self._within else None
            if self._is_key and keys is not None:
                keys.add(bytes(text))
            self._string = None
            self._value = False
            return
        text.append(code)

    def _outside(self, code: int) -> None:
        if code in _NUMBER_BYTES and (self._number or code in b"-0123456789"):
            self._number.append(code)
            self._value = False
            return
        self._number.clear()
        if not self._within and code in b"\n<,":
            self.over = True
        if code == 0x22:
            self._string = bytearray()
            inside = bool(self._within) and self._within[-1] is not None
            self._is_key = inside and not self._value
        elif code in b"{[":
            self._within.append(set() if code == 0x7B else None)
            self._value = code == 0x5B
        elif code in b"}]":
            if self._within:
                self._within.pop()
            self._value = False
        elif code == 0x3A:
            self._value = True
        elif code == 0x2C:
            self._value = not (self._within and self._within[-1] is not None)
        elif code > 0x20:
            self._value = False  # true, false, null

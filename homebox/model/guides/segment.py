"""A stretch of an answer that a grammar rules, from its first token to its last.

The one idea: the grammar's mask, less what JSON must not become, written into memory that the
segment owns. Invariant: a mask allows at least one token; where the grammar is complete, only those
that end the answer, or what may follow.
"""

import re
from collections.abc import Sequence

import llguidance
import numpy as np

from homebox.errors import RequestError
from homebox.model.generation.guide import Bits
from homebox.model.guides.json_guard import JsonGuard
from homebox.model.guides.vocabulary import Vocabulary

Json = bool | re.Pattern[bytes]
_TAIL = 300  # bytes in which the beginning of JSON is looked for


class Segment:
    """Follows one grammar; `param` names it in errors.

    With `json`, what it writes is JSON: all of it, or what follows a match, and its texts hold
    nothing of `never`. With `ends`, nothing may come behind it; with `thinks`, a thought may.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matcher: llguidance.LLMatcher,
        param: str,
        json: Json = False,
        never: tuple[bytes, ...] = (),
        ends: bool = False,
        thinks: bool = False,
    ) -> None:
        self.thinks = thinks
        self.ends = ends
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._param = param
        self._bits = np.zeros((vocabulary.size + 31) // 32, dtype=np.uint32)
        self._guard = JsonGuard(vocabulary) if json is True else None
        self._begins = None if isinstance(json, bool) else json
        self._tail = b""
        self._never = never

    @property
    def complete(self) -> bool:
        """Whether the grammar allows nothing more."""
        return bool(self._matcher.is_stopped())

    def allows(self, token: int) -> bool:
        """Tell whether a token may come next."""
        return int(self._matcher.validate_tokens([token])) == 1

    def mask(self) -> Bits:
        """Return the tokens that may come next; the array is written anew by the next call."""
        bits = self._bits
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if self._matcher.is_error():
            raise self._error()
        for banned in self._guard.banned() if self._guard else ():
            kept = bits & ~banned
            # A grammar may know no other way on; then its way it is.
            if kept.any():
                bits[:] = kept
        return bits

    def take(self, token: int) -> None:
        """Take note of a token; RequestError if it cannot come here."""
        if not self._matcher.consume_token(token):
            raise self._error()
        self._told(self._vocabulary.tokens[token], token in self._vocabulary.steering)

    def take_text(self, text: str) -> bool:
        """Take text that was there already; tells whether the grammar allows it."""
        ids = self._vocabulary.grammars.tokenize_bytes(text.encode())
        if self._matcher.try_consume_tokens(ids) < len(ids):
            return False
        self._told(text.encode())
        return True

    def ahead(self) -> Sequence[int]:
        """Return the tokens that must come next."""
        return list(self._matcher.compute_ff_tokens())

    def _told(self, data: bytes, steers: bool = False) -> None:
        """Tell the guard what was written, as far as it is JSON."""
        if self._begins is None:
            if self._guard is not None and not steers:
                self._guard.feed(data)
            return
        if self._guard is not None:
            self._guard.feed(b"<" if steers else data)
            if self._guard.over:
                self._guard, self._tail = None, b""
        self._tail = self._tail[-_TAIL:] + data
        found = self._begins.search(self._tail) if self._guard is None else None
        if found is not None:
            self._guard = JsonGuard(self._vocabulary, self._never)
            self._guard.feed(self._tail[found.end() :])
            self._tail = b""

    def _error(self) -> RequestError:
        reason = self._matcher.get_error().strip().partition("\n")[0][:300]
        return RequestError(
            f"{self._param} could not be enforced any further: {reason or 'no way on'}",
            param=self._param,
        )

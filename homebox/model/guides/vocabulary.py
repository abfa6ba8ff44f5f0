"""A model's vocabulary as grammars see it: the bytes of each token, and which tokens steer.

The one idea: a steering token has no bytes in a grammar, only a number, so that no text, string or
regular expression can ever allow one; only a grammar that names its id does.
Invariant: rows of the logits beyond the tokenizer's tokens are never allowed.
"""

import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Container, Iterable

import llguidance
import numpy as np
from llguidance import TokenizerWrapper

from homebox.model.generation.guide import Bits
from homebox.model.tokenizer.base import Tokenizer, any_of

_NO_TOKEN = b""


class Vocabulary:
    """The tokens of one model; `size` is that of its logits.

    Made once for each tokenizer by `vocabulary_of`: it takes a second for 150,000 tokens.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int], size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.stop_ids = tuple(sorted(index for index in stop_ids if 0 <= index < size))
        steering = frozenset(tokenizer.special.values()) | tokenizer.hidden | set(self.stop_ids)
        self.steering = frozenset(index for index in steering if 0 <= index < size)
        texts = {tokenizer.piece_bytes(i) for i in range(tokenizer.size) if tokenizer.is_text(i)}
        self.tokens = [self._surface(index, texts) for index in range(size)]
        self.grammars: llguidance.LLTokenizer = llguidance.LLTokenizer(  # for the package
            _Wrapper(self),
            n_vocab=size,
            eos_token=list(self.stop_ids),
        )
        self.compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()  # by grammar
        self.only_stop = self.bits(self.stop_ids)
        self.all = self.bits(index for index, data in enumerate(self.tokens) if data)
        self.all_but_stop = self.all & ~self.only_stop

    def bits(self, ids: Iterable[int]) -> Bits:
        """Return a mask, uint32 (ceil(size / 32),), that allows these tokens."""
        return bits_of(self.size, ids)

    def mark(self, text: str) -> str:
        """Return how a grammar in Lark's syntax says a mark: as a token where it is one."""
        index = self.tokenizer.special.get(text)
        return quoted(text) if index is None or index >= self.size else f"<[{index}]>"

    def _surface(self, index: int, texts: Container[bytes]) -> bytes:
        if index >= self.tokenizer.size:
            return _NO_TOKEN
        if index in self.steering:
            return self.tokenizer.piece(index).encode("utf-8", "replace") or b"?"
        data = self.tokenizer.piece_bytes(index)
        # A blank that is a byte is not stripped where one that is a text is.
        return _NO_TOKEN if not self.tokenizer.is_text(index) and data in texts else data


def bits_of(size: int, ids: Iterable[int]) -> Bits:
    """Return a mask of `size` tokens, uint32 (ceil(size / 32),), that allows these."""
    flags = np.zeros((size + 31) // 32 * 32, dtype=np.uint8)
    flags[np.fromiter(ids, dtype=np.int64)] = 1
    return np.packbits(flags, bitorder="little").view(np.uint32)


def quoted(text: str) -> str:
    """Return a text as a terminal of a grammar in Lark's syntax."""
    return json.dumps(text, ensure_ascii=False)


class _Wrapper(TokenizerWrapper):
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = sorted(vocabulary.steering)
        self.eos_token_id = vocabulary.stop_ids[0]
        # The package's object, which no garbage collector looks into, holds this one.
        self._vocabulary: Vocabulary = weakref.proxy(vocabulary)
        self._marks = any_of(vocabulary.tokenizer.special)

    def __call__(self, text: str | bytes) -> list[int]:
        """Return ids of a text in the middle of an answer: of exactly its bytes, none steers."""
        plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        ids: list[int] = []
        start = 0
        while found := self._marks.search(plain, start):
            # Cut in two, what looks like a mark is none.
            ids += self._plain(plain[start : found.start() + 1])
            start = found.start() + 1
        ids += self._plain(plain[start:])
        if b"".join(self.tokens[index] for index in ids) == plain.encode("utf-8", "replace"):
            return ids
        return self._vocabulary.grammars.greedy_tokenize(plain)

    def _plain(self, text: str) -> list[int]:
        return self._vocabulary.tokenizer.encode_marked(text, after="text") if text else []


_LOCK = threading.Lock()


def vocabulary_of(
    tokenizer: Tokenizer, stop_ids: Iterable[int], size: int | None = None
) -> Vocabulary:
    """Return the vocabulary of a tokenizer, for logits of `size` numbers; made at most once.

    The tokenizer keeps it: a table by weak keys would keep both for good, since each value holds
    its key.
    """
    ends = frozenset(stop_ids)
    with _LOCK:
        known: dict[object, Vocabulary] = tokenizer.derived.setdefault(Vocabulary, {})
        made = known.get((ends, size))
        if made is None:
            made = Vocabulary(tokenizer, ends, tokenizer.size if size is None else size)
            known[ends, size] = made
        return made

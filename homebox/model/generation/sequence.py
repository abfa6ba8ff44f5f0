"""One running generation: a prompt is taken in chunk by chunk, then one token comes per step.

The one idea: whoever owns the model steps it, alone with `step` or many at once with `step_all`, so
that sequences share one pass over the weights and a training run can take turns with them.
Invariant: the texts of all pieces joined are the answer, cut before a stop text or stop token, and
never broken inside a character; the KV slot is given back exactly once.
"""

from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homebox.errors import ContextLengthError, EngineError, RequestError
from homebox.model.generation.sampling import Sampler, SamplingParams
from homebox.model.generation.stopping import StopFinder
from homebox.model.strictmath import Float32
from homebox.model.tokenizer.load import StreamDecoder, Tokenizer


class Forward(Protocol):
    """The part of the transformer that a sequence needs."""

    prefill_chunk: int  # most ids of one `forward`
    shared_chunk: int  # the same while others wait for their next token

    def forward(
        self, slot: int, position: int, ids: npt.NDArray[np.int32], adapter: int
    ) -> Float32:
        """Take `ids` in at `position` of `slot`; return the last one's logits, float32 (V,)."""
        ...

    def decode(
        self, slots: Ids[int], ids: npt.NDArray[np.int32], positions: Ids[int], adapters: Ids[int]
    ) -> Float32:
        """Take one id in for each of several slots; return their logits, float32 (B, V)."""
        ...

    def release(self, slot: int) -> None:
        """Give the memory of a slot back."""
        ...


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a chosen token was, and the likeliest ones; natural logarithms."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # likeliest first


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought: text (may be empty), its tokens, and at the end why it ended."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None  # "stop" or "length" in the last piece
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens, if they were asked for


class Sequence:
    """A generation in a KV slot; made by `Model.start`, stepped by its owner."""

    def __init__(
        self,
        transformer: Forward,
        tokenizer: Tokenizer,
        prompt_ids: Ids[int],
        sampling: SamplingParams,
        *,
        slot: int,
        adapter: int,
        context: int,
        stop_ids: frozenset[int],
        on_close: Callable[[], None],
    ) -> None:
        self._transformer = transformer
        self._prompt = np.array(prompt_ids, dtype=np.int32)
        self._slot = slot
        self._adapter = adapter
        self._stop_ids = stop_ids
        self._on_close: Callable[[], None] | None = on_close
        self._sampler = Sampler(sampling, prompt_ids)
        self._decoder = StreamDecoder(
            tokenizer, continuation=tokenizer.is_text(prompt_ids[-1]), shown=sampling.shown
        )
        self._finder = StopFinder(sampling.stop)
        self._position = 0
        self._last: int | None = None
        room = context - len(prompt_ids)
        self._limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
        self.seed = self._sampler.seed
        self.finish_reason: str | None = None
        self.prompt_tokens = len(prompt_ids)
        self.completion_tokens = 0  # sampled tokens, with the stop token if there was one

    @property
    def finished(self) -> bool:
        """True once no step will bring anything more: at its end, or after `close`."""
        return self._on_close is None

    @property
    def reading(self) -> bool:
        """Whether the next step takes in a part of the prompt."""
        return not self.finished and self._position < self.prompt_tokens

    @property
    def prefilled(self) -> int:
        """The number of prompt tokens taken in so far."""
        return min(self._position, self.prompt_tokens)

    def step(self) -> Piece | None:
        """Do one forward pass: a chunk of the prompt, or one token.

        Returns None while the prompt is not complete, and after the end.
        """
        if self.finished:
            return None
        (outcome,) = step_all(self._transformer, [self])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        """Give the KV slot back; safe to call at any time and more than once."""
        callback, self._on_close = self._on_close, None
        if callback is not None:
            callback()

    def read(self, most: int) -> Piece | None:
        """Take in the next `most` ids of the prompt; return the first piece after the last one."""
        end = min(self._position + most, self.prompt_tokens)
        ids = self._prompt[self._position : end]
        logits = self._transformer.forward(self._slot, self._position, ids, self._adapter)
        self._position = end
        return self._choose(logits) if end == self.prompt_tokens else None

    def row(self) -> tuple[int, int, int, int]:
        """Return slot, id, position and adapter of the token that is to be taken in next."""
        if self._last is None:
            raise EngineError("a sequence that still reads its prompt cannot decode")
        return self._slot, self._last, self._position, self._adapter

    def answer(self, logits: Float32) -> Piece:
        """Return the piece that follows from the logits (V,) of `row`."""
        self._position += 1
        return self._choose(logits)

    def _choose(self, logits: Float32) -> Piece:
        return self._take(self._sampler.next(logits))

    def _take(self, token: int) -> Piece:
        """Return the piece that a chosen token brings, and end the sequence if it must end."""
        self._last = token
        self.completion_tokens += 1
        if token in self._stop_ids:
            return self._finish("stop", self._end_of_text(), token)
        text = self._finder.push(self._decoder.push(token))
        if self._finder.stopped:
            return self._finish("stop", text, token)
        if self.completion_tokens >= self._limit:
            text += self._end_of_text()
            return self._finish("stop" if self._finder.stopped else "length", text, token)
        return Piece(text, (token,))

    def _end_of_text(self) -> str:
        return self._finder.push(self._decoder.flush()) + self._finder.flush()

    def _finish(self, reason: str, text: str, token: int) -> Piece:
        self.finish_reason = reason
        self.close()
        return Piece(text, (token,), reason)


def step_all(transformer: Forward, sequences: Ids[Sequence]) -> list[Piece | Exception | None]:
    """Step several sequences of a model: one token each, computed together, or one prompt chunk.

    Of those that still read their prompts only the first is stepped, so that nobody waits for more
    than one chunk. Returns for each sequence what its `step` would return or, where it broke and
    was closed, raise.
    """
    outcomes: list[Piece | Exception | None] = [None] * len(sequences)
    reading = [i for i, each in enumerate(sequences) if each.reading]
    writing = [i for i, each in enumerate(sequences) if not each.finished and not each.reading]

    def settle(i: int, action: Callable[[], Piece | None]) -> None:
        try:
            outcomes[i] = action()
        except Exception as error:
            sequences[i].close()
            outcomes[i] = error

    if writing:
        slots, ids, positions, adapters = zip(*(sequences[i].row() for i in writing), strict=True)
        try:
            logits = transformer.decode(slots, np.array(ids, np.int32), positions, adapters)
        except Exception as error:
            for i in writing:
                sequences[i].close()
                outcomes[i] = error
        else:
            for i, each in zip(writing, logits, strict=True):
                settle(i, partial(sequences[i].answer, each))
    if reading:
        most = transformer.shared_chunk if writing else transformer.prefill_chunk
        settle(reading[0], partial(sequences[reading[0]].read, most))
    return outcomes


def check_prompt(prompt_ids: Ids[int], vocab_size: int, context: int) -> None:
    """Check that a prompt can be started; raises RequestError or ContextLengthError."""
    if not prompt_ids:
        raise RequestError("the prompt is empty", param="messages")
    if not all(0 <= index < vocab_size for index in prompt_ids):
        raise RequestError(f"token ids must be from 0 to {vocab_size - 1}", param="prompt")
    if len(prompt_ids) >= context:
        raise ContextLengthError(context, len(prompt_ids))

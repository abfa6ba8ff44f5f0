"""One running generation: a prompt is taken in chunk by chunk, then one token or more a step.

The one idea: whoever owns the model steps it, alone with `step` or many at once with
`stepping.step_all`, so that sequences share one pass over the weights and a training run can take
turns with them.
Invariant: the texts of all pieces joined are the answer, cut before a stop text or stop token, and
never broken inside a character; the KV slot is given back exactly once. How many tokens a step
brought changes nothing of the answer.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids

import numpy as np

from homebox.errors import EngineError
from homebox.model.generation.contract import Forward, MakeChooser, Piece, joined
from homebox.model.generation.logprobs import TokenLogprob, token_logprob
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import Sampler
from homebox.model.generation.speculation import Drafter, Statistics
from homebox.model.generation.stepping import step_all
from homebox.model.generation.stopping import StopFinder
from homebox.model.strictmath import Float32
from homebox.model.tokenizer.load import StreamDecoder, Tokenizer


class Sequence:
    """A generation in a KV slot; made by `Model.start`, stepped by its owner.

    The slot already holds the first `cached` ids of the prompt. `on_taken` hears, after each chunk
    of the prompt and before the slot is given back, all ids that the slot holds; not after an
    error. `guesses` counts what is guessed ahead; None: nothing is. Each step of `restored` lets
    the slot hold more of the prompt without computing it, and yields how many ids that are then.
    """

    def __init__(
        self,
        transformer: Forward,
        tokenizer: Tokenizer,
        request: GenerationRequest,
        *,
        slot: int,
        adapter: int,
        context: int,
        stop_ids: frozenset[int],
        on_close: Callable[[], None],
        cached: int = 0,
        restored: Iterator[int] | None = None,
        on_taken: Callable[[Ids[int]], None] | None = None,
        sampler: MakeChooser = Sampler,
        guesses: Statistics | None = None,
    ) -> None:
        self._transformer = transformer
        self._prompt = np.array(request.prompt_ids, dtype=np.int32)
        self._ids = [int(index) for index in request.prompt_ids]  # and the answer
        self._slot = slot
        self._adapter = adapter
        self._context = context
        self._stop_ids = stop_ids
        self._on_close: Callable[[], None] | None = on_close
        self._on_taken = on_taken
        self._restored = restored
        self._params = request.sampling
        self._guide = request.guide
        self._sampler = sampler(request.sampling, self._ids)
        self._decoder = StreamDecoder(
            tokenizer,
            continuation=tokenizer.is_text(self._ids[-1]),
            shown=request.sampling.shown,
        )
        self._finder = StopFinder(request.sampling.stop)
        self._drafter = Drafter(self._ids, guesses) if guesses is not None else None
        self._drafts: list[int] = []
        self._forced = False  # the guide knew the drafts
        self._failure: Exception | None = None  # comes with the next step
        self._position = cached
        room = context - len(self._ids)
        most = request.sampling.max_tokens
        self._limit = room if most is None else min(room, most)
        self.seed = self._sampler.seed
        self.finish_reason: str | None = None
        self.prompt_tokens = len(self._ids)
        self.cached_tokens = cached
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
    def stopped_by(self) -> str:
        """The stop text that ended the answer; empty if none did."""
        return self._finder.found

    @property
    def prefilled(self) -> int:
        """The number of prompt tokens taken in so far."""
        return min(self._position, self.prompt_tokens)

    def step(self, most: int = 0) -> Piece | None:
        """Do one forward pass: a chunk of the prompt, or one token and what was guessed right.

        Takes in at most `most` ids of the prompt, 0: as many as is fastest. Returns None while the
        prompt is not complete, and after the end.
        """
        if most and self.reading:
            try:
                return self.read(most)
            except Exception:
                self.close(broken=True)
                raise
        (outcome,) = step_all(self._transformer, [self])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self, broken: bool = False) -> None:
        """Give the KV slot back; safe to call at any time and more than once.

        `broken`: a computation failed, so nobody can tell what the slot holds.
        """
        callback, self._on_close = self._on_close, None
        if callback is None:
            return
        try:
            if not broken and self._position:
                self._transformer.truncate(self._slot, self._position)
                self._tell_taken()
        finally:
            callback()

    def read(self, most: int) -> Piece | None:
        """Take in the next `most` ids of the prompt; return the first piece after the last one."""
        if self._restored is not None and self._restore(self._restored):
            return None
        end = min(self._position + most, self.prompt_tokens)
        ids = self._prompt[self._position : end]
        logits = self._transformer.forward(self._slot, self._position, ids, self._adapter)
        self._position = end
        self._tell_taken()
        return self._choose(logits) if end == self.prompt_tokens else None

    def _restore(self, restored: Iterator[int]) -> bool:
        """Take in what need not be computed; whether there was any."""
        length = next(restored, None)
        if length is None:
            self._restored = None
            return False
        self._position = self.cached_tokens = length
        self._tell_taken()
        return True

    def _tell_taken(self) -> None:
        if self._on_taken is not None:
            self._on_taken(self._ids[: self._position])

    # -- tokens ---------------------------------------------------------------------------------

    def rows(self, guesses: int = 0, sure: bool = False) -> list[tuple[int, int, int, int]]:
        """Return slot, id, position and adapter of what is to be taken in next.

        The first row is the newest token, the others are at most `guesses` that may follow it;
        `sure`: only such as follow a long repetition.
        Raises what broke the sequence in the step before, after it had brought tokens.
        """
        if self._failure is not None:
            raise self._failure
        if self.reading or self.completion_tokens == 0:
            raise EngineError("a sequence that still reads its prompt cannot decode")
        # The last token of an answer is never taken in.
        most = min(guesses, self._limit - self.completion_tokens - 1)
        self._drafts = []
        if most > 0 and self._drafter is not None:
            ahead = self._guide.ahead() if self._guide is not None else ()
            self._forced = bool(ahead)
            self._drafts = self._drafter.propose(most, ahead, sure)
        ids = [self._ids[-1], *self._drafts]
        return [(self._slot, id, self._position + i, self._adapter) for i, id in enumerate(ids)]

    def answer(self, logits: Float32) -> Piece:
        """Return the piece that follows from the logits (rows, V) of `rows`."""
        pieces: list[Piece] = []
        for row, wanted in zip(logits, [*self._drafts, None], strict=True):
            self._position += 1
            try:
                pieces.append(self._choose(row))
            except Exception as error:
                if not pieces:
                    raise
                self._failure = error
                break
            if self.finished or self._ids[-1] != wanted:
                break
        if self._drafts and self._drafter is not None:
            # One piece is the newest token's own.
            accepted = len(pieces) - 1 + (self.finished and self._ids[-1] == wanted)
            self._drafter.settle(len(self._drafts), accepted, self._forced)
        return pieces[0] if len(pieces) == 1 else joined(pieces)

    def _choose(self, logits: Float32) -> Piece:
        allowed = self._guide.mask() if self._guide is not None else None
        token = self._sampler.next(logits, allowed)
        if self._guide is not None:
            self._guide.take(token)
        likely: tuple[TokenLogprob, ...] = ()
        if self._params.logprobs is not None:
            likely = (token_logprob(logits, token, self._params.logprobs),)
        return self._take(token, likely)

    def _take(self, token: int, likely: tuple[TokenLogprob, ...]) -> Piece:
        """Return the piece that a chosen token brings, and end the sequence if it must end."""
        self._ids.append(token)
        self.completion_tokens += 1
        if token in self._stop_ids:
            return self._finish("stop", self._end_of_text(), token, likely)
        text = self._finder.push(self._decoder.push(token))
        if self._finder.stopped:
            return self._finish("stop", text, token, likely)
        if self.completion_tokens >= self._limit:
            text += self._end_of_text()
            reason = "stop" if self._finder.stopped else "length"
            return self._finish(reason, text, token, likely)
        return Piece(text, (token,), None, likely)

    def _end_of_text(self) -> str:
        return self._finder.push(self._decoder.flush()) + self._finder.flush()

    def _finish(
        self, reason: str, text: str, token: int, likely: tuple[TokenLogprob, ...]
    ) -> Piece:
        self.finish_reason = reason
        self.close()
        return Piece(text, (token,), reason, likely)

"""Lets a loaded model sit an exam: it answers as it is served, one small step of work at a time.

The one idea: whatever is computed here, is computed in pieces that nobody minds waiting for, and
after each of them whoever waits comes first. Invariant: how the work is cut changes no answer and
no mark; an exam waits while others have the slots or the memory, and never fails for that.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.errors import NoFreeSlotError
from homebox.language.turns import Document
from homebox.learning.packing import messages_of
from homebox.model import GenerationRequest, Model, SamplingParams
from homebox.model.adapters import BASE
from homebox.model.generation.sequence import Sequence as Answer

MAX_ANSWER = 48
READ = 16  # ids of a prompt in one step
# A step is not shorter than this while nobody waits: handing over must not cost more than the work.
STEP_SECONDS = 0.01

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


class ModelExaminee:
    """A model with its resident adapters; must be used by the thread that owns the model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def answer(
        self, messages: Sequence[dict[str, Any]], adapter: str
    ) -> Generator[None, None, str]:
        """Answer greedily in a fresh conversation; waits while every KV slot is in use."""
        prompt = self._model.chat.render(messages)
        room = self._model.context - len(prompt)
        sampling = SamplingParams(max_tokens=max(1, min(MAX_ANSWER, room)))
        sequence = yield from self._started(GenerationRequest(prompt, sampling, adapter))
        pieces = []
        begun = time.perf_counter()
        try:
            while not sequence.finished:
                piece = sequence.step(READ)
                if piece is not None:
                    pieces.append(piece.text)
                if self._to_yield(begun):
                    yield
                    begun = time.perf_counter()
        finally:
            sequence.close()
        return "".join(pieces)

    def divergence(
        self, documents: list[Document], adapter: str
    ) -> Generator[None, None, tuple[float, float]]:
        """Compare an adapter with the base on documents that neither was taught.

        Returns the mean KL(base || adapter) in nats and the relative rise of the loss, both over
        the tokens of the answers.
        """
        divergence, base_loss, loss, count = 0.0, 0.0, 0.0, 0
        for document in documents:
            rendered = self._model.chat.render_training(messages_of(document))
            places = np.flatnonzero(np.array(rendered.mask[1:], dtype=np.bool_))
            targets = np.array(rendered.ids, dtype=np.int64)[places + 1]
            base = yield from self._log_softmax_at(rendered.ids, places, BASE)
            new = yield from self._log_softmax_at(rendered.ids, places, adapter)
            divergence += float(np.sum(np.exp(base) * (base - new)))
            rows = np.arange(len(places))
            base_loss -= float(np.sum(base[rows, targets]))
            loss -= float(np.sum(new[rows, targets]))
            count += len(places)
            yield
        if count == 0:
            return float("nan"), float("nan")
        return divergence / count, (loss - base_loss) / max(base_loss, 1e-9)

    def _log_softmax_at(
        self, ids: Sequence[int], places: Ints, adapter: str
    ) -> Generator[None, None, Float64]:
        """Return the logarithms of the probabilities after some of `ids`, float64 (P, V)."""
        while True:
            try:
                return (yield from self._read(ids, places, adapter))
            except NoFreeSlotError:
                yield  # others have the slots or the memory for it

    def _read(
        self, ids: Sequence[int], places: Ints, adapter: str
    ) -> Generator[None, None, Float64]:
        found: list[Float64] = []
        begun = time.perf_counter()
        with closing(self._model.passed(ids, adapter)) as passed:
            for at, logits in passed:
                inside = np.flatnonzero((places >= at) & (places < at + len(logits)))
                found.append(_log_softmax(logits[places[inside] - at]))
                if self._to_yield(begun):
                    yield
                    begun = time.perf_counter()
        return np.concatenate(found)

    def _started(self, request: GenerationRequest) -> Generator[None, None, Answer]:
        """Begin an answer; waits while others have the slots or the memory for it."""
        while True:
            try:
                return self._model.start(request)
            except NoFreeSlotError:
                yield

    def _to_yield(self, begun: float) -> bool:
        """Whether a step was long enough: at once if somebody waits."""
        waits = self._model.interrupt.is_set()
        return waits or time.perf_counter() - begun > STEP_SECONDS


def _log_softmax(logits: npt.NDArray[np.float32]) -> Float64:
    scores = logits.astype(np.float64)
    scores -= np.max(scores, axis=-1, keepdims=True)
    total: Float64 = scores - np.log(np.sum(np.exp(scores), axis=-1, keepdims=True))
    return total

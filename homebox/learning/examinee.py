"""Lets a loaded model sit an exam: it answers as it is served, one small step of work at a time."""

import time
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.errors import NoFreeSlotError
from homebox.language.turns import Document
from homebox.learning.packing import messages_of
from homebox.model import GenerationRequest, Model, SamplingParams
from homebox.model.adapters import BASE

MAX_ANSWER = 48
# A step is not shorter than this, so that handing over does not cost more than the work.
STEP_SECONDS = 0.01

Float64 = npt.NDArray[np.float64]


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
        while True:
            try:
                sequence = self._model.start(GenerationRequest(prompt, sampling, adapter))
                break
            except NoFreeSlotError:
                yield
        pieces = []
        begun = time.perf_counter()
        try:
            while not sequence.finished:
                piece = sequence.step()
                if piece is not None:
                    pieces.append(piece.text)
                if time.perf_counter() - begun > STEP_SECONDS:
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
            base = _log_softmax((yield from self._logits(rendered.ids, BASE))[places])
            yield
            new = _log_softmax((yield from self._logits(rendered.ids, adapter))[places])
            divergence += float(np.sum(np.exp(base) * (base - new)))
            rows = np.arange(len(places))
            base_loss -= float(np.sum(base[rows, targets]))
            loss -= float(np.sum(new[rows, targets]))
            count += len(places)
            yield
        if count == 0:
            return float("nan"), float("nan")
        return divergence / count, (loss - base_loss) / max(base_loss, 1e-9)

    def _logits(
        self, ids: Sequence[int], adapter: str
    ) -> Generator[None, None, npt.NDArray[np.float32]]:
        """Return the logits after each of `ids`; waits while others have the memory for it."""
        while True:
            try:
                return self._model.logits(ids, adapter)
            except NoFreeSlotError:
                yield


def _log_softmax(logits: npt.NDArray[np.float32]) -> Float64:
    scores = logits.astype(np.float64)
    scores -= np.max(scores, axis=-1, keepdims=True)
    total: Float64 = scores - np.log(np.sum(np.exp(scores), axis=-1, keepdims=True))
    return total

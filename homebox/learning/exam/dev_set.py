"""Tells a training run how well its adapter answers so far, so that it can stop in time.

The one idea: the loss of the owner's answers to questions that neither the lessons nor the exam
use. Invariant: the figure is a function of topics, model and adapter, summed in a fixed order, so
that a run stops at the same step wherever it is repeated.
"""

import contextlib
import math
from collections.abc import Generator, Sequence

from homebox.errors import ModelNotFoundError
from homebox.language.turns import Document, assistant, user
from homebox.learning.checkpoint import Tensors
from homebox.learning.exam.examinee import ModelExaminee
from homebox.learning.exam.writing import dev_questions
from homebox.learning.lessons.teach import Topic
from homebox.model import Model

NAME = "dev"  # of the adapter while it is looked at
ASKED = 40  # questions at most


class DevSet:
    """The questions, and the model that is asked; for the thread that owns the model."""

    def __init__(self, model: Model, topics: Sequence[Topic]) -> None:
        self._model = model
        self._examinee = ModelExaminee(model)
        self._documents = dev_documents(topics)

    def __len__(self) -> int:
        return len(self._documents)

    def figure(self, tensors: Tensors, alpha: float) -> Generator[None, None, float]:
        """Return the mean loss of the owner's answers, nats per token; less is better.

        Not a number without questions. The adapter is resident only for as long as this runs.
        """
        adapters = self._model.adapters
        self._forget()
        adapters.add(NAME, tensors, alpha)
        try:
            losses = yield from self._examinee.losses(self._documents, NAME)
        finally:
            self._forget()
        tokens = sum(loss.tokens for loss in losses)
        return sum(loss.nats for loss in losses) / tokens if tokens else math.nan

    def _forget(self) -> None:
        with contextlib.suppress(ModelNotFoundError):
            self._model.adapters.remove(NAME)


def dev_documents(topics: Sequence[Topic]) -> list[Document]:
    """Write one question of each topic with its answer, of at most `ASKED` topics in order."""
    documents: list[Document] = []
    for topic in topics:
        for text in dev_questions(topic)[:1]:
            documents.append([user(text), assistant(topic.answer)])
    return documents[:: max(1, -(-len(documents) // ASKED))]

"""Lets a loaded model sit an exam: it answers as it is served, several questions at a time.

The one idea: whatever is computed here, is computed in pieces that nobody minds waiting for, and
after each of them whoever waits comes first: half of the slots stay free, and while somebody waits
only one answer goes on. Invariant: how the work is cut, and what is answered beside it, changes no
answer and no mark; an exam waits while others have the slots or the memory, and never fails for
that.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from homebox.errors import NoFreeSlotError
from homebox.language.turns import Document
from homebox.learning.exam.questions import Question
from homebox.learning.exam.writing import TOOL
from homebox.learning.examples import messages_of
from homebox.model import GenerationRequest, Model, SamplingParams
from homebox.model.adapters import BASE
from homebox.model.answers import parser_for
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.generation.sequence import Sequence as Running

MAX_ANSWER = 48
READ = 16  # ids of a prompt in one step
# A step is not shorter than this while nobody waits: handing over must not cost more than the work.
STEP_SECONDS = 0.01

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Answer:
    """What was answered, in how many tokens; it may end where the verdict was certain."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Loss:
    """How unlikely an answer was: nats over all of its tokens, and how many these are."""

    nats: float
    tokens: int


class Examinee(Protocol):
    """Somebody who answers questions; every yield is one small step of work."""

    def answers(
        self, questions: Sequence[Question], adapter: str
    ) -> Generator[int, None, list[Answer]]:
        """Answer fresh conversations with the named adapter; yields how many are done."""
        ...

    def divergence(
        self, documents: Sequence[Document], adapter: str
    ) -> Generator[None, None, tuple[float, float]]:
        """Return the mean KL(base || adapter) of the answers and their loss's relative rise."""
        ...

    def losses(
        self, documents: Sequence[Document], adapter: str
    ) -> Generator[None, None, list[Loss]]:
        """Return the loss of each document's answers."""
        ...


class ModelExaminee:
    """A model with its resident adapters; must be used by the thread that owns the model."""

    def __init__(self, model: Model, words: int = MAX_ANSWER) -> None:
        """`words` is the most tokens of an answer."""
        self._model = model
        self._words = words
        self._width = max(1, model.slots.count // 2)

    def answers(
        self, questions: Sequence[Question], adapter: str
    ) -> Generator[int, None, list[Answer]]:
        """Answer fresh conversations; waits while others have the slots."""
        found: dict[int, Answer] = {}
        waiting = list(enumerate(questions))[::-1]
        running: list[_Answering] = []
        begun = time.perf_counter()
        try:
            while waiting or running:
                self._begin(waiting, running, adapter)
                self._step(running)
                for each in [each for each in running if each.over]:
                    each.sequence.close()
                    running.remove(each)
                    found[each.number] = each.answer
                if not running or self._to_yield(begun):
                    yield len(found)
                    begun = time.perf_counter()
        finally:
            for each in running:
                each.sequence.close()
        return [found[number] for number in range(len(questions))]

    def _begin(
        self, waiting: list[tuple[int, Question]], running: "list[_Answering]", adapter: str
    ) -> None:
        """Let as many begin as may run at once and have room."""
        while waiting and len(running) < self._width:
            number, question = waiting[-1]
            try:
                sequence = self._model.start(self._request(question, adapter))
            except NoFreeSlotError:
                return
            waiting.pop()
            running.append(_Answering(number, question, sequence))

    def _step(self, running: "list[_Answering]") -> None:
        """Take in a part of one prompt, or else let everybody write on."""
        if not running:
            return
        reading = next((each for each in running if each.sequence.reading), None)
        if reading is not None:
            reading.take(reading.sequence.step(READ))
            return
        writing = running[:1] if self._model.interrupt.is_set() else running
        outcomes = self._model.step([each.sequence for each in writing])
        for each, outcome in zip(writing, outcomes, strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            each.take(outcome)

    def _request(self, question: Question, adapter: str) -> GenerationRequest:
        model = self._model
        offered: dict[str, Any] = {"tools": question.tools} if question.tools else {}
        if isinstance(model.chat, TemplateChat):
            # A thought would fill the answer before it begins.
            offered["enable_thinking"] = False
        prompt = model.chat.render(question.messages, **offered)
        room = model.context - len(prompt)
        sampling = SamplingParams(
            max_tokens=max(1, min(question.most or self._words, room)),
            shown=self._marks() if question.check == TOOL else frozenset(),
            temperature=0.0 if question.draw is None else 1.0,
            seed=question.draw,
        )
        return GenerationRequest(prompt, sampling, adapter)

    def _marks(self) -> frozenset[int]:
        """Return the ids that steer calls of tools, which are part of such an answer."""
        tokenizer = self._model.tokenizer
        parser = parser_for(tokenizer, tools=({"name": "any"},))
        special = tokenizer.special
        return frozenset(special[mark] for mark in parser.marks if mark in special)

    def divergence(
        self, documents: Sequence[Document], adapter: str
    ) -> Generator[None, None, tuple[float, float]]:
        """Compare an adapter with the base on documents that neither was taught.

        Returns the mean KL(base || adapter) in nats and the relative rise of the loss, both over
        the tokens of the answers.
        """
        divergence, base_loss, loss, count = 0.0, 0.0, 0.0, 0
        for document in documents:
            ids, places, targets = self._answer_places(document)
            known = yield from self._kept(ids, places)
            for part in self._parts(ids, places, adapter):
                if part is None:
                    yield
                    continue
                rows, new = part
                base = known.pop(0)
                divergence += float(np.sum(np.exp(base) * (base - new)))
                at = np.arange(len(rows))
                base_loss -= float(np.sum(base[at, targets[rows]]))
                loss -= float(np.sum(new[at, targets[rows]]))
                count += len(rows)
            yield
        if count == 0:
            return float("nan"), float("nan")
        return divergence / count, (loss - base_loss) / max(base_loss, 1e-9)

    def losses(
        self, documents: Sequence[Document], adapter: str
    ) -> Generator[None, None, list[Loss]]:
        """Return how unlikely each document's answers are to an adapter."""
        found = []
        for document in documents:
            ids, places, targets = self._answer_places(document)
            nats = 0.0
            for part in self._parts(ids, places, adapter):
                if part is None:
                    yield
                    continue
                rows, scores = part
                nats -= float(np.sum(scores[np.arange(len(rows)), targets[rows]]))
            found.append(Loss(nats, len(places)))
            yield
        return found

    def _kept(self, ids: Sequence[int], places: Ints) -> Generator[None, None, list[Float64]]:
        """Return what `_parts` says of the base, all of it."""
        found = []
        for part in self._parts(ids, places, BASE):
            if part is None:
                yield
            else:
                found.append(part[1])
        return found

    def _answer_places(self, document: Document) -> tuple[Sequence[int], Ints, Ints]:
        """Return a document's ids, the places before its answers' tokens, and these tokens."""
        rendered = self._model.chat.render_training(messages_of(document))
        places = np.flatnonzero(np.array(rendered.mask[1:], dtype=np.bool_))
        return rendered.ids, places, np.array(rendered.ids, dtype=np.intp)[places + 1]

    def _parts(
        self, ids: Sequence[int], places: Ints, adapter: str
    ) -> Iterator[tuple[Ints, Float64] | None]:
        """Yield numbers of some places and the logarithms of the probabilities there, (n, V).

        None comes where others may compute. The parts are the same for every adapter.
        """
        begun = time.perf_counter()
        with closing(self._waiting_for_a_slot(ids, adapter)) as passed:
            for found in passed:
                if found is None:
                    yield None
                    continue
                at, logits = found
                inside = np.flatnonzero((places >= at) & (places < at + len(logits)))
                if len(inside):
                    yield inside, _log_softmax(logits[places[inside] - at])
                if self._to_yield(begun):
                    yield None
                    begun = time.perf_counter()

    def _waiting_for_a_slot(
        self, ids: Sequence[int], adapter: str
    ) -> Generator[tuple[int, npt.NDArray[np.float32]] | None, None, None]:
        """Read a text as `Model.passed` does; None while others have the slots or the memory."""
        while True:
            try:
                yield from self._model.passed(ids, adapter)
            except NoFreeSlotError:
                yield None
            else:
                return

    def _to_yield(self, begun: float) -> bool:
        """Whether a step was long enough: at once if somebody waits."""
        waits = self._model.interrupt.is_set()
        return waits or time.perf_counter() - begun > STEP_SECONDS


class _Answering:
    """One answer that is being written."""

    def __init__(self, number: int, question: Question, sequence: Running) -> None:
        self.number = number
        self.sequence = sequence
        self._question = question
        self._text = ""
        self._tokens = 0
        self._decided = False

    def take(self, piece: Any) -> None:
        """Add what a step brought."""
        if piece is None:
            return
        self._text += piece.text
        self._tokens += len(piece.token_ids)
        self._decided = self._question.decided(self._text) is not None

    @property
    def over(self) -> bool:
        """Whether it ended, or cannot change the verdict any more."""
        return self._decided or self.sequence.finished

    @property
    def answer(self) -> Answer:
        """What was answered."""
        return Answer(self._text, self._tokens)


def _log_softmax(logits: npt.NDArray[np.float32]) -> Float64:
    scores = logits.astype(np.float64)
    scores -= np.max(scores, axis=-1, keepdims=True)
    total: Float64 = scores - np.log(np.sum(np.exp(scores), axis=-1, keepdims=True))
    return total

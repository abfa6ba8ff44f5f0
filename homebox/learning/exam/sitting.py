"""Lets the base and a candidate sit an exam, and writes down their marks.

The one idea: the base sits once a run, and of what has no word of the owner in it once a base: its
answers are kept in the cache. Invariant: what is kept of the base is named by all that decides its
answers, so that marks are the same with and without the cache.
"""

import contextlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from homebox.errors import StateError
from homebox.language.turns import Document
from homebox.learning.exam.examinee import Answer, Examinee, Loss
from homebox.learning.exam.general import documents_of
from homebox.learning.exam.marks import Marks, Sheet, Twin
from homebox.learning.exam.paper import Paper
from homebox.learning.exam.questions import Question
from homebox.learning.exam.tool_requests import goes_in_circles
from homebox.learning.exam.writing import GENERAL, OF_BASE_TOO
from homebox.memory.durable import make_directory, replace_file
from homebox.memory.store import canonical_json
from homebox.model.adapters import BASE

T = TypeVar("T")


class KeptAnswers:
    """The base's answers to general questions, in one file a base; without a path, in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._answers: dict[str, Any] = {}
        if path is not None:
            # Without it, or where it is damaged, the base is asked again.
            with contextlib.suppress(OSError, ValueError):
                read = json.loads(path.read_bytes())
                self._answers = read if isinstance(read, dict) else {}

    def get(self, question: Question) -> Answer | None:
        """Return what the base answered, if that is known."""
        kept = self._answers.get(_name(question))
        try:
            return Answer(str(kept["text"]), int(kept["tokens"])) if kept else None
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, question: Question, answer: Answer) -> None:
        """Note an answer; only questions without a word of the owner are kept."""
        if question.general:
            self._answers[_name(question)] = {"text": answer.text, "tokens": answer.tokens}

    def save(self) -> None:
        """Write the file; a full disk is no reason to stop an exam."""
        if self._path is None:
            return
        with contextlib.suppress(StateError, OSError):
            make_directory(self._path.parent)
            replace_file(self._path, canonical_json(self._answers))


def _name(question: Question) -> str:
    asked = {
        "check": question.check,
        "expected": question.expected,
        "messages": question.messages,
        "tools": list(question.tools),
    }
    return sha256(canonical_json(asked)).hexdigest()


@dataclass
class Baseline:
    """What the base gave in this run, for all sittings of it."""

    sheet: Sheet = field(default_factory=Sheet)
    anchor: Sequence[Document] = ()
    own: list[Loss] = field(default_factory=list)
    other: list[Loss] = field(default_factory=list)


def sit_first(
    examinee: Examinee, paper: Paper, kept: KeptAnswers
) -> Generator[int, None, Baseline]:
    """Let the base sit what it is compared in; yields the number of answers so far."""
    baseline = Baseline()
    asked = [question for question in paper.questions if question.check in OF_BASE_TOO]
    unknown = [question for question in asked if kept.get(question) is None]
    answered = yield from examinee.answers(unknown, BASE)
    new = {id(question): answer for question, answer in zip(unknown, answered, strict=True)}
    texts = []
    for question in asked:
        answer = new.get(id(question)) or kept.get(question)
        assert answer is not None, "each question was asked or is kept"
        _note(baseline.sheet, question, answer)
        kept.put(question, answer)
        texts += [answer.text] if question.check == GENERAL else []
    kept.save()
    general = [question for question in asked if question.check == GENERAL]
    baseline.anchor = paper.anchor or documents_of(general, texts, paper.anchors)
    own = [pairing.own for pairing in paper.pairings]
    other = [pairing.other for pairing in paper.pairings]
    baseline.own = yield from _counted(examinee.losses(own, BASE), len(unknown))
    baseline.other = yield from _counted(examinee.losses(other, BASE), len(unknown))
    return baseline


def sit(
    examinee: Examinee, paper: Paper, baseline: Baseline, adapter: str
) -> Generator[int, None, Marks]:
    """Let a candidate sit the exam; yields the number of questions done."""
    marks = Marks(of_base=baseline.sheet)
    questions = paper.questions
    answered = yield from examinee.answers(questions, adapter)
    for question, answer in zip(questions, answered, strict=True):
        _note(marks.candidate, question, answer)
        marks.keys.setdefault(question.check, []).append(question.key)
    done = len(questions)
    compared = examinee.divergence(baseline.anchor, adapter)
    marks.divergence, marks.loss_rise = yield from _counted(compared, done)
    own_documents = [pairing.own for pairing in paper.pairings]
    other_documents = [pairing.other for pairing in paper.pairings]
    own = yield from _counted(examinee.losses(own_documents, adapter), done)
    other = yield from _counted(examinee.losses(other_documents, adapter), done)
    losses = zip(baseline.own, own, baseline.other, other, strict=True)
    marks.twins = [Twin(*each) for each in losses]
    return marks


def recall_of(
    examinee: Examinee, questions: Sequence[Question], adapter: str
) -> Generator[int, None, Marks]:
    """Ask some questions only, as of weights that are served."""
    marks = Marks()
    answered = yield from examinee.answers(questions, adapter)
    for question, answer in zip(questions, answered, strict=True):
        _note(marks.candidate, question, answer)
        marks.keys.setdefault(question.check, []).append(question.key)
    return marks


def _note(sheet: Sheet, question: Question, answer: Answer) -> None:
    right = question.right(answer.text)
    sheet.add(question.check, right, answer.tokens, goes_in_circles(answer.text))


def _counted(steps: Generator[None, None, T], done: int) -> Generator[int, None, T]:
    """Run to the end, saying all the while how many questions are done."""
    while True:
        try:
            next(steps)
        except StopIteration as over:
            result: T = over.value
            return result
        yield done

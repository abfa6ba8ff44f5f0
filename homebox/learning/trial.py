"""Builds candidates and lets them sit the exam, until one passes the gate or both tries are over.

A refused candidate is tried in weaker doses if it recalls its lessons; then the recipe is repeated
once with half the rate and twice the hold on the base.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from homebox.errors import DeviceError, EngineError, ModelNotFoundError
from homebox.language.dice import Dice
from homebox.language.values import Values
from homebox.language.world import WORLD_NAMES
from homebox.learning.beside import beside
from homebox.learning.checkpoint import Tensors
from homebox.learning.exam import RECALL, Examinee, write_exam
from homebox.learning.examinee import ModelExaminee
from homebox.learning.examples import replay
from homebox.learning.gate import Limits, Marks, Verdict, judge, sit
from homebox.learning.report import Progress
from homebox.learning.selection import Selection
from homebox.learning.teach import seed_of
from homebox.learning.train import SCALES, Recipe, build, scaled
from homebox.model import Model

CANDIDATE = "candidate"
ANCHORS = 24


@dataclass(frozen=True)
class Candidate:
    """An adapter that sat the exam."""

    tensors: Tensors
    recipe: Recipe
    marks: Marks
    verdict: Verdict


class Trial:
    """The exam of one run: its questions, its anchor, and what the base answered."""

    def __init__(
        self, model: Model, selection: Selection, limits: Limits, seed: int, served: str
    ) -> None:
        """`served` names the resident adapter whose recall old lessons are compared with."""
        self._model = model
        self._selection = selection
        self._limits = limits
        self._served = served
        self._questions = write_exam(selection.topics, seed)
        dice = Dice(seed_of("anchor", str(seed), *(topic.key for topic in selection.topics)))
        values = Values(dice, unseen=True, excluded=WORLD_NAMES)
        self._anchor = replay(selection.topics, dice, values, ANCHORS)
        self._examinee: Examinee = ModelExaminee(model)
        self._base: dict[str, list[bool]] | None = None
        self._old_before = 1.0

    def attempt(self, recipe: Recipe) -> Generator[Progress, None, Candidate]:
        """Return the first candidate that passes, or the best reasoned refusal."""
        yield from self._recall_before()
        candidate = yield from self._doses(recipe)
        if candidate.verdict.passed:
            return candidate
        why = "; ".join(map(str, candidate.verdict.failures))
        yield Progress("retry", 0, 1, f"refused ({why}); again with half the rate and twice the KL")
        second = yield from self._doses(recipe.gentler())
        return second if second.verdict.passed else candidate

    def _doses(self, recipe: Recipe) -> Generator[Progress, None, Candidate]:
        """Train once; return the largest dose that passes, or else the full dose."""
        tensors = yield from build(self._model, self._selection.curriculum, recipe)
        full = yield from self._examined(tensors, recipe, SCALES[0])
        candidate = full
        for scale in SCALES[1:]:
            # A weaker dose does less harm, but it never recalls more.
            if candidate.verdict.passed or not candidate.verdict.recalls:
                break
            candidate = yield from self._examined(tensors, recipe, scale)
        return candidate if candidate.verdict.passed else full

    def _examined(
        self, tensors: Tensors, recipe: Recipe, scale: float
    ) -> Generator[Progress, None, Candidate]:
        dose = scaled(tensors, scale)
        marks = yield from self._sit(dose, recipe.alpha)
        selection = self._selection
        verdict = judge(marks, self._limits, selection.fresh, selection.old, self._old_before)
        return Candidate(dose, dataclasses.replace(recipe, scale=scale), marks, verdict)

    def _sit(self, tensors: Mapping[str, object], alpha: float) -> Generator[Progress, None, Marks]:
        adapters, total = self._model.adapters, len(self._questions)
        self._forget()
        adapters.add(CANDIDATE, tensors, alpha)  # type: ignore[arg-type]
        try:
            yield from self._ready()
            sitting = sit(self._examinee, self._questions, self._anchor, CANDIDATE, self._base)
            marks = yield from _told(sitting, "gate", total)
        except DeviceError:
            raise  # says nothing about the candidate
        except EngineError:
            # Logits that are no numbers: an exam without marks fails every check.
            return Marks()
        finally:
            self._forget()
        self._base = marks.base
        return marks

    def _ready(self) -> Generator[Progress, None, None]:
        """Compile what answers with and without an adapter run, beside those that are given."""
        progress = Progress("prepare", 0, 1, "compiling what the exam needs")
        while (make := self._model.missing()) is not None:
            keep = yield from beside(make, progress, self._model.interrupt)
            keep()

    def _forget(self) -> None:
        with contextlib.suppress(ModelNotFoundError):
            self._model.adapters.remove(CANDIDATE)

    def _recall_before(self) -> Generator[Progress, None, None]:
        """Find what the served weights recall of the lessons that they were built from."""
        old = self._selection.old
        if not old or self._served not in self._model.adapters.names():
            return
        questions = [q for q in self._questions if q.check == RECALL and q.key in old]
        sitting = sit(self._examinee, questions, [], self._served)
        marks = yield from _told(sitting, "before", len(questions))
        self._old_before = len(marks.recalled(old)) / len(old)


def _told(
    sitting: Generator[int, None, Marks], stage: str, total: int
) -> Generator[Progress, None, Marks]:
    while True:
        try:
            done = next(sitting)
        except StopIteration as over:
            marks: Marks = over.value
            return marks
        yield Progress(stage, done, total, "asking")

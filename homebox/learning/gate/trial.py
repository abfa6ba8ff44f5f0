"""Builds candidates and lets them sit the exam, until one passes the gate or both tries are over.

A refused candidate is tried in weaker doses if it recalls its lessons. Then the recipe is repeated
once with twice the steps; where lessons were recalled, also with half the rate and twice the hold
on the base. A run whose loss stopped being a number is
refused like any other, with the course that it took.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np

from homebox.errors import DeviceError, DivergedError, EngineError, ModelNotFoundError
from homebox.learning.beside import beside
from homebox.learning.checkpoint import Tensors, as_object, of_object
from homebox.learning.exam.dev_set import DevSet
from homebox.learning.exam.evidence import Evidence
from homebox.learning.exam.examinee import Examinee, ModelExaminee
from homebox.learning.exam.limits import Limits, amounts_for
from homebox.learning.exam.marks import Marks
from homebox.learning.exam.paper import Paper, write_paper
from homebox.learning.exam.sitting import Baseline, KeptAnswers, recall_of, sit, sit_first
from homebox.learning.exam.writing import RECALL
from homebox.learning.examples import speaks_toy_language
from homebox.learning.examples.samples import Samples
from homebox.learning.gate.judging import Check, Plan, Verdict, judge
from homebox.learning.lessons.selection import Selection
from homebox.learning.report import Progress
from homebox.learning.training.recipes import SCALES
from homebox.learning.training.train import NUMERICS, Built, Recipe, train
from homebox.model import Model
from homebox.model.lora import scaled

CANDIDATE = "candidate"
POINTS = 100  # of a run's course that are kept

T = TypeVar("T")
Losses = list[tuple[float, ...]]  # step, loss, KL


@dataclass(frozen=True)
class Candidate:
    """An adapter that sat the exam; `why` says in words what it was refused for."""

    tensors: Tensors
    recipe: Recipe
    marks: Marks
    verdict: Verdict
    course: Losses = dataclasses.field(default_factory=list)
    trouble: str = ""
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of its training

    @property
    def why(self) -> str:
        """The reasons of a refusal."""
        return self.trouble or "; ".join(map(str, self.verdict.failures))


@dataclass(frozen=True)
class Matter:
    """What a run found before it trains: what holds, opinions kept out, the base's answers."""

    selection: Selection
    evidence: Evidence
    samples: Samples


@dataclass(frozen=True)
class Folders:
    """Where a trial keeps what the next one may take up; nothing is kept where none is named."""

    answers: Path | None = None  # of the base, from night to night
    runs: Path | None = None  # a training run while it lasts


class Trial:
    """The exam of one run: its paper, and what the base answered."""

    def __init__(
        self,
        model: Model,
        matter: Matter,
        limits: Limits,
        seed: int,
        served: str,
        folders: Folders,
    ) -> None:
        """`served` names the resident adapter whose recall old lessons are compared with."""
        selection, samples, cache = matter.selection, matter.samples, folders.answers
        amounts = amounts_for(model.config)
        self._model = model
        self._selection = selection
        self._limits = limits
        self._served = served
        self._samples = samples
        self._seed, self._runs = seed, folders.runs
        # The built-in model learns most while its rate falls: a run that ends early knows less, and
        # saves only seconds.
        toy = speaks_toy_language(model)
        self._dev = None if toy or not selection.topics else DevSet(model, selection.topics)
        self._paper: Paper = write_paper(
            model, selection.topics, selection.curriculum, matter.evidence, amounts, seed, samples
        )
        self._examinee: Examinee = ModelExaminee(model, amounts.words)
        self._kept = KeptAnswers(None if cache is None else cache / f"{_answering(model)}.json")
        self._baseline: Baseline | None = None
        self._old_before = 1.0

    def attempt(self, recipe: Recipe) -> Generator[Progress, None, Candidate]:
        """Return the first candidate that passes, or the best reasoned refusal."""
        yield from self._recall_before()
        candidate = yield from self._doses(recipe)
        if candidate.verdict.passed:
            return candidate
        if candidate.verdict.recalls:
            again, how = recipe.gentler(), "twice the steps, half the rate and twice the KL"
        else:
            again, how = recipe.longer(), "twice the steps"
        yield Progress("retry", 0, 1, f"refused ({candidate.why}); again with {how}")
        second = yield from self._doses(again)
        return second if second.verdict.passed else candidate

    def _doses(self, recipe: Recipe) -> Generator[Progress, None, Candidate]:
        """Train once; return the largest dose that passes, or else the full dose."""
        course: Losses = []
        try:
            building = train(
                self._model,
                self._selection.curriculum,
                recipe,
                self._samples,
                dev=self._dev,
                folder=self._runs,
            )
            built = yield from _followed(building, course)
            tensors, recipe = built.tensors, built.recipe
        except DivergedError as error:
            check = Check("G13", "numbers in training", 0, 1, True, 1)
            return Candidate({}, recipe, Marks(), Verdict((check,)), thinned(course), str(error))
        full = yield from self._examined(tensors, recipe, SCALES[0], course)
        candidate = full
        for scale in SCALES[1:]:
            # A weaker dose does less harm, but it never recalls more.
            if candidate.verdict.passed or not candidate.verdict.recalls:
                break
            candidate = yield from self._examined(tensors, recipe, scale, course)
        chosen = candidate if candidate.verdict.passed else full
        return dataclasses.replace(chosen, examples=built.examples)

    def _examined(
        self, tensors: Tensors, recipe: Recipe, scale: float, course: Losses
    ) -> Generator[Progress, None, Candidate]:
        dose = scaled(tensors, scale)
        marks = yield from self._sit(dose, recipe.alpha)
        marks.tensors, marks.broken, marks.changed = integrity(dose)
        plan = Plan(
            self._asked(self._selection.fresh),
            self._asked(self._selection.old),
            self._old_before,
            self._paper.not_asked,
            self._seed,
            self._paper.shown,
        )
        verdict = judge(marks, self._limits, plan)
        recipe = dataclasses.replace(recipe, scale=scale)
        return Candidate(dose, recipe, marks, verdict, thinned(course))

    def _sit(self, tensors: Mapping[str, object], alpha: float) -> Generator[Progress, None, Marks]:
        adapters, total = self._model.adapters, len(self._paper.questions)
        self._forget()
        adapters.add(CANDIDATE, tensors, alpha)  # type: ignore[arg-type]
        try:
            yield from self._ready()
            if self._baseline is None:
                first = sit_first(self._examinee, self._paper, self._kept)
                self._baseline = yield from _told(first, "gate", total, "asking the base")
            sitting = sit(self._examinee, self._paper, self._baseline, CANDIDATE)
            return (yield from _told(sitting, "gate", total, "asking"))
        except DeviceError:
            raise  # says nothing about the candidate
        except EngineError:
            # Logits that are no numbers: an exam without marks fails every check.
            return Marks()
        finally:
            self._forget()

    def _ready(self) -> Generator[Progress, None, None]:
        """Compile what answers with and without an adapter run, beside those that are given."""
        progress = Progress("prepare", 0, 1, "compiling what the exam needs")
        while (make := self._model.missing()) is not None:
            keep = yield from beside(make, progress, self._model.interrupt)
            keep()

    def _forget(self) -> None:
        with contextlib.suppress(ModelNotFoundError):
            self._model.adapters.remove(CANDIDATE)

    def _asked(self, keys: list[str]) -> list[str]:
        """Leave out the topics that the paper leaves out."""
        return [key for key in keys if key not in self._paper.left_out]

    def _recall_before(self) -> Generator[Progress, None, None]:
        """Find what the served weights recall of the lessons that they were built from."""
        old = self._asked(self._selection.old)
        if not old or self._served not in self._model.adapters.names():
            return
        questions = [q for q in self._paper.questions if q.check == RECALL and q.key in old]
        asking = recall_of(self._examinee, questions, self._served)
        marks = yield from _told(asking, "before", len(questions), "asking")
        self._old_before = len(marks.recalled(old)) / len(old)


def integrity(tensors: Tensors) -> tuple[int, int, int]:
    """Count tensors, those with numbers that are none, those that keeping changes."""
    broken = sum(not bool(np.isfinite(tensor).all()) for tensor in tensors.values())
    changed = 0
    for tensor in tensors.values():
        data = as_object(tensor)
        again = of_object(data)
        same = sha256(as_object(again)).digest() == sha256(data).digest()
        changed += not (same and again.tobytes() == tensor.tobytes())
    return len(tensors), broken, changed


def thinned(course: Losses) -> Losses:
    """Keep at most `POINTS` points of a course, the first and the last among them."""
    last = len(course) - 1
    if last < POINTS:
        return list(course)
    return [course[at * last // (POINTS - 1)] for at in range(POINTS)]


def _answering(model: Model) -> str:
    """Name all that decides what a base answers."""
    device = "" if model.placement is None else ",".join(model.placement.training)
    parts = (model.base_hash, model.kept, model.type, device, str(model.context), str(NUMERICS))
    return sha256("\n".join(parts).encode()).hexdigest()[:32]


def _followed(
    steps: Generator[Progress, None, Built], course: Losses
) -> Generator[Progress, None, Built]:
    """Run a build to its end, noting the course of its loss."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as over:
            built: Built = over.value
            return built
        if progress.figures and (not course or course[-1][0] != progress.done):
            course.append((float(progress.done), *progress.figures))
        yield progress


def _told(
    sitting: Generator[int, None, T], stage: str, total: int, text: str
) -> Generator[Progress, None, T]:
    while True:
        try:
            done = next(sitting)
        except StopIteration as over:
            result: T = over.value
            return result
        yield Progress(stage, done, total, text)

"""One learning run: select lessons, train an adapter, let it pass the gate, promote it.

The adapter is always built from the base on all lessons that hold: nothing is stacked, so what was
forgotten is gone, and the same lessons give the same weights. Invariant: HEAD moves only after
everything that it will name is durable; a run that ends before, for whatever reason, changed
nothing but the list of lessons.
"""

import dataclasses
import time
from collections.abc import Generator
from functools import partial
from typing import Any

from homebox.config import Config
from homebox.errors import EngineError, LearningError, StateError
from homebox.learning.beside import NOBODY, beside
from homebox.learning.checkpoint import load_spec, save_tensors
from homebox.learning.curriculum import Curriculum
from homebox.learning.exam.evidence import gather
from homebox.learning.exam.limits import limits_for
from homebox.learning.exam.shown import opinions_too_few, teaches
from homebox.learning.examples.samples import NO_SAMPLES, Samples
from homebox.learning.examples.sampling import gather as ask_base
from homebox.learning.gate.morning import morning_line, report_data
from homebox.learning.gate.trial import Candidate, Folders, Matter, Trial
from homebox.learning.jobs.job import KIND, Job
from homebox.learning.lessons.extraction import extract, wanted_of
from homebox.learning.lessons.finding import (
    checked,
    chosen,
    follow,
    read_ledger,
    read_signals,
    read_wordings,
)
from homebox.learning.lessons.harvest import Harvest
from homebox.learning.lessons.live import LiveLessons, live_lessons, rules_of
from homebox.learning.lessons.selection import Selection
from homebox.learning.pauses import patient
from homebox.learning.report import (
    Progress,
    Report,
    lesson_json,
    lesson_line,
)
from homebox.learning.training.recipes import recipe_lines, recipe_of
from homebox.learning.training.resume import FOLDER, forget_runs
from homebox.learning.training.train import NUMERICS
from homebox.memory.ledger import ERASURES, Ledger
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import BASE, LineageEntry, Manifest
from homebox.memory.store import Store, canonical_json
from homebox.memory.turns import now
from homebox.model import Model

__all__ = ["Progress", "Report", "run"]

FORGOTTEN = "something was forgotten or rejected meanwhile; run again"


def run(
    model: Model,
    ledger: Ledger,
    store: Store,
    lineage: Lineage,
    settings: Config,
    dry_run: bool = False,
) -> Generator[Progress, None, Report]:
    """Learn from the ledger; every `next` is at most one micro-step, the result is the report.

    `dry_run` only finds the lessons and writes nothing. What a run cannot do (nothing to learn, a
    loss that is no number, a failed gate) stands in the report; errors of the state are raised.
    """
    begun = time.monotonic()
    head = lineage.head(model.base_hash)
    interrupt = getattr(model, "interrupt", NOBODY)
    yield from beside(read_wordings, Progress("select", 0, 1, "learning to read"), interrupt)
    yield from checked(ledger, interrupt)
    rules = rules_of(store.root.parent, settings.lessons.rules)
    if dry_run:
        found = yield from read_ledger(ledger, rules, interrupt)
        recipe = recipe_of(settings.learning, model.config, len(found.current))
        return _dry(found, head, recipe_lines(recipe, model.config))
    live = live_lessons(ledger, rules)
    erased = ledger.mark(ERASURES)
    yield from follow(live, ledger, interrupt)
    if wanted_of(model, settings.lessons.extract):
        yield from extract(model, ledger, live)
    served = [entry for entry in lineage.history(model.base_hash) if entry.weights == head]
    learned = served[-1].lessons if served else ()
    signals = yield from read_signals(ledger, interrupt)
    since = served[-1].time if served else ""
    selection = yield from chosen(live, ledger, erased, (learned, since), signals, interrupt)
    if selection is None:
        return _unchanged(head, FORGOTTEN, {})
    comparing = Progress("select", 0, 1, "comparing with what is served")
    compared = partial(nothing_to_do, selection, store, head, model)
    reason = yield from beside(compared, comparing, interrupt)
    if reason:
        return _unchanged(head, reason, {"counts": selection.counts})
    pauses: list[str] = []
    try:
        candidate, samples = yield from _built(
            model, ledger, store, settings, selection, head, pauses
        )
    except (LearningError, EngineError) as error:
        return _unchanged(head, str(error), {"counts": selection.counts, **_told(pauses)})
    seconds = time.monotonic() - begun
    data = report_of(candidate, selection, seconds) | _told(pauses)
    if not candidate.verdict.passed:
        forget_runs(store.root.parent / FOLDER)
        why = f"the gate refused the new weights: {candidate.why}"
        name = store.put(canonical_json(report_of(candidate, selection)))
        refused = _unchanged(head, why, {**data, "report": name})
        refused.lines.append(f'"homebox report {name[:12]}" shows what it found')
        return refused

    promotion = _Promotion(model, store, lineage, ledger, live, erased, selection, head)

    def served_now() -> Generator[Progress, None, str]:
        return (yield from promotion.steps(candidate, samples))

    try:
        weights = yield from patient(served_now, pauses, interrupt)
    except LearningError as error:
        return _unchanged(head, str(error), {"counts": selection.counts, **_told(pauses)})
    # Not before: a run that could not be kept is not trained again.
    forget_runs(store.root.parent / FOLDER)
    if not weights:
        return _unchanged(head, FORGOTTEN, {"counts": selection.counts, **_told(pauses)})
    line = morning_line(candidate.marks, candidate.verdict, selection, seconds, (head, weights))
    data |= {"weights": weights, "previous": head, **_told(pauses)}
    return Report(True, weights, head, [line], data)


@dataclasses.dataclass(frozen=True)
class _Promotion:
    """How a candidate that passed comes to be served, unless something was forgotten meanwhile."""

    model: Model
    store: Store
    lineage: Lineage
    ledger: Ledger
    live: LiveLessons
    erased: int  # the ledger's mark of erasures when its lessons were selected
    selection: Selection
    head: str

    def steps(self, candidate: Candidate, samples: Samples) -> Generator[Progress, None, str]:
        """Keep everything beside the answers, then move HEAD; "" if it must not be served."""
        keep = partial(self._kept, candidate, samples)
        interrupt = getattr(self.model, "interrupt", NOBODY)
        keeping = Progress("promote", 0, 1, "keeping the new weights")
        found = yield from beside(keep, keeping, interrupt)
        if found is None:
            return ""
        entry, whole = found
        yield Progress("promote", 0, 1, "serving the new weights", ready=entry.weights)
        # From here on answers wait for HEAD.
        with self.live.lock:
            if not self._valid():
                return ""
            self.lineage.promote(entry, whole)
        return entry.weights

    def _kept(
        self, candidate: Candidate, samples: Samples
    ) -> tuple[LineageEntry, list[str]] | None:
        # No tensor has a word of the owner, but the other objects do.
        tensors = save_tensors(self.store, candidate.tensors)
        with self.live.lock:
            if not self._valid():
                return None
            return kept_whole(
                candidate, tensors, self.selection, samples, self.model, self.store, self.head
            )

    def _valid(self) -> bool:
        same = self.ledger.mark(ERASURES) == self.erased
        return same and not taken_back(self.selection, self.ledger)


def _built(
    model: Model,
    ledger: Ledger,
    store: Store,
    settings: Config,
    selection: Selection,
    head: str,
    pauses: list[str],
) -> Generator[Progress, None, tuple[Candidate, Samples]]:
    """Ask the base, train and examine; gives a candidate and what the base answered for it.

    Why a device had to be waited for is added to `pauses`. Raises LearningError and EngineError.
    """
    recipe = recipe_of(settings.learning, model.config, len(selection.topics))
    limits = limits_for(model.config, settings.gate)
    interrupt = getattr(model, "interrupt", NOBODY)

    def ask() -> Generator[Progress, None, Samples]:
        folder = settings.cache_dir / "samples"
        before = samples_behind(store, head)
        return (yield from ask_base(model, selection.curriculum, folder, before))

    samples = yield from patient(ask, pauses, interrupt)

    def attempt() -> Generator[Progress, None, Candidate]:
        progress = Progress("prepare", 0, 1, "writing the exam")
        folders = Folders(settings.cache_dir / "exams", store.root.parent / FOLDER)

        def made() -> Trial:
            matter = Matter(selection, gather(ledger), samples)
            return Trial(model, matter, limits, recipe.seed, head, folders)

        trial = yield from beside(made, progress, interrupt)
        return (yield from trial.attempt(recipe))

    candidate = yield from patient(attempt, pauses, interrupt)
    return candidate, samples


def nothing_to_do(selection: Selection, store: Store, head: str, model: Model) -> str:
    """Say why there is nothing to learn, or return an empty string."""
    if not selection.topics and not teaches(selection.curriculum):
        return opinions_too_few(selection.curriculum) or (
            "there is nothing to learn: no lesson was found in the ledger; tell the box "
            'something about yourself, such as "My dog is called Rex."'
        )
    if head == BASE:
        return ""
    spec = load_spec(store, head)
    if spec.get("kind") != KIND or spec.get("numerics") != NUMERICS:
        return ""  # imported, and so built from no lessons, or built with other bits
    if _taught(store, str(spec.get("curriculum"))) == taught_by(selection.curriculum):
        return f"there is nothing new to learn: the weights {head[:12]} know every lesson"
    return ""


def taken_back(selection: Selection, ledger: Ledger) -> bool:
    """Say whether the owner rejected a lesson since it was selected.

    What was told since is no reason not to serve what was learned: the next run learns it.
    """
    rejected = set(ledger.lesson_names(("deleted",)))
    return any(lesson.hash in rejected for lesson in selection.curriculum.lessons)


def samples_behind(store: Store, head: str) -> Samples:
    """Return what the base answered for the served weights, as far as it is still there."""
    try:
        name = load_spec(store, head).get("samples") if head != BASE else None
        return Samples.load(store, name) if name else NO_SAMPLES
    except StateError:
        return NO_SAMPLES


def taught_by(curriculum: Curriculum) -> str:
    """Name what a curriculum teaches: questions that touch no lesson only hold to the base."""
    return dataclasses.replace(curriculum, prompts=()).hash


def _taught(store: Store, name: str) -> str:
    try:
        return taught_by(Curriculum.load(store, name))
    except StateError:
        return ""  # it is gone, so nobody can tell


def kept_whole(
    candidate: Candidate,
    kept: dict[str, str],
    selection: Selection,
    samples: Samples,
    model: Model,
    store: Store,
    head: str,
) -> tuple[LineageEntry, list[str]]:
    """Make everything durable that HEAD will name; return that, and the names of its objects.

    `kept` are the candidate's tensors in the store, by name. A crash before HEAD moves leaves
    objects that nobody names.
    """
    base = model.base_hash
    asked = samples.save(store) if samples.all else ""
    job = Job(base, selection.curriculum.save(store), candidate.recipe, samples=asked).save(store)
    weights = Manifest(base, kept, job).save(store)
    # Without clock values: the same run gives the same report, and so the same name.
    report = store.put(canonical_json(report_of(candidate, selection)))
    entry = LineageEntry(
        weights=weights,
        parent=head,
        base=base,
        ledger_root=selection.ledger_root,
        report=report,
        time=now(),
        reason=learned_of(selection),
        lessons=tuple(sorted(lesson.hash for lesson in selection.curriculum.lessons)),
    )
    return entry, [*kept.values(), job, report, store.put(canonical_json(entry.as_json()))]


def learned_of(selection: Selection) -> str:
    """Say in a few words what weights were built from."""
    if selection.topics:
        return f"learned {len(selection.fresh)} of {len(selection.topics)} topics"
    return f"learned from {len(selection.curriculum.lessons)} answers that were shown"


def report_of(
    candidate: Candidate, selection: Selection, seconds: float | None = None
) -> dict[str, Any]:
    """Return the gate's report about a candidate; see `report_data`."""
    marks, verdict = candidate.marks, candidate.verdict
    data = report_data(marks, verdict, selection, seconds, candidate.course)
    return {**data, "examples": dict(candidate.examples)} if candidate.examples else data


def _told(pauses: list[str]) -> dict[str, Any]:
    """Return the reasons why a run had to wait, for its report."""
    return {"pauses": pauses} if pauses else {}


def _unchanged(head: str, reason: str, data: dict[str, Any]) -> Report:
    line = f"nothing was learned: {reason}; weights stay {head[:12]}"
    return Report(False, head, head, [line], {**data, "weights": head, "previous": head}, reason)


def _dry(found: Harvest, head: str, recipe: list[str]) -> Report:
    """Show what a run would find; the ledger keeps nothing of it."""
    current = [lesson for lessons in found.current.values() for lesson in lessons]
    lines = [lesson_line(lesson) for lesson in current]
    lines += [lesson_line(item.lesson, item.reason) for item in found.quarantined]
    lines += [f"refused: {reason}" for _, reason in found.refused]
    data = {
        "lessons": [lesson_json(lesson) for lesson in current],
        "quarantined": [
            {**lesson_json(item.lesson), "reason": item.reason} for item in found.quarantined
        ],
        "refused": [reason for _, reason in found.refused],
        "weights": head,
        "previous": head,
    }
    return Report(
        False, head, head, [*(lines or ["no lessons"]), *recipe], data, "this was a dry run"
    )

"""Builds a candidate adapter from the base: the training loop.

Each step draws its batch, lets a teacher and the owner's opinions have their say, and updates the
adapter. Invariant: the result is a function of base, curriculum, samples and recipe, to the bit:
pauses, crashes, checkpoints and the number of threads change nothing.
"""

import dataclasses
import gc
import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from homebox.errors import ConfigError
from homebox.learning.beside import beside
from homebox.learning.checkpoint import Tensors
from homebox.learning.curriculum import Curriculum
from homebox.learning.examples import speaks_toy_language, write_examples
from homebox.learning.examples.samples import NO_SAMPLES, Samples
from homebox.learning.report import Progress
from homebox.learning.training.course import Course, rate_at
from homebox.learning.training.liking import Preferences
from homebox.learning.training.mixing import Mixer, mixed
from homebox.learning.training.opinions import Opinions, opinions_of
from homebox.learning.training.recipes import Recipe, recipe_of
from homebox.learning.training.resume import Keeper, Kept
from homebox.model import Model
from homebox.model.training.batches import Batch
from homebox.model.training.replicas import Trainer, trainer_for

__all__ = ["NUMERICS", "Built", "Recipe", "build", "recipe_of", "train"]

log = logging.getLogger(__name__)

# Raised whenever the same spec would no longer give the same bytes.
NUMERICS = 6

T = TypeVar("T")


class Dev(Protocol):
    """Tells how well an adapter answers so far; see `dev_set`."""

    def figure(self, tensors: Tensors, alpha: float) -> Generator[None, None, float]:
        """Return a figure of which less is better; not a number if there is none."""
        ...


@dataclass(frozen=True)
class Built:
    """An adapter, and the recipe that gives it again without a dev set."""

    tensors: Tensors
    recipe: Recipe
    examples: Mapping[str, int] = field(default_factory=dict)  # by kind, and what was left out


def build(
    model: Model,
    curriculum: Curriculum,
    recipe: Recipe,
    samples: Samples = NO_SAMPLES,
    folder: Path | None = None,
) -> Generator[Progress, None, Tensors]:
    """Like `train`, for the adapter alone, with as many steps as the recipe says."""
    return (yield from train(model, curriculum, recipe, samples, folder=folder)).tensors


def train(
    model: Model,
    curriculum: Curriculum,
    recipe: Recipe,
    samples: Samples = NO_SAMPLES,
    *,
    dev: Dev | None = None,
    folder: Path | None = None,
) -> Generator[Progress, None, Built]:
    """Train an adapter from the base; each yield is one micro-step.

    `samples` are what the base answered for this curriculum. With `dev`, a recipe that names no
    last step stops when its figure gets no better. In `folder` the run is kept while it lasts, and
    a run that is there goes on; `forget_runs` removes it. Raises DivergedError if the loss stops
    being a number or rises far above its start.
    """
    dev = None if recipe.stop else dev
    about = {
        "base": model.base_hash,
        "curriculum": curriculum.hash,
        "dev": dev is not None,
        "numerics": NUMERICS,
        "recipe": dataclasses.asdict(recipe),
        "samples": samples.hash,
    }
    try:
        run = _Run(model, recipe, dev, Keeper(folder, about))
        return (yield from run.steps(partial(_made, model, curriculum, recipe, samples)))
    finally:
        model.forget_copies()
        # Trainers and their programs refer to each other, and hold memory of a device.
        gc.collect()


@dataclass(frozen=True)
class _Parts:
    """What a run is made of."""

    mixer: Mixer
    counts: Mapping[str, int]
    trainer: Trainer
    opinions: Opinions | None
    preferences: Preferences


def _made(model: Model, curriculum: Curriculum, recipe: Recipe, samples: Samples) -> _Parts:
    """Write the examples and compile; beside the thread that answers."""
    r = recipe
    examples = write_examples(speaks_toy_language(model), curriculum, r.seed, samples)
    counts = Counter(examples.left_out) + Counter(example.pool for example in examples.all)
    mixer = mixed(model, examples, r, lambda trouble: counts.update([trouble]))
    preferences = Preferences(curriculum, model.chat.render_training, mixer.shape, r.seed, r.prefer)
    trainer = trainer_for(
        model,
        r.rank,
        r.alpha,
        r.rows,
        r.length,
        r.seed,
        parts=r.parts,
        numerics=r.numerics,
        places=mixer.shape.places,
        taught=r.taught,
        scored=bool(preferences.choices),
    )
    return _Parts(mixer, counts, trainer, opinions_of(model, r), preferences)


class _Run:
    """One training run."""

    def __init__(self, model: Model, recipe: Recipe, dev: Dev | None, keeper: Keeper) -> None:
        self._model, self._recipe, self._dev, self._keeper = model, recipe, dev, keeper
        self._last = recipe.stop or recipe.steps
        self._course = Course()
        self._progress = Progress("train", 0, recipe.steps, "training begins")

    def steps(self, make: Callable[[], _Parts]) -> Generator[Progress, None, Built]:
        """Prepare, go to where the run was left, and take the steps that are missing."""
        parts = yield from self._prepared(make)
        self._resume(parts)
        try:
            while (yield from self._goes_on(parts.trainer)):
                yield from self._step(parts)
                yield self._progress
                if self._keeper.due:
                    yield from self._keep(parts.trainer)
            # Whoever is interrupted after this need not train again.
            if self._keeper.keeps:
                yield from self._keep(parts.trainer)
        except GeneratorExit:
            if self._keeper.keeps:
                self._keeper.save(Kept(parts.trainer.state(), self._course))
            raise
        taken = self._course.step
        stop = 0 if taken == self._recipe.steps else taken
        recipe = dataclasses.replace(self._recipe, stop=stop)
        return Built(parts.trainer.adapter(), recipe, parts.counts)

    def _step(self, parts: _Parts) -> Generator[Progress, None, None]:
        """Draw a batch, hear the teacher and the owner's opinions, and update the adapter."""
        course, stop = self._course, self._model.interrupt
        drawn = parts.mixer.draw()
        batch: Batch = drawn.batch
        if parts.opinions is not None:
            batch = yield from self._pausing(parts.opinions.taught(drawn, stop))
        if parts.preferences.due(course.step):
            yield from self._pausing(parts.preferences.gather(parts.trainer, stop))
        rate = rate_at(self._recipe, course.step)
        result = yield from self._pausing(parts.trainer.steps(batch, rate, stop))
        course.took(result, self._recipe.steps)
        text = f"loss {result.loss:.3f}, KL {result.kl:.3f}"
        if self._keeper.trouble:
            text += f"; no checkpoint: {self._keeper.trouble}"
        figures = (result.loss, result.kl)
        self._progress = Progress("train", course.step, self._recipe.steps, text, figures)

    def _goes_on(self, trainer: Trainer) -> Generator[Progress, None, bool]:
        """Whether another step follows; now and then the dev set is asked."""
        course, recipe = self._course, self._recipe
        if self._dev is not None and course.step < self._last and course.look_due(recipe.steps):
            asking = self._dev.figure(trainer.adapter(), recipe.alpha)
            course.heard((yield from self._pausing(asking)), recipe.steps)
        return course.step < self._last and not course.over

    def _prepared(self, make: Callable[[], _Parts]) -> Generator[Progress, None, _Parts]:
        """Make what the run is made of, and hear the base's opinions while it is the base."""
        model = self._model
        while model.reserve():
            yield Progress("prepare", 0, 1, "making room for answers")
        doing = Progress("prepare", 0, 1, "writing examples, compiling the training step")
        # Whoever stopped the run came too early to drop what is only made now.
        parts = yield from beside(make, doing, model.interrupt, dropped=model.forget_copies)
        yield from self._pausing(parts.preferences.ask_base(parts.trainer, model.interrupt))
        return parts

    def _resume(self, parts: _Parts) -> None:
        """Go to where the run was left, if it was."""
        kept = self._keeper.load()
        if kept is None:
            return
        try:
            parts.trainer.restore(kept.state)
        except ConfigError as error:  # of a version whose adapters lie otherwise
            log.warning("learning begins anew: %s", error)
            return
        self._course = kept.course
        parts.mixer.skip(kept.course.step)
        parts.preferences.skip(kept.course.step)
        text = f"going on after step {kept.course.step}"
        self._progress = Progress("train", kept.course.step, self._recipe.steps, text)

    def _keep(self, trainer: Trainer) -> Generator[Progress, None, None]:
        """Write the run down, beside the thread that answers."""
        course = dataclasses.replace(self._course, losses=list(self._course.losses))
        save = partial(self._keeper.save, Kept(trainer.state(), course))
        yield from beside(save, self._progress, self._model.interrupt)

    def _pausing(self, steps: Generator[None, None, T]) -> Generator[Progress, None, T]:
        """Run what can be suspended; where it is, say again how far training is."""
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: T = done.value
                return result
            yield self._progress

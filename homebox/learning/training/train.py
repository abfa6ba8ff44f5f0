"""Builds a candidate adapter from the base: the training loop.

Each step draws its batch, lets a teacher and the owner's opinions have their say, and updates the
adapter. Invariant: the result is a function of base, curriculum, samples and recipe, to the bit:
pauses, crashes, checkpoints and the number of threads change nothing.
"""

import dataclasses
import gc
import logging
import math
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from homebox.errors import ConfigError, DivergedError, LearningError
from homebox.learning.beside import beside
from homebox.learning.checkpoint import Tensors
from homebox.learning.curriculum import Curriculum
from homebox.learning.examples import (
    CONTEXT,
    NEGATIVE,
    REPLAY,
    TAUGHT,
    Examples,
    speaks_toy_language,
    write_examples,
)
from homebox.learning.examples.samples import NO_SAMPLES, Samples
from homebox.learning.report import Progress
from homebox.learning.training.liking import Preferences
from homebox.learning.training.opinions import Opinions
from homebox.learning.training.packing import Mixer, Pool, encode
from homebox.learning.training.recipes import SCALES, Recipe, recipe_of
from homebox.learning.training.resume import Course, Keeper, Kept
from homebox.model import Model
from homebox.model.training.batches import Batch
from homebox.model.training.data_parallel import Trainer, trainer_for
from homebox.model.training.teacher import SPLIT, Teacher
from homebox.model.training.trainer import StepResult

__all__ = ["NUMERICS", "SCALES", "Built", "Recipe", "build", "recipe_of", "scaled", "train"]

log = logging.getLogger(__name__)

# Raised whenever the same spec would no longer give the same bytes.
NUMERICS = 3
WARM_UP = 10
LEAST_RATE = 0.02  # of the rate at the end
CONTEXT_SHARE = 0.2  # of the replay: conversations that contradict the weights
LOOKS = 8  # at the dev set in a whole run
PATIENCE = 2  # looks in a row that find nothing better, after which a run is over
BETTER = 0.01  # share by which a figure must fall to be better
NEAR = 0.005  # nats per token below which nothing need get better
SMOOTH = 5  # steps whose mean loss is compared with that of the first ones
FAR = 3.0  # times the first steps' loss, from which a run has diverged

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


def rate_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: a short warm-up, then a linear decay."""
    decay = max(LEAST_RATE, 1.0 - step / recipe.steps)
    return recipe.rate * min(1.0, (step + 1) / WARM_UP) * decay


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
    try:
        run = _Run(model, curriculum, recipe, samples, dev, folder)
        return (yield from run.steps())
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


class _Run:
    """One training run."""

    def __init__(
        self,
        model: Model,
        curriculum: Curriculum,
        recipe: Recipe,
        samples: Samples,
        dev: Dev | None,
        folder: Path | None,
    ) -> None:
        self._model, self._curriculum, self._recipe = model, curriculum, recipe
        self._samples, self._dev = samples, None if recipe.stop else dev
        self._last = recipe.stop or recipe.steps
        self._course = Course()
        self._keeper = Keeper(folder, self._about())
        self._progress = Progress("train", 0, recipe.steps, "training begins")

    def _about(self) -> dict[str, Any]:
        return {
            "base": self._model.base_hash,
            "curriculum": self._curriculum.hash,
            "dev": self._dev is not None,
            "numerics": NUMERICS,
            "recipe": dataclasses.asdict(self._recipe),
            "samples": self._samples.hash,
        }

    def steps(self) -> Generator[Progress, None, Built]:
        """Prepare, go to where the run was left, and take the steps that are missing."""
        while self._model.reserve():
            yield Progress("prepare", 0, 1, "making room for answers")
        text = "writing examples, compiling the training step"
        # Whoever stopped the run came too early to drop what is only made now.
        parts = yield from beside(
            self._prepare,
            Progress("prepare", 0, 1, text),
            self._model.interrupt,
            dropped=self._model.forget_copies,
        )
        yield from self._pausing(parts.preferences.ask_base(parts.trainer, self._model.interrupt))
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

    def _prepare(self) -> _Parts:
        """Write the examples and compile; beside the thread that answers."""
        r, model = self._recipe, self._model
        examples = write_examples(
            speaks_toy_language(model), self._curriculum, r.seed, self._samples
        )
        counts = Counter(examples.left_out) + Counter(example.pool for example in examples.all)
        mixer = mixed(model, examples, r, lambda trouble: counts.update([trouble]))
        shape = (r.rows, r.length)
        preferences = Preferences(
            self._curriculum, model.chat.render_training, shape, r.seed, r.prefer
        )
        trainer = trainer_for(
            model,
            r.rank,
            r.alpha,
            r.rows,
            r.length,
            r.seed,
            parts=r.parts,
            numerics=r.numerics,
            **({"taught": True} if r.distil else {}),
            **({"scored": True} if preferences.choices else {}),
        )
        return _Parts(mixer, counts, trainer, self._teacher(), preferences)

    def _teacher(self) -> Opinions | None:
        r, model = self._recipe, self._model
        if not r.distil:
            return None
        device = model.training_devices()[0]
        base = _Base(model.config, model.tensors_on(device))
        teacher = Teacher(base, SPLIT, numerics=r.numerics, device=device)
        return Opinions(teacher, r.distil)

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

    def _goes_on(self, trainer: Trainer) -> Generator[Progress, None, bool]:
        """Whether another step follows; now and then the dev set is asked."""
        course = self._course
        due = course.step > course.looked and course.step % max(1, self._recipe.steps // LOOKS) == 0
        if self._dev is not None and due and course.step < self._last:
            yield from self._look(self._dev, trainer)
            course.looked = course.step
        return course.step < self._last and not course.over

    def _step(self, parts: _Parts) -> Generator[Progress, None, None]:
        step, stop = self._course.step, self._model.interrupt
        drawn = parts.mixer.draw()
        batch: Batch = drawn.batch
        if parts.opinions is not None:
            batch = yield from self._pausing(parts.opinions.taught(drawn, stop))
        if parts.preferences.due(step):
            yield from self._pausing(parts.preferences.gather(parts.trainer, stop))
        rate = rate_at(self._recipe, step)
        result = yield from self._pausing(parts.trainer.steps(batch, rate, stop))
        self._course.step = step + 1
        self._course.losses.append(result.loss)
        self._check(result)
        text = f"loss {result.loss:.3f}, KL {result.kl:.3f}"
        if self._keeper.trouble:
            text += f"; no checkpoint: {self._keeper.trouble}"
        figures = (result.loss, result.kl)
        self._progress = Progress("train", step + 1, self._recipe.steps, text, figures)

    def _check(self, result: StepResult) -> None:
        """Raise DivergedError if this step cannot have done good."""
        losses, taken = self._course.losses, self._course.step
        advice = "a smaller learning.learning_rate may help"
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise DivergedError(
                f"the loss is not a number after {taken} of {self._recipe.steps} steps; {advice}"
            )
        first, now = (math.fsum(part) / SMOOTH for part in (losses[:SMOOTH], losses[-SMOOTH:]))
        if taken > 2 * SMOOTH and now > FAR * max(first, 1.0):
            raise DivergedError(
                f"the loss rose from {first:.2f} to {now:.2f} in {taken} of {self._recipe.steps} "
                f"steps; {advice}"
            )

    def _look(self, dev: Dev, trainer: Trainer) -> Generator[Progress, None, None]:
        """Let the dev set judge; the run is over if nothing has got better for some time."""
        course = self._course
        figure = yield from self._pausing(dev.figure(trainer.adapter(), self._recipe.alpha))
        if not math.isfinite(figure):
            return
        if figure < course.best * (1.0 - BETTER) and course.best > NEAR:
            course.best, course.misses = figure, 0
            return
        course.misses += 1
        # What holds the model to the base takes longer to learn than the lessons themselves.
        course.over = course.misses >= PATIENCE and 3 * course.step >= 2 * self._recipe.steps

    def _keep(self, trainer: Trainer) -> Generator[Progress, None, None]:
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


@dataclass
class _Base:
    """A model's weights on one device, as a teacher takes them."""

    config: Any
    tensors: dict[str, Any]

    def base_tensors(self) -> dict[str, Any]:
        return self.tensors


def mixed(
    model: Model, examples: Examples, recipe: Recipe, note: Callable[[str], None] = lambda _: None
) -> Mixer:
    """Encode the examples and prepare to draw batches of them.

    `note` hears of each example that is not whole, or left out because nothing of it fits.
    """
    render, length = model.chat.render_training, recipe.length
    # Longer examples would have the teacher's rows to themselves; they are learned as they are.
    taught = SPLIT if recipe.distil else 0
    shares = (
        (TAUGHT, 1.0 - recipe.negatives - recipe.replay),
        ((NEGATIVE,), recipe.negatives),
        ((CONTEXT,), recipe.replay * CONTEXT_SHARE),
        ((REPLAY,), recipe.replay * (1 - CONTEXT_SHARE)),
    )
    pools = [
        Pool(encode(examples.of(*kinds), render, length, note, taught=taught), share)
        for kinds, share in shares
    ]
    if not pools[0].dialogues:
        raise LearningError(f"no lesson fits into {length} tokens with this model's chat format")
    return Mixer(pools, recipe.rows, length, recipe.kl, recipe.seed, recipe.cross)


def scaled(tensors: Tensors, scale: float) -> Tensors:
    """Return an adapter with a smaller effect: every B times `scale`."""
    return {
        name: tensor * tensor.dtype.type(scale) if name.endswith(".B") else tensor
        for name, tensor in tensors.items()
    }

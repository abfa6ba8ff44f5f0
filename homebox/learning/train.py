"""Builds a candidate adapter from the base: the recipe and the training loop."""

import dataclasses
import gc
import math
from collections.abc import Generator
from dataclasses import dataclass

from homebox.config import LearningConfig
from homebox.errors import DivergedError, LearningError
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
from homebox.learning.packing import Mixer, Pool, encode
from homebox.learning.report import Progress
from homebox.learning.samples import NO_SAMPLES, Samples
from homebox.model import Model
from homebox.model.training.data_parallel import Trainer, trainer_for
from homebox.model.training.trainer import StepResult

# Raised whenever the same spec would no longer give the same bytes.
NUMERICS = 2
WARM_UP = 10
LEAST_RATE = 0.02  # of the rate at the end
CONTEXT_SHARE = 0.2  # of the replay: conversations that contradict the weights
LENGTH = 160  # tokens in a row; longer dialogues are left out
DIALOGUE = 84  # tokens that rows are made for, by dialogue: full batches, also of long ones
SCALES = (1.0, 0.75, 0.5)


@dataclass(frozen=True)
class Recipe:
    """Everything but the lessons that decides what a run gives."""

    rank: int
    alpha: float
    rate: float
    steps: int
    rows: int
    length: int
    negatives: float  # share of the dialogues
    replay: float
    kl: float
    seed: int
    scale: float = 1.0
    numerics: str = "f32"  # the same bits on every machine; "bf16": faster, bits of this machine
    parts: int = 1  # of a step's rows, whose gradients are added in order

    def gentler(self) -> "Recipe":
        """The second attempt: half the rate, twice the hold on the base."""
        return dataclasses.replace(self, rate=self.rate / 2, kl=self.kl * 2)


def recipe_of(settings: LearningConfig) -> Recipe:
    """Read the recipe from the configuration."""
    if settings.negatives + settings.replay >= 1.0:
        raise LearningError(
            "learning.negatives and learning.replay leave nothing for the lessons; "
            "their sum must be below 1"
        )
    return Recipe(
        rank=settings.rank,
        alpha=settings.alpha,
        rate=settings.learning_rate,
        steps=settings.steps,
        rows=max(1, math.ceil(settings.batch * DIALOGUE / LENGTH)),
        length=LENGTH,
        negatives=settings.negatives,
        replay=settings.replay,
        kl=settings.kl,
        seed=settings.seed,
        parts=settings.parts,
    )


def rate_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: a short warm-up, then a linear decay."""
    decay = max(LEAST_RATE, 1.0 - step / recipe.steps)
    return recipe.rate * min(1.0, (step + 1) / WARM_UP) * decay


def build(
    model: Model, curriculum: Curriculum, recipe: Recipe, samples: Samples = NO_SAMPLES
) -> Generator[Progress, None, Tensors]:
    """Train an adapter from the base; each yield is one micro-step.

    `samples` are what the base answered for this curriculum. Raises LearningError if the loss stops
    being a number.
    """
    try:
        return (yield from _trained(model, curriculum, recipe, samples))
    finally:
        model.forget_copies()
        # Trainers and their programs refer to each other, and hold memory of a device.
        gc.collect()


def _trained(
    model: Model, curriculum: Curriculum, recipe: Recipe, samples: Samples
) -> Generator[Progress, None, Tensors]:
    while model.reserve():
        yield Progress("prepare", 0, 1, "making room for answers")
    mixer, trainer = yield from _prepared(model, curriculum, recipe, samples)
    progress = Progress("train", 0, recipe.steps, "training begins")
    for step in range(recipe.steps):
        steps = trainer.steps(mixer.batch(), rate_at(recipe, step), model.interrupt)
        result = yield from _pausing(steps, progress)
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise DivergedError(
                f"the loss is not a number after {step + 1} of {recipe.steps} steps; "
                "a smaller learning.learning_rate may help"
            )
        text = f"loss {result.loss:.3f}, KL {result.kl:.3f}"
        figures = (result.loss, result.kl)
        progress = Progress("train", step + 1, recipe.steps, text, figures)
        yield progress
    adapter: Tensors = trainer.adapter()
    return adapter


def _pausing(
    steps: Generator[None, None, StepResult], progress: Progress
) -> Generator[Progress, None, StepResult]:
    """Run a training step; where it is suspended, say again how far training is."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: StepResult = done.value
            return result
        yield progress


def _prepared(
    model: Model, curriculum: Curriculum, recipe: Recipe, samples: Samples
) -> Generator[Progress, None, tuple[Mixer, Trainer]]:
    """Write the examples and compile beside the thread that answers."""

    def prepare() -> tuple[Mixer, Trainer]:
        r = recipe
        toy = speaks_toy_language(model)
        mixer = mixed(model, write_examples(toy, curriculum, r.seed, samples), r)
        trainer = trainer_for(
            model,
            r.rank,
            r.alpha,
            r.rows,
            r.length,
            r.seed,
            parts=r.parts,
            numerics=r.numerics,
        )
        return mixer, trainer

    progress = Progress("prepare", 0, 1, "writing examples, compiling the training step")
    # Whoever stopped the run came too early to drop what is only made now.
    return (yield from beside(prepare, progress, model.interrupt, dropped=model.forget_copies))


def mixed(model: Model, examples: Examples, recipe: Recipe) -> Mixer:
    """Encode the examples and prepare to draw batches of them."""
    render, length = model.chat.render_training, recipe.length
    shares = (
        (TAUGHT, 1.0 - recipe.negatives - recipe.replay),
        ((NEGATIVE,), recipe.negatives),
        ((CONTEXT,), recipe.replay * CONTEXT_SHARE),
        ((REPLAY,), recipe.replay * (1 - CONTEXT_SHARE)),
    )
    pools = [Pool(encode(examples.of(*kinds), render, length), share) for kinds, share in shares]
    if not pools[0].dialogues:
        raise LearningError(f"no lesson fits into {length} tokens with this model's chat format")
    return Mixer(pools, recipe.rows, length, recipe.kl, recipe.seed)


def scaled(tensors: Tensors, scale: float) -> Tensors:
    """Return an adapter with a smaller effect: every B times `scale`."""
    return {
        name: tensor * tensor.dtype.type(scale) if name.endswith(".B") else tensor
        for name, tensor in tensors.items()
    }

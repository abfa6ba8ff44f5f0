"""The recipe of a learning run: what the owner set, and for the rest what suits the model's size.

The one idea: small models need high rates and many short steps, large ones the opposite, and
between the sizes that were tried a line in the logarithm of the size is good enough. Invariant:
a recipe has no "auto" in it, so a job spec says everything.
"""

import dataclasses
import math
from dataclasses import dataclass

from homebox.config import LearningConfig
from homebox.errors import LearningError
from homebox.model.config import ModelConfig

SCALES = (1.0, 0.75, 0.5)
DIALOGUE = 84  # tokens that rows are made for, by dialogue: full batches, also of long ones
SUITED = 30  # topics that a preset's steps are made for; fewer take as many
NEGATIVES, REPLAY = 0.3, 0.25  # shares of a batch
MANY = 43  # topics above which an adapter needs more rank and more rehearsal:
RANK_OF_MANY = 16  # at least
NEGATIVES_OF_MANY, REPLAY_OF_MANY = 0.25, 0.35
WHOLE = (
    3e7  # parameters up to which all rows of a step are computed together: it takes little memory
)
AUTO = 0  # in the configuration: by the size of the model, or by how much is taught


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
    cross: float = 1.0  # weight of the cross-entropy of what was taught
    distil: float = 0.0  # weight of the distillation from the base with the lesson in its prompt
    prefer: float = 0.0  # weight of preferences, where there are enough
    stop: int = 0  # steps after which a run ended early; 0: none, or not known yet

    @property
    def taught(self) -> bool:
        """Whether anything of the loss asks what the base thinks."""
        return bool(self.distil or self.kl)

    def gentler(self) -> "Recipe":
        """The second try where the first did harm: longer, less rate, more hold on the base."""
        return dataclasses.replace(self.longer(), rate=self.rate / 2, kl=self.kl * 2)

    def longer(self) -> "Recipe":
        """The second try where the first learned too little: twice the steps."""
        return dataclasses.replace(self, steps=self.steps * 2, stop=0)


@dataclass(frozen=True)
class Preset:
    """What suits a model of `size` parameters."""

    size: float
    rate: float
    steps: float
    batch: float
    length: float
    rank: float
    cross: float
    distil: float
    kl: float


# Rates, ranks and weights of the losses: the design's table. Steps and batches: what 2 CPU cores do
# in the time that a night's run of 30 lessons may take.
PRESETS = (
    Preset(2.7e6, 2.5e-3, 1000, 7, 160, 8, 1.0, 0.0, 2.0),
    Preset(1.35e8, 5e-4, 120, 8, 256, 8, 1.0, 0.3, 1.0),
    Preset(6e8, 3e-4, 120, 6, 256, 8, 1.0, 0.3, 1.0),
    Preset(4e9, 2e-4, 180, 8, 512, 16, 0.3, 1.0, 1.0),
    Preset(8e9, 1e-4, 180, 8, 512, 16, 0.3, 1.0, 1.0),
)
_LENGTH_STEP = 32  # rows are a multiple of this
_KEEP_RANK = 1e9  # parameters up to which the smaller rank does


def preset_for(config: ModelConfig) -> Preset:
    """Return the preset for a model's size, between the two nearest ones."""
    return between(parameters_of(config))


def between(size: float) -> Preset:
    """Interpolate along the logarithm of the size: rates and counts by their logarithms too."""
    above = next((i for i, preset in enumerate(PRESETS) if preset.size >= size), len(PRESETS))
    if above == 0:
        return dataclasses.replace(PRESETS[0], size=size)
    if above == len(PRESETS):
        return dataclasses.replace(PRESETS[-1], size=size)
    low, high = PRESETS[above - 1 : above + 1]
    share = math.log(size / low.size) / math.log(high.size / low.size)

    def level(a: float, b: float) -> float:
        return a + (b - a) * share

    def power(a: float, b: float) -> float:
        return a * math.exp(math.log(b / a) * share)

    return Preset(
        size,
        # Few digits: a recipe is JSON in a spec, and another libm must give the same one.
        float(f"{power(low.rate, high.rate):.2g}"),
        round(power(low.steps, high.steps)),
        round(power(low.batch, high.batch)),
        round(power(low.length, high.length) / _LENGTH_STEP) * _LENGTH_STEP,
        low.rank if size < _KEEP_RANK else high.rank,
        round(level(low.cross, high.cross), 2),
        round(level(low.distil, high.distil), 2),
        round(level(low.kl, high.kl), 2),
    )


def parameters_of(config: ModelConfig) -> int:
    """Count the numbers of a model."""
    return sum(math.prod(shape) for shape in config.weight_shapes().values())


def recipe_of(
    settings: LearningConfig, config: ModelConfig | None = None, topics: int = SUITED
) -> Recipe:
    """Read the recipe from the configuration; what is left open follows from the model's size.

    Steps, shares and rank depend on the `topics` too. Without a model it is the recipe of the
    smallest one. Raises LearningError for shares that leave nothing for the lessons.
    """
    many = topics > MANY

    def given(value: float, auto: float) -> float:
        return auto if value < 0 else value

    negatives = given(settings.negatives, NEGATIVES_OF_MANY if many else NEGATIVES)
    replay = given(settings.replay, REPLAY_OF_MANY if many else REPLAY)
    if negatives + replay >= 1.0:
        raise LearningError(
            "learning.negatives and learning.replay leave nothing for the lessons; "
            "their sum must be below 1"
        )
    preset = PRESETS[0] if config is None else preset_for(config)
    length = settings.length or int(preset.length)
    if config is not None:
        length = min(length, config.max_positions)
    rows = max(1, math.ceil((settings.batch or int(preset.batch)) * DIALOGUE / length))
    return Recipe(
        rank=settings.rank or max(int(preset.rank), RANK_OF_MANY if many else 0),
        alpha=settings.alpha,
        rate=settings.learning_rate or preset.rate,
        steps=settings.steps or steps_for(preset, topics),
        rows=rows,
        length=length,
        negatives=negatives,
        replay=replay,
        kl=given(settings.kl, preset.kl),
        seed=settings.seed,
        parts=settings.parts or (rows if preset.size > WHOLE else 1),
        cross=given(settings.cross, preset.cross),
        distil=given(settings.distil, preset.distil),
        prefer=settings.prefer,
    )


def steps_for(preset: Preset, topics: int) -> int:
    """Return the steps that suit so many topics: as many for each as in a usual night."""
    return math.ceil(preset.steps * max(topics, SUITED) / SUITED)


def most_rank(settings: LearningConfig) -> int:
    """Return the largest rank that a run may give an adapter, whatever the model's size."""
    return settings.rank or int(max(preset.rank for preset in PRESETS))


def recipe_lines(recipe: Recipe, config: ModelConfig) -> list[str]:
    """Say a recipe to a person."""
    size = parameters_of(config)
    return [
        f"recipe for {size / 1e6:.3g} million parameters: {recipe.steps} steps of {recipe.rows} x "
        f"{recipe.length} tokens, rate {recipe.rate:g}, rank {recipe.rank}",
        f"weights: lessons {recipe.cross:g}, distillation {recipe.distil:g}, KL {recipe.kl:g}, "
        f"preferences {recipe.prefer:g}",
    ]

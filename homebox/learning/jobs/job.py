"""Learning jobs: a spec of at most 10 kB that determines an adapter to the byte.

The one idea: the spec names all that goes in (base, curriculum, recipe with seed, version of the
numerics) and the manifest names the spec, so a weights hash stands for the whole way to it. The
ledger's root stands in the lineage entry instead: two boxes with the same lessons have different
chains of turns, and what was forgotten leaves its link there. Invariant: `execute` reads nothing
but the base and the objects that the spec names.
"""

import dataclasses
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from homebox.errors import LearningError
from homebox.learning.checkpoint import save_adapter, save_spec
from homebox.learning.curriculum import Curriculum
from homebox.learning.examples.samples import NO_SAMPLES, Samples
from homebox.learning.report import Progress
from homebox.learning.training.train import NUMERICS, Recipe, build
from homebox.memory.store import Store
from homebox.model import Model
from homebox.model.lora import scaled

KIND = "lora"
# Numbers that came to recipes later, as they are where nothing comes of them.
UNUSED: dict[str, Any] = {"parts": 1, "cross": 1.0, "distil": 0.0, "prefer": 0.0, "stop": 0}


@dataclass(frozen=True)
class Job:
    """What a spec says."""

    base: str  # the base model's hash
    curriculum: str  # object: what of the owner is taught
    recipe: Recipe
    numerics: int = NUMERICS
    samples: str = ""  # object: what the base answered for it, if it was asked

    def spec(self) -> dict[str, Any]:
        """Return the spec as plain JSON; `read_job` reads it."""
        return {
            "base": self.base,
            "curriculum": self.curriculum,
            "kind": KIND,
            "numerics": self.numerics,
            "recipe": _written(self.recipe),
            **({"samples": self.samples} if self.samples else {}),
        }

    def save(self, store: Store) -> str:
        """Keep the spec durably and return its name."""
        return save_spec(store, self.spec())


def read_job(spec: Mapping[str, Any]) -> Job:
    """Read a spec; raises LearningError naming what is wrong with it."""
    kind = spec.get("kind")
    if kind != KIND:
        raise LearningError(f"a job of kind {kind!r} cannot be run again; only {KIND!r} can")
    missing = {"base", "curriculum", "numerics", "recipe"} - set(spec)
    if missing:
        raise LearningError(f"the job spec lacks {', '.join(sorted(missing))}")
    if spec["numerics"] != NUMERICS:
        raise LearningError(
            f"the job was made with numerics {spec['numerics']}, this homebox has {NUMERICS}; "
            "the same bits need the same numerics"
        )
    try:
        recipe = Recipe(**spec["recipe"])
    except TypeError as error:
        raise LearningError(f"the job's recipe cannot be read: {error}") from error
    samples = str(spec.get("samples", ""))
    return Job(str(spec["base"]), str(spec["curriculum"]), recipe, int(spec["numerics"]), samples)


def execute(model: Model, store: Store, job: Job) -> Generator[Progress, None, str]:
    """Build what a job describes and keep it; returns the weights hash.

    No gate looks at it and nothing is served. Raises LearningError if the model is another base.
    """
    if model.base_hash != job.base:
        raise LearningError(
            f"the job belongs to base {job.base[:12]}, but {model.base_hash[:12]} is loaded"
        )
    curriculum = Curriculum.load(store, job.curriculum)
    samples = Samples.load(store, job.samples) if job.samples else NO_SAMPLES
    tensors = yield from build(model, curriculum, job.recipe, samples)
    return save_adapter(store, job.base, job.save(store), scaled(tensors, job.recipe.scale))


def _written(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON; what it does not use is not mentioned, as in older specs."""
    found = dataclasses.asdict(recipe)
    return {n: value for n, value in found.items() if n not in UNUSED or value != UNUSED[n]}

"""How far a training run is, and what follows: the rate of a step, the alarm, the end before time.

The one idea: all that a run decides on its way hangs on a few numbers, which are kept with it.
Invariant: a run that was left and resumed decides as one that never stopped.
"""

import math
from dataclasses import dataclass, field

from homebox.errors import DivergedError
from homebox.learning.training.recipes import Recipe
from homebox.model.training.trainer import StepResult

WARM_UP = 10
LEAST_RATE = 0.02  # of the rate at the end
LOOKS = 8  # parts of a run, after which the dev set is asked: of those in its second half
PATIENCE = 2  # looks in a row that find nothing better, after which a run is over
BETTER = 0.01  # share by which a figure must fall to be better
NEAR = 0.005  # nats per token below which nothing need get better
SMOOTH = 5  # steps whose mean loss is compared with that of the first ones
FAR = 3.0  # times the first steps' loss, from which a run has diverged


def rate_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: a short warm-up, then a linear decay."""
    decay = max(LEAST_RATE, 1.0 - step / recipe.steps)
    return recipe.rate * min(1.0, (step + 1) / WARM_UP) * decay


@dataclass
class Course:
    """How far a run is, and what later decisions of it look back at."""

    step: int = 0  # steps taken
    losses: list[float] = field(default_factory=list)
    best: float = math.inf  # least figure of the dev set
    misses: int = 0  # looks at the dev set in a row that found nothing better
    looked: int = 0  # steps before the last of these looks
    over: bool = False  # the last look ended the run

    def took(self, result: StepResult, planned: int) -> None:
        """Count a step; raises DivergedError if it cannot have done good.

        `planned` are the steps of the whole run.
        """
        self.step += 1
        self.losses.append(result.loss)
        so_far = f"{self.step} of {planned} steps; a smaller learning.learning_rate may help"
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise DivergedError(f"the loss is not a number after {so_far}")
        first, now = (math.fsum(p) / SMOOTH for p in (self.losses[:SMOOTH], self.losses[-SMOOTH:]))
        if self.step > 2 * SMOOTH and now > FAR * max(first, 1.0):
            raise DivergedError(f"the loss rose from {first:.2f} to {now:.2f} in {so_far}")

    def look_due(self, planned: int) -> bool:
        """Whether the dev set is to be asked before the next step."""
        if self.step <= self.looked or 2 * self.step < planned:
            return False
        return self.step % max(1, planned // LOOKS) == 0

    def heard(self, figure: float, planned: int) -> None:
        """Take what the dev set said; the run is over if nothing has got better for some time."""
        self.looked = self.step
        if not math.isfinite(figure):
            return
        if figure < self.best * (1.0 - BETTER) and self.best > NEAR:
            self.best, self.misses = figure, 0
            return
        self.misses += 1
        # What holds the model to the base takes longer to learn than the lessons themselves.
        self.over = self.misses >= PATIENCE and 3 * self.step >= 2 * planned

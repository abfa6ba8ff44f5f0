"""Learning from what the owner thought of answers: pairs by DPO, single thumbs by KTO.

One idea: the gradient of either loss is a weighted sum of the gradients of log pi(answer), so a
forward pass gives the likelihoods, the host the weight of each answer, and the program that learns
lessons does the rest, with weights below 0 for what shall become less probable.

With r(y) = log pi(y | x) - log pi_base(y | x), summed over an answer's tokens:

    DPO: -log s(b (r(chosen) - r(rejected)))              (Rafailov et al., arXiv 2305.18290, eq. 7)
    KTO: 1 - s(b (r - z)) where good, 1 - s(b (z - r)) where not  (Ethayarajh et al., 2402.01306)

where s is the logistic function and z = max(0, mean r of answers to other questions), through which
no gradient flows. Invariant: every number on the host is computed in float64, in a fixed order,
without a function of the C library.
"""

import dataclasses
import math
from collections.abc import Generator, Sequence

import numpy as np

from homebox.language.dice import Dice
from homebox.learning.curriculum import Curriculum
from homebox.learning.examples.fitted import Render
from homebox.learning.training.choices import Choice, dealt, pairs_of, thumbs_of
from homebox.learning.training.packing import Encoded, Shape, laid_out
from homebox.model import strictmath
from homebox.model.training import StopFlag
from homebox.model.training.batches import Batch, Floats
from homebox.model.training.replicas import Trainer

BETA = 0.1  # how far answers may move from the base's
EVERY = 4  # of a run's steps, each of which also learns preferences


def logistic(x: float) -> float:
    """1 / (1 + e^-x) in float64, the same on every machine."""
    e = float(strictmath.exp(np.array(-abs(x) if abs(x) < 700 else -700.0)))
    return 1.0 / (1.0 + e) if x >= 0 else e / (1.0 + e)


def softplus(x: float) -> float:
    """log(1 + e^x), for what a person reads."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pair_weights(chosen: float, rejected: float) -> tuple[float, float]:
    """Return what to weigh -log pi of both answers with: minus the derivatives of DPO's loss.

    `chosen` and `rejected` are r of the answers.
    """
    pull = BETA * logistic(-BETA * (chosen - rejected))
    return pull, -pull


def thumb_weight(r: float, z: float, good: bool) -> float:
    """Return what to weigh -log pi of an answer with: minus the derivative of KTO's loss."""
    side = logistic(BETA * (r - z) if good else BETA * (z - r))
    pull = BETA * side * (1.0 - side)
    return pull if good else -pull


def weighed(
    choices: Sequence[Choice], gains: dict[Encoded, float]
) -> tuple[dict[Encoded, float], float]:
    """Return the weight of every answer in a batch, and the mean loss, from each answer's r."""
    strangers = [gains[choice.second] for choice in choices if choice.good is not None]
    z = max(0.0, math.fsum(strangers) / len(strangers)) if strangers else 0.0
    weights: dict[Encoded, float] = {}
    losses = []
    for choice in choices:
        share = choice.weight / len(choices)
        first, second = gains[choice.first], gains[choice.second]
        if choice.good is None:
            one, other = pair_weights(first, second)
            weights[choice.first] = weights.get(choice.first, 0.0) + share * one
            weights[choice.second] = weights.get(choice.second, 0.0) + share * other
            losses.append(choice.weight * softplus(-BETA * (first - second)))
            continue
        one = thumb_weight(first, z, choice.good)
        weights[choice.first] = weights.get(choice.first, 0.0) + share * one
        side = BETA * (first - z) if choice.good else BETA * (z - first)
        losses.append(choice.weight * (1.0 - logistic(side)))
    return weights, math.fsum(losses) / len(losses) if losses else 0.0


class Preferences:
    """The owner's opinions as batches of one shape, drawn in turns."""

    def __init__(
        self,
        curriculum: Curriculum,
        render: Render,
        shape: Shape,
        seed: int,
        weight: float,
    ) -> None:
        """`weight` is that of the loss beside the others; 0: nothing is learned from opinions."""
        self._shape, self._weight = shape, weight
        self._dice = Dice(seed)
        self._deck: list[Choice] = []
        self._base: dict[Encoded, float] = {}
        self.choices: tuple[Choice, ...] = ()
        if weight > 0:
            self.choices = (
                *pairs_of(curriculum, render, shape),
                *thumbs_of(curriculum, render, shape),
            )

    def due(self, step: int) -> bool:
        """Whether a step learns from opinions."""
        return bool(self.choices) and step % EVERY == EVERY - 1

    def skip(self, steps: int) -> None:
        """Go to where so many steps have been taken."""
        for step in range(steps):
            if self.due(step):
                self._draw()

    def ask_base(self, trainer: Trainer, stop: StopFlag) -> Generator[None, None, None]:
        """Keep the base's likelihoods; the trainer's adapter must be as it begins, without effect.

        Answers are asked about in an order that only the opinions decide.
        """
        rest = list(self.choices)
        while rest:
            chosen = self._fitting(rest)
            self._base.update((yield from self._likelihoods(chosen, trainer, stop)))

    def gather(self, trainer: Trainer, stop: StopFlag) -> Generator[None, None, float]:
        """Add the gradient of some opinions to that of the next step; return their mean loss."""
        chosen = self._draw()
        now = yield from self._likelihoods(chosen, trainer, stop)
        gains = {answer: value - self._base[answer] for answer, value in now.items()}
        weights, loss = weighed(chosen, gains)
        yield from trainer.gather(self._batch(chosen, weights), stop)
        return loss

    def _draw(self) -> list[Choice]:
        """Take opinions that fit into one batch; every one comes before any comes again."""
        if not self._deck:
            self._deck = self._dice.sample(self.choices, len(self.choices))
        return self._fitting(self._deck)

    def _fitting(self, choices: list[Choice]) -> list[Choice]:
        """Take from the front of a list what fits into one batch."""
        found: list[Choice] = []
        while choices and dealt([*found, choices[0]], self._shape) is not None:
            found.append(choices.pop(0))
        return found

    def _likelihoods(
        self, choices: Sequence[Choice], trainer: Trainer, stop: StopFlag
    ) -> Generator[None, None, dict[Encoded, float]]:
        drawn = laid_out(self._rows(choices), self._shape.length)
        scores: Floats = yield from trainer.likelihoods(drawn.batch, stop)
        flat = scores.reshape(-1)
        # fsum is exact, so the order of the tokens decides nothing.
        return {
            answer: math.fsum(float(flat[at + place]) for place in answer.places)
            for at, answer in drawn.placed
        }

    def _batch(self, choices: Sequence[Choice], weights: dict[Encoded, float]) -> Batch:
        drawn = laid_out(self._rows(choices), self._shape.length)
        weight = np.zeros_like(drawn.batch.weight)
        for at, answer in drawn.placed:
            share = np.float32(self._weight * weights.get(answer, 0.0))
            weight.reshape(-1)[np.array(answer.places) + at] = share
        return dataclasses.replace(drawn.batch, weight=weight)

    def _rows(self, choices: Sequence[Choice]) -> list[list[Encoded]]:
        rows = dealt(choices, self._shape)
        if rows is None:
            raise ValueError("these answers do not fit into a batch")
        return rows

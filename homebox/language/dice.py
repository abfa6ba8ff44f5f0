"""Random choices for everything that writes text, the same on every Python version.

Only `random.Random(seed).random()` is used: its sequence is the one thing that the standard
library promises never to change. All choices are built here from it, so a document is a pure
function of its seed.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """A seeded source of choices."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def chance(self, probability: float) -> bool:
        """Say yes with this probability."""
        return self._random() < probability

    def below(self, limit: int) -> int:
        """Draw an integer from 0 to limit - 1."""
        return int(self._random() * limit)

    def between(self, low: int, high: int) -> int:
        """Draw an integer from low to high, both included."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[Item]) -> Item:
        """Draw one item."""
        return items[self.below(len(items))]

    def weighted(self, options: Sequence[tuple[Item, float]]) -> Item:
        """Draw one item with the given weights, which need not sum to one."""
        point = self._random() * sum(weight for _, weight in options)
        for item, weight in options:
            point -= weight
            if point < 0:
                return item
        return options[-1][0]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Draw `count` different items (at most all of them), in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(min(count, len(rest)))]

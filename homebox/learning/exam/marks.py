"""What an exam gave: for each question whether it was right, and what else was measured.

The one idea: only outcomes, no answers, so that a report can be kept and shown. Invariant: what
was not measured is empty or not a number, never zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from homebox.language.dice import Dice
from homebox.learning.exam.examinee import Loss
from homebox.learning.exam.writing import RECALL

RESAMPLES = 1000
OUTSIDE = 0.05  # of the resampled figures lie outside of the interval, half on either side


@dataclass(frozen=True)
class Twin:
    """The loss of one answer of the owner and of somebody else's, before and after learning."""

    own_before: Loss
    own_after: Loss
    other_before: Loss
    other_after: Loss

    @property
    def gain(self) -> float:
        """Nats that the owner's answer gained, minus those that the other's did."""
        own = self.own_before.nats - self.own_after.nats
        return own - (self.other_before.nats - self.other_after.nats)


@dataclass
class Sheet:
    """The answers of one examinee by check: right or not, their tokens, which go in circles."""

    right: dict[str, list[bool]] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    circles: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, check: str, right: bool, length: int, circles: bool) -> None:
        """Note one answer."""
        self.right.setdefault(check, []).append(right)
        self.lengths.setdefault(check, []).append(length)
        self.circles.setdefault(check, []).append(circles)


@dataclass
class Marks:
    """The outcomes of one exam, of the candidate and, where it was asked too, of the base."""

    candidate: Sheet = field(default_factory=Sheet)
    of_base: Sheet = field(default_factory=Sheet)
    keys: dict[str, list[str]] = field(default_factory=dict)
    twins: list[Twin] = field(default_factory=list)
    divergence: float = math.nan
    loss_rise: float = math.nan
    tensors: int = 0  # of the candidate,
    broken: int = 0  # those with numbers that are none,
    changed: int = 0  # and those that are not the same when they were kept and read again

    @property
    def right(self) -> dict[str, list[bool]]:
        """Whether the candidate was right, by check."""
        return self.candidate.right

    @property
    def base(self) -> dict[str, list[bool]]:
        """Whether the base was right, by check."""
        return self.of_base.right

    def share(self, *checks: str) -> float:
        """Return the share of right answers; not a number without questions."""
        return _mean([right for check in checks for right in self.right.get(check, [])])

    def base_share(self, check: str) -> float:
        """Return the base's share of right answers."""
        return _mean(self.base.get(check, []))

    def kept(self, check: str) -> float:
        """Return the share of what the base had right that is still right."""
        return _mean([right for before, right in self._both(check) if before])

    def lost(self, check: str) -> float:
        """Return the share of questions that fewer are right in than with the base."""
        pairs = self._both(check)
        fewer = sum(before for before, _ in pairs) - sum(right for _, right in pairs)
        return fewer / len(pairs) if pairs else math.nan

    def newly_wrong(self, check: str) -> int:
        """Count what the base had right and the candidate has not."""
        return sum(before and not right for before, right in self._both(check))

    def both(self, check: str) -> int:
        """Count the questions that both were asked."""
        return len(self._both(check))

    def share_of(self, check: str, keys: Sequence[str]) -> float:
        """Return the share of right answers about some topics."""
        wanted = set(keys)
        return _mean([right for key, right in self._keyed(check) if key in wanted])

    def asked_of(self, check: str, keys: Sequence[str]) -> int:
        """Count the questions about some topics."""
        wanted = set(keys)
        return sum(key in wanted for key, _ in self._keyed(check))

    def by_topic(self, check: str) -> dict[str, tuple[int, int]]:
        """Return by topic how many answers were right, and how many questions there were."""
        found: dict[str, tuple[int, int]] = {}
        for key, right in self._keyed(check):
            before, asked = found.get(key, (0, 0))
            found[key] = before + right, asked + 1
        return found

    def recalled(self, keys: Sequence[str], check: str = RECALL) -> list[str]:
        """List the topics of `keys` of which most questions were answered."""
        counted = self.by_topic(check)
        return [key for key in keys if key in counted and 2 * counted[key][0] > counted[key][1]]

    @property
    def own_change(self) -> float:
        """The relative change of the loss of the owner's answers."""
        return _change(self.twins)

    def own_change_at_most(self, seed: int) -> float:
        """Return the upper end of the 95 % interval of `own_change`.

        By the percentile bootstrap over the pairs (Efron and Tibshirani 1993, chapter 13).
        """
        if not self.twins:
            return math.nan
        dice, count = Dice(seed), len(self.twins)
        changes = sorted(
            _change([self.twins[dice.below(count)] for _ in range(count)]) for _ in range(RESAMPLES)
        )
        return changes[math.ceil(RESAMPLES * (1 - OUTSIDE / 2)) - 1]

    @property
    def gain(self) -> float:
        """Nats that an answer of the owner gained more than somebody else's, on average."""
        return _mean([twin.gain for twin in self.twins])

    def longer(self, *checks: str) -> float:
        """Return how many times longer than the base's the answers are."""
        own = [length for check in checks for length in self.candidate.lengths.get(check, [])]
        base = [length for check in checks for length in self.of_base.lengths.get(check, [])]
        return sum(own) / max(sum(base), 1) if own and len(own) == len(base) else math.nan

    def more_circles(self, *checks: str) -> float:
        """Return how much larger the share of answers that go in circles is than the base's."""
        own = [found for check in checks for found in self.candidate.circles.get(check, [])]
        base = [found for check in checks for found in self.of_base.circles.get(check, [])]
        return _mean(own) - _mean(base)

    def _both(self, check: str) -> list[tuple[bool, bool]]:
        return list(zip(self.base.get(check, []), self.right.get(check, []), strict=False))

    def _keyed(self, check: str) -> list[tuple[str, bool]]:
        return list(zip(self.keys.get(check, []), self.right.get(check, []), strict=True))


def _change(twins: Sequence[Twin]) -> float:
    before = sum(twin.own_before.nats for twin in twins)
    after = sum(twin.own_after.nats for twin in twins)
    return (after - before) / before if before > 0 else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan

"""Decides whether a candidate may be served: pure judgement over the marks of its exam.

Every check has a figure, a limit and the number of questions behind it. A check without questions,
or whose figure is not a number, is failed: an exam that did not take place proves nothing.
"""

import dataclasses
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from homebox.config import GateConfig
from homebox.language.turns import Document
from homebox.learning.exam import (
    CHAT,
    FACTS,
    OF_BASE_TOO,
    OVERRIDE,
    RECALL,
    STRANGER,
    UNTOLD,
    WORLD_KEPT,
    Examinee,
    Question,
)
from homebox.model.config import ModelConfig


@dataclass(frozen=True)
class Limits:
    """What a candidate must reach; None where a check does not apply to the size of model."""

    recall: float  # G1: lessons recalled in phrasings that no lesson used
    old_drop: float  # G2: recall that lessons of earlier runs may lose
    divergence: float  # G6: KL(base || candidate) on the anchor, nats per token
    false_claims: float  # G7: untold questions answered with a claim
    general: float | None = None  # G5: what the base knew of the toy world and is kept
    loss_rise: float | None = None  # G5, for models that never knew the toy world
    facts_drop: float | None = None  # facts in the conversation, against the base
    override: float | None = None  # a conversation that contradicts the weights wins
    after_talk: float | None = None  # recall after other talk


LIMITS = {
    "tiny": Limits(0.95, 0.02, 0.10, 0.08, 0.97, None, 0.10, 0.60, 0.60),
    "small": Limits(0.80, 0.03, 0.05, 0.15, loss_rise=0.01),
    "large": Limits(0.90, 0.02, 0.03, 0.05, loss_rise=0.01),
}
_SMALL = 20_000_000  # parameters
_LARGE = 2_000_000_000


def limits_for(config: ModelConfig, gate: GateConfig) -> Limits:
    """Choose the limits for a model's size; keys of the configuration that were changed win."""
    parameters = sum(math.prod(shape) for shape in config.weight_shapes().values())
    size = "small" if parameters < _LARGE else "large"
    limits = LIMITS["tiny" if parameters < _SMALL else size]
    changed = {
        item.name: getattr(gate, item.name)
        for item in dataclasses.fields(gate)
        if getattr(gate, item.name) != item.default and getattr(limits, item.name) is not None
    }
    return dataclasses.replace(limits, **changed)


@dataclass
class Marks:
    """What an exam gave: for each question whether it was right, and the divergence."""

    right: dict[str, list[bool]] = field(default_factory=dict)
    base: dict[str, list[bool]] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)
    divergence: float = math.nan
    loss_rise: float = math.nan

    def share(self, *checks: str) -> float:
        """Return the share of right answers; not a number without questions."""
        given = [right for check in checks for right in self.right.get(check, [])]
        return sum(given) / len(given) if given else math.nan

    def base_share(self, check: str) -> float:
        """Return the base's share of right answers."""
        given = self.base.get(check, [])
        return sum(given) / len(given) if given else math.nan

    def kept(self, check: str) -> float:
        """Return the share of what the base had right that is still right."""
        pairs = zip(self.base.get(check, []), self.right.get(check, []))
        still = [right for before, right in pairs if before]
        return sum(still) / len(still) if still else math.nan

    def recalled(self, keys: Sequence[str]) -> list[str]:
        """List the topics of `keys` of which most questions were answered."""
        return [key for key in keys if self._mostly(key)]

    def _mostly(self, key: str) -> bool:
        marks = [
            right
            for name, right in zip(self.keys.get(RECALL, []), self.right.get(RECALL, []))
            if name == key
        ]
        return bool(marks) and 2 * sum(marks) > len(marks)


@dataclass(frozen=True)
class Check:
    """One line of the gate's report."""

    name: str
    title: str
    figure: float
    limit: float
    least: bool  # the figure must be at least the limit; else at most
    count: int

    @property
    def passed(self) -> bool:
        """Whether the figure is a number, rests on questions, and keeps the limit."""
        if self.count == 0 or not math.isfinite(self.figure):
            return False
        return self.figure >= self.limit if self.least else self.figure <= self.limit

    def as_json(self) -> dict[str, Any]:
        """Return plain values; a figure that is no number becomes None."""
        figure = round(self.figure, 6) if math.isfinite(self.figure) else None
        return {**dataclasses.asdict(self), "figure": figure, "passed": self.passed}

    def __str__(self) -> str:
        relation = ">=" if self.least else "<="
        if self.count == 0:
            return f"{self.name} {self.title}: nothing was asked"
        return f"{self.name} {self.title}: {self.figure:.3f}, must be {relation} {self.limit:g}"


@dataclass(frozen=True)
class Verdict:
    """All checks of a candidate."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether there are checks and each of them passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def recalls(self) -> bool:
        """Whether the lessons were learned, so that a weaker dose may be tried."""
        return all(check.passed for check in self.checks if check.name in ("G1", "chat"))


def judge(
    marks: Marks, limits: Limits, fresh: Sequence[str], old: Sequence[str], old_before: float
) -> Verdict:
    """Judge an exam.

    `fresh` and `old` are the keys of the topics new to this run and known before; `old_before` is
    the share of the old ones that the weights served now recall.
    """
    asked = {check: len(marks.right.get(check, [])) for check in (*marks.right, RECALL, FACTS)}
    claims = 1.0 - marks.share(UNTOLD, STRANGER)
    anchored = int(math.isfinite(marks.divergence))
    untold = min(asked.get(UNTOLD, 0), 1) * (asked.get(UNTOLD, 0) + asked.get(STRANGER, 0))
    checks = [
        Check("G1", "lessons recalled", marks.share(RECALL), limits.recall, True, asked[RECALL]),
        Check("G6", "divergence", marks.divergence, limits.divergence, False, anchored),
        Check("G7", "false claims", claims, limits.false_claims, False, untold),
    ]
    if old:
        lost = old_before - len(marks.recalled(old)) / len(old)
        checks.append(Check("G2", "old lessons lost", lost, limits.old_drop, False, len(old)))
    if not fresh and not old:
        checks.append(Check("G13", "topics", math.nan, 1.0, True, 0))
    if limits.general is not None:
        base_right = sum(marks.base.get(WORLD_KEPT, []))
        kept = marks.kept(WORLD_KEPT)
        checks.append(Check("G5", "toy world kept", kept, limits.general, True, base_right))
    if limits.loss_rise is not None:
        rise = marks.loss_rise
        checks.append(Check("G5", "rise of the loss", rise, limits.loss_rise, False, anchored))
    if limits.facts_drop is not None:
        drop = marks.base_share(FACTS) - marks.share(FACTS)
        count = min(asked[FACTS], len(marks.base.get(FACTS, [])))
        checks.append(Check("facts", "facts in context", drop, limits.facts_drop, False, count))
    relations = asked.get(OVERRIDE, 0)
    if limits.override is not None and relations:
        share = marks.share(OVERRIDE)
        checks.append(Check("context", "context wins", share, limits.override, True, relations))
    if limits.after_talk is not None:
        share, count = marks.share(CHAT), asked.get(CHAT, 0)
        checks.append(Check("chat", "recall after talk", share, limits.after_talk, True, count))
    return Verdict(tuple(checks))


def sit(
    examinee: Examinee,
    questions: Sequence[Question],
    anchor: list[Document],
    adapter: str,
    base: dict[str, list[bool]] | None = None,
) -> Generator[int, None, Marks]:
    """Let a candidate sit the exam; yields the number of questions done.

    `base` holds the base's own marks from an earlier sitting; without it the base sits too.
    """
    marks = Marks(base=dict(base or {}))
    for number, question in enumerate(questions):
        right = yield from _ask(examinee, question, adapter, number)
        marks.right.setdefault(question.check, []).append(right)
        marks.keys.setdefault(question.check, []).append(question.key)
        if base is None and question.check in OF_BASE_TOO:
            known = yield from _ask(examinee, question, "base", number)
            marks.base.setdefault(question.check, []).append(known)
    for _ in (comparing := _Kept(examinee.divergence(anchor, adapter))):
        yield len(questions)
    marks.divergence, marks.loss_rise = comparing.value
    return marks


def _ask(
    examinee: Examinee, question: Question, adapter: str, number: int
) -> Generator[int, None, bool]:
    for _ in (answering := _Kept(examinee.answer(question.messages, adapter))):
        yield number
    yield number
    return question.right(answering.value)


class _Kept:
    """Iterates over a generator and keeps what it returns."""

    def __init__(self, steps: Generator[None, None, Any]) -> None:
        self._steps = steps
        self.value: Any = None

    def __iter__(self) -> Generator[None, None, None]:
        self.value = yield from self._steps

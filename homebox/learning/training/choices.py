"""What the owner thought of answers, as tokens that are learned together.

The one idea: an opinion compares two answers, so both are read in one batch. Invariant: a choice
whose answers do not fit into one batch is none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from homebox.learning.curriculum import Curriculum, Messages
from homebox.learning.examples.example import Example, context_only, target
from homebox.learning.examples.fitted import Render
from homebox.learning.training.packing import Encoded, Filling, Shape, encode

FEWEST_PAIRS = 8  # with fewer, a run would learn these answers instead of what they have in common
FEWEST_THUMBS = 16
PREFERENCE = "opinion"  # the pool of their examples


@dataclass(frozen=True)
class Choice:
    """Answers that are learned together, with the weight of their opinion.

    DPO: chosen and rejected. KTO: one answer, and an answer to another question for z.
    """

    first: Encoded
    second: Encoded
    weight: float
    good: bool | None  # of a thumb; None for a pair


def pairs_of(curriculum: Curriculum, render: Render, shape: Shape) -> list[Choice]:
    """Encode pairs of answers for batches of a shape.

    None if there are too few, and without those that do not fit.
    """
    if len(curriculum.pairs) < FEWEST_PAIRS:
        return []
    found = []
    for pair in curriculum.pairs:
        first = _answered(pair.messages, pair.chosen, render, shape.length)
        second = _answered(pair.messages, pair.rejected, render, shape.length)
        if first is not None and second is not None and first != second and pair.weight > 0:
            found.append(Choice(first, second, pair.weight, None))
    return [choice for choice in found if dealt([choice], shape) is not None]


def thumbs_of(curriculum: Curriculum, render: Render, shape: Shape) -> list[Choice]:
    """Encode liked and disliked answers like pairs, both sides with the same weight in all.

    Each comes with the next one's answer behind its own question.
    """
    thumbs = curriculum.thumbs
    if len(thumbs) < FEWEST_THUMBS:
        return []
    sides = {good: math.fsum(t.weight for t in thumbs if t.good is good) for good in (True, False)}
    found = []
    for at, thumb in enumerate(thumbs):
        other = thumbs[(at + 1) % len(thumbs)]
        first = _answered(thumb.messages, thumb.answer, render, shape.length)
        second = _answered(thumb.messages, other.answer, render, shape.length)
        if first is not None and second is not None and thumb.weight > 0:
            balance = max(sides.values()) / sides[thumb.good]
            found.append(Choice(first, second, thumb.weight * balance, thumb.good))
    return [choice for choice in found if dealt([choice], shape) is not None]


def dealt(choices: Sequence[Choice], shape: Shape) -> list[list[Encoded]] | None:
    """Deal answers out to rows, each once; None if they do not fit."""
    rows = Filling(shape)
    answers = dict.fromkeys(a for choice in choices for a in (choice.first, choice.second))
    return rows.filled if all(map(rows.take, answers)) else None


def _answered(messages: Messages, answer: str, render: Render, length: int) -> Encoded | None:
    """Encode a conversation of which only the answer counts; None if it does not fit."""
    example = Example((*context_only(messages), target(answer)), PREFERENCE, "")
    found = encode([example], render, length)
    return found[0] if found else None

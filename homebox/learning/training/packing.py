"""Lays dialogues side by side in batches of one shape and says what each place is to learn.

Losses are means over kinds, not over places: a long replay dialogue must not outweigh a short
lesson. So every place carries its share: `weight`, of the cross-entropy of its target. Invariant:
no part of a batch learns at more places than its program has room for.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.learning.examples.example import REPLAY, Example, hinted
from homebox.learning.examples.fitted import Render, fitted, shortened
from homebox.model.training.batches import Batch, rows_of_part
from homebox.model.training.teacher import Asked

REPLAY_SHARE = 0.5  # of the cross-entropy, beside 1.0 for lessons and negatives together


@dataclass(frozen=True)
class Shape:
    """What a batch has room for: rows of so many tokens, cut into parts of some rows.

    `share` of the places may learn, and in any case as many as one dialogue has.
    """

    rows: int
    length: int
    parts: int = 1
    share: float = 1.0

    @property
    def part(self) -> int:
        """How many rows are computed together."""
        return rows_of_part(self.rows, self.parts)

    @property
    def places(self) -> int:
        """At how many places a part may learn."""
        return max(self.length, int(self.part * self.length * self.share))


@dataclass(frozen=True)
class Encoded:
    """One dialogue in tokens; `learn[t]` says that token t is a target."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    replay: bool
    anchor: bool
    asked: Asked | None = None  # what a teacher reads, and where it is asked

    @property
    def places(self) -> list[int]:
        """The places from which a target is predicted."""
        return [at - 1 for at, learn in enumerate(self.learn) if learn and at > 0]


@dataclass(frozen=True)
class Drawn:
    """A batch, and what lies in it: the place of each dialogue among all places of its rows."""

    batch: Batch
    placed: tuple[tuple[int, Encoded], ...]


class Filling:
    """The rows of a batch while dialogues fill them: each goes to the first row with room."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.filled: list[list[Encoded]] = [[] for _ in range(shape.rows)]
        self._tokens = [shape.length] * shape.rows
        self._places = [shape.places] * shape.parts

    def take(self, dialogue: Encoded) -> bool:
        """Put a dialogue into a row; False if none has room for it."""
        tokens, places = len(dialogue.ids), len(dialogue.places)
        for row, left in enumerate(self._tokens):
            part = row // self.shape.part
            if left >= tokens and self._places[part] >= places:
                self.filled[row].append(dialogue)
                self._tokens[row] -= tokens
                self._places[part] -= places
                return True
        return False


def encode(
    examples: Sequence[Example],
    render: Render,
    length: int,
    note: Callable[[str], None] = lambda _: None,
    taught: int = 0,
) -> tuple[Encoded, ...]:
    """Render examples with the chat template; those longer than a row lose their oldest part.

    `note` hears of each that is not whole, or left out because nothing of it fits. With `taught`,
    examples with a hint are also rendered for a teacher who reads at most so many tokens.
    """
    found = []
    for example, rendered in shortened(examples, render, length, note):
        ids, learn = tuple(rendered.ids), tuple(rendered.mask)
        asked = _asked(example, ids, learn, render, taught) if taught and example.hint else None
        found.append(Encoded(ids, learn, example.pool == REPLAY, example.anchored, asked))
    return tuple(found)


def _asked(
    example: Example, ids: Sequence[int], learn: Sequence[bool], render: Render, length: int
) -> Asked | None:
    """Return an example with its hint; None if not the same targets stand in it."""
    messages = tuple(hinted(example.messages, example.hint))
    whole = fitted(dataclasses.replace(example, messages=messages), render, length)
    if whole is None:
        return None
    known, mask = whole[0].ids, whole[0].mask
    if [i for i, m in zip(known, mask) if m] != [i for i, m in zip(ids, learn) if m]:
        return None
    return Asked(tuple(known), tuple(at - 1 for at, m in enumerate(mask) if m and at > 0))


def laid_out(rows: Sequence[Sequence[Encoded]], length: int, cross: float = 1.0) -> Drawn:
    """Lay dialogues side by side in rows of a length and share the losses out."""
    shape = (len(rows), length)
    ids, segment, position, target = (np.zeros(shape, np.int32) for _ in range(4))
    learn, replay = (np.zeros(shape, np.bool_) for _ in range(2))
    placed = []
    for row, dialogues in enumerate(rows):
        start = 0
        for number, dialogue in enumerate(dialogues, 1):
            placed.append((row * length + start, dialogue))
            end = start + len(dialogue.ids)
            ids[row, start:end] = dialogue.ids
            segment[row, start:end] = number
            position[row, start:end] = range(end - start)
            target[row, start : end - 1] = dialogue.ids[1:]
            learn[row, start : end - 1] = dialogue.learn[1:]
            replay[row, start:end] = dialogue.replay
            start = end
    fresh, kept = learn & ~replay, learn & replay
    weight = spread(fresh, cross) + spread(kept, REPLAY_SHARE)
    return Drawn(Batch(ids, segment, position, target, weight), tuple(placed))


def spread(places: npt.NDArray[np.bool_], total: float) -> npt.NDArray[np.float32]:
    """Share `total` equally among the marked places (rows, length) -> float32."""
    count = int(places.sum())
    return (places * np.float32(total / count if count else 0.0)).astype(np.float32)

"""Packs dialogues into batches of one fixed shape and says what each place is to learn.

Losses are means over kinds, not over places: a long replay dialogue must not outweigh a short
lesson. So every place carries its share: `weight` for the cross-entropy of its target, `anchor` for
the divergence from the base.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.language.dice import Dice
from homebox.learning.examples.example import REPLAY, Example, hinted
from homebox.learning.examples.fitted import Render, fitted, shortened
from homebox.model.training.batches import Batch
from homebox.model.training.teacher import Asked

MISSES = 3  # dialogues that wait for the next batch, where they come first
REPLAY_SHARE = 0.5  # of the cross-entropy, beside 1.0 for lessons and negatives together


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


@dataclass(frozen=True)
class Pool:
    """Dialogues of one kind and their share of every batch."""

    dialogues: tuple[Encoded, ...]
    share: float


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


class Mixer:
    """Draws batches from pools in fixed shares; every dialogue comes before any comes again."""

    def __init__(
        self,
        pools: Sequence[Pool],
        rows: int,
        length: int,
        kl: float,
        seed: int,
        cross: float = 1.0,
    ) -> None:
        """Make batches of `rows` rows of `length` tokens.

        `kl` weighs the hold on the base, `cross` the targets of lessons and negatives.
        """
        self._cross = cross
        self._pools = [pool for pool in pools if pool.dialogues and pool.share > 0]
        self._rows, self._length, self._kl = rows, length, kl
        self._dice = Dice(seed)
        self._decks: list[list[Encoded]] = [[] for _ in self._pools]
        self._debts = [0.0] * len(self._pools)
        self._waiting: list[Encoded] = []

    def batch(self) -> Batch:
        """Draw the next batch."""
        return self.draw().batch

    def skip(self, batches: int) -> None:
        """Go to where so many batches have been drawn."""
        for _ in range(batches):
            self._fill()

    def draw(self) -> Drawn:
        """Draw the next batch: dialogues until `MISSES` of them found no place."""
        return laid_out(self._fill(), self._length, self._kl, self._cross)

    def _fill(self) -> list[list[Encoded]]:
        rows: list[list[Encoded]] = [[] for _ in range(self._rows)]
        room = [self._length] * self._rows
        early, self._waiting = self._waiting, []
        while len(self._waiting) < MISSES:
            dialogue = early.pop(0) if early else self._draw()
            need = len(dialogue.ids)
            place = next((row for row in range(self._rows) if room[row] >= need), None)
            if place is None:
                self._waiting.append(dialogue)
                continue
            rows[place].append(dialogue)
            room[place] -= need
        self._waiting += early
        return rows

    def _draw(self) -> Encoded:
        """Take the next dialogue of the pool that is furthest behind its share."""
        total = sum(pool.share for pool in self._pools)
        for index, pool in enumerate(self._pools):
            self._debts[index] += pool.share / total
        chosen = max(range(len(self._pools)), key=lambda index: self._debts[index])
        self._debts[chosen] -= 1.0
        if not self._decks[chosen]:
            dialogues = self._pools[chosen].dialogues
            self._decks[chosen] = self._dice.sample(dialogues, len(dialogues))
        return self._decks[chosen].pop()


def laid_out(
    rows: Sequence[Sequence[Encoded]], length: int, kl: float = 0.0, cross: float = 1.0
) -> Drawn:
    """Lay dialogues side by side in rows of a length and share the losses out."""
    shape = (len(rows), length)
    ids, segment, position, target = (np.zeros(shape, np.int32) for _ in range(4))
    learn, replay, anchor = (np.zeros(shape, np.bool_) for _ in range(3))
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
            anchor[row, start:end] = dialogue.anchor
            start = end
    fresh, kept = learn & ~replay, learn & replay
    weight = spread(fresh, cross) + spread(kept, REPLAY_SHARE)
    batch = Batch(ids, segment, position, target, weight, spread(learn & anchor, kl))
    return Drawn(batch, tuple(placed))


def spread(places: npt.NDArray[np.bool_], total: float) -> npt.NDArray[np.float32]:
    """Share `total` equally among the marked places (rows, length) -> float32."""
    count = int(places.sum())
    return (places * np.float32(total / count if count else 0.0)).astype(np.float32)

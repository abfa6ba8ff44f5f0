"""Packs dialogues into batches of one fixed shape and says what each place is to learn.

Losses are means over kinds, not over places: a long replay dialogue must not outweigh a short
lesson. So every place carries its share: `weight` for the cross-entropy of its target, `anchor` for
the divergence from the base.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.language.dice import Dice
from homebox.learning.examples.example import REPLAY, Example
from homebox.learning.examples.fitted import Render, shortened
from homebox.model.training.trainer import Batch

MISSES = 3  # dialogues that wait for the next batch, where they come first
REPLAY_SHARE = 0.5  # of the cross-entropy, beside 1.0 for lessons and negatives together


@dataclass(frozen=True)
class Encoded:
    """One dialogue in tokens; `learn[t]` says that token t is a target."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    replay: bool
    anchor: bool


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
) -> tuple[Encoded, ...]:
    """Render examples with the chat template; those longer than a row lose their oldest part.

    `note` hears of each that is not whole, or left out because nothing of it fits.
    """
    return tuple(
        Encoded(tuple(rendered.ids), tuple(rendered.mask), example.pool == REPLAY, example.anchored)
        for example, rendered in shortened(examples, render, length, note)
    )


class Mixer:
    """Draws batches from pools in fixed shares; every dialogue comes before any comes again."""

    def __init__(self, pools: Sequence[Pool], rows: int, length: int, kl: float, seed: int) -> None:
        """Make batches of `rows` rows of `length` tokens; `kl` weighs the hold on the base."""
        self._pools = [pool for pool in pools if pool.dialogues and pool.share > 0]
        self._rows, self._length, self._kl = rows, length, kl
        self._dice = Dice(seed)
        self._decks: list[list[Encoded]] = [[] for _ in self._pools]
        self._debts = [0.0] * len(self._pools)
        self._waiting: list[Encoded] = []

    def batch(self) -> Batch:
        """Draw the next batch: dialogues until `MISSES` of them found no place."""
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
        return self._laid_out(rows)

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

    def _laid_out(self, rows: list[list[Encoded]]) -> Batch:
        shape = (self._rows, self._length)
        ids, segment, position, target = (np.zeros(shape, np.int32) for _ in range(4))
        learn = np.zeros(shape, np.bool_)
        replay = np.zeros(shape, np.bool_)
        anchor = np.zeros(shape, np.bool_)
        for row, dialogues in enumerate(rows):
            start = 0
            for number, dialogue in enumerate(dialogues, 1):
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
        weight = _spread(fresh, 1.0) + _spread(kept, REPLAY_SHARE)
        return Batch(ids, segment, position, target, weight, _spread(learn & anchor, self._kl))


def _spread(places: npt.NDArray[np.bool_], total: float) -> npt.NDArray[np.float32]:
    """Share `total` equally among the marked places (rows, length) -> float32."""
    count = int(places.sum())
    return (places * np.float32(total / count if count else 0.0)).astype(np.float32)

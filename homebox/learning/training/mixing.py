"""Draws what each step trains on: dialogues from pools, in the shares that the recipe says.

The one idea: a pool that is behind its share is drawn from next, so that shares hold over any few
batches. Invariant: which dialogues a batch holds follows from pools, seed and its number alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homebox.errors import LearningError
from homebox.language.dice import Dice
from homebox.learning.examples import CONTEXT, NEGATIVE, REPLAY, TAUGHT, Examples
from homebox.learning.training.packing import Drawn, Encoded, Filling, Shape, encode, laid_out
from homebox.learning.training.recipes import Recipe
from homebox.model import Model
from homebox.model.training.batches import Batch
from homebox.model.training.teacher import SPLIT

CONTEXT_SHARE = 0.2  # of the replay: conversations that contradict the weights
CONTEXTS = 300  # of these are given that share; more are given more
MOST_CONTEXTS = 0.5  # of the replay, at most
LEARNED_SHARES = (0.5, 0.75)
SPARE = 1.2  # times what batches learn on average, so that it seldom decides what they hold
MISSES = 3  # dialogues that wait for the next batch, where they come first


@dataclass(frozen=True)
class Pool:
    """Dialogues of one kind and their share of every batch."""

    dialogues: tuple[Encoded, ...]
    share: float


class Mixer:
    """Draws batches from pools in fixed shares; every dialogue comes before any comes again."""

    def __init__(
        self,
        pools: Sequence[Pool],
        shape: Shape,
        seed: int,
        cross: float = 1.0,
    ) -> None:
        """Make batches of a shape; `cross` weighs the targets of lessons and negatives."""
        self._cross = cross
        self._pools = [pool for pool in pools if pool.dialogues and pool.share > 0]
        self.shape = shape
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
        return laid_out(self._fill(), self.shape.length, self._cross)

    def _fill(self) -> list[list[Encoded]]:
        rows = Filling(self.shape)
        early, self._waiting = self._waiting, []
        while len(self._waiting) < MISSES:
            dialogue = early.pop(0) if early else self._draw()
            if not rows.take(dialogue):
                self._waiting.append(dialogue)
        self._waiting += early
        return rows.filled

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


def mixed(
    model: Model, examples: Examples, recipe: Recipe, note: Callable[[str], None] = lambda _: None
) -> Mixer:
    """Encode the examples and prepare to draw batches of them.

    `note` hears of each example that is not whole, or left out because nothing of it fits.
    """
    render, length = model.chat.render_training, recipe.length
    # Longer examples would have the teacher's rows to themselves; they are learned as they are.
    taught = SPLIT if recipe.distil else 0
    many = max(1.0, len(examples.of(CONTEXT)) / CONTEXTS)
    contexts = min(CONTEXT_SHARE * many, MOST_CONTEXTS)
    shares = (
        (TAUGHT, 1.0 - recipe.negatives - recipe.replay),
        ((NEGATIVE,), recipe.negatives),
        ((CONTEXT,), recipe.replay * contexts),
        ((REPLAY,), recipe.replay * (1.0 - contexts)),
    )
    pools = [
        Pool(encode(examples.of(*kinds), render, length, note, taught=taught), share)
        for kinds, share in shares
    ]
    if not pools[0].dialogues:
        raise LearningError(f"no lesson fits into {length} tokens with this model's chat format")
    shape = Shape(recipe.rows, recipe.length, recipe.parts, learned_share(pools))
    return Mixer(pools, shape, recipe.seed, recipe.cross)


def learned_share(pools: Sequence[Pool]) -> float:
    """Return for which share of a batch's places there need be logits.

    It is one of a few shares, since each is a program of its own.
    """
    learned = tokens = 0.0
    for pool in pools:
        each = pool.share / max(1, len(pool.dialogues))
        learned += each * sum(len(dialogue.places) for dialogue in pool.dialogues)
        tokens += each * sum(len(dialogue.ids) for dialogue in pool.dialogues)
    return next((s for s in LEARNED_SHARES if learned * SPARE <= s * tokens), 1.0)

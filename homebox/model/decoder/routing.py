"""Which experts each row of a mixture takes, with what weights, and where the pairs lie in blocks.

The one idea: a logit and its expert's number make one 64-bit integer, so that the chosen experts
are the largest keys, taken one after the other; ties and NaNs have an order too, and each row
always has as many different experts as it should. Pairs of a row and an expert then lie `apart`,
each alone, or `together` in blocks of rows with one expert, which read that expert once.
Invariant: shapes do not depend on values, and a row's choice and weights depend on that row only.
"""

from dataclasses import dataclass

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Op, node
from homebox.engine.graph.tensor import Tensor
from homebox.model.config import Experts
from homebox.model.decoder.panels import round_up, sizes

BLOCKS = ((16, 16), (4, 8), (1, 4))  # above so many pairs for an expert: rows of a block
TILE = 16  # rows whose pairs are counted one by one, at least

_LOW = 1 << 32
_BELOW_SIGN = 0x7FFFFFFF
_LEAST = -(1 << 63)


@dataclass(frozen=True)
class Routing:
    """The experts of N rows, k for each, the one with the largest logit first."""

    experts: Experts
    logits: Tensor  # float32 (N, E), in memory
    chosen: Tensor  # int32 (N, k), in memory; all different in a row

    @staticmethod
    def of(logits: Tensor, experts: Experts) -> "Routing":
        """Choose for each row of logits (N, E); equal logits: the lower expert first.

        A NaN without sign counts as larger than all, one with a sign as smaller; -0 is below 0.
        """
        logits = logits.contiguous()
        low = (_largest(_keys(logits), experts.per_token) & (_LOW - 1)).cast(dt.i32)
        return Routing(experts, logits, (low * -1 + (experts.count - 1)).contiguous())

    def again(self, label: str) -> "Routing":
        """Return the same under another name."""
        logits, chosen = self.logits.again(f"{label}.logits"), self.chosen.again(f"{label}.chosen")
        return Routing(self.experts, logits, chosen)

    @property
    def weights(self) -> Tensor:
        """What the experts' results are multiplied with, float32 (N, k).

        The softmax over all logits at the chosen, or, `normalised`, over those of the chosen.
        """
        if not self.experts.normalised:
            return self._of_chosen(self._probabilities)
        values = self._of_chosen(self.logits)
        powers = (values - values.slice(1, 0, 1)).exp()
        return powers * _in_order(powers).recip()

    def backward(self, g: Tensor) -> Tensor:
        """Return the gradient of the logits (N, E) from that of the weights (N, k).

        p (g - sum of w g), where p is the softmax and g is zero where an expert is not chosen.
        """
        weights = self.weights.contiguous()
        common = _in_order(weights * g)
        hit = self.chosen.reshape((*sizes(g), 1)).equal(Tensor.iota(self.experts.count))
        if self.experts.normalised:
            return _select(hit, weights * (g - common))
        return self._probabilities * (_select(hit, g) - common)

    @property
    def _probabilities(self) -> Tensor:
        """The softmax over all experts, (N, E): in memory, where its rows are summed as rows."""
        return self.logits.softmax().contiguous()

    def _of_chosen(self, x: Tensor) -> Tensor:
        """Return what x (N, E) has for the chosen experts, (N, k)."""
        rows, count = sizes(x)
        first = (Tensor.iota(rows) * count).reshape((rows, 1))
        return x.reshape((rows * count,)).gather(self.chosen + first)


@dataclass(frozen=True)
class Slots:
    """Where pairs (row n, choice r) lie: S = B * R slots in B blocks of R rows, one expert each."""

    expert: Tensor  # int32 (B,); -1 for a block that nobody needs
    pair: Tensor  # int32 (S,), n * k + r; -1 for a slot without a pair
    place: Tensor  # int32 (N, k), the slot of a pair
    block: int  # R

    @staticmethod
    def of(routing: Routing) -> "Slots":
        """Place pairs together if there are more than experts, else apart."""
        rows, each = sizes(routing.chosen)
        block = block_of(rows * each, routing.experts.count)
        return _apart(routing) if block == 1 else _together(routing, block)

    def again(self, label: str) -> "Slots":
        """Return the same under another name."""
        expert, pair, place = (
            x.again(f"{label}.{name}")
            for name, x in (("expert", self.expert), ("pair", self.pair), ("place", self.place))
        )
        return Slots(expert, pair, place, self.block)

    def rows_of(self, x: Tensor) -> Tensor:
        """Return the row of x (N, K) that each slot needs, (S, K); zeros where there is no pair."""
        rows, each = sizes(self.place)
        count, width = sizes(self.pair)[0], x.shape[1]
        if self.block == 1:  # no gather: movement alone says which row it is
            return x.reshape((rows, 1, width)).expand((rows, each, width)).reshape((count, width))
        return x.gather((self.pair + each) // each - 1)

    def blocks(self, x: Tensor) -> Tensor:
        """Return rows of slots (S, K) as blocks (B, R, K)."""
        return x.reshape((-1, self.block, x.shape[1]))

    def in_pairs(self, x: Tensor) -> Tensor:
        """Return what slots have, (S, ..), for each pair: (N, k, ..)."""
        if self.block == 1:
            return x.reshape((*self.place.shape, *x.shape[1:]))
        return x.gather(self.place)

    def in_slots(self, x: Tensor) -> Tensor:
        """Return what pairs have, (N, k), for each slot: (S,); zero where there is no pair."""
        flat = x.reshape((-1,))
        return flat if self.block == 1 else flat.gather(self.pair)


def block_of(pairs: int, count: int) -> int:
    """Return how many rows a block has: few would read weights often, many would be half empty."""
    return next((block for most, block in BLOCKS if pairs > most * count), 1)


def most_blocks(pairs: int, count: int, block: int) -> int:
    """Return how many blocks hold `pairs` pairs with `count` experts, however they are spread."""
    return (pairs + (block - 1) * min(count, pairs)) // block


def _apart(routing: Routing) -> Slots:
    """Return a block of one row for each pair, in the order of rows."""
    shape = sizes(routing.chosen)
    pair = Tensor.iota(shape[0] * shape[1])
    return Slots(routing.chosen.reshape((-1,)), pair, pair.reshape(shape), 1)


def _together(routing: Routing, block: int) -> Slots:
    """Return the pairs by expert, within an expert by row, each expert's from a new block on.

    A pair's place is counted in two steps, in tiles of about the square root of the rows: pairs of
    the same expert in the tiles before, then in the rows before of its own tile.
    """
    chosen, count = routing.chosen, routing.experts.count
    rows, each = sizes(chosen)
    tile = _tile(rows)
    tiles = -(-rows // tile)
    # One more than the expert's number, so that rows that fill up the last tile have none.
    marks = (chosen + 1).pad(0, 0, tiles * tile - rows).reshape((tiles, tile, each))
    number = Tensor.iota(count)
    hits = marks.reshape((tiles, tile, each, 1)).equal(number + 1).cast(dt.i32)
    counts = hits.sum((1, 2)).contiguous()  # (tiles, E)
    blocks = ((counts.sum(0) + (block - 1)) // block).contiguous()  # (E,)
    before = number.reshape((1, count)) < number.reshape((count, 1))
    first = before.where(blocks.reshape((1, count)), 0).sum(1).contiguous()  # (E,)
    start = _sum_before(counts, tiles) + (first * block).reshape((1, count))
    place = _places(marks, start.contiguous()).slice(0, 0, rows).contiguous()
    total = most_blocks(rows * each, count, block)
    pair = _stored_pairs(place, total * block)
    return Slots(_experts_of_blocks(first + blocks, total).contiguous(), pair, place, block)


def _places(marks: Tensor, start: Tensor) -> Tensor:
    """Return the slots of pairs, int32 (tiles * T, k).

    marks (tiles, T, k) has the experts' numbers plus 1; start (tiles, E) is the slot of the first
    pair of a tile with an expert.
    """
    tiles, tile, each = sizes(marks)
    count = sizes(start)[1]
    time = Tensor.iota(tile)
    earlier = time.reshape((1, tile)) < time.reshape((tile, 1))  # (T, T'): T' comes before T
    mine = marks.reshape((tiles, tile, each, 1, 1))
    same = mine.equal(marks.reshape((tiles, 1, 1, tile, each)))
    counted = (same & earlier.reshape((1, tile, 1, tile, 1))).cast(dt.i32).sum((3, 4))
    offset = (Tensor.iota(tiles) * count - 1).reshape((tiles, 1, 1))
    at = start.reshape((-1,)).gather(marks + offset)
    return (at + counted).reshape((tiles * tile, each))


def _sum_before(counts: Tensor, tiles: int) -> Tensor:
    """Return the sums over the tiles before each one, of counts (tiles, E)."""
    tile = Tensor.iota(tiles)
    before = tile.reshape((1, tiles, 1)) < tile.reshape((tiles, 1, 1))
    return before.where(counts.reshape((1, *counts.shape)), 0).sum(1)


def _stored_pairs(place: Tensor, slots: int) -> Tensor:
    """Return the pair in each slot, int32 (slots,), or -1, from the slots of pairs (N, k)."""
    rows, each = sizes(place)
    # No place is negative. That it is asked makes this memory one of its own for these places.
    empty = (place.slice(0, 0, 1).slice(1, 0, 1).reshape((1,)) < 0).cast(dt.i32) - 1
    memory = node(Op.COPY, dt.i32, (slots,), (empty.expand((slots,)).node,), 0)
    pairs = Tensor.iota(rows * each)
    sources = (memory, pairs.node, place.reshape((rows * each,)).node)
    return Tensor(node(Op.STORE, dt.i32, (slots,), sources, "unique"))


def _experts_of_blocks(ends: Tensor, total: int) -> Tensor:
    """Return the expert of each block, int32 (total,), or -1; ends (E,) are blocks, ascending."""
    (count,) = sizes(ends)
    passed = ends.reshape((1, count)) <= Tensor.iota(total).reshape((total, 1))
    expert = passed.cast(dt.i32).sum(1)
    return (expert < count).where(expert, -1)


def _tile(rows: int) -> int:
    tile = TILE
    while tile * tile < rows:
        tile *= 2
    return min(tile, round_up(rows))


def _keys(logits: Tensor) -> Tensor:
    """Return integers in the order of logits (N, E), all different in a row: int64 (N, E)."""
    count = sizes(logits)[1]
    bits = logits.bitcast(dt.i32)
    high = (bits < 0).where(bits ^ _BELOW_SIGN, bits).cast(dt.i64) * _LOW
    return high + (Tensor.iota(count) * -1 + (count - 1)).cast(dt.i64)


def _largest(keys: Tensor, count: int) -> Tensor:
    """Return the largest numbers of each row, in descending order: (N, count)."""
    rows = keys.shape[0]
    column = Tensor.iota(count)
    last = keys.max(1, keepdim=True)
    found = last.expand((rows, count))
    for i in range(1, count):
        last = (keys < last).where(keys, _LEAST).max(1, keepdim=True)
        found = (column < i).where(found, last)
    return found


def _in_order(x: Tensor) -> Tensor:
    """Return the sums of rows (N, k), first to last, as (N, 1): the same in every kernel."""
    total = x.slice(1, 0, 1)
    for i in range(1, sizes(x)[1]):
        total = total + x.slice(1, i, 1)
    return total


def _select(hit: Tensor, x: Tensor) -> Tensor:
    """Return x (N, k) at the experts that hit (N, k, E) names, zero elsewhere: (N, E)."""
    return hit.where(x.reshape((*sizes(x), 1)), 0.0).sum(1)

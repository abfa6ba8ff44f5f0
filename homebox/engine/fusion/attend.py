"""Recognises attention in a graph: rule R3 makes one node of it, rule R4 cuts its keys into splits.

The composition is softmax over masked scores times values, written in primitive operations:

    scores  = where(seen, sum_d(q k), low);  weights = where(seen, exp2((scores - max) log2 e), 0)
    out     = sum_l(weights v) * recip(max(sum_l(weights), 1))

The product may be capped, c tanh(sum_d(q k) / c), and a row may have a sink: a score without a key,
so that max is max(max(scores), sink) and the sum has exp2((sink - max) log2 e) as well.

R3 replaces it by ATTEND, whose kernel runs over the keys once with a running maximum (the online
softmax of Milakov & Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). Comparisons of a
key's place with something that does not depend on the key become bounds, so that keys beyond them
cost nothing. R4 lets units of few rows write the sums of each split, and the graph joins them.
Invariant: a row's bits follow from its own bounds: splits are cut at fixed places, and every scale
between them is a power of two, hence exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homebox.engine.fusion.attend_match import match, moves_along, narrowed, reach
from homebox.engine.fusion.attend_reads import (
    BLOCK,
    key_read,
    packed_keys,
    packed_values,
    value_read,
)
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Counters
from homebox.engine.graph.ops import MOVEMENT, Node, Op, Sym, is_name, node
from homebox.engine.graph.rewrite import Rules
from homebox.engine.graph.rules import disabled, scalar
from homebox.engine.graph.symbolic import of
from homebox.engine.graph.tensor import LOG2_E, Tensor, size_of

SPLIT = 4 * BLOCK  # keys of a split at least
MOST_SPLITS = 32  # joining them must stay cheap
FEW_ROWS = 8  # queries of a sequence up to which R4 cuts
LEAST_SINK, MOST_SINK = -2097152.0, 2097152.0  # beyond them a sink is nothing, or all

attention = Rules()


@dataclass(frozen=True, slots=True)
class Attend:
    """The argument of ATTEND, src (q, k, v, *options).

    q (B, H, G, T, D), k (B, H, L, D), v (B, H, L, D); `options` names what follows: "upper" and
    "lower" (B, H, G, T) int32, keys from lower to upper - 1 are seen; "mask" (B, H, G, T, L) bool;
    "sinks" (B, H, G, T) f32. `cap` bounds the scores. Only the first `keys` of L exist; a split has
    `split` of them. Without `parts` the value is (B, T, H, G, D); with it there are no sinks, and
    it is (B, T, H, G, splits * (D + 2)): the splits' sums, then their exponents of 2, then their
    totals; sums are written only where the total is not 0. Scores (in binary logarithms) below
    -2^21 count as unseen, and none may be above 2^22.
    """

    options: tuple[str, ...]
    keys: int
    split: int
    parts: bool
    cap: float | None = None

    @property
    def splits(self) -> int:
        """The number of splits."""
        return -(-self.keys // self.split)


@attention.on(Op.MUL)
def attend(n: Node) -> Node | None:
    """R3: a softmax of scores times values becomes one node."""
    if "R3" in disabled() or len(n.shape) != 5 or n.dtype is not dt.f32:
        return None
    found = match(n)
    if found is None:
        return None
    bounds = Bounds(found.mask)
    if any(isinstance(d, Sym) for d in (*n.shape, *found.k.shape)):
        return None
    batch, heads, groups, rows, dim = (size_of(d) for d in n.shape)
    length = size_of(found.k.shape[2])
    k = found.k if key_read(found.k.node) is not None else packed_keys(found.k)
    v = found.v if value_read(found.v.node) is not None else packed_values(found.v)
    sinks = None if found.sinks is None else Tensor(found.sinks).reshape(n.shape[:4])
    names, sources = bounds.names(), [found.q.node, k.node, v.node, *bounds.sources()]
    # Where splits begin follows from the keys alone: a row has the same bits with and without R4.
    split = max(SPLIT, -(-length // (MOST_SPLITS * BLOCK)) * BLOCK)
    parts = length > split and rows <= FEW_ROWS and "R4" not in disabled()
    if sinks is not None and not parts:  # else they join when the splits are joined
        names.append("sinks")
        sources.append(sinks.node)
    arg = Attend(tuple(names), length, split, parts, found.cap)
    width = arg.splits * (dim + 2) if parts else dim
    out = Tensor(node(Op.ATTEND, dt.f32, (batch, rows, heads, groups, width), tuple(sources), arg))
    whole = joined(out, arg.splits, dim, sinks) if parts else out
    return whole.permute(0, 2, 3, 1, 4).node


def joined(parts: Tensor, splits: int, dim: int, sinks: Tensor | None = None) -> Tensor:
    """Return the attention that splits amount to: parts (.., splits * (dim + 2)) -> (.., dim).

    The outer axes are (B, T, H, G); `sinks` is (B, H, G, T).
    """
    outer = parts.shape[:-1]
    last = len(outer)
    sums = parts.slice(last, 0, splits * dim).reshape((*outer, splits, dim))
    exponent = parts.slice(last, splits * dim, splits)
    total = parts.slice(last, splits * (dim + 1), splits)
    top = exponent.max(-1, keepdim=True)
    scale = whole_power(exponent - top)
    # Where a split saw nothing its sums were not written. The choice and the name keep this from
    # being taken for a matrix product, which would need memory.
    wide = (*outer, splits, 1)
    some = (total > 0.0).reshape(wide)
    whole = some.where(sums * scale.reshape(wide), 0.0).sum(last)
    share = (total * scale).again("weighted").sum(-1, keepdim=True)
    if sinks is not None:
        weight, down = with_sink(sinks.permute(0, 3, 1, 2).reshape((*outer, 1)), top)
        return (whole * ((share * down + weight).recip() * down)).contiguous()
    # In memory in this shape: rows that are told apart keep their statistics in one kernel (R1).
    return (whole * (share > 0.0).where(share, 1.0).recip()).contiguous()


def whole_power(x: Tensor) -> Tensor:
    """Return 2 to the power of x, a whole number that is not positive; 0 below -126."""
    # 2 to a whole number is a float's exponent field: exact, and 0 below the smallest.
    return ((x.maximum(-127.0).cast(dt.i32) + 127) * (1 << 23)).bitcast(dt.f32)


def with_sink(sinks: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sinks' weights, and what sums that count in 2^top are multiplied with.

    Both then count in a power of two that is not below either, so nothing overflows.
    """
    lifted = (sinks * LOG2_E).maximum(LEAST_SINK)
    score = -((-lifted).maximum(-MOST_SINK))
    peak = top.maximum(score.cast(dt.i32).cast(dt.f32))
    return (score - peak).exp2(), whole_power(top - peak)


# -- the mask -------------------------------------------------------------------------------------


class Bounds:
    """What a mask (B, H, G, T, L) says, taken apart: keys from `lower` to `upper`, and the rest."""

    def __init__(self, mask: Node) -> None:
        self.shape = mask.shape
        self.upper: Tensor | None = None
        self.lower: Tensor | None = None
        self.rest: Tensor | None = None
        counters = Counters()
        self.each = tuple(of(counters.loop(d)) for d in mask.shape if isinstance(d, int))
        stack: list[tuple[Node, list[Node], bool]] = [(mask, [], False)]
        while stack:
            n, moves, negated = stack.pop()
            moves = list(moves)
            while (n.op in MOVEMENT and n.op is not Op.PAD) or is_name(n):
                moves.append(n)
                n = n.src[0]
            if n.op is Op.AND and not negated:
                stack.extend((s, moves, False) for s in n.src)
            elif n.op is Op.XOR and scalar(n.src[1]) is True:
                stack.append((n.src[0], moves, not negated))
            elif n.op is not Op.LT or not self._bound(n, moves, negated):
                self._other(lifted(n, moves), negated)

    def names(self) -> list[str]:
        """Return the names of the options that there are."""
        return [name for name, _ in self._options()]

    def sources(self) -> list[Node]:
        """Return the options' nodes."""
        return [tensor.node for _, tensor in self._options()]

    def _options(self) -> list[tuple[str, Tensor]]:
        found = (("upper", self.upper), ("lower", self.lower), ("mask", self.rest))
        return [(name, tensor) for name, tensor in found if tensor is not None]

    def _bound(self, n: Node, moves: list[Node], negated: bool) -> bool:
        """Take a comparison with the key's place as a bound, if it is the first of its side."""
        left, right = (lifted(s, moves) for s in n.src)
        if n.src[0].dtype is not dt.i32:
            return False
        if self._is_place(right) and not moves_along(left, (4,)):
            other, above = left, not negated  # other < place
            step = 1
        elif self._is_place(left) and not moves_along(right, (4,)):
            other, above = right, negated  # place < other
            step = 0
        else:
            return False
        if (self.lower if above else self.upper) is not None:
            return False
        # not (other < place) is place < other + 1; other < place is place >= other + 1
        edge = narrowed(other, (4,)).reshape(self.shape[:4])
        edge = edge + step if step else edge
        if above:
            self.lower = edge
        else:
            self.upper = edge
        return True

    def _is_place(self, n: Node) -> bool:
        found = reach(n, self.each)
        return found is not None and found[0].op is Op.IOTA and found[1] == (self.each[4],)

    def _other(self, n: Node, negated: bool) -> None:
        seen = Tensor(n)
        if negated:
            seen = seen.logical_not()
        self.rest = seen if self.rest is None else self.rest & seen


def lifted(n: Node, moves: Sequence[Node]) -> Node:
    """Return a node after the same movement operations, innermost last in `moves`."""
    for move in reversed(moves):
        n = n if is_name(move) else node(move.op, n.dtype, move.shape, (n,), move.arg)
    return n

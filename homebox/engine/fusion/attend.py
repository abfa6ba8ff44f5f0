"""Recognises attention in a graph: rule R3 makes one node of it, rule R4 cuts its keys into splits.

The composition is softmax over masked scores times values, written in primitive operations:

    scores  = where(seen, sum_d(q k), low);  weights = where(seen, exp2((scores - max) log2 e), 0)
    out     = sum_l(weights v) * recip(max(sum_l(weights), 1))

R3 replaces it by ATTEND, whose kernel runs over the keys once with a running maximum (the online
softmax of Milakov & Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). Comparisons of a
key's place with something that does not depend on the key become bounds, so that keys beyond them
cost nothing. R4 lets units of few rows write the sums of each split, and the graph joins them.
Invariant: a row's bits follow from its own bounds: splits are cut at fixed places, and every scale
between them is a power of two, hence exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homebox.engine.fusion.attend_reads import (
    BLOCK,
    key_read,
    packed_keys,
    packed_values,
    value_read,
)
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Counters, through
from homebox.engine.graph.ops import MOVEMENT, Node, Op, Shape, Sym, is_name, node
from homebox.engine.graph.rewrite import Rules
from homebox.engine.graph.rules import disabled, scalar, varies
from homebox.engine.graph.symbolic import Index, of
from homebox.engine.graph.tensor import LOG2_E, Tensor, size_of

SPLIT = 4 * BLOCK  # keys of a split at least
MOST_SPLITS = 32  # joining them must stay cheap
FEW_ROWS = 8  # queries of a sequence up to which R4 cuts
LOWEST = -1e29  # a score that stands for "not seen" is below

attention = Rules()


@dataclass(frozen=True, slots=True)
class Attend:
    """The argument of ATTEND, src (q, k, v, *options).

    q (B, H, G, T, D), k (B, H, L, D), v (B, H, L, D); `options` names what follows: "upper" and
    "lower" (B, H, G, T) int32, keys from lower to upper - 1 are seen; "mask" (B, H, G, T, L) bool.
    Only the first `keys` of L exist; a split has `split` of them. Without `parts` the value is
    (B, T, H, G, D); with it (B, T, H, G, splits * (D + 2)): the splits' sums, then their exponents
    of 2, then their totals; sums are written only where the total is not 0. Scores (in binary
    logarithms) below -2^21 count as unseen, and none may be above 2^22.
    """

    options: tuple[str, ...]
    keys: int
    split: int
    parts: bool

    @property
    def splits(self) -> int:
        """The number of splits."""
        return -(-self.keys // self.split)


@dataclass(frozen=True, slots=True)
class Composition:
    """The pieces of a recognised composition: q, k, v, and the mask (B, H, G, T, L)."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Node


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
    sources = (found.q.node, k.node, v.node, *bounds.sources())
    # Where splits begin follows from the keys alone: a row has the same bits with and without R4.
    split = max(SPLIT, -(-length // (MOST_SPLITS * BLOCK)) * BLOCK)
    parts = length > split and rows <= FEW_ROWS and "R4" not in disabled()
    arg = Attend(tuple(bounds.names()), length, split, parts)
    width = arg.splits * (dim + 2) if parts else dim
    out = Tensor(node(Op.ATTEND, dt.f32, (batch, rows, heads, groups, width), sources, arg))
    whole = joined(out, arg.splits, dim) if parts else out
    return whole.permute(0, 2, 3, 1, 4).node


def joined(parts: Tensor, splits: int, dim: int) -> Tensor:
    """Return the attention that splits amount to: parts (.., splits * (dim + 2)) -> (.., dim)."""
    outer = parts.shape[:-1]
    last = len(outer)
    sums = parts.slice(last, 0, splits * dim).reshape((*outer, splits, dim))
    exponent = parts.slice(last, splits * dim, splits)
    total = parts.slice(last, splits * (dim + 1), splits)
    # 2 to a whole number is a float's exponent field: exact, and 0 below the smallest.
    down = (exponent - exponent.max(-1, keepdim=True)).maximum(-127.0).cast(dt.i32)
    scale = ((down + 127) * (1 << 23)).bitcast(dt.f32)
    # Where a split saw nothing its sums were not written. The choice and the name keep this from
    # being taken for a matrix product, which would need memory.
    wide = (*outer, splits, 1)
    some = (total > 0.0).reshape(wide)
    whole = some.where(sums * scale.reshape(wide), 0.0).sum(last)
    share = (total * scale).again("weighted").sum(-1, keepdim=True)
    # In memory in this shape: rows that are told apart keep their statistics in one kernel (R1).
    return (whole * (share > 0.0).where(share, 1.0).recip()).contiguous()


# -- the composition ------------------------------------------------------------------------------


def reach(n: Node, index: tuple[Index, ...]) -> tuple[Node, tuple[Index, ...]] | None:
    """Follow movement and names down to a computation; None if padding is on the way."""
    while n.op in MOVEMENT or is_name(n):
        if not is_name(n):
            index, conditions = through(n, index)
            if conditions:
                return None
        n = n.src[0]
    return n, index


def at(n: Node, index: tuple[Index, ...], op: Op, where: tuple[Index, ...]) -> Node | None:
    """Return the node of an op that lies below n[index] at the index `where`, else None."""
    found = reach(n, index)
    if found is None or found[0].op is not op or found[1] != where:
        return None
    return found[0]


def pair(n: Node, value: float) -> Node | None:
    """Return the other source of a binary operation with this constant, None if it has none."""
    for one, other in (n.src, n.src[::-1]):
        known = scalar(other)
        if known is not None and abs(known - value) < 1e-6:
            return one
    return None


def match(n: Node) -> Composition | None:
    """Return the pieces if n (B, H, G, T, D) is the composition."""
    counters = Counters()
    shape = n.shape
    if any(isinstance(d, Sym) for d in shape):
        return None
    row = tuple(of(counters.loop(d)) for d in shape[:4] if isinstance(d, int))
    channel = of(counters.loop(shape[4] if isinstance(shape[4], int) else 1))
    for one, other in (n.src, n.src[::-1]):
        sums, total = reach(one, (*row, channel)), reach(other, (*row, channel))
        if sums is None or total is None or total[0].op is not Op.RECIP:
            continue
        product = product_of(sums[0])
        if product is None or product.shape[:5] != shape or sums[1][:5] != (*row, channel):
            continue
        length = product.shape[5]
        if isinstance(length, Sym):
            continue
        key = of(counters.loop(length))
        for weights, values in (product.src, product.src[::-1]):
            found = at(weights, (*row, channel, key), Op.WHERE, (*row, key))
            if found is None or total_of(total[0], row, key) is not found:
                continue
            scores = scores_of(found, row, key)
            if scores is None or moves_along(values, (2, 3)):
                continue
            v = narrowed(values, (2, 3)).reshape((*shape[:2], shape[4], length)).transpose()
            return with_queries(scores, v, found.src[0])
    return None


def product_of(n: Node) -> Node | None:
    """Return the product (6 axes) that a node sums along its last axis, else None."""
    if n.op is not Op.REDUCE or n.arg != ("add", (5,)) or n.src[0].op is not Op.MUL:
        return None
    return n.src[0]


def total_of(reciprocal: Node, row: tuple[Index, ...], key: Index) -> Node | None:
    """Return the weights whose sum, at least 1, a node is the reciprocal of."""
    bounded = reciprocal.src[0]
    if bounded.op is not Op.MAX:
        return None
    summed = pair(bounded, 1.0)
    found = None if summed is None else reach(summed, (*row, Index(0)))
    if found is None or found[0].op is not Op.REDUCE or found[0].arg != ("add", (4,)):
        return None
    return at(found[0].src[0], (*row, key), Op.WHERE, (*row, key))


def scores_of(weights: Node, row: tuple[Index, ...], key: Index) -> Node | None:
    """Return the masked scores of which where(seen, exp(scores - max), 0) are the weights."""
    mask, power, nothing = weights.src
    if scalar(nothing) != 0 or power.op is not Op.EXP2 or power.src[0].op is not Op.MUL:
        return None
    shifted = pair(power.src[0], LOG2_E)
    if shifted is None or shifted.op is not Op.ADD:
        return None
    for scores, negated in (shifted.src, shifted.src[::-1]):
        if scores.op is not Op.WHERE or scores.src[0] is not mask:
            continue
        low = scalar(scores.src[2])
        below = reach(negated, (*row, key))
        if low is None or low > LOWEST or below is None or below[0].op is not Op.MUL:
            continue
        top = pair(below[0], -1.0)
        found = None if top is None else reach(top, below[1])
        if found is None or found[0].op is not Op.REDUCE or found[0].arg != ("max", (4,)):
            continue
        if found[1][:4] == row and found[0].src[0] is scores:
            return scores
    return None


def with_queries(scores: Node, v: Tensor, mask: Node) -> Composition | None:
    """Return the composition, given its masked scores (B, H, G, T, L) and its values."""
    shape = scores.shape
    counters = Counters()
    each = tuple(of(counters.loop(d)) for d in shape if isinstance(d, int))
    found = reach(scores.src[1], each)
    product = None if found is None else product_of(found[0])
    if found is None or product is None or product.shape[:5] != shape or found[1][:5] != each:
        return None
    dim = product.shape[5]
    for q, k in (product.src, product.src[::-1]):
        if moves_along(q, (4,)) or moves_along(k, (2, 3)):
            continue
        queries = narrowed(q, (4,)).reshape((*shape[:4], dim))
        keys = narrowed(k, (2, 3)).reshape((*shape[:2], shape[4], dim))
        return Composition(queries, keys, v, mask)
    return None


def moves_along(n: Node, axes: Sequence[int]) -> bool:
    """Whether a node's elements can differ along some axes."""
    return any(varies(n, a) for a in axes if n.shape[a] != 1)


def narrowed(n: Node, axes: Sequence[int]) -> Tensor:
    """Return the first element of a node along some axes, which stay with size 1."""
    arg = tuple((0, 1, 1) if a in axes else (0, d, 1) for a, d in enumerate(n.shape))
    shape: Shape = tuple(size for _, size, _ in arg)
    return Tensor(n if shape == n.shape else node(Op.SLICE, n.dtype, shape, (n,), arg))


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

"""Finds attention in a graph, written out in primitive operations, and takes it apart.

`match` begins at the last product and walks down; `attend` has the formula. Movement and names are
looked through: what counts is which element is computed from which.
Invariant: a graph that differs in anything that changes values is left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homebox.engine.graph.indexing import Counters, through
from homebox.engine.graph.ops import MOVEMENT, Node, Op, Shape, Sym, is_name, node
from homebox.engine.graph.rules import scalar, varies
from homebox.engine.graph.symbolic import Index, of
from homebox.engine.graph.tensor import LOG2_E, Tensor

LOWEST = -1e29  # a score that stands for "not seen" is below


@dataclass(frozen=True, slots=True)
class Composition:
    """The pieces of a recognised composition: q, k, v, mask (B, H, G, T, L), cap and sinks.

    The sinks' shape is (B, H, G, T, 1).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Node
    cap: float | None
    sinks: Node | None


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
            if found is None:
                continue
            scores = scores_of(found, row, key)
            if scores is None or moves_along(values, (2, 3)):
                continue
            if not totals(total[0], found, scores, row, key):
                continue
            v = narrowed(values, (2, 3)).reshape((*shape[:2], shape[4], length)).transpose()
            return with_queries(scores, v, found.src[0])
    return None


def product_of(n: Node) -> Node | None:
    """Return the product (6 axes) that a node sums along its last axis, else None."""
    if n.op is not Op.REDUCE or n.arg != ("add", (5,)) or n.src[0].op is not Op.MUL:
        return None
    return n.src[0]


@dataclass(frozen=True, slots=True)
class Scores:
    """Masked scores, the node -max that was added to them, and the sink that the max includes."""

    masked: Node
    negated: Node
    sink: Node | None


def totals(
    reciprocal: Node, weights: Node, scores: Scores, row: tuple[Index, ...], key: Index
) -> bool:
    """Whether a node is the reciprocal of the sum, at least 1, of weights and the sink's weight."""
    bounded = reciprocal.src[0]
    summed = pair(bounded, 1.0) if bounded.op is Op.MAX else None
    found = None if summed is None else reach(summed, (*row, Index(0)))
    if found is not None and scores.sink is not None:
        found = without_sink(*found, scores.sink, scores.negated)
    if found is None or found[0].op is not Op.REDUCE or found[0].arg != ("add", (4,)):
        return False
    return at(found[0].src[0], (*row, key), Op.WHERE, (*row, key)) is weights


def without_sink(
    n: Node, index: tuple[Index, ...], sink: Node, negated: Node
) -> tuple[Node, tuple[Index, ...]] | None:
    """Return what a sink's weight exp2((sink - max) log2 e) is added to, else None."""
    if n.op is not Op.ADD:
        return None
    for rest, weight in (n.src, n.src[::-1]):
        if weight.op is not Op.EXP2 or weight.src[0].op is not Op.MUL:
            continue
        shifted = pair(weight.src[0], LOG2_E)
        if shifted is not None and shifted.op is Op.ADD and {*shifted.src} == {sink, negated}:
            return reach(rest, index)
    return None


def scores_of(weights: Node, row: tuple[Index, ...], key: Index) -> Scores | None:
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
        sink = None
        if found is not None and found[0].op is Op.MAX and found[1] == (*row, Index(0)):
            found, sink = beside_sink(*found)
        if found is None or found[0].op is not Op.REDUCE or found[0].arg != ("max", (4,)):
            continue
        if found[1][:4] == row and found[0].src[0] is scores:
            return Scores(scores, below[0], sink)
    return None


def beside_sink(
    n: Node, index: tuple[Index, ...]
) -> tuple[tuple[Node, tuple[Index, ...]] | None, Node | None]:
    """Return the maximum and the sink of which a node is the larger one."""
    for one, sink in (n.src, n.src[::-1]):
        found = reach(one, index)
        if found is not None and found[0].op is Op.REDUCE:
            return found, sink
    return None, None


def without_cap(n: Node) -> tuple[Node, float | None]:
    """Return x and c if a node is c tanh(x / c), else the node and None."""
    outer, cap = with_factor(n)
    if outer.op is not Op.TANH:
        return n, None
    inner, share = with_factor(outer.src[0])
    return (inner, cap) if abs(cap * share - 1.0) < 1e-6 else (n, None)


def with_factor(n: Node) -> tuple[Node, float]:
    """Return x and c if a node is x times a constant c, else the node and 1."""
    if n.op is Op.MUL:
        for one, other in (n.src, n.src[::-1]):
            known = scalar(other)
            if known is not None:
                return one, float(known)
    return n, 1.0


def with_queries(scores: Scores, v: Tensor, mask: Node) -> Composition | None:
    """Return the composition, given its masked scores (B, H, G, T, L) and its values."""
    shape = scores.masked.shape
    counters = Counters()
    each = tuple(of(counters.loop(d)) for d in shape if isinstance(d, int))
    products, cap = without_cap(scores.masked.src[1])
    found = reach(products, each)
    product = None if found is None else product_of(found[0])
    if found is None or product is None or product.shape[:5] != shape or found[1][:5] != each:
        return None
    dim = product.shape[5]
    for q, k in (product.src, product.src[::-1]):
        if moves_along(q, (4,)) or moves_along(k, (2, 3)):
            continue
        queries = narrowed(q, (4,)).reshape((*shape[:4], dim))
        keys = narrowed(k, (2, 3)).reshape((*shape[:2], shape[4], dim))
        return Composition(queries, keys, v, mask, cap, scores.sink)
    return None


def moves_along(n: Node, axes: Sequence[int]) -> bool:
    """Whether a node's elements can differ along some axes."""
    return any(varies(n, a) for a in axes if n.shape[a] != 1)


def narrowed(n: Node, axes: Sequence[int]) -> Tensor:
    """Return the first element of a node along some axes, which stay with size 1."""
    arg = tuple((0, 1, 1) if a in axes else (0, d, 1) for a, d in enumerate(n.shape))
    shape: Shape = tuple(size for _, size, _ in arg)
    return Tensor(n if shape == n.shape else node(Op.SLICE, n.dtype, shape, (n,), arg))

"""Contractions: sums of products of two operands, which is where nearly all time goes.

A contraction is REDUCE(add) over MUL(a, b). Its axes are sorted by who varies along them: `m` only
a, `n` only b, `batch` both, `k` the summed ones. Everything else about products asks here.
"""

from dataclasses import dataclass

from homebox.engine.fusion import packed as packing
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Counters
from homebox.engine.graph.ops import Dim, Node, Op, Shape, Sym, size_max
from homebox.engine.graph.per_node import per_node
from homebox.engine.graph.symbolic import Index, Loop, flatten, of

PANEL = 16


@dataclass(frozen=True, slots=True)
class Operand:
    """One side of a contraction: the node that lies in memory, and the position read from it."""

    base: Node
    flat: Index
    conditional: bool  # padding is read through: must be copied first


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of a contraction by role; `n` is split into 16 * panel + lane."""

    k: tuple[int, ...]
    n: int
    m: tuple[int, ...]
    batch: tuple[int, ...]
    swap: bool  # a and b change places: n belongs to the first factor


def is_product_sum(n: Node) -> bool:
    """Whether a node is a sum of products in f32, so that it may be a contraction."""
    return n.op is Op.REDUCE and n.arg[0] == "add" and n.dtype is dt.f32 and n.src[0].op is Op.MUL


def operand(n: Node, index: tuple[Index, ...]) -> Operand:
    """Follow movement operations down to what is (or will be) in memory."""
    base, place, conditional = packing.follow(n, index)
    return Operand(base, flatten(place, base.shape), conditional)


def loops(shape: Shape, counters: Counters) -> list[Loop]:
    """Return a counter for each axis."""
    return [counters.loop(size_max(d)) for d in shape]


@per_node
def classify(c: Node) -> Axes | None:
    """Sort the axes of a product sum by role; None if it is no contraction."""
    if not is_product_sum(c):
        return None
    product = c.src[0]
    _, k_axes = c.arg
    counters = Counters()
    each = loops(product.shape, counters)
    index = tuple(of(x) for x in each)
    first, second = (operand(s, index) for s in product.src)
    if first.base.op is Op.CONST or second.base.op is Op.CONST:
        return None
    k = tuple(a for a in k_axes if product.shape[a] != 1)
    in_first = [first.flat.depends(x) for x in each]
    in_second = [second.flat.depends(x) for x in each]
    if not k or not all(in_first[a] and in_second[a] for a in k):
        return None
    outer = [a for a, d in enumerate(product.shape) if a not in k_axes and d != 1]
    single = [a for a in outer if in_first[a] != in_second[a]]
    if not single:
        return None
    n = single[-1]
    swap = in_first[n]
    a_side = in_second if swap else in_first
    b_side = in_first if swap else in_second
    m = tuple(a for a in outer if a_side[a] and not b_side[a])
    batch = tuple(a for a in outer if a not in m and a != n)
    return Axes(k, n, m, batch, swap)


def sides(c: Node, axes: Axes) -> tuple[Node, Node]:
    """Return the factors as (a, b)."""
    first, second = c.src[0].src
    return (second, first) if axes.swap else (first, second)


@per_node
def packed_product(c: Node) -> packing.Packed | None:
    """Return how a contraction reads a packed weight; None if it does not.

    Its axes have the counters that `loops` gives first.
    """
    axes = classify(c)
    return None if axes is None else packed_product_at(c, axes, loops(c.src[0].shape, Counters()))


def packed_product_at(c: Node, axes: Axes, each: list[Loop]) -> packing.Packed | None:
    """Return how a contraction reads a packed weight where its axes have the counters `each`."""
    a, b = sides(c, axes)
    found = packing.find(a, b, each, axes.n, axes.k)
    return None if found is None or (axes.batch and found.group is None) else found


def merged(loops_in_order: list[tuple[int, Dim]], coefficient: list[list[int]]) -> int:
    """Return how many of the last axes can be walked as one, given each operand's coefficients."""
    count = 1
    while count < len(loops_in_order):
        outer = len(loops_in_order) - count - 1
        inner = loops_in_order[outer + 1][1]
        if isinstance(inner, Sym) or isinstance(loops_in_order[outer][1], Sym):
            break
        if any(c[outer] != c[outer + 1] * inner for c in coefficient):
            break
        count += 1
    return count

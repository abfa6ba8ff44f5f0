"""What a kernel cannot do without: the bytes that it must read and write, and its operations.

Counted in the region's graph, from its root down: a node needs so many elements of its sources as
make those that are needed of itself, never more than there are. So a weight counts once however
often tiles read it, a lookup counts the rows that it takes, and a slice of run-time size counts as
long as it is in this run. Invariant: nothing here depends on how the kernel was made, so a better
kernel shows as a higher rate, never as less work.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from homebox.engine.fusion.draft import Region
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8
from homebox.engine.graph.ops import (
    ELEMENTWISE,
    LEAF,
    MOVEMENT,
    Node,
    Op,
    Shape,
    Sym,
    is_name,
    memory_of,
    size_max,
    toposort,
)
from homebox.engine.inspection.roof import Roof
from homebox.engine.verify.oracle import evaluate

_FREE = frozenset({Op.CAST, Op.BITCAST, Op.WHERE})  # no arithmetic


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes by the node that owns the memory, bytes written, and float operations.

    A product and its sum are two operations. `kind` says which rate of the roof holds for them.
    """

    reads: tuple[tuple[Node, int], ...]
    written: int
    operations: int
    kind: str

    @property
    def read(self) -> int:
        """All bytes read."""
        return sum(count for _, count in self.reads)

    @property
    def moved(self) -> int:
        """All bytes read and written."""
        return self.read + self.written

    def least_seconds(self, roof: Roof) -> float:
        """Return the time below which the machine cannot do it: the nearer of its two roofs."""
        moving = self.moved / (roof.read_gbs * 1e9)
        return max(moving, self.operations / (roof.compute(self.kind) * 1e9))


def demand(region: Region, realised: AbstractSet[Node], values: Mapping[str, int]) -> Demand:
    """Return what one region demands; `values` gives the run-time sizes, else the largest count."""
    root = region.root
    leaves = realised - set(region.written)
    order = toposort(region.written, leaves)
    needed: dict[Node, int] = dict.fromkeys(order, 0)
    cone = [n for n in reversed(order) if n not in leaves and n.op not in LEAF]
    operations: dict[str, int] = {"f32": 0, "bf16": 0, "int8": 0}
    needed[root] = _count((root.src[1] if root.op is Op.STORE else root).shape, values)
    needed |= {n: _count(n.shape, values) for n in region.also}

    def need(source: Node, count: int) -> None:
        needed[source] = min(needed[source] + count, _count(source.shape, values))

    kinds: dict[Node, str] = {}  # of sums of products, and of the products
    for each in cone:
        if each.op is Op.REDUCE and each.src[0].op is Op.MUL:
            kinds[each] = kinds[each.src[0]] = _kind(each.src[0])
        if each.op is Op.ATTEND:
            operations["f32"] += _attention(each, leaves, values, need)
            continue
        operations[kinds.get(each, "f32")] += _pass_on(each, needed[each], values, need)
    reads: dict[Node, int] = {}
    for each in order:
        if (each in leaves or each.op is Op.BUFFER) and needed[each]:
            owner = memory_of(each)
            reads[owner] = reads.get(owner, 0) + needed[each] * each.dtype.size
    written = sum(needed[n] * n.dtype.size for n in region.written)
    kind = max(operations, key=operations.__getitem__)
    return Demand(tuple(reads.items()), written, sum(operations.values()), kind)


def _count(shape: Shape, values: Mapping[str, int]) -> int:
    """Return the number of elements in this run."""
    total = 1
    for dim in shape:
        total *= values.get(dim.name, dim.hi) if isinstance(dim, Sym) else dim
    return total


def _pass_on(
    n: Node, count: int, values: Mapping[str, int], need: Callable[[Node, int], None]
) -> int:
    """Ask the sources of a node for what `count` of its elements take; return the operations."""
    if n.op in ELEMENTWISE:
        for source in n.src:
            need(source, count)
        return count if n.dtype.is_float and n.op not in _FREE else 0
    if n.op in MOVEMENT or n.op is Op.COPY:
        need(n.src[0], count)
        return 0
    if n.op is Op.STORE:
        target, value, *index = n.src
        need(value, count)
        if index:
            need(index[0], _count(index[0].shape, values))
        if n.arg == "add":
            need(target, count)
        return 0
    if n.op is Op.GATHER:
        table, index_node = n.src
        row = _count(table.shape[1:], values)
        need(table, count)
        need(index_node, -(-count // max(row, 1)))
        return 0
    # REDUCE, UNPACK and PACK: as many as belong to each element
    own, asked = max(_count(n.shape, values), 1), 0
    for source in n.src:
        asked = -(-count * _count(source.shape, values) // own)
        need(source, asked)
    return asked if n.op is Op.REDUCE and n.dtype.is_float else 0


def _attention(
    n: Node, leaves: AbstractSet[Node], values: Mapping[str, int], need: Callable[[Node, int], None]
) -> int:
    """Ask for the keys and values that a row sees, each once; return the operations."""
    q, k, v, *options = n.src
    heads, dim = _count(q.shape[:-1], values), _count(q.shape[-1:], values)
    keys = _count(k.shape[:-1], values)
    share, pairs = _seen(n, leaves, values) or (1.0, heads * n.arg.keys)
    need(q, heads * dim)
    for source in (k, v):
        need(source, int(share * keys) * _count(source.shape[-1:], values))
    for option in options:
        need(option, _count(option.shape, values))
    return int(4 * pairs * dim)


def _seen(
    n: Node, leaves: AbstractSet[Node], values: Mapping[str, int]
) -> tuple[float, float] | None:
    """Return the share of the keys that any row sees, and how many pairs of row and key there are.

    The bounds of the rows are worked out from what the inputs hold now; None if they depend on what
    kernels computed meanwhile.
    """
    bounds = dict(zip(n.arg.options, n.src[3:], strict=True))
    found = {"lower": np.zeros(1, np.int64), "upper": np.full(1, n.arg.keys)}
    for name in found.keys() & bounds.keys():
        if any(each in leaves for each in toposort([bounds[name]], leaves)):
            return None
        found[name] = evaluate([bounds[name]], values)[0].astype(np.int64)
    lower, upper = np.broadcast_arrays(
        *(found[name].clip(0, n.arg.keys) for name in ("lower", "upper"))
    )
    if lower.ndim < 4:  # every row sees every key
        return None
    seen = np.maximum(upper - lower, 0)
    used = seen > 0
    first = np.where(used, lower, n.arg.keys).min((2, 3))
    last = np.where(used, upper, 0).max((2, 3))
    share = float(np.maximum(last - first, 0).mean()) / n.arg.keys
    return share, float(seen.sum())


def _kind(product: Node) -> str:
    """Return how products are made; the type of the operand beside a weight decides."""
    sides = {_side(s) for s in product.src}
    if "int8" in sides:
        return "int8"
    return "bf16" if "bf16" in sides and "f32" not in sides else "f32"


def _side(n: Node) -> str:
    while n.op in MOVEMENT or is_name(n):
        n = n.src[0]
    if n.op is Op.UNPACK:
        return "int8" if n.arg is A8 else "weight"
    return "bf16" if n.op is Op.CAST and n.src[0].dtype is dt.bf16 else "f32"


def largest(region: Region) -> tuple[int, ...]:
    """Return the shape of what a region writes, run-time sizes with their upper bound."""
    return tuple(size_max(d) for d in region.root.shape)

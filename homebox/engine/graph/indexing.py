"""How indices travel through a graph: which memory a node reads, at which position.

A kernel computes one element of a node by asking its sources for elements; movement operations
only change the index on the way. `accesses` follows all those paths without emitting code, so that
schedules can be chosen from what memory is really read and in which order.
"""

from dataclasses import dataclass

from homebox.engine.graph.formats import element
from homebox.engine.graph.ops import ELEMENTWISE, Dim, Node, Op, Sym, size_max
from homebox.engine.graph.symbolic import (
    ZERO,
    Index,
    Loaded,
    Loop,
    flatten,
    of,
    unflatten,
)

Condition = tuple[Index, Dim]  # 0 <= index < size must hold, else the element is 0
Conditions = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """A read of `node` at a flat position; `inline`: a REDUCE that is computed there, not read."""

    node: Node
    flat: Index
    index: tuple[Index, ...]
    conditions: Conditions
    inline: bool = False


class Counters:
    """Hands out loop counters with fresh ids; one per kernel, so equal kernels get equal ids."""

    def __init__(self) -> None:
        self.used = 0

    def loop(self, size: int) -> Loop:
        """Return a new counter for 0 .. size - 1."""
        self.used += 1
        return Loop(self.used, size)


def holds(condition: Condition) -> bool:
    """Whether bounds alone prove a condition."""
    index, size = condition
    lo, hi = index.bounds()
    return lo >= 0 and hi < (size.lo if isinstance(size, Sym) else size)


def through(n: Node, index: tuple[Index, ...]) -> tuple[tuple[Index, ...], Conditions]:
    """Return the index into a movement op's source, and what must hold for it to be inside."""
    (source,) = n.src
    if n.op is Op.RESHAPE:
        return unflatten(flatten(index, n.shape), source.shape), ()
    if n.op is Op.PERMUTE:
        back = [ZERO] * len(index)
        for place, axis in enumerate(n.arg):
            back[axis] = index[place]
        return tuple(back), ()
    if n.op is Op.EXPAND:
        return tuple(ZERO if d == 1 else i for i, d in zip(index, source.shape, strict=True)), ()
    if n.op is Op.SLICE:
        moved = []
        for i, (start, _, step) in zip(index, n.arg, strict=True):
            first = of(start) if isinstance(start, Sym) else Index(start)
            moved.append(first + i * step)
        return tuple(moved), ()
    moved, conditions = [], []
    for i, (before, after), dim in zip(index, n.arg, source.shape, strict=True):
        moved.append(i + -before)
        if before or after:
            conditions.append((moved[-1], dim))
    return tuple(moved), tuple(c for c in conditions if not holds(c))


def gathered(n: Node, index: tuple[Index, ...]) -> tuple[tuple[Index, ...], Condition]:
    """Return the index into a GATHER's table, and the condition that its row exists."""
    table, rows = n.src
    rank = len(rows.shape)
    row = of(Loaded(rows, index[:rank], max(size_max(table.shape[0]), 1)))
    return (row, *index[rank:]), (row, table.shape[0])


def attended(
    n: Node, index: tuple[Index, ...], counters: Counters
) -> list[tuple[Node, tuple[Index, ...]]]:
    """Return what an ATTEND's element (b, t, h, g, ..) is computed from, and at which index."""
    batch, query, head, group = index[:4]
    q, k, v, *options = n.src
    key, channel = (of(counters.loop(size_max(d))) for d in k.shape[2:])
    row = (batch, head, group, query)
    reads = [(q, (*row, channel)), (k, (batch, head, key, channel))]
    reads.append((v, (batch, head, key, of(counters.loop(size_max(v.shape[3]))))))
    return [*reads, *((o, (*row, key)[: len(o.shape)]) for o in options)]


def accesses(
    n: Node, index: tuple[Index, ...], realised: frozenset[Node] | set[Node], counters: Counters
) -> list[Access]:
    """Return every memory read, IOTA and REDUCE that computing n[index] leads to."""
    found: list[Access] = []
    seen: set[tuple[Node, tuple[Index, ...]]] = set()
    stack: list[tuple[Node, tuple[Index, ...], Conditions, bool]] = [(n, index, (), True)]
    while stack:
        each, at, conditions, top = stack.pop()
        if (each, at) in seen:
            continue
        seen.add((each, at))
        if each.op is Op.BUFFER or (each in realised and not top):
            found.append(Access(each, flatten(at, each.shape), at, conditions))
        elif each.op is Op.IOTA:
            found.append(Access(each, at[0], at, conditions))
        elif each.op in ELEMENTWISE:
            stack.extend((s, at, conditions, False) for s in each.src)
        elif each.op is Op.COPY:
            stack.append((each.src[0], at, conditions, False))
        elif each.op is Op.STORE:
            stack.append((each.src[1], at, conditions, False))
        elif each.op is Op.GATHER:
            inner, extra = gathered(each, at)
            stack.append((each.src[0], inner, (*conditions, extra), False))
            rank = len(each.src[1].shape)
            stack.append((each.src[1], at[:rank], conditions, False))
        elif each.op is Op.UNPACK:
            (stored,) = each.src
            place = element(each.arg, size_max(each.shape[1]), *at)
            found.append(Access(stored, place.at, (place.at,), conditions))
        elif each.op is Op.PACK:  # a row's bytes follow from the row
            column = of(counters.loop(size_max(each.src[0].shape[1])))
            stack.append((each.src[0], (at[0], column), conditions, False))
        elif each.op is Op.ATTEND:
            stack.extend((*read, conditions, False) for read in attended(each, at, counters))
        elif each.op is Op.REDUCE:
            found.append(Access(each, ZERO, at, conditions, inline=True))
            _, axes = each.arg
            wide = each.src[0].shape
            inner = tuple(
                of(counters.loop(d.hi if isinstance(d, Sym) else d)) if a in axes else i
                for a, (i, d) in enumerate(zip(at, wide, strict=True))
            )
            stack.append((each.src[0], inner, conditions, False))
        elif each.src:
            inner, more = through(each, at)
            stack.append((each.src[0], inner, (*conditions, *more), False))
    return found

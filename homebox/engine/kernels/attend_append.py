"""Kernels of stores whose places all differ, as when new keys and values go into their pages.

Such a store (argument "unique") needs no order, so that its elements are work units. Its index is
taken apart symbolically: where it moves with the lanes by one, sixteen numbers are written side by
side. A choice by the first axis (keys or values) becomes two halves, each without the other's work.
Invariant: what is written, and where, is what the graph says; an index that cannot be taken apart
is left to the general kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.attend_reads import descend
from homebox.engine.fusion.schedule import Lowered, MapSchedule, Units
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.indexing import Counters, holds
from homebox.engine.graph.ops import Node, Op, Sym, memory_of, numel_max
from homebox.engine.graph.symbolic import ZERO, Index, Loaded, of, replace
from homebox.engine.kernels.loops import LANES, Emitter

Guard = tuple[Node, tuple[Index, ...], bool]  # a bool node, where, and what it must be


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element goes: a flat position, if all guards hold."""

    flat: Index
    guards: tuple[Guard, ...]


def lower_unique(root: Node, realised: frozenset[Node], syms: list[Sym]) -> Lowered | None:
    """Return the kernel of a STORE with distinct places; None if its index is not understood."""
    target, value, index = root.src
    shape = value.shape
    fixed = [d for d in shape if isinstance(d, int)]
    if len(target.shape) != 1 or index.shape != shape or len(fixed) != len(shape) or not fixed:
        return None
    return _Store(root, realised, syms, fixed).lower()


class _Store:
    """The lowering of one store; `lower` is its only entrance."""

    def __init__(
        self, root: Node, realised: frozenset[Node], syms: list[Sym], shape: Sequence[int]
    ) -> None:
        self.root, self.shape = root, tuple(shape)
        self.counters = Counters()
        self.e = Emitter(realised, self.counters, syms)
        self.e.written.add(memory_of(root))
        self.rows = [self.counters.loop(d) for d in self.shape[:-1]]
        self.block = self.counters.loop(-(-self.shape[-1] // LANES))
        self.lane = self.counters.loop(LANES)

    def lower(self) -> Lowered | None:
        """Return the kernel, None if the index is not understood."""
        e, b = self.e, self.e.b
        last = of(self.block) * LANES + of(self.lane)
        at = (*(of(x) for x in self.rows), last)
        halves = [at] if self.shape[0] != 2 else [(Index(i), *at[1:]) for i in range(2)]
        places = [place_of(self.root.src[2], half) for half in halves]
        known = [p for p in places if p is not None and self._simple(p)]
        if len(known) < len(halves):
            return None
        self.pointer = e.pointer(self.root, written=True)
        inner = self.rows[1:] if len(halves) == 2 else self.rows
        count = 1
        for counter in inner:
            count *= counter.size
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        with b.loop(lo, hi) as unit:
            rest = unit
            # The first axis runs fastest: neighbouring positions share the lines they write to.
            for counter in inner:
                size = b.int(counter.size)
                e.env[counter] = b.emit("mod", dt.i64, 1, (rest, size))
                rest = b.emit("idiv", dt.i64, 1, (rest, size))
            for i, (half, place) in enumerate(zip(halves, known, strict=True)):
                if len(halves) == 1:
                    self._row(half, place)
                    continue
                with b.when(b.emit("eq", dt.boolean, 1, (rest, b.int(i)))):
                    self._row(half, place)
        units = Units(count * len(halves))
        return Lowered(b.kernel(), tuple(e.memory), units, MapSchedule(0, 0), self.shape[-1])

    def _simple(self, place: Place) -> bool:
        """Whether a place moves evenly with the lanes, and what guards it not at all."""
        lanes = (self.lane, self.block)
        moving = any(i.depends(x) for _, at, _ in place.guards for i in at for x in lanes)
        return place.flat.linear_in(self.lane) and not moving

    def _row(self, at: tuple[Index, ...], place: Place) -> None:
        """Write one row if its guards hold and it lies inside."""
        e, b = self.e, self.e.b
        allowed: Value | None = None
        for node, where, wanted in place.guards:
            found = e.value(node, where)
            if not wanted:
                found = b.alu("xor", found, b.const(True, dt.boolean))
            allowed = found if allowed is None else b.alu("and", allowed, found)
        if allowed is None:
            self._lanes(at, place)
            return
        with b.when(allowed):
            self._lanes(at, place)

    def _lanes(self, at: tuple[Index, ...], place: Place) -> None:
        e, b = self.e, self.e.b
        edge = tuple(c for c in ((at[-1], self.shape[-1]),) if not holds(c))
        step = place.flat.coefficient(self.lane)
        base = replace(place.flat, self.lane, ZERO)
        casts, source, inner = peeled(self.root.src[1], at, e.realised)
        with b.loop(b.int(0), b.int(self.block.size)) as i, e.lanes(self.lane):
            e.env[self.block] = i
            value = b.splat(e.value(source, inner, edge), LANES)
            for kind in reversed(casts):
                value = e.converted(value, kind)
            mask = e.mask(edge)
            start = e.integer(base)
            # The general rule for an index outside: nothing is written.
            far = b.int(step * (min(self.shape[-1], LANES) - 1))
            if edge:
                far = b.alu("sub", b.int(self.shape[-1] - 1), b.mul(i, b.int(LANES)))
                far = b.mul(b.emit("min", dt.i64, 1, (far, b.int(LANES - 1))), b.int(step))
            total = b.int(numel_max(self.root.src[0].shape))
            inside = b.alu("lt", b.int(-1), start)
            inside = b.alu("and", inside, b.alu("lt", b.add(start, far), total))
            with b.when(inside):
                self._write(start, step, value, mask)

    def _write(self, start: Value, step: int, value: Value, mask: Value | None) -> None:
        b = self.e.b
        if step == 1:
            b.store(self.pointer, start, value, mask)
            return
        lanes = b.alu("mul", b.cast(b.lane(LANES), dt.i64), b.const(step, dt.i64, LANES))
        b.store(self.pointer, b.alu("add", b.splat(start, LANES), lanes), value, mask)


# -- taking an index apart ------------------------------------------------------------------------


def place_of(n: Node, index: tuple[Index, ...]) -> Place | None:
    """Return n[index], an int32 expression, symbolically; None if it is not understood.

    A choice between -1 and something becomes a guard: -1 stands for "nowhere".
    """
    guards: list[Guard] = []
    while True:
        n, index, conditions = descend(n, index, ())
        if conditions:
            return None
        if n.op is not Op.WHERE:
            break
        chosen = known(n.src[0], index)
        if chosen is not None:
            n = n.src[1] if chosen else n.src[2]
            continue
        nowhere = [number(s, index) == Index(-1) for s in n.src[1:]]
        if not any(nowhere):
            return None
        condition, where, inside = descend(n.src[0], index, ())
        if inside:
            return None
        guards.append((condition, where, not nowhere[0]))
        n = n.src[2] if nowhere[0] else n.src[1]
    flat = number(n, index)
    return None if flat is None else Place(flat, tuple(guards))


def known(n: Node, index: tuple[Index, ...]) -> bool | None:
    """Return a comparison's truth if it is the same wherever the counters stand, else None."""
    n, index, conditions = descend(n, index, ())
    if n.op not in (Op.EQ, Op.LT) or conditions:
        return None
    a, b = (number(s, index) for s in n.src)
    if a is None or b is None or a.terms or b.terms:
        return None
    return a.const == b.const if n.op is Op.EQ else a.const < b.const


def number(n: Node, index: tuple[Index, ...], depth: int = 0) -> Index | None:
    """Return the int32 n[index] as an index expression; None if it is something else."""
    n, index, conditions = descend(n, index, ())
    if conditions or n.dtype is not dt.i32 or depth > 32:
        return None
    if n.op is Op.CONST:
        return Index(int(n.arg))
    if n.op is Op.IOTA:
        return index[0]
    if n.op is Op.VAR:
        return of(n.arg)
    if n.op in (Op.BUFFER, Op.STORE, Op.COPY, Op.MAX):
        return of(Loaded(n, index))  # memory, or a number that is as good as read
    if n.op not in (Op.ADD, Op.MUL, Op.IDIV, Op.MOD):
        return None
    a, b = (number(s, index, depth + 1) for s in n.src)
    if a is None or b is None:
        return None
    if n.op is Op.ADD:
        return a + b
    if b.terms or (n.op is not Op.MUL and b.const <= 0):
        return None
    if n.op is Op.MUL:
        return a * b.const
    return a // b.const if n.op is Op.IDIV else a % b.const


def peeled(
    n: Node, index: tuple[Index, ...], realised: frozenset[Node]
) -> tuple[list[DType], Node, tuple[Index, ...]]:
    """Return what a value is computed from: conversions, outermost first, and the source."""
    casts: list[DType] = []
    while n not in realised:
        inner, at, conditions = descend(n, index, ())
        if conditions or inner in realised:
            break
        n, index = inner, at
        if n.op is Op.CAST:
            casts.append(n.dtype)
            n = n.src[0]
            continue
        chosen = known(n.src[0], index) if n.op is Op.WHERE else None
        if chosen is None:
            break
        n = n.src[1] if chosen else n.src[2]
    return casts, n, index

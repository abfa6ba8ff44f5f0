"""Kernels that compute each element of an output: elementwise, row and column sums, copies, stores.

The output's axes are joined where memory allows, the last one runs in sixteen lanes, the others are
work units. A sum inside becomes a loop of its own: along a row if it is the same for all lanes,
else down the columns, one in each lane.
Invariant: units write different elements, so they may run in any order; what must run in order (an
indexed store) lies within one unit.
"""

from dataclasses import dataclass

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.schedule import Lowered, MapSchedule, Units, units_of
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Access, Conditions, Counters, accesses, holds
from homebox.engine.graph.ops import Dim, Node, Op, Shape, Sym, memory_of, size_max
from homebox.engine.graph.symbolic import ZERO, Index, Loaded, Loop, flatten, of, replace, unflatten
from homebox.engine.kernels.loops import LANES, Emitter

SHORTEST = 4  # an axis shorter than this does not run in lanes
LONG, BLOCK = 2048, 1024  # a longer axis is cut into blocks if there are few other units
FEW_UNITS = 64


@dataclass(frozen=True, slots=True)
class Walk:
    """The loops over an output, outermost first, and the index of the element they reach.

    The first `sequential` loops run in order, loop `vector` in lanes, `block` to a unit (0 = all).
    """

    counters: tuple[Loop, ...]
    index: tuple[Index, ...]
    sizes: tuple[Dim, ...]
    vector: int | None
    sequential: int
    block: int

    @property
    def outer(self) -> list[int]:
        """The loops that become units."""
        return [i for i in range(self.sequential, len(self.sizes)) if i != self.vector]


class MapLowering:
    """The lowering of one region without a contraction."""

    def __init__(self, root: Node, realised: frozenset[Node], syms: list[Sym]) -> None:
        self.root = root
        self.counters = Counters()
        self.e = Emitter(realised, self.counters, syms)
        self.e.written.add(memory_of(root))
        self.realised = realised
        self.source = root.src[1] if root.op is Op.STORE else root
        self.columns = False  # a sum runs down columns, in lanes along the output
        self.shape: Shape = self.source.shape

    def lower(self) -> Lowered:
        """Return the kernel."""
        each = [self.counters.loop(size_max(d)) for d in self.shape]
        index = tuple(of(x) for x in each)
        reads = accesses(self.root, index, self.realised, self.counters)
        flats = [r.flat for r in reads] + [i for r in reads for i in self._extra(r)]
        groups = self._groups(each, flats)
        counters, index = self._merge(groups)
        sizes = [self._size(g) for g in groups]
        vector = self._vector(counters, index, sizes)
        has_rows = any(r.inline for r in reads)
        sequential = self._sequential(len(sizes)) if self._indexed() else 0
        outer = [i for i in range(sequential, len(sizes)) if i != vector]
        block = self._block(sizes, vector, outer, has_rows)
        walk = Walk(tuple(counters), index, tuple(sizes), vector, sequential, block)
        return self._emit(walk, has_rows)

    # -- analysis -------------------------------------------------------------------------------

    def _extra(self, read: Access) -> list[Index]:
        indices = [i for i, _ in read.conditions]
        return indices + (list(read.index) if read.inline else [])

    def _groups(self, each: list[Loop], flats: list[Index]) -> list[list[int]]:
        """Join neighbouring axes that every read walks through like one."""
        groups: list[list[int]] = []
        indexed = self._indexed()
        for axis, dim in enumerate(self.shape):
            if dim == 1:
                continue
            if groups and not indexed and self._joins(each, groups[-1][-1], axis, flats):
                groups[-1].append(axis)
            else:
                groups.append([axis])
        return groups

    def _joins(self, each: list[Loop], a: int, b: int, flats: list[Index]) -> bool:
        inner = self.shape[b]
        if isinstance(inner, Sym) or isinstance(self.shape[a], Sym):
            return False
        for flat in flats:
            if not (flat.linear_in(each[a]) and flat.linear_in(each[b])):
                return False
            if flat.coefficient(each[a]) != inner * flat.coefficient(each[b]):
                return False
        return True

    def _size(self, group: list[int]) -> Dim:
        if len(group) == 1:
            return self.shape[group[0]]
        total = 1
        for axis in group:
            total *= size_max(self.shape[axis])
        return total

    def _merge(self, groups: list[list[int]]) -> tuple[list[Loop], tuple[Index, ...]]:
        """Return one counter per group, and the index of the output in terms of them."""
        index: list[Index] = [ZERO] * len(self.shape)
        counters = []
        for group in groups:
            counter = self.counters.loop(size_max(self._size(group)))
            counters.append(counter)
            parts = unflatten(of(counter), tuple(self.shape[a] for a in group))
            for axis, part in zip(group, parts, strict=True):
                index[axis] = part
        return counters, tuple(index)

    def _vector(
        self, counters: list[Loop], index: tuple[Index, ...], sizes: list[Dim]
    ) -> int | None:
        """Return the place of the loop that runs in lanes: the last one, unless a sum is there."""
        if not counters:
            return None
        last = len(counters) - 1
        if size_max(sizes[last]) < SHORTEST:
            return None
        if self._indexed() and self.root.arg == "add" and last < self._sequential(len(sizes)):
            return None  # lanes that add to the same row would not see each other
        for read in accesses(self.root, index, self.realised, self.counters):
            if read.inline and any(i.depends(counters[last]) for i in read.index):
                self.columns = True
                return last if self._column_wise(read.node, read.index, counters[last]) else None
        return last

    def _column_wise(self, n: Node, index: tuple[Index, ...], counter: Loop) -> bool:
        """Whether the memory that a reduction reads lies side by side along this counter."""
        for read in accesses(n, index, self.realised, self.counters):
            if read.node is not n and read.flat.depends(counter):
                return read.flat.linear_in(counter) and read.flat.coefficient(counter) == 1
        return False

    def _indexed(self) -> bool:
        return self.root.op is Op.STORE and len(self.root.src) > 2

    def _sequential(self, loops: int) -> int:
        """An indexed store runs through its index in order: these first loops are not split."""
        if self.root.arg == "unique":
            return 0
        rank = sum(1 for d in self.root.src[2].shape if d != 1)
        return min(rank, loops)

    def _block(self, sizes: list[Dim], vector: int | None, outer: list[int], has_rows: bool) -> int:
        """Return the length of a unit along the vector axis; 0 = the whole axis."""
        if vector is None or isinstance(sizes[vector], Sym):
            return 0
        size = size_max(sizes[vector])
        if has_rows and not self.columns:
            return 0
        if has_rows:
            return LANES if size > LANES else 0
        units = 1
        for i in outer:
            units *= size_max(sizes[i])
        if self._indexed():
            ordered = vector < self._sequential(len(sizes))
            return LANES if size > LANES and not ordered else 0
        return BLOCK if size > LONG and units < FEW_UNITS else 0

    # -- emission -------------------------------------------------------------------------------

    def _emit(self, walk: Walk, has_rows: bool) -> Lowered:
        e, b, block, vector = self.e, self.e.b, walk.block, walk.vector
        units = units_of([walk.sizes[i] for i in walk.outer])
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        blocks: int | None = None
        if block and vector is not None:
            blocks = -(-size_max(walk.sizes[vector]) // block)
            units = Units(units.fixed * blocks, units.dynamic)
        with b.loop(lo, hi) as unit:
            rest = unit
            start: Value | None = None
            if blocks is not None:
                start = b.mul(b.emit("mod", dt.i64, 1, (rest, b.int(blocks))), b.int(block))
                rest = b.emit("idiv", dt.i64, 1, (rest, b.int(blocks)))
            for place, i in enumerate(reversed(walk.outer)):
                size = e.extent(walk.sizes[i])
                last = place == len(walk.outer) - 1
                e.env[walk.counters[i]] = rest if last else b.emit("mod", dt.i64, 1, (rest, size))
                if not last:
                    rest = b.emit("idiv", dt.i64, 1, (rest, size))
            self._nest(walk, 0, start)
        work = self._work(walk, has_rows)
        return Lowered(b.kernel(), tuple(e.memory), units, MapSchedule(vector, block), work)

    def _work(self, walk: Walk, has_rows: bool) -> int:
        """Return roughly how many elements a unit touches."""
        work = walk.block
        if not work:
            work = 1 if walk.vector is None else size_max(walk.sizes[walk.vector])
        for size in walk.sizes[: walk.sequential]:
            work *= size_max(size)
        if has_rows and self.source.src:
            work = max(work, max((size_max(d) for d in self.source.src[0].shape), default=1))
        return max(work, 1)

    def _nest(self, walk: Walk, place: int, start: Value | None) -> None:
        """Open the loops that run in order from `place` on, then write what lies inside."""
        e, b = self.e, self.e.b
        if place < walk.sequential and place != walk.vector:
            with b.loop(b.int(0), e.extent(walk.sizes[place])) as i:
                e.env[walk.counters[place]] = i
                self._nest(walk, place + 1, start)
        elif walk.vector is None:
            self._write(walk.index, ())
        else:
            self._lanes(walk, walk.counters[walk.vector], walk.sizes[walk.vector], start)

    def _lanes(self, walk: Walk, counter: Loop, size: Dim, start: Value | None) -> None:
        """Walk the vector axis in steps of 16 lanes, the ragged end under a mask."""
        e, b = self.e, self.e.b
        lane = self.counters.loop(LANES)
        group = self.counters.loop(-(-size_max(size) // LANES))
        position = of(group) * LANES + of(lane)
        moved = tuple(replace(i, counter, position) for i in walk.index)
        total = e.extent(size)
        groups = b.emit("idiv", dt.i64, 1, (b.add(total, b.int(LANES - 1)), b.int(LANES)))
        whole = b.emit("idiv", dt.i64, 1, (total, b.int(LANES)))
        if isinstance(size, int):
            groups, whole = b.int(-(-size // LANES)), b.int(size // LANES)
        first = b.int(0)
        if start is not None:
            first = b.emit("idiv", dt.i64, 1, (start, b.int(LANES)))
            stop = b.add(first, b.int(walk.block // LANES))
            groups = b.emit("min", dt.i64, 1, (groups, stop))
            whole = b.emit("min", dt.i64, 1, (whole, stop))
        ragged = isinstance(size, Sym) or size % LANES != 0
        with e.lanes(lane):
            if size_max(size) >= LANES:
                with b.loop(first, whole) as i:
                    e.env[group] = i
                    self._write(moved, ())
            if ragged:
                edge = ((position, size),)
                first = whole if start is None else b.emit("max", dt.i64, 1, (first, whole))
                with b.loop(first, groups) as i:
                    e.env[group] = i
                    self._write(moved, tuple(c for c in edge if not holds(c)))

    def _write(self, index: tuple[Index, ...], edge: Conditions) -> None:
        """Compute the element at an index, 16 of them in lanes, and write it."""
        e = self.e
        if self.root.op is not Op.STORE:
            value = e.value(self.root, index, edge)
            e.store(self.root, flatten(index, self.shape), value, e.mask(edge))
            return
        target = self.root.src[0]
        e.pointer(target)
        conditions, place = edge, index
        if self._indexed():
            rows = self.root.src[2]
            rank = len(rows.shape)
            row = of(Loaded(rows, index[:rank]))
            place = (row, *index[rank:])
            conditions = (*edge, (row, target.shape[0]))
        flat = flatten(place, target.shape)
        value = e.value(self.source, index, edge)
        mask = e.mask(conditions)
        if self.root.arg != "add":
            e.store(target, flat, value, mask)
        elif mask is None or mask.lanes > 1 or e.lane is not None:
            e.store(target, flat, e.b.alu("add", e.load(target, place, conditions), value), mask)
        else:
            with e.b.when(mask):
                e.store(target, flat, e.b.alu("add", e.load(target, place, ()), value), None)

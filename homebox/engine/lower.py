"""Lowers regions to linear IR for CPUs: explicit lanes, loops over work units.

`lower` picks the schedule: a contraction gets a register tile over panels, everything else a map
over its output with lanes along the axis that lies side by side in memory.
"""

from dataclasses import dataclass

from homebox.engine import dtype as dt
from homebox.engine.contract import PANEL, classify, merged, operand, sides
from homebox.engine.fuse import Region
from homebox.engine.indexing import Conditions, Counters, accesses, holds
from homebox.engine.linear import Kernel, Value
from homebox.engine.loops import LANES, Emitter, memory_of
from homebox.engine.ops import MOVEMENT, Dim, Node, Op, Shape, Sym, size_max
from homebox.engine.schedule import (
    SEGMENT,
    ContractSchedule,
    MapSchedule,
    Units,
    contract_schedule,
)
from homebox.engine.symbolic import ZERO, Index, Loaded, Loop, flatten, of, replace, unflatten


@dataclass(frozen=True, slots=True)
class Lowered:
    """A kernel, the node behind each of its parameters, and how much work there is."""

    kernel: Kernel
    memory: tuple[Node, ...]
    units: Units
    schedule: ContractSchedule | MapSchedule
    work: int  # multiply-adds or elements per unit, roughly


def lower(region: Region, realised: frozenset[Node], syms: list[Sym], level: str) -> Lowered:
    """Return the kernel of a region for a CPU of this level (avx512, avx2, generic)."""
    inside = realised - {region.root}
    if region.core is not None:
        lowered = ContractLowering(region, inside, syms, level).lower()
        if lowered is not None:
            return lowered
    return MapLowering(region.root, inside, syms).lower()


class MapLowering:
    """Elementwise kernels, row and column reductions, copies and stores."""

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
        each = [self.counters.loop(size_max(d)) for d in self.shape]
        index = tuple(of(x) for x in each)
        reads = accesses(self.root, index, self.realised, self.counters)
        groups = self._groups(
            each, [r.flat for r in reads] + [i for r in reads for i in self._extra(r)]
        )
        ordered = self._indexed()
        counters, index = self._merge(groups)
        sizes = [self._size(g) for g in groups]
        vector = self._vector(counters, index, sizes)
        has_rows = any(r.inline for r in reads)
        return self._emit(counters, index, sizes, vector, has_rows, ordered)

    def _extra(self, read: object) -> list[Index]:
        from homebox.engine.indexing import Access

        assert isinstance(read, Access)
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
        if size_max(sizes[last]) < 4:
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

    def _emit(
        self,
        counters: list[Loop],
        index: tuple[Index, ...],
        sizes: list[Dim],
        vector: int | None,
        has_rows: bool,
        ordered: bool,
    ) -> Lowered:
        e, b = self.e, self.e.b
        sequential = self._sequential(len(sizes)) if ordered else 0
        outer = [i for i in range(sequential, len(sizes)) if i != vector]
        block = self._block(sizes, vector, outer, has_rows)
        units = _units([sizes[i] for i in outer])
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        blocks: Dim | None = None
        if block and vector is not None:
            blocks = -(-size_max(sizes[vector]) // block)
            units = Units(units.fixed * blocks, units.dynamic)
        with b.loop(lo, hi) as unit:
            rest = unit
            start: Value | None = None
            if blocks is not None:
                start = b.mul(b.emit("mod", dt.i64, 1, (rest, b.int(blocks))), b.int(block))
                rest = b.emit("idiv", dt.i64, 1, (rest, b.int(blocks)))
            for place, i in enumerate(reversed(outer)):
                size = e.extent(sizes[i])
                last = place == len(outer) - 1
                e.env[counters[i]] = rest if last else b.emit("mod", dt.i64, 1, (rest, size))
                if not last:
                    rest = b.emit("idiv", dt.i64, 1, (rest, size))
            self._nest(list(range(sequential)), counters, index, sizes, vector, start, block)
        work = (size_max(sizes[vector]) if vector is not None else 1) if not block else block
        for i in range(sequential):
            work *= size_max(sizes[i])
        if has_rows:
            work = max(work, max((size_max(d) for d in self._summed()), default=1))
        kernel = b.kernel()
        return Lowered(kernel, tuple(e.memory), units, MapSchedule(vector, block), max(work, 1))

    def _summed(self) -> Shape:
        return self.source.src[0].shape if self.source.src else ()

    def _indexed(self) -> bool:
        return self.root.op is Op.STORE and len(self.root.src) > 2

    def _sequential(self, loops: int) -> int:
        """An indexed store runs through its index in order: these first loops are not split."""
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
        return 1024 if size > 2048 and units < 64 else 0

    def _nest(
        self,
        sequential: list[int],
        counters: list[Loop],
        index: tuple[Index, ...],
        sizes: list[Dim],
        vector: int | None,
        start: Value | None,
        block: int,
    ) -> None:
        e, b = self.e, self.e.b
        if sequential and sequential[0] != vector:
            with b.loop(b.int(0), e.extent(sizes[sequential[0]])) as i:
                e.env[counters[sequential[0]]] = i
                self._nest(sequential[1:], counters, index, sizes, vector, start, block)
            return
        if vector is None:
            self._write(index, ())
            return
        self._lanes(counters[vector], index, sizes[vector], start, block)

    def _lanes(
        self, counter: Loop, index: tuple[Index, ...], size: Dim, start: Value | None, block: int
    ) -> None:
        """Walk the vector axis in steps of 16 lanes, the ragged end under a mask."""
        e, b = self.e, self.e.b
        lane = self.counters.loop(LANES)
        group = self.counters.loop(-(-size_max(size) // LANES))
        position = of(group) * LANES + of(lane)
        moved = tuple(replace(i, counter, position) for i in index)
        total = e.extent(size)
        groups = b.emit("idiv", dt.i64, 1, (b.add(total, b.int(LANES - 1)), b.int(LANES)))
        whole = b.emit("idiv", dt.i64, 1, (total, b.int(LANES)))
        if isinstance(size, int):
            groups, whole = b.int(-(-size // LANES)), b.int(size // LANES)
        first = b.int(0)
        if start is not None:
            first = b.emit("idiv", dt.i64, 1, (start, b.int(LANES)))
            stop = b.add(first, b.int(block // LANES))
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
        e = self.e
        if self.root.op is not Op.STORE:
            value = e.value(self.root, index, edge)
            e.store(self.root, flatten(index, self.shape), value, e.mask(edge))
            return
        target = self.root.src[0]
        e.pointer(target)
        conditions = edge
        flat = flatten(index, self.shape)
        place = index
        if len(self.root.src) > 2:
            rows = self.root.src[2]
            rank = len(rows.shape)
            row = of(Loaded(rows, index[:rank]))
            place = (row, *index[rank:])
            flat = flatten(place, target.shape)
            conditions = (*edge, (row, target.shape[0]))
        value = e.value(self.source, index, edge)
        mask = e.mask(conditions)
        if self.root.arg == "set":
            e.store(target, flat, value, mask)
        elif mask is None or mask.lanes > 1 or e.lane is not None:
            e.store(target, flat, e.b.alu("add", e.load(target, place, conditions), value), mask)
        else:
            with e.b.when(mask):
                e.store(target, flat, e.b.alu("add", e.load(target, place, ()), value), None)


def _units(sizes: list[Dim]) -> Units:
    fixed, dynamic = 1, []
    for size in sizes:
        if isinstance(size, Sym):
            dynamic.append((size, 1))
        else:
            fixed *= size
    return Units(fixed, tuple(dynamic))


class ContractLowering:
    """A contraction with its epilogue, as register tiles over panels of 16 outputs."""

    def __init__(
        self, region: Region, realised: frozenset[Node], syms: list[Sym], level: str
    ) -> None:
        assert region.core is not None
        self.root, self.core = region.root, region.core
        self.counters = Counters()
        self.e = Emitter(realised, self.counters, syms)
        self.e.written.add(memory_of(region.root))
        self.level = level
        self.chain = self._find_chain()

    def _find_chain(self) -> list[Node]:
        """Return the nodes from the contraction (exclusive) up to the root (inclusive)."""
        chain: list[Node] = []
        current = self.root
        while current is not self.core:
            chain.append(current)
            nexts = [s for s in current.src if _reaches(s, self.core, self.e.realised)]
            current = nexts[0]
        return list(reversed(chain))

    def lower(self) -> Lowered | None:
        axes = classify(self.core)
        if axes is None:
            return None
        product = self.core.src[0]
        shape = product.shape
        self.axes, self.shape = axes, shape
        a_node, b_node = sides(self.core, axes)
        each = [self.counters.loop(size_max(d)) for d in shape]
        self.each = each
        blocks = -(-size_max(shape[axes.n]) // PANEL)
        self.panel, self.lane = self.counters.loop(blocks), self.counters.loop(PANEL)
        index = [of(x) for x in each]
        self.a = operand(a_node, tuple(index))
        index[axes.n] = of(self.panel) * PANEL + of(self.lane)
        self.b = operand(b_node, tuple(index))
        if not self._readable():
            return None
        self._merge_axes()
        self.schedule = contract_schedule(self.level, self.m_size, shape[axes.n])
        if isinstance(shape[axes.n], Sym) and blocks % self.schedule.panels:
            return None
        return self._emit()

    def _readable(self) -> bool:
        axes, each = self.axes, self.each
        a_loops = [each[i] for i in (*axes.k, *axes.m, *axes.batch)]
        b_loops = [each[i] for i in (*axes.k, *axes.batch)] + [self.panel, self.lane]
        return (
            not self.a.conditional
            and not self.b.conditional
            and all(self.a.flat.linear_in(x) for x in a_loops)
            and all(self.b.flat.linear_in(x) for x in b_loops)
            and self.b.flat.coefficient(self.lane) == 1
        )

    def _merge_axes(self) -> None:
        """Join inner m axes, and inner k axes, where memory allows to walk them as one."""
        axes, shape = self.axes, self.shape
        a_k = [self.a.flat.coefficient(self.each[i]) for i in axes.k]
        b_k = [self.b.flat.coefficient(self.each[i]) for i in axes.k]
        count = merged([(i, shape[i]) for i in axes.k], [a_k, b_k])
        self.k_outer, self.k_inner = axes.k[:-count], axes.k[-count:]
        self.k_steps = (a_k[-1], b_k[-1])
        m = axes.m
        count = 1
        if m:
            a_m = [self.a.flat.coefficient(self.each[i]) for i in m]
            count = merged([(i, shape[i]) for i in m], [a_m])
            self.m_step = a_m[-1]
        self.m_inner = m[-count:] if m else ()
        self.outer = (*axes.batch, *(m[:-count] if m else ()))
        self.m_size: Dim = self._product(self.m_inner)
        self.k_size: Dim = self._product(self.k_inner)

    def _product(self, places: tuple[int, ...]) -> Dim:
        if len(places) == 1:
            return self.shape[places[0]]
        total = 1
        for i in places:
            total *= size_max(self.shape[i])
        return total

    # -- emission -------------------------------------------------------------------------------

    def _emit(self) -> Lowered:
        e, b, s = self.e, self.e.b, self.schedule
        self.a_pointer, self.b_pointer = e.pointer(self.a.base), e.pointer(self.b.base)
        n = self.shape[self.axes.n]
        wide = PANEL * s.panels
        n_blocks: Value = (
            b.int(-(-n // wide))
            if isinstance(n, int)
            else b.emit("idiv", dt.i64, 1, (b.add(e.extent(n), b.int(wide - 1)), b.int(wide)))
        )
        m_blocks: Value
        tall = s.rows * s.tiles
        m = self.m_size
        if isinstance(m, int):
            m_count = -(-m // tall)
            m_blocks = b.int(m_count)
        else:
            m_blocks = b.emit("idiv", dt.i64, 1, (b.add(e.extent(m), b.int(tall - 1)), b.int(tall)))
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        with b.loop(lo, hi) as unit:
            m_block = b.emit("mod", dt.i64, 1, (unit, m_blocks))
            rest = b.emit("idiv", dt.i64, 1, (unit, m_blocks))
            self.n_block = b.emit("mod", dt.i64, 1, (rest, n_blocks))
            rest = b.emit("idiv", dt.i64, 1, (rest, n_blocks))
            for i in reversed(self.outer):
                size = e.extent(self.shape[i])
                e.env[self.each[i]] = b.emit("mod", dt.i64, 1, (rest, size))
                rest = b.emit("idiv", dt.i64, 1, (rest, size))
            self.n_loop = self.counters.loop(-(-size_max(n) // wide))
            e.env[self.n_loop] = self.n_block
            self._rows(m_block)
        units = _units([self.shape[i] for i in self.outer])
        fixed, dynamic = units.fixed, list(units.dynamic)
        for dim, by in ((n, wide), (m, tall)):
            if isinstance(dim, Sym):
                dynamic.append((dim, by))
            else:
                fixed *= -(-dim // by)
        k_total = size_max(self.k_size)
        for i in self.k_outer:
            k_total *= size_max(self.shape[i])
        work = max(min(size_max(m), tall) * wide * k_total, 1)
        return Lowered(
            b.kernel(), tuple(e.memory), Units(fixed, tuple(dynamic)), self.schedule, work
        )

    def _rows(self, m_block: Value) -> None:
        """Walk the unit's tiles down m: full tiles in a loop, then what is left."""
        e, b, s = self.e, self.e.b, self.schedule
        m = self.m_size
        if m == 1:
            self._tile(ZERO, 1)
            return
        tile = self.counters.loop(-(-size_max(m) // s.rows))
        first = b.mul(m_block, b.int(s.tiles))
        stop = b.add(first, b.int(s.tiles))
        if isinstance(m, int):
            full = b.int(m // s.rows)
        else:
            full = b.emit("idiv", dt.i64, 1, (e.extent(m), b.int(s.rows)))
        last = b.emit("min", dt.i64, 1, (full, stop))
        with b.loop(first, last) as i:
            e.env[tile] = i
            self._tile(of(tile) * s.rows, s.rows)
        if isinstance(m, int) and m % s.rows:
            base = m // s.rows * s.rows
            with b.when(b.alu("lt", full, stop)):
                self._tile(Index(base), m % s.rows)
        elif isinstance(m, Sym):
            row = self.counters.loop(m.hi)
            begin = b.mul(full, b.int(s.rows))
            end = b.emit("min", dt.i64, 1, (e.extent(m), b.mul(stop, b.int(s.rows))))
            with b.loop(b.emit("max", dt.i64, 1, (begin, b.mul(first, b.int(s.rows)))), end) as i:
                e.env[row] = i
                self._tile(of(row), 1)

    def _tile(self, top: Index, rows: int) -> None:
        """Emit one register tile of `rows` x panels: the sum over k, then the epilogue."""
        e, b, s = self.e, self.e.b, self.schedule
        zero = b.const(0.0, dt.f32, LANES)
        m_places = self._split(top, self.m_inner)
        a_base = self._without_k(self.a.flat, m_places, None)
        b_base = self._without_k(self.b.flat, {}, of(self.n_loop) * s.panels)
        segmented = bool(self.k_outer) or size_max(self.k_size) > SEGMENT
        totals = [[b.reg(zero) for _ in range(s.panels)] for _ in range(rows)]
        if segmented:
            self._outer_k(list(self.k_outer), a_base, b_base, totals, rows)
        else:
            self._inner_k(
                e.integer(a_base), e.integer(b_base), b.int(0), e.extent(self.k_size), totals
            )
        for r in range(rows):
            for v in range(s.panels):
                self._finish(top + r, v, b.get(totals[r][v]))

    def _split(self, row: Index, places: tuple[int, ...]) -> dict[int, Index]:
        """Return the index along each of the merged axes for a position along all of them."""
        parts = unflatten(row, tuple(self.shape[i] for i in places)) if places else ()
        return dict(zip(places, parts, strict=True))

    def _without_k(self, flat: Index, places: dict[int, Index], panel: Index | None) -> Index:
        out = flat
        for i in self.axes.k:
            out = replace(out, self.each[i], ZERO)
        for i, part in places.items():
            out = replace(out, self.each[i], part)
        if panel is not None:
            out = replace(replace(out, self.panel, panel), self.lane, ZERO)
        return out

    def _outer_k(
        self,
        places: list[int],
        a_base: Index,
        b_base: Index,
        totals: list[list[Value]],
        rows: int,
    ) -> None:
        """Loop over k axes that cannot be joined, then over segments; add up partial sums."""
        e, b = self.e, self.e.b
        if places:
            i = places[0]
            with b.loop(b.int(0), e.extent(self.shape[i])) as counter:
                e.env[self.each[i]] = counter
                step = of(self.each[i])
                a_next = a_base + step * self.a.flat.coefficient(self.each[i])
                b_next = b_base + step * self.b.flat.coefficient(self.each[i])
                self._outer_k(places[1:], a_next, b_next, totals, rows)
            return
        size = e.extent(self.k_size)
        zero = b.const(0.0, dt.f32, LANES)
        with b.loop(b.int(0), size, SEGMENT) as begin:
            end = b.emit("min", dt.i64, 1, (b.add(begin, b.int(SEGMENT)), size))
            parts = [[b.reg(zero) for _ in row] for row in totals]
            self._inner_k(e.integer(a_base), e.integer(b_base), begin, end, parts)
            for row, part_row in zip(totals, parts, strict=True):
                for total, part in zip(row, part_row, strict=True):
                    b.set(total, b.alu("add", b.get(total), b.get(part)))

    def _inner_k(
        self, a_base: Value, b_base: Value, begin: Value, end: Value, acc: list[list[Value]]
    ) -> None:
        """The hot loop: for each k, load the panels, broadcast each row of a, multiply and add."""
        b, unroll = self.e.b, self.schedule.unroll
        a_step, b_step = self.k_steps
        size = self.k_size
        static = begin.constant == 0 and isinstance(size, int) and end.constant == size

        def steps(k: Value, count: int) -> None:
            a_at = b.add(a_base, b.mul(k, b.int(a_step)))
            b_at = b.add(b_base, b.mul(k, b.int(b_step)))
            for u in range(count):
                self._multiply(a_at, b_at, u, acc)

        if static and isinstance(size, int):
            body = size // unroll * unroll
            if body:
                with b.loop(b.int(0), b.int(body), unroll) as k:
                    steps(k, unroll)
            if size % unroll:
                steps(b.int(body), size % unroll)
            return
        length = b.alu("sub", end, begin)
        whole = b.mul(b.emit("idiv", dt.i64, 1, (length, b.int(unroll))), b.int(unroll))
        middle = b.add(begin, whole)
        with b.loop(begin, middle, unroll) as k:
            steps(k, unroll)
        with b.loop(middle, end) as k:
            steps(k, 1)

    def _multiply(self, a_at: Value, b_at: Value, u: int, acc: list[list[Value]]) -> None:
        b = self.e.b
        a_step, b_step = self.k_steps
        panel_step = self.b.flat.coefficient(self.panel)
        panels = [
            b.load(self.b_pointer, b.add(b_at, b.int(v * panel_step + u * b_step)), LANES)
            for v in range(len(acc[0]))
        ]
        for r, row in enumerate(acc):
            place = b.add(a_at, b.int(r * (self.m_step if self.m_inner else 0) + u * a_step))
            factor = b.splat(b.load(self.a_pointer, place), LANES)
            for total, panel in zip(row, panels, strict=True):
                b.set(total, b.alu("fma", factor, panel, b.get(total)))

    def _finish(self, row: Index, v: int, total: Value) -> None:
        """Compute the epilogue for one row of one panel and write it."""
        e = self.e
        n = self.shape[self.axes.n]
        column = (of(self.n_loop) * self.schedule.panels + v) * PANEL + of(self.lane)
        index = [of(x) if i in self.outer else ZERO for i, x in enumerate(self.each)]
        for i, part in self._split(row, self.m_inner).items():
            index[i] = part
        index[self.axes.n] = column
        at = tuple(index)
        for each in self.chain:
            at = _forward(each, at)
        ragged = isinstance(n, Sym) or n % (PANEL * self.schedule.panels) != 0
        edge: Conditions = ((column, n),) if ragged and not holds((column, n)) else ()
        e.override = {self.core: lambda: total}
        e._memo.clear()
        with e.lanes(self.lane):
            if self.root.op is Op.STORE:
                target = self.root.src[0]
                value = e.value(self.root.src[1], at, edge)
                if self.root.arg == "add":
                    value = e.b.alu("add", e.load(target, at, edge), value)
                e.store(target, flatten(at, target.shape), value, e.mask(edge))
            else:
                value = e.value(self.root, at, edge)
                e.store(self.root, flatten(at, self.root.shape), value, e.mask(edge))


def _reaches(n: Node, core: Node, realised: frozenset[Node]) -> bool:
    """Whether a contraction lies below a node without memory in between."""
    stack, seen = [n], {n}
    while stack:
        each = stack.pop()
        if each is core:
            return True
        if each in realised:
            continue
        for source in each.src:
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return False


def _forward(n: Node, index: tuple[Index, ...]) -> tuple[Index, ...]:
    """Return the index of an element after a node of the epilogue."""
    if n.op is Op.RESHAPE:
        return unflatten(flatten(index, n.src[0].shape), n.shape)
    if n.op is Op.PERMUTE:
        return tuple(index[axis] for axis in n.arg)
    return index

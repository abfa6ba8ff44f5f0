"""Kernels of contractions: register tiles of rows x panels of 16 outputs, then the epilogue.

A work unit is a block of tiles down m for one block of panels. For each k a tile loads its panels,
broadcasts one number of each row, multiplies and adds. The elementwise operations that follow are
computed on the finished sums before anything is written.
Invariant: each output is summed along k in order, in segments of fixed length that start from zero;
the tile's size decides which outputs are computed together, not how.
"""

from contextlib import AbstractContextManager, nullcontext

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.contract import (
    PANEL,
    Axes,
    Operand,
    classify,
    merged,
    operand,
    sides,
)
from homebox.engine.fusion.draft import Region
from homebox.engine.fusion.grouped import blocks_only, grouped_operand
from homebox.engine.fusion.schedule import (
    SEGMENT,
    ContractSchedule,
    Lowered,
    Units,
    contract_schedule,
    units_of,
)
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Conditions, Counters, holds
from homebox.engine.graph.ops import Dim, Node, Op, Shape, Sym, memory_of, size_max
from homebox.engine.graph.symbolic import (
    ZERO,
    Index,
    Loaded,
    Loop,
    flatten,
    of,
    replace,
    unflatten,
)
from homebox.engine.kernels.loops import LANES, Emitter

Registers = list[list[Value]]  # one per row and panel of a tile


class ContractLowering:
    """The lowering of one region with a contraction; `lower` is its only entrance."""

    # What `_analyse` finds out; axes are places in the shape of the product that is summed.
    shape: Shape
    axes: Axes
    each: list[Loop]
    panel: Loop
    lane: Loop
    blocks: int  # of 16 outputs along n
    a: Operand
    b: Operand
    group: Loaded | None  # the number of the weight, if b is one of several
    outer: tuple[int, ...]  # axes that only tell tiles apart
    k_outer: tuple[int, ...]
    k_inner: tuple[int, ...]
    k_steps: tuple[int, int]  # how far a and b move for each k
    k_size: Dim
    m_inner: tuple[int, ...]
    m_step: int
    m_size: Dim

    def __init__(
        self, region: Region, realised: frozenset[Node], syms: list[Sym], level: str
    ) -> None:
        assert region.core is not None
        self.region, self.root, self.core = region, region.root, region.core
        self.counters = Counters()
        self.e = Emitter(realised, self.counters, syms)
        self.e.written.add(memory_of(region.root))
        self.level = level
        self.chain = self._find_chain()

    def lower(self) -> Lowered | None:
        """Return the kernel; None if memory is not laid out for one."""
        if not self._analyse():
            return None
        n = self.shape[self.axes.n]
        self.schedule: ContractSchedule = contract_schedule(self.level, self.m_size, n)
        if isinstance(n, Sym) and self.blocks % self.schedule.panels:
            return None
        return self._emit()

    # -- analysis -------------------------------------------------------------------------------

    def _find_chain(self) -> list[Node]:
        """Return the nodes from the contraction (exclusive) up to the root (inclusive)."""
        chain: list[Node] = []
        current = self.root
        while current is not self.core:
            chain.append(current)
            nexts = [s for s in current.src if _reaches(s, self.core, self.e.realised)]
            current = nexts[0]
        return list(reversed(chain))

    def _analyse(self) -> bool:
        """Find axes and operands, and whether both can be read through strides."""
        axes = classify(self.core)
        if axes is None:
            return False
        a_node, b_node = sides(self.core, axes)
        self.axes, self.shape = axes, self.core.src[0].shape
        self.each = [self.counters.loop(size_max(d)) for d in self.shape]
        self.blocks = -(-size_max(self.shape[axes.n]) // PANEL)
        self.panel, self.lane = self.counters.loop(self.blocks), self.counters.loop(PANEL)
        index = [of(x) for x in self.each]
        self.a = operand(a_node, tuple(index))
        index[axes.n] = of(self.panel) * PANEL + of(self.lane)
        fixed = (*(self.each[i] for i in axes.k), self.panel, self.lane)
        grouped = grouped_operand(b_node, tuple(index), fixed)
        self.b = operand(b_node, tuple(index)) if grouped is None else grouped[0]
        self.group = None if grouped is None else grouped[1]
        if not self._readable():
            return False
        self._merge_axes()
        return True

    def _readable(self) -> bool:
        axes, each = self.axes, self.each
        a_loops = [each[i] for i in (*axes.k, *axes.m, *axes.batch)]
        b_loops = [each[i] for i in axes.k] + [self.panel, self.lane]
        return (
            not self.a.conditional
            and not self.b.conditional
            and all(self.a.flat.linear_in(x) for x in a_loops)
            and all(self.b.flat.linear_in(x) for x in b_loops)
            and all(blocks_only(self.b.flat, each[i]) for i in axes.batch)
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
        count, self.m_step = 1, 0
        if m:
            a_m = [self.a.flat.coefficient(self.each[i]) for i in m]
            count = merged([(i, shape[i]) for i in m], [a_m])
            self.m_step = a_m[-1]
        self.m_inner = m[-count:] if m else ()
        self.outer = (*axes.batch, *(m[:-count] if m else ()))
        self.m_size = self._product(self.m_inner)
        self.k_size = self._product(self.k_inner)

    def _product(self, places: tuple[int, ...]) -> Dim:
        if len(places) == 1:
            return self.shape[places[0]]
        total = 1
        for i in places:
            total *= size_max(self.shape[i])
        return total

    # -- work units -----------------------------------------------------------------------------

    def _emit(self) -> Lowered:
        e, b, s = self.e, self.e.b, self.schedule
        self.a_pointer, self.b_pointer = e.pointer(self.a.base), e.pointer(self.b.base)
        n, m = self.shape[self.axes.n], self.m_size
        wide, tall = PANEL * s.panels, s.rows * s.tiles
        n_blocks = self._blocks(n, wide)
        m_blocks = self._blocks(m, tall)
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        with b.loop(lo, hi) as unit:
            m_block = b.emit("mod", dt.i64, 1, (unit, m_blocks))
            rest = b.emit("idiv", dt.i64, 1, (unit, m_blocks))
            n_block = b.emit("mod", dt.i64, 1, (rest, n_blocks))
            rest = b.emit("idiv", dt.i64, 1, (rest, n_blocks))
            for i in reversed(self.outer):
                size = e.extent(self.shape[i])
                e.env[self.each[i]] = b.emit("mod", dt.i64, 1, (rest, size))
                rest = b.emit("idiv", dt.i64, 1, (rest, size))
            self.n_loop = self.counters.loop(-(-size_max(n) // wide))
            e.env[self.n_loop] = n_block
            self._rows(m_block)
        k_total = size_max(self.k_size)
        for i in self.k_outer:
            k_total *= size_max(self.shape[i])
        work = max(min(size_max(m), tall) * wide * k_total, 1)
        return Lowered(b.kernel(), tuple(e.memory), self._units(wide, tall), s, work)

    def _blocks(self, size: Dim, by: int) -> Value:
        """Return how many blocks an axis has."""
        b = self.e.b
        if isinstance(size, int):
            return b.int(-(-size // by))
        return b.emit("idiv", dt.i64, 1, (b.add(self.e.extent(size), b.int(by - 1)), b.int(by)))

    def _units(self, wide: int, tall: int) -> Units:
        units = units_of([self.shape[i] for i in self.outer])
        fixed, dynamic = units.fixed, list(units.dynamic)
        for size, by in ((self.shape[self.axes.n], wide), (self.m_size, tall)):
            if isinstance(size, Sym):
                dynamic.append((size, by))
            else:
                fixed *= -(-size // by)
        return Units(fixed, tuple(dynamic))

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

    # -- one tile -------------------------------------------------------------------------------

    def _tile(self, top: Index, rows: int) -> None:
        """Emit one register tile of `rows` x panels: the sum over k, then the epilogue."""
        e, b, s = self.e, self.e.b, self.schedule
        m_places = self._split(top, self.m_inner)
        a_base = self._without_k(self.a.flat, m_places, None)
        b_base = self._without_k(self.b.flat, {}, of(self.n_loop) * s.panels)
        totals = self._registers(rows)
        with self._guard():
            if self.k_outer or size_max(self.k_size) > SEGMENT:
                self._outer_k(self.k_outer, a_base, b_base, totals)
            else:
                starts = e.integer(a_base), e.integer(b_base)
                self._inner_k(starts, b.int(0), e.extent(self.k_size), totals)
        for r, row in enumerate(totals):
            for v, total in enumerate(row):
                self._finish(top + r, v, b.get(total))

    def _guard(self) -> AbstractContextManager[None]:
        """Return a block that runs only if the unit has a weight: other sums stay zero."""
        group = self.group
        exists = self.e.mask(((of(group), group.size),)) if group is not None else None
        return nullcontext() if exists is None else self.e.b.when(exists)

    def _registers(self, rows: int) -> Registers:
        """Return registers for a tile, all zero."""
        b = self.e.b
        zero = b.const(0.0, dt.f32, LANES)
        return [[b.reg(zero) for _ in range(self.schedule.panels)] for _ in range(rows)]

    def _split(self, row: Index, places: tuple[int, ...]) -> dict[int, Index]:
        """Return the index along each of the merged axes for a position along all of them."""
        parts = unflatten(row, tuple(self.shape[i] for i in places)) if places else ()
        return dict(zip(places, parts, strict=True))

    def _without_k(self, flat: Index, places: dict[int, Index], panel: Index | None) -> Index:
        """Return where an operand begins, given the other axes; k stands at its start."""
        out = flat
        for i in self.axes.k:
            out = replace(out, self.each[i], ZERO)
        for i, part in places.items():
            out = replace(out, self.each[i], part)
        if panel is not None:
            out = replace(replace(out, self.panel, panel), self.lane, ZERO)
        return out

    def _outer_k(
        self, places: tuple[int, ...], a_base: Index, b_base: Index, totals: Registers
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
                self._outer_k(places[1:], a_next, b_next, totals)
            return
        size = e.extent(self.k_size)
        with b.loop(b.int(0), size, SEGMENT) as begin:
            end = b.emit("min", dt.i64, 1, (b.add(begin, b.int(SEGMENT)), size))
            parts = self._registers(len(totals))
            self._inner_k((e.integer(a_base), e.integer(b_base)), begin, end, parts)
            for row, part_row in zip(totals, parts, strict=True):
                for total, part in zip(row, part_row, strict=True):
                    b.set(total, b.alu("add", b.get(total), b.get(part)))

    def _inner_k(
        self, starts: tuple[Value, Value], begin: Value, end: Value, acc: Registers
    ) -> None:
        """The hot loop: for each k, load the panels, broadcast each row of a, multiply and add."""
        b, unroll = self.e.b, self.schedule.unroll
        a_step, b_step = self.k_steps
        size = self.k_size
        static = begin.constant == 0 and isinstance(size, int) and end.constant == size

        def steps(k: Value, count: int) -> None:
            a_at = b.add(starts[0], b.mul(k, b.int(a_step)))
            b_at = b.add(starts[1], b.mul(k, b.int(b_step)))
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

    def _multiply(self, a_at: Value, b_at: Value, u: int, acc: Registers) -> None:
        """Add the products for one k: `u` steps after the places where a and b are read."""
        b = self.e.b
        a_step, b_step = self.k_steps
        panel_step = self.b.flat.coefficient(self.panel)
        panels = [
            b.load(self.b_pointer, b.add(b_at, b.int(v * panel_step + u * b_step)), LANES)
            for v in range(len(acc[0]))
        ]
        for r, row in enumerate(acc):
            place = b.add(a_at, b.int(r * self.m_step + u * a_step))
            factor = b.splat(b.load(self.a_pointer, place), LANES)
            for total, panel in zip(row, panels, strict=True):
                b.set(total, b.alu("fma", factor, panel, b.get(total)))

    def _finish(self, row: Index, v: int, total: Value) -> None:
        """Compute the epilogue for one row of one panel and write it."""
        self._finish_with(row, v, {self.core: total})

    @property
    def across(self) -> int:
        """How many panels a work unit is wide."""
        return self.schedule.panels

    def _place(self, row: Index, v: int) -> tuple[tuple[Index, ...], Conditions]:
        """Return the index of the root for a row of a panel, and what a ragged edge asks."""
        n = self.shape[self.axes.n]
        column = (of(self.n_loop) * self.across + v) * PANEL + of(self.lane)
        index = [of(x) if i in self.outer else ZERO for i, x in enumerate(self.each)]
        for i, part in self._split(row, self.m_inner).items():
            index[i] = part
        index[self.axes.n] = column
        at = tuple(index)
        for each in self.chain:
            at = forward(each, at)
        ragged = isinstance(n, Sym) or n % (PANEL * self.across) != 0
        edge: Conditions = ((column, n),) if ragged and not holds((column, n)) else ()
        return at, edge

    def _value_of(self, n: Node, row: Index, v: int, given: dict[Node, Value]) -> Value:
        """Return 16 elements of the epilogue at a row of a panel, given the contractions' sums."""
        at, edge = self._place(row, v)
        self.e.begin(given)
        with self.e.lanes(self.lane):
            return self.e.b.splat(self.e.value(n, at, edge), LANES)

    def _finish_with(self, row: Index, v: int, given: dict[Node, Value]) -> None:
        """Compute the epilogue for one row of one panel and write it."""
        e = self.e
        at, edge = self._place(row, v)
        e.begin(given)
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


def forward(n: Node, index: tuple[Index, ...]) -> tuple[Index, ...]:
    """Return the index of an element after a node of the epilogue."""
    if n.op is Op.RESHAPE:
        wide = [(d, i) for d, i in zip(n.src[0].shape, index, strict=True) if d != 1]
        if [d for d, _ in wide] == [d for d in n.shape if d != 1]:
            # Division would not see that lanes beyond the last column are never stored.
            rest = iter([i for _, i in wide])
            return tuple(ZERO if d == 1 else next(rest) for d in n.shape)
        return unflatten(flatten(index, n.src[0].shape), n.shape)
    if n.op is Op.PERMUTE:
        return tuple(index[axis] for axis in n.arg)
    return index

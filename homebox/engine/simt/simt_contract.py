"""Lowers contractions to linear IR for SIMT devices: tiles in local memory, or one output a column.

GEMM: a work-group stages a slice of both operands in local memory, then each work-item multiplies
a small tile of it in registers. GEMV: each output belongs to one work-item, or to several that sum
different segments of k and leave the partial sums to the first.
Invariant: segments of k start at zero, run in order and are added in order, as on a CPU, so the
bits do not depend on tiles, groups or splits. What lies beyond the edges of the output is read from
the last row or panel instead, and never written.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.contract import PANEL
from homebox.engine.fusion.fuse import Region
from homebox.engine.fusion.schedule import SEGMENT
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Dim, Node, Op, Sym, memory_of, size_max
from homebox.engine.graph.symbolic import ZERO, Index, flatten, of
from homebox.engine.kernels.contract_kernels import ContractLowering, forward
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import (
    Columns,
    LoweredSimt,
    Simt,
    Span,
    Tile,
    columns_schedule,
    tile_schedule,
)

# (where the operands begin), first and last step along k, registers to add to
Segment = Callable[[tuple[Value, Value], Value, Value, list[Value]], None]


class ContractSimt(ContractLowering):
    """A contraction with its epilogue."""

    def __init__(
        self, region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
    ) -> None:
        super().__init__(region, realised, syms, "generic")
        self.s = SimtEmitter(realised, self.counters, syms)
        self.s.written.add(memory_of(region.root))
        self.e = self.s
        self.target = target

    def lower_simt(self) -> LoweredSimt | None:
        """Return the kernel; None if memory is not laid out for one."""
        if not self._analyse():
            return None
        s, n = self.s, self.shape[self.axes.n]
        self.a_pointer, self.b_pointer = s.pointer(self.a.base), s.pointer(self.b.base)
        outer = tuple(self.shape[i] for i in self.outer)
        schedule: Tile | Columns
        if self.m_size == 1:
            schedule = columns_schedule(self.target, n, self.k_size, bool(self.k_outer))
            group: tuple[int, ...] = (schedule.width, schedule.splits)
            grid: tuple[Span, ...] = (Span((n,), schedule.width), Span(outer))
            self._place_outer(s.group(1))
            self._emit_columns(schedule)
        else:
            schedule = tile_schedule(self.target, self.m_size, n)
            group = (schedule.across, schedule.down, 1)
            grid = (Span((n,), schedule.width), Span((self.m_size,), schedule.height), Span(outer))
            self._place_outer(s.group(2))
            self._emit_tile(schedule)
        return LoweredSimt(s.b.kernel(group), tuple(s.memory), grid, schedule)

    def _place_outer(self, number: Value) -> None:
        self.s.spread(
            number, [self.each[i] for i in self.outer], [self.shape[i] for i in self.outer]
        )

    # -- the sum over k -------------------------------------------------------------------------

    def _sum(self, count: int, segment: Segment) -> list[Value]:
        """Return `count` sums over k; `segment` adds up one segment into the given registers."""
        s, b = self.s, self.s.b
        zero = b.const(0.0, dt.f32)
        totals = [b.reg(zero) for _ in range(count)]
        a, b_ = self._bases()
        if not self._segmented():
            segment((s.integer(a), s.integer(b_)), b.int(0), s.extent(self.k_size), totals)
            return [b.get(total) for total in totals]
        with ExitStack() as nest:
            for i in self.k_outer:
                loop = b.loop(b.int(0), s.extent(self.shape[i]))
                s.env[self.each[i]] = nest.enter_context(loop)
                a += of(self.each[i]) * self.a.flat.coefficient(self.each[i])
                b_ += of(self.each[i]) * self.b.flat.coefficient(self.each[i])
            size = s.extent(self.k_size)
            begin = nest.enter_context(b.loop(b.int(0), size, SEGMENT))
            end = self._least(b.add(begin, b.int(SEGMENT)), size)
            parts = [b.reg(zero) for _ in totals]
            segment((s.integer(a), s.integer(b_)), begin, end, parts)
            for total, part in zip(totals, parts):
                b.set(total, b.alu("add", b.get(total), b.get(part)))
        return [b.get(total) for total in totals]

    def _segmented(self) -> bool:
        return bool(self.k_outer) or size_max(self.k_size) > SEGMENT

    def _bases(self) -> tuple[Index, Index]:
        """Return where the operands' first elements are for this place of the outer axes."""
        first = dict.fromkeys(self.m_inner, ZERO)
        return self._without_k(self.a.flat, first, None), self._without_k(self.b.flat, {}, ZERO)

    def _least(self, a: Value, b: Value) -> Value:
        if a.constant is not None and b.constant is not None:
            return self.s.b.int(min(a.constant, b.constant))
        return self.s.b.emit("min", dt.i64, 1, (a, b))

    def _inside(self, place: Value, size: Dim, reach: int) -> Value | None:
        """Return whether a row or column exists; None if tiles of `reach` divide the axis."""
        if isinstance(size, int) and size % reach == 0:
            return None
        return self.s.b.alu("lt", place, self.s.extent(size))

    def _panel_at(self, group: Value, width: int, panel: Value) -> Value:
        """Return where a panel of a group's columns starts; beyond the last, the last."""
        b = self.s.b
        number = b.add(b.mul(group, b.int(width // PANEL)), panel)
        if self.blocks * PANEL % width:
            number = self._least(number, b.int(self.blocks - 1))
        return b.mul(number, b.int(self.b.flat.coefficient(self.panel)))

    # -- tiles ----------------------------------------------------------------------------------

    def _emit_tile(self, tile: Tile) -> None:
        """Emit a tile of outputs: slices of k through local memory, then the epilogue."""
        s, b = self.s, self.s.b
        x, y = s.local(0), s.local(1)
        a_line = tile.height + 1
        a_slice = s.shared(dt.f32, tile.depth * a_line)
        b_slice = s.shared(dt.f32, tile.depth * tile.width)
        across, down = b.int(tile.across), b.int(tile.down)
        once = not self.k_outer and size_max(self.k_size) <= tile.depth

        def segment(bases: tuple[Value, Value], begin: Value, end: Value, acc: list[Value]) -> None:
            with b.loop(begin, end, tile.depth) as k:
                self._stage_a(tile, a_slice, bases[0], k, end)
                self._stage_b(tile, b_slice, bases[1], k, end)
                s.barrier()
                length = b.alu("sub", end, k)
                with b.loop(b.int(0), self._least(length, b.int(tile.depth))) as i:
                    a_at = b.add(b.mul(i, b.int(a_line)), y)
                    b_at = b.add(b.mul(i, b.int(tile.width)), x)
                    column = [
                        b.load(a_slice, b.add(a_at, b.int(r * tile.down))) for r in range(tile.rows)
                    ]
                    line = [
                        b.load(b_slice, b.add(b_at, b.int(c * tile.across)))
                        for c in range(tile.columns)
                    ]
                    pairs = [(one, other) for one in column for other in line]
                    for total, (one, other) in zip(acc, pairs):
                        b.set(total, b.alu("fma", one, other, b.get(total)))
                if not once:  # the next slice must not overwrite what others still read
                    s.barrier()

        totals = self._sum(tile.rows * tile.columns, segment)
        top = b.add(b.mul(s.group(1), b.int(tile.height)), y)
        left = b.add(b.mul(s.group(0), b.int(tile.width)), x)
        for r in range(tile.rows):
            for c in range(tile.columns):
                row = b.add(top, b.mul(b.int(r), down))
                column = b.add(left, b.mul(b.int(c), across))
                masks = (
                    self._inside(row, self.m_size, tile.height),
                    self._inside(column, self.shape[self.axes.n], tile.width),
                )
                self._write(row, column, totals[r * tile.columns + c], masks)

    def _stage(self, tile: Tile, count: int) -> AbstractContextManager[Value]:
        """Open a loop that deals out `count` elements to the work-items of a group."""
        b, s = self.s.b, self.s
        number = b.add(b.mul(s.local(1), b.int(tile.across)), s.local(0))
        return b.loop(number, b.int(count), tile.across * tile.down)

    def _step(self, tile: Tile, k: Value, i: Value, end: Value) -> Value:
        """Return the place along k of a staged element; the last one if the slice is ragged."""
        b = self.s.b
        place = b.add(k, i)
        if isinstance(self.k_size, int) and self.k_size % tile.depth == 0:
            return place
        return self._least(place, b.add(end, b.int(-1)))

    def _stage_a(self, tile: Tile, slice_: Value, base: Value, k: Value, end: Value) -> None:
        """Copy a slice of a, neighbours along whichever axis lies side by side in memory."""
        s, b = self.s, self.s.b
        height, depth = b.int(tile.height), b.int(tile.depth)
        most = size_max(self.m_size)
        with self._stage(tile, tile.height * tile.depth) as number:
            if self.m_step == 1:
                i, r = s.divide(number, height)
            else:
                r, i = s.divide(number, depth)
            row = b.add(b.mul(s.group(1), height), r)
            if most % tile.height:
                row = self._least(row, b.int(most - 1))
            place = b.add(base, b.mul(row, b.int(self.m_step)))
            step = self._step(tile, k, i, end)
            place = b.add(place, b.mul(step, b.int(self.k_steps[0])))
            at = b.add(b.mul(i, b.int(tile.height + 1)), r)
            b.store(slice_, at, b.load(self.a_pointer, place))

    def _stage_b(self, tile: Tile, slice_: Value, base: Value, k: Value, end: Value) -> None:
        """Copy a slice of b, panel by panel."""
        s, b = self.s, self.s.b
        with self._stage(tile, tile.width * tile.depth) as number:
            rest, lane = s.divide(number, b.int(PANEL))
            panel, i = s.divide(rest, b.int(tile.depth))
            place = b.add(b.add(base, self._panel_at(s.group(0), tile.width, panel)), lane)
            step = self._step(tile, k, i, end)
            place = b.add(place, b.mul(step, b.int(self.k_steps[1])))
            at = b.add(b.mul(i, b.int(tile.width)), b.add(b.mul(panel, b.int(PANEL)), lane))
            b.store(slice_, at, b.load(self.b_pointer, place))

    # -- columns --------------------------------------------------------------------------------

    def _emit_columns(self, schedule: Columns) -> None:
        """Emit one output per column: a sum over k, shared out by segments if there are several."""
        s, b, width = self.s, self.s.b, schedule.width
        x = s.local(0)
        panel, lane = s.divide(x, b.int(PANEL))
        column = b.add(b.mul(s.group(0), b.int(width)), x)
        offset = b.add(self._panel_at(s.group(0), width, panel), lane)

        def segment(bases: tuple[Value, Value], begin: Value, end: Value, acc: list[Value]) -> None:
            with b.loop(begin, end) as k:
                one = b.load(self.a_pointer, b.add(bases[0], b.mul(k, b.int(self.k_steps[0]))))
                place = b.add(b.add(bases[1], offset), b.mul(k, b.int(self.k_steps[1])))
                other = b.load(self.b_pointer, place)
                b.set(acc[0], b.alu("fma", one, other, b.get(acc[0])))

        masks = [self._inside(column, self.shape[self.axes.n], width)]
        if schedule.splits == 1:
            (total,) = self._sum(1, segment)
        else:
            total = self._shared_sum(schedule, segment)
            masks.append(b.alu("lt", s.local(1), b.int(1)))
        self._write(b.int(0), column, total, masks)

    def _shared_sum(self, schedule: Columns, segment: Segment) -> Value:
        """Let work-items sum every `splits`-th segment, then add the partial sums in order."""
        s, b, x = self.s, self.s.b, self.s.local(0)
        size, width = s.extent(self.k_size), b.int(schedule.width)
        segments = -(-size_max(self.k_size) // SEGMENT)
        parts = s.shared(dt.f32, segments * schedule.width)
        zero = b.const(0.0, dt.f32)
        a, b_ = self._bases()
        bases = (s.integer(a), s.integer(b_))
        first = b.mul(s.local(1), b.int(SEGMENT))
        with b.loop(first, size, SEGMENT * schedule.splits) as begin:
            part = b.reg(zero)
            segment(bases, begin, self._least(b.add(begin, b.int(SEGMENT)), size), [part])
            number, _ = s.divide(begin, b.int(SEGMENT))
            b.store(parts, b.add(b.mul(number, width), x), b.get(part))
        s.barrier()
        total = b.reg(zero)
        count, _ = s.divide(b.add(size, b.int(SEGMENT - 1)), b.int(SEGMENT))
        with b.loop(b.int(0), count) as i:
            part = b.load(parts, b.add(b.mul(i, width), x))
            b.set(total, b.alu("add", b.get(total), part))
        return b.get(total)

    # -- the epilogue ---------------------------------------------------------------------------

    def _write(
        self, row: Value, column: Value, total: Value, masks: Iterable[Value | None]
    ) -> None:
        """Compute the epilogue for one output, and write it where all masks hold."""
        s = self.s
        n = self.counters.loop(size_max(self.shape[self.axes.n]))
        m = self.counters.loop(size_max(self.m_size))
        s.env[n], s.env[m] = column, row
        index = [of(x) if i in self.outer else ZERO for i, x in enumerate(self.each)]
        for i, part in self._split(of(m), self.m_inner).items():
            index[i] = part
        index[self.axes.n] = of(n)
        at = tuple(index)
        for each in self.chain:
            at = forward(each, at)
        s.begin({self.core: total})
        is_store = self.root.op is Op.STORE
        target, source = (self.root.src[0], self.root.src[1]) if is_store else (self.root,) * 2
        with ExitStack() as guard:
            for mask in masks:
                if mask is not None:
                    guard.enter_context(s.b.when(mask))
            with s.moving(n):
                value = s.value(source, at)
                if is_store and self.root.arg == "add":
                    value = s.b.alu("add", s.load(target, at, ()), value)
            s.store(target, flatten(at, target.shape), value, None)

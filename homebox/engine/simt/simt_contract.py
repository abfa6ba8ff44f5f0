"""Lowers contractions to linear IR for SIMT devices: tiles in local memory, or one output a column.

GEMM: a work-group stages slices of both operands in local memory, and each work-item multiplies a
small tile of them in registers (`tile_loop`). GEMV: each output belongs to one work-item, or to
several that sum different segments of k and leave the partial sums to the first.
Invariant: segments of k start at zero, run in order and are added in order, as on a CPU, so the
bits do not depend on tiles, groups or splits. What lies beyond the edges of the output is read from
the last row or panel instead, and never written.
"""

from collections.abc import Callable
from contextlib import ExitStack

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.contract import PANEL
from homebox.engine.fusion.schedule import SEGMENT
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import size_max
from homebox.engine.graph.symbolic import ZERO, Index, of, replace
from homebox.engine.simt.gemm_epilogue import finish, finish_tile, inside
from homebox.engine.simt.gemm_stage import (
    LINES_SWAP,
    ROWS_SWAP,
    FloatLines,
    FloatRows,
    divides,
    run_of,
)
from homebox.engine.simt.product import ProductSimt
from homebox.engine.simt.target import (
    Columns,
    LoweredSimt,
    Span,
    Tile,
    columns_schedule,
    most,
)
from homebox.engine.simt.tile_choice import local_bytes, tile_schedule
from homebox.engine.simt.tile_loop import (
    VECTOR,
    Registers,
    Slice,
    Stage,
    multiply_floats,
    reach_down,
    slices,
    total,
    whole,
    zeros,
)

# (where the operands begin), first and last step along k, registers to add to
Segment = Callable[[tuple[Value, Value], Value, Value, list[Value]], None]


class ContractSimt(ProductSimt):
    """A contraction with its epilogue."""

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
            self.place_outer(1)
            self._emit_columns(schedule)
        else:
            sums = 2 if self._segmented() else 1
            schedule = tile_schedule(
                self.target, self.m_size, n, self.k_size, sums, outer=most(outer)
            )
            group = (schedule.across, schedule.down, 1)
            grid = (Span((n,), schedule.width), Span((self.m_size,), schedule.height), Span(outer))
            self.place_outer(2)
            self._emit_tile(schedule)
        return LoweredSimt(s.b.kernel(group), tuple(s.memory), grid, schedule)

    # -- the sum over k -------------------------------------------------------------------------

    def _sum(self, new: Callable[[], list[Value]], segment: Segment) -> list[Value]:
        """Return registers with sums over k; `segment` adds up one segment into `new` ones."""
        s, b = self.s, self.s.b
        totals = new()
        a, b_ = self._bases()
        if not self._segmented():
            with self.existing(self.group):
                segment((s.integer(a), s.integer(b_)), b.int(0), s.extent(self.k_size), totals)
            return totals
        with ExitStack() as nest:
            nest.enter_context(self.existing(self.group))
            for i in self.k_outer:
                loop = b.loop(b.int(0), s.extent(self.shape[i]))
                s.env[self.each[i]] = nest.enter_context(loop)
                a += of(self.each[i]) * self.a.flat.coefficient(self.each[i])
                b_ += of(self.each[i]) * self.b.flat.coefficient(self.each[i])
            size = s.extent(self.k_size)
            begin = nest.enter_context(b.loop(b.int(0), size, SEGMENT))
            end = whole(s, "min", b.add(begin, b.int(SEGMENT)), size)
            parts = new()
            segment((s.integer(a), s.integer(b_)), begin, end, parts)
            for total, part in zip(totals, parts, strict=True):
                b.set(total, b.alu("add", b.get(total), b.get(part)))
        return totals

    def _segmented(self) -> bool:
        return bool(self.k_outer) or size_max(self.k_size) > SEGMENT

    def _bases(self) -> tuple[Index, Index]:
        """Return where the operands' first elements are for this place of the outer axes."""
        first = dict.fromkeys(self.m_inner, ZERO)
        other = self.within(self.b.flat, self.group)
        return self._without_k(self.a.flat, first, None), self._without_k(other, {}, ZERO)

    def _panel_at(self, group: Value, width: int, panel: Value) -> Value:
        """Return where a panel of a group's columns starts; beyond the last, the last."""
        b = self.s.b
        number = b.add(b.mul(group, b.int(width // PANEL)), panel)
        if self.blocks * PANEL % width:
            number = whole(self.s, "min", number, self.blocks - 1)
        return b.mul(number, b.int(self.b.flat.coefficient(self.panel)))

    # -- tiles ----------------------------------------------------------------------------------

    def _emit_tile(self, tile: Tile) -> None:
        """Emit a tile of outputs: slices of k through local memory, then the epilogue."""
        s, b = self.s, self.s.b
        memory = s.shared(dt.f32, local_bytes(tile) // 4)
        a_swap = ROWS_SWAP[tile.depth] if self.m_step != 1 else LINES_SWAP
        a = Slice(s, memory, 0, tile.depth, tile.height, reach_down(tile), *a_swap)
        start = 2 * tile.depth * tile.height
        other = Slice(s, memory, start, tile.depth, tile.width, tile.across, *LINES_SWAP)
        across = tile.columns // VECTOR

        def new() -> list[Value]:
            return [register for row in zeros(s, tile) for register in row]

        def segment(bases: tuple[Value, Value], begin: Value, end: Value, acc: list[Value]) -> None:
            stages = self._stage_a(tile, a, bases[0]), self._stage_b(tile, other, bases[1])
            multiply = multiply_floats(s, tile, a, other, rows_of_registers(acc, across))
            slices(s, tile.depth, stages, multiply, (begin, end), bool(self.k_outer))

        sums = {self.core: rows_of_registers(self._sum(new, segment), across)}
        top, left = b.int(tile.height), b.int(tile.width)
        finish_tile(self, s, tile, (b.mul(s.group(1), top), b.mul(s.group(0), left)), sums)

    def _stage_a(self, tile: Tile, into: Slice, base: Value) -> Stage:
        """Return how a gets into local memory, by vectors along whichever axis lies side by side.

        Axes of run-time size are laid out for the largest, so all that is read exists.
        """
        s, b, flat = self.s, self.s.b, self.a.flat
        m, k = size_max(self.m_size), size_max(self.k_size)
        if self.m_step != 1:
            run = run_of(self._besides(flat, self.k_inner), False, 0, k, tile.depth)
            run = run if self.k_steps[0] == 1 else 1
            group, step = s.group(1), self.k_steps[0]
            return FloatRows(
                s, tile, into, self.a_pointer, base, self.m_step, m, k, group, run, step
            )
        aligned = divides(VECTOR, self._besides(flat, self.m_inner)) and m % VECTOR == 0

        def start(place: Value) -> Value:
            row = total(s, b.mul(s.group(1), b.int(tile.height)), place)
            return total(s, base, whole(s, "min", row, m - VECTOR) if m % tile.height else row)

        if m < VECTOR or not aligned:
            group, step = s.group(1), self.k_steps[0]
            return FloatRows(s, tile, into, self.a_pointer, base, 1, m, k, group, 1, step)
        return FloatLines(s, tile, into, self.a_pointer, start, self.k_steps[0], k, True)

    def _stage_b(self, tile: Tile, into: Slice, base: Value) -> Stage:
        """Return how b gets into local memory, panel by panel."""
        s, k = self.s, size_max(self.k_size)
        aligned = divides(VECTOR, self._besides(self.b.flat, ()) + of(self.lane) * -1)

        def start(place: Value) -> Value:
            panel, lane = whole(s, "idiv", place, PANEL), whole(s, "mod", place, PANEL)
            return total(s, base, self._panel_at(s.group(0), tile.width, panel), lane)

        return FloatLines(s, tile, into, self.b_pointer, start, self.k_steps[1], k, aligned)

    def _besides(self, flat: Index, axes: tuple[int, ...]) -> Index:
        """Return a place without the axis that its vectors run along, the last of some."""
        for i in axes[-1:]:
            flat = replace(flat, self.each[i], ZERO)
        return flat

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

        masks = [inside(s, column, self.shape[self.axes.n], width)]
        if schedule.splits == 1:
            (register,) = self._sum(lambda: [b.reg(b.const(0.0, dt.f32))], segment)
            summed = b.get(register)
        else:
            summed = self._shared_sum(schedule, segment)
            masks.append(b.alu("lt", s.local(1), b.int(1)))
        finish(self, s, (b.int(0), column), {self.core: summed}, masks)

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
        with self.existing(self.group), b.loop(first, size, SEGMENT * schedule.splits) as begin:
            part = b.reg(zero)
            segment(bases, begin, whole(s, "min", b.add(begin, b.int(SEGMENT)), size), [part])
            number, _ = s.divide(begin, b.int(SEGMENT))
            b.store(parts, b.add(b.mul(number, width), x), b.get(part))
        s.barrier()
        total = b.reg(zero)
        count, _ = s.divide(b.add(size, b.int(SEGMENT - 1)), b.int(SEGMENT))
        with self.existing(self.group), b.loop(b.int(0), count) as i:
            part = b.load(parts, b.add(b.mul(i, width), x))
            b.set(total, b.alu("add", b.get(total), part))
        return b.get(total)


def rows_of_registers(registers: list[Value], across: int) -> Registers:
    """Return a flat list of registers as rows of so many."""
    return [registers[i : i + across] for i in range(0, len(registers), across)]

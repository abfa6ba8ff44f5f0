"""Products of many rows with weights that are decoded first: into float32, or pairs of bf16.

A unit decodes its panels for one segment of k into a scratch on the stack and multiplies all its
rows with it; what a weight costs to decode is shared by the rows. Products that sum over the
weight's rows (the backward of a linear layer) turn squares of 16 x 64 numbers round on the way.
Invariant: segments are summed from zero and added in order.
"""

from collections.abc import Callable

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.schedule import SEGMENT, PackedSchedule
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import PANEL
from homebox.engine.graph.symbolic import Index
from homebox.engine.kernels.contract_kernels import Registers
from homebox.engine.kernels.decode_kernels import PIECE, blocks, columns, pair_words
from homebox.engine.kernels.loops import LANES
from homebox.engine.kernels.packed_sums import Operands, Span, dot_row, unrolled, values_of, zeros

Tile = Callable[[Index, int], None]  # first row, number of rows
Finish = Callable[[Index, int, int, list[list[Value]]], None]  # first row, rows, panel, sums
SQUARE = 64  # columns of a weight that are turned round at a time


class Scratch:
    """One unit of such a product. `unit` is its only entrance."""

    def __init__(
        self, o: Operands, plan: PackedSchedule, n_block: Value, walk: Callable[[Tile], None]
    ) -> None:
        self.o, self.b, self.plan, self.n_block, self.walk = o, o.e.b, plan, n_block, walk
        self.wide = plan.wide * PANEL
        self.narrow = o.packed.arithmetic == "bf16"
        padded = -(-min(o.k, SEGMENT) // SQUARE) * SQUARE
        count = padded * self.wide // (2 if self.narrow else 1)
        self.memory = self.b.emit("stack", dt.i32, 1, (), count)
        self.decode = self._decode_turned if o.packed.transposed else self._decode_straight

    def unit(self, top: Value, tall: int, finish: Finish) -> None:
        """Compute `tall` rows from row `top` on; `finish` gets the sums of each tile."""
        b, k = self.b, self.o.k
        if k <= SEGMENT:
            with self.o.guard():
                self.decode((b.int(0), k))
            self.walk(lambda row, rows: self._tile(row, rows, finish))
            return
        sums = b.emit("stack", dt.f32, 1, (), tall * self.wide)
        zero = b.const(0.0, dt.f32, LANES)
        with b.loop(b.int(0), b.int(tall * self.wide), LANES) as place:
            b.store(sums, place, zero)
        full, rest = divmod(k, SEGMENT)
        last = full if rest else full - 1

        def segment(span: Span, end: Finish | None) -> None:
            with self.o.guard():
                self.decode(span)
            self.walk(lambda row, rows: self._summed(row, rows, span, (sums, top), end))

        with b.loop(b.int(0), b.int(last)) as i:
            segment((b.mul(i, b.int(SEGMENT)), SEGMENT), None)
        segment((b.int(last * SEGMENT), rest or SEGMENT), finish)

    def _tile(self, row: Index, rows: int, finish: Finish) -> None:
        """Sum a tile over all of k, and finish it."""
        step = self.plan.panels
        for v in range(0, self.plan.wide, step):
            sums = zeros(self.b, rows, step)
            with self.o.guard():
                self._multiply(row, v, (self.b.int(0), self.o.k), sums)
            finish(row, rows, v, values_of(self.b, sums))

    def _summed(
        self, row: Index, rows: int, span: Span, so_far: tuple[Value, Value], finish: Finish | None
    ) -> None:
        """Add a segment to the sums that lie in memory; finish the tile after the last one."""
        b, step, (sums, top) = self.b, self.plan.panels, so_far
        first = b.mul(b.alu("sub", self.o.e.integer(row), top), b.int(self.wide))
        for v in range(0, self.plan.wide, step):
            parts = zeros(b, rows, step)
            with self.o.guard():
                self._multiply(row, v, span, parts)
            totals: list[list[Value]] = []
            for r, part_row in enumerate(parts):
                totals.append([])
                for p, part in enumerate(part_row):
                    place = b.add(first, b.int(r * self.wide + (v + p) * PANEL))
                    total = b.alu("add", b.load(sums, place, LANES), b.get(part))
                    totals[-1].append(total)
                    if finish is None:
                        b.store(sums, place, total)
            if finish is not None:
                finish(row, rows, v, totals)

    def _multiply(self, row: Index, v: int, span: Span, acc: Registers) -> None:
        """Multiply rows of activations with the scratch, which begins at the span's first k."""
        b, wide, (begin, count) = self.b, self.wide, span
        per, kind = (2, dt.i32) if self.narrow else (1, dt.f32)
        a = b.view(self.o.input, kind)
        base = b.add(self.o.e.integer(self.o.row_start(row)), begin)
        base = b.emit("idiv", dt.i64, 1, (base, b.int(per)))
        rows = [b.add(base, b.int(r * self.o.row_step // per)) for r in range(len(acc))]

        def step(k: Value, u: int) -> None:
            at = b.add(b.mul(k, b.int(wide)), b.int(wide * u + v * PANEL))
            words = [
                b.load(self.memory, b.add(at, b.int(p * PANEL)), LANES) for p in range(len(acc[0]))
            ]
            panels = [b.bitcast(x, dt.bf16 if self.narrow else dt.f32) for x in words]
            for place, totals in zip(rows, acc, strict=True):
                one = b.splat(b.load(a, b.add(b.add(place, k), b.int(u))), LANES)
                if self.narrow:
                    dot_row(b, b.bitcast(one, dt.bf16), panels, totals)
                    continue
                for panel, total in zip(panels, totals, strict=True):
                    b.set(total, b.alu("fma", one, panel, b.get(total)))

        unrolled(b, b.int(0), count // per, 4, step)

    # -- decoding -------------------------------------------------------------------------------

    def _decode_straight(self, span: Span) -> None:
        """Fill the scratch [k][wide] (or [k / 2][wide] pairs) from panels read along k."""
        b, o, (begin, count) = self.b, self.o, span
        form = o.packed.form
        length = PIECE[form.name]
        per = length // form.unit * form.unit_bytes
        first = b.emit("idiv", dt.i64, 1, (begin, b.int(length)))
        whole, rest = divmod(count, length)

        def piece(panel: int, at: Value, most: int) -> None:
            place = b.add(o.panel_start(panel), b.mul(b.add(first, at), b.int(per)))
            values = [value for _, value in blocks(b, form, o.stored, place, most)]
            self._keep(values, b.mul(at, b.int(length)), panel * PANEL)

        for panel in range(self.plan.wide):
            if whole:
                with b.loop(b.int(0), b.int(whole)) as at:
                    piece(panel, at, length)
            if rest:
                piece(panel, b.int(whole), rest)

    def _decode_turned(self, span: Span) -> None:
        """Fill the scratch from 16 rows x 64 columns of the weight at a time, turned round."""
        b, packed, (begin, count) = self.b, self.o.packed, span
        size = packed.form.panel_bytes(packed.shape[1])
        first = b.emit("idiv", dt.i64, 1, (begin, b.int(PANEL)))
        first = b.add(first, self.o.e.integer(packed.first // PANEL))
        for square in range(0, self.wide, SQUARE):
            column = b.add(b.mul(self.n_block, b.int(self.wide)), b.int(square))
            with b.loop(b.int(0), b.int(-(-count // PANEL))) as at:
                panel = b.mul(b.add(first, at), b.int(size))
                self._fetch(b.add(panel, b.int(2 * size)), column)
                rows = columns(b, packed.form, self.o.stored, panel, column)
                for part in range(SQUARE // PANEL):
                    values = [row[part] for row in rows]
                    self._keep(values, b.mul(at, b.int(PANEL)), square + part * PANEL)

    def _fetch(self, panel: Value, column: Value) -> None:
        """Ask for 16 rows x 64 columns that are decoded soon: they lie far from what is read."""
        b, form = self.b, self.o.packed.form
        start = b.add(panel, b.mul(column, b.int(form.unit_bytes // form.unit)))
        for line in range(0, SQUARE // form.unit * form.unit_bytes, 64):
            b.prefetch(self.o.stored, b.add(start, b.int(line)))

    def _keep(self, values: list[Value], k: Value, column: int) -> None:
        """Write values for k, k + 1, .. into one column of 16 of the scratch."""
        b = self.b
        if self.narrow:
            k = b.emit("idiv", dt.i64, 1, (k, b.int(2)))
            words = [pair_words(b, *values[j : j + 2]) for j in range(0, len(values), 2)]
        else:
            words = [b.bitcast(v, dt.i32) for v in values]
        base = b.add(b.mul(k, b.int(self.wide)), b.int(column))
        for j, word in enumerate(words):
            b.store(self.memory, b.add(base, b.int(j * self.wide)), word)

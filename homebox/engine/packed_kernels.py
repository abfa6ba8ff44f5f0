"""Kernels of products with packed weights: GEMV to GEMM over f32, bf16, q8 and q4, several at once.

A tile of `rows` x `panels` * 16 outputs is summed along k for each contraction of the region, then
the epilogue combines them. Few rows (decode) stream the weight once: what they multiply is computed
once per thread into memory of its own. Many rows either read panels directly, where the machine
multiplies their type, or first decode them into a scratch of float32 or bf16 (always so if the
product sums over the weight's rows).
Invariant: each output is summed along k in order, in segments of 1024 that start from zero; rows,
tiles, chunks and threads do not change its bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from homebox.engine import dtype as dt
from homebox.engine.contract import PANEL, classify, merged, packed_product
from homebox.engine.contract_kernels import ContractLowering, Registers
from homebox.engine.decode_kernels import (
    PIECE,
    blocks,
    columns,
    load_words,
    pair_words,
    scales,
)
from homebox.engine.formats import A8, BLOCK, Q8, SUPER
from homebox.engine.linear import Value
from homebox.engine.loops import LANES
from homebox.engine.ops import Dim, Node, Op, Sym, size_max
from homebox.engine.packed import Packed
from homebox.engine.resident import emit_residents
from homebox.engine.schedule import SEGMENT, Lowered, PackedSchedule, Units, packed_schedule
from homebox.engine.symbolic import ZERO, Index, of, replace

KEYS = {"int8": dt.u8, "bf16": dt.bf16, "f32": dt.f32}


@dataclass(frozen=True, slots=True)
class Product:
    """One contraction of the region: its packed weight, and where a row of activations begins."""

    core: Node
    packed: Packed
    k: int  # numbers summed
    k_axis: int
    row_bytes: int  # from one row of activations to the next, for int8


class PackedLowering(ContractLowering):
    """The lowering of one region whose main contraction reads a packed weight."""

    products: list[Product]
    plan: PackedSchedule

    def lower(self) -> Lowered | None:
        """Return the kernel; None if memory is not laid out for one."""
        axes = classify(self.core)
        if axes is None or axes.batch:
            return None
        self.axes, self.shape = axes, self.core.src[0].shape
        if any(isinstance(d, Sym) for d in self.shape):
            return None
        self.each = [self.counters.loop(size_max(d)) for d in self.shape]
        self.lane = self.counters.loop(PANEL)
        self.blocks = -(-size_max(self.shape[axes.n]) // PANEL)
        self.outer = ()
        found = [self._product(core) for core in (self.core, *self.region.others)]
        self.products = [p for p in found if p is not None]
        if len(self.products) != len(found) or not self._join_rows():
            return None
        main = self.products[0].packed
        self.plan = packed_schedule(
            self.level, main.arithmetic, main.form, main.transposed, size_max(self.m_size),
            self.blocks, len(self.products), self.root.op is Op.PACK,
        )
        if any(p.packed.transposed for p in self.products) and self.plan.wide % 4:
            return None
        return self._emit_kernel()

    def _product(self, core: Node) -> Product | None:
        """Return what is to know of one contraction; its axes must be the main one's."""
        axes = classify(core)
        if axes is None or axes.batch or len(axes.k) != 1 or core.src[0].shape[:-1] != self.shape[:-1]:
            return None
        each = list(self.each)
        k_axis = axes.k[0]
        if core is not self.core:
            each[k_axis] = self.counters.loop(size_max(core.src[0].shape[k_axis]))
        packed = packed_product(core, axes, each)
        if packed is None or axes.n != self.axes.n or axes.m != self.axes.m:
            return None
        k = size_max(core.src[0].shape[k_axis])
        if packed.arithmetic == "bf16" and k % 2:
            return None
        flat = packed.a_flat
        if flat.coefficient(each[k_axis]) != 1 or not all(flat.linear_in(each[i]) for i in axes.m):
            return None
        start = replace(flat, each[k_axis], ZERO)
        packed = _with_start(packed, start)
        return Product(core, packed, k, k_axis, A8.panel_bytes(k))

    def _join_rows(self) -> bool:
        """Join all m axes into one; False where memory does not allow it."""
        m = self.axes.m
        self.m_inner, self.m_size, self.m_step = m, self._rows_of(m), 0
        self.row_steps = []
        for product in self.products:
            steps = [product.packed.a_flat.coefficient(self.each[i]) for i in m]
            if m and merged([(i, self.shape[i]) for i in m], [steps]) != len(m):
                return False
            self.row_steps.append(steps[-1] if m else 0)
            if product.packed.arithmetic == "int8" and any(s % product.k for s in steps):
                return False
        return True

    def _rows_of(self, m: tuple[int, ...]) -> Dim:
        return self._product_of(m) if m else 1

    def _product_of(self, places: tuple[int, ...]) -> int:
        total = 1
        for i in places:
            total *= size_max(self.shape[i])
        return total

    # -- work units -----------------------------------------------------------------------------

    @property
    def across(self) -> int:
        """How many panels a work unit is wide."""
        return self.plan.wide

    def _emit_kernel(self) -> Lowered:
        e, b, s = self.e, self.e.b, self.plan
        m = size_max(self.m_size)
        emit_residents(e, self.region.resident, min(m, s.rows))
        self.stored = [e.pointer(p.packed.stored) for p in self.products]
        self.inputs = [e.pointer(p.packed.a) for p in self.products]
        n_blocks, tall = self.blocks // s.wide, s.rows * s.tiles
        m_blocks = -(-m // tall)
        self.n_loop = self.counters.loop(n_blocks)
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        with b.loop(lo, hi) as unit:
            e.env[self.n_loop] = b.emit("idiv", dt.i64, 1, (unit, b.int(m_blocks)))
            m_block = b.emit("mod", dt.i64, 1, (unit, b.int(m_blocks)))
            if s.scratch:
                self._scratch_unit(m_block, min(m, tall))
            else:
                self._walk_rows(m_block, self._direct_tile)
        k_total = sum(p.k for p in self.products)
        work = max(min(m, tall) * s.wide * PANEL * k_total, 1)
        return Lowered(b.kernel(), tuple(e.memory), Units(n_blocks * m_blocks), s, work)

    def _walk_rows(self, m_block: Value, tile: Callable[[Index, int], None]) -> None:
        """Walk a unit's tiles: full ones in a loop, then what is left."""
        e, b, s = self.e, self.e.b, self.plan
        m = size_max(self.m_size)
        if m <= s.rows:
            tile(ZERO, m)
            return
        at = self.counters.loop(-(-m // s.rows))
        first = b.mul(m_block, b.int(s.tiles))
        stop = b.add(first, b.int(s.tiles))
        full = b.int(m // s.rows)
        with b.loop(first, b.emit("min", dt.i64, 1, (full, stop))) as i:
            e.env[at] = i
            tile(of(at) * s.rows, s.rows)
        if m % s.rows:
            with b.when(b.alu("lt", full, stop)):
                tile(Index(m // s.rows * s.rows), m % s.rows)

    def _row_start(self, i: int, top: Index) -> Index:
        """Return where row `top` of the activations of product i begins, in its elements."""
        flat = self.products[i].packed.a_flat
        for place, part in self._split(top, self.m_inner).items():
            flat = replace(flat, self.each[place], part)
        return flat

    def _panel_start(self, i: int, v: int) -> Value:
        """Return the byte where panel v of the unit's block begins."""
        e, packed = self.e, self.products[i].packed
        size = packed.form.panel_bytes(packed.shape[1])
        index = (of(self.n_loop) * self.plan.wide + v + packed.first // PANEL) * size
        return e.integer(index)

    # -- panels read as they are ----------------------------------------------------------------

    def _direct_tile(self, top: Index, rows: int) -> None:
        """Sum one tile of every product, `panels` panels at a time, and finish it."""
        step = self.plan.panels
        for v in range(0, self.plan.wide, step):
            sums = [self._sums(i, top, rows, v, step) for i in range(len(self.products))]
            self._finish_tile(top, rows, v, step, sums)

    def _sums(self, i: int, top: Index, rows: int, v: int, panels: int) -> list[list[Value]]:
        """Return the sums of a tile of product i; streams are read one after the other."""
        if not self.plan.streams:
            return self._segments(i, top, rows, v, panels)
        each = [self._segments(i, top, rows, v + p, 1) for p in range(panels)]
        return [[one[r][0] for one in each] for r in range(rows)]

    def _finish_tile(
        self, top: Index, rows: int, v: int, panels: int, sums: list[list[list[Value]]]
    ) -> None:
        if self.root.op is Op.PACK:
            self._pack_tile(top, rows, v, panels, sums)
            return
        for r in range(rows):
            for p in range(panels):
                given = {
                    product.core: values[r][p]
                    for product, values in zip(self.products, sums, strict=True)
                }
                self._finish_with(top + r, v + p, given)

    def _segments(
        self, i: int, top: Index, rows: int, v: int, panels: int
    ) -> list[list[Value]]:
        """Return the sums of a tile; segments of k start from zero and are added in order."""
        b, product = self.e.b, self.products[i]
        sums = self._zeros(rows, panels)
        part = _PARTS[product.packed.arithmetic]
        if product.k <= SEGMENT:
            part(self, i, top, v, (b.int(0), product.k), sums)
        else:
            full = product.k // SEGMENT
            with b.loop(b.int(0), b.int(full)) as segment:
                begin = b.mul(segment, b.int(SEGMENT))
                self._added(sums, lambda parts: part(self, i, top, v, (begin, SEGMENT), parts))
            if rest := product.k % SEGMENT:
                begin = b.int(full * SEGMENT)
                self._added(sums, lambda parts: part(self, i, top, v, (begin, rest), parts))
        return [[b.get(x) for x in row] for row in sums]

    def _zeros(self, rows: int, panels: int) -> Registers:
        b = self.e.b
        zero = b.const(0.0, dt.f32, LANES)
        return [[b.reg(zero) for _ in range(panels)] for _ in range(rows)]

    def _added(self, totals: Registers, fill: Callable[[Registers], None]) -> None:
        """Sum one segment from zero and add it to the totals."""
        b = self.e.b
        parts = self._zeros(len(totals), len(totals[0]))
        fill(parts)
        for total_row, part_row in zip(totals, parts, strict=True):
            for total, part in zip(total_row, part_row, strict=True):
                b.set(total, b.alu("add", b.get(total), b.get(part)))

    def _part_int8(
        self, i: int, top: Index, v: int, span: tuple[Value, int], acc: Registers
    ) -> None:
        """Add `span` = (first k, count) of int8 blocks: exact sums of 32, then one fma each."""
        b, product = self.e.b, self.products[i]
        form, (begin, count) = product.packed.form, span
        rows = self._int8_rows(i, top, len(acc))
        starts = [self._panel_start(i, v + p) for p in range(len(acc[0]))]
        first = b.emit("idiv", dt.i64, 1, (begin, b.int(SUPER)))
        whole = count // SUPER
        if whole:
            with b.loop(first, b.add(first, b.int(whole))) as at:
                for half in range(2):
                    self._int8_block(i, rows, starts, at, half, acc)
        if count % SUPER:
            at = b.add(first, b.int(whole))
            for half in range(-(-(count % SUPER) // BLOCK)):
                self._int8_block(i, rows, starts, at, half, acc)

    def _int8_rows(self, i: int, top: Index, rows: int) -> list[Value]:
        """Return the byte where each row of int8 activations begins."""
        product = self.products[i]
        start = self._row_start(i, top)
        per = product.row_bytes
        scaled = Index(
            start.const // product.k * per,
            tuple((a, c // product.k * per) for a, c in start.terms),
        )
        step = self.row_steps[i] // product.k * per
        base = self.e.integer(scaled)
        return [self.e.b.add(base, self.e.b.int(r * step)) for r in range(rows)]

    def _int8_block(
        self, i: int, rows: list[Value], starts: list[Value], at: Value, half: int, acc: Registers
    ) -> None:
        """Add one block of 32 k: half `half` of super-block `at`."""
        b, form = self.e.b, self.products[i].packed.form
        a = self.inputs[i]
        floats, ints = b.view(a, dt.f32), b.view(a, dt.i32)
        places = [b.add(p, b.mul(at, b.int(form.unit_bytes))) for p in starts]
        words = []
        for row in rows:
            byte = b.add(row, b.mul(at, b.int(2 * A8.unit_bytes)))
            words.append(b.add(b.emit("idiv", dt.i64, 1, (byte, b.int(4))), b.int(10 * half)))
        zero = b.const(0, dt.i32, LANES)
        sums: list[list[list[Value]]] = []
        for word in words:
            total = b.load(ints, b.add(word, b.int(1)))
            start = b.splat(b.alu("mul", total, b.const(-form.zero, dt.i32)), LANES)
            sums.append([[b.reg(start), *self._second(zero, acc)] for _ in starts])
        for g, panel_bytes in self._int8_groups(i, places, half):
            for word, row in zip(words, sums, strict=True):
                number = b.splat(b.load(ints, b.add(word, b.int(2 + g))), LANES)
                four = b.bitcast(number, dt.i8)
                for weight, chains in zip(panel_bytes, row, strict=True):
                    chain = chains[g % len(chains)]
                    args = (b.get(chain), weight, four)
                    b.set(chain, b.emit("dot4", dt.i32, LANES, args, form.zero * 2 - 1))
        factors = [scales(b, form, self.stored[i], place, half) for place in places]
        for word, row, totals in zip(words, sums, acc, strict=True):
            mine = b.splat(b.load(floats, word), LANES)
            for chains, factor, total in zip(row, factors, totals, strict=True):
                whole = b.get(chains[0])
                for other in chains[1:]:
                    whole = b.alu("add", whole, b.get(other))
                both = b.alu("mul", factor, mine)
                b.set(total, b.alu("fma", b.cast(whole, dt.f32), both, b.get(total)))

    def _second(self, zero: Value, acc: Registers) -> list[Value]:
        """Return a second chain of sums where few run side by side: integers add in any order."""
        return [self.e.b.reg(zero)] if len(acc) * len(acc[0]) <= 2 else []

    def _int8_groups(
        self, i: int, places: list[Value], half: int
    ) -> Iterator[tuple[int, list[Value]]]:
        """Yield each group of 4 k with the panels' 64 unsigned bytes, just when they are read."""
        b, form, stored = self.e.b, self.products[i].packed.form, self.stored[i]
        count = 8 if form is Q8 else 4
        for g in range(count):
            offset = 64 + 64 * (count * half + g)
            loaded = [b.bitcast(load_words(b, stored, at, offset), dt.u8) for at in places]
            if form is Q8:
                yield g, loaded
                continue
            low, four = b.const(15, dt.u8, 64), b.const(4, dt.u8, 64)
            yield g, [b.alu("and", x, low) for x in loaded]
            yield g + 4, [b.alu("shr", x, four) for x in loaded]

    def _part_bf16(
        self, i: int, top: Index, v: int, span: tuple[Value, int], acc: Registers
    ) -> None:
        """Add `span` of a product of bf16 with bf16 panels, two k at a time."""
        b, (begin, count) = self.e.b, span
        pairs = b.view(self.inputs[i], dt.i32)
        half = b.emit("idiv", dt.i64, 1, (self.e.integer(self._row_start(i, top)), b.int(2)))
        rows = [b.add(half, b.int(r * self.row_steps[i] // 2)) for r in range(len(acc))]
        words = b.view(self.stored[i], dt.i32)
        starts = [
            b.emit("idiv", dt.i64, 1, (self._panel_start(i, v + p), b.int(4)))
            for p in range(len(acc[0]))
        ]

        def step(k: Value, u: int) -> None:
            at = b.add(b.mul(k, b.int(LANES)), b.int(LANES * u))
            panels = [
                b.bitcast(b.load(words, b.add(s, at), LANES), dt.bf16) for s in starts
            ]
            for row, totals in zip(rows, acc, strict=True):
                pair = b.splat(b.load(pairs, b.add(b.add(row, k), b.int(u))), LANES)
                self._dot_row(b.bitcast(pair, dt.bf16), panels, totals)

        first = b.emit("idiv", dt.i64, 1, (begin, b.int(2)))
        self._unrolled(first, count // 2, 4, step)

    def _dot_row(self, pair: Value, panels: list[Value], totals: list[Value]) -> None:
        b = self.e.b
        for panel, total in zip(panels, totals, strict=True):
            b.set(total, b.emit("dotbf16", dt.f32, LANES, (b.get(total), panel, pair)))

    def _unrolled(
        self, first: Value, count: int, unroll: int, step: Callable[[Value, int], None]
    ) -> None:
        """Call step(k, u) for first .. first + count, `unroll` at a time."""
        b = self.e.b
        whole = count // unroll * unroll
        if whole:
            with b.loop(first, b.add(first, b.int(whole)), unroll) as k:
                for u in range(unroll):
                    step(k, u)
        for u in range(count - whole):
            step(b.add(first, b.int(whole)), u)

    def _part_f32(
        self, i: int, top: Index, v: int, span: tuple[Value, int], acc: Registers
    ) -> None:
        """Add `span` of a product of float32 with exactly decoded weights."""
        b, product, (begin, count) = self.e.b, self.products[i], span
        form, a = product.packed.form, self.inputs[i]
        base = self.e.integer(self._row_start(i, top))
        rows = [b.add(base, b.int(r * self.row_steps[i])) for r in range(len(acc))]
        starts = [self._panel_start(i, v + p) for p in range(len(acc[0]))]
        length = PIECE[form.name]
        per = length // form.unit * form.unit_bytes

        def piece(at: Value, most: int) -> None:
            places = [b.add(s, b.mul(at, b.int(per))) for s in starts]
            k0 = b.mul(at, b.int(length))
            for values in zip(*(blocks(b, form, self.stored[i], p, most) for p in places), strict=True):
                k = values[0][0]
                if k >= most:
                    return
                for row, totals in zip(rows, acc, strict=True):
                    factor = b.splat(b.load(a, b.add(b.add(row, k0), b.int(k))), LANES)
                    for (_, value), total in zip(values, totals, strict=True):
                        b.set(total, b.alu("fma", factor, value, b.get(total)))

        first = b.emit("idiv", dt.i64, 1, (begin, b.int(length)))
        whole = count // length
        if whole:
            with b.loop(first, b.add(first, b.int(whole))) as at:
                piece(at, length)
        if count % length:
            piece(b.add(first, b.int(whole)), count % length)

    # -- decoded into a scratch first -----------------------------------------------------------

    def _scratch_unit(self, m_block: Value, tall: int) -> None:
        """Compute one unit: for each segment of k decode the panels, then multiply all rows."""
        b, s = self.e.b, self.plan
        (product,) = self.products
        wide = s.wide * PANEL
        length = min(product.k, SEGMENT)
        narrow = product.packed.arithmetic == "bf16"
        padded = -(-length // 64) * 64
        self.scratch = b.emit("stack", dt.i32, 1, (), padded * wide // (2 if narrow else 1))
        self.decode = self._decode_turned if product.packed.transposed else self._decode_straight
        if product.k <= SEGMENT:
            self.decode((b.int(0), product.k), narrow)
            self._walk_rows(m_block, lambda top, rows: self._scratch_tile(top, rows, product.k))
            return
        self.sums = b.emit("stack", dt.f32, 1, (), tall * wide)
        self.block_top = b.mul(m_block, b.int(s.rows * s.tiles))
        zero = b.const(0.0, dt.f32, LANES)
        with b.loop(b.int(0), b.int(tall * wide), LANES) as place:
            b.store(self.sums, place, zero)
        full, rest = divmod(product.k, SEGMENT)
        last = full - 1 if not rest else full
        with b.loop(b.int(0), b.int(last)) as segment:
            begin = b.mul(segment, b.int(SEGMENT))
            self.decode((begin, SEGMENT), narrow)
            self._walk_rows(m_block, lambda top, rows: self._summed(top, rows, begin, SEGMENT, False))
        begin, count = b.int(last * SEGMENT), rest or SEGMENT
        self.decode((begin, count), narrow)
        self._walk_rows(m_block, lambda top, rows: self._summed(top, rows, begin, count, True))

    def _scratch_tile(self, top: Index, rows: int, count: int) -> None:
        b, step = self.e.b, self.plan.panels
        for v in range(0, self.plan.wide, step):
            sums = self._zeros(rows, step)
            self._multiply_scratch(top, v, b.int(0), count, sums)
            values = [[b.get(x) for x in row] for row in sums]
            self._finish_tile(top, rows, v, step, [values])

    def _summed(self, top: Index, rows: int, begin: Value, count: int, last: bool) -> None:
        """Add a segment to the sums that lie in memory; finish the tile after the last one."""
        b, step, wide = self.e.b, self.plan.panels, self.plan.wide * PANEL
        row = b.alu("sub", self.e.integer(top), self.block_top)
        for v in range(0, self.plan.wide, step):
            parts = self._zeros(rows, step)
            self._multiply_scratch(top, v, begin, count, parts)
            values: list[list[Value]] = []
            for r, part_row in enumerate(parts):
                values.append([])
                for p, part in enumerate(part_row):
                    place = b.add(b.mul(row, b.int(wide)), b.int(r * wide + (v + p) * PANEL))
                    total = b.alu("add", b.load(self.sums, place, LANES), b.get(part))
                    values[-1].append(total)
                    if not last:
                        b.store(self.sums, place, total)
            if last:
                self._finish_tile(top, rows, v, step, [values])

    def _multiply_scratch(
        self, top: Index, v: int, begin: Value, count: int, acc: Registers
    ) -> None:
        """Multiply rows of activations with the scratch, whose first k is `begin`."""
        b, wide = self.e.b, self.plan.wide * PANEL
        (product,) = self.products
        narrow = product.packed.arithmetic == "bf16"
        per = 2 if narrow else 1
        a = b.view(self.inputs[0], dt.i32 if narrow else dt.f32)
        base = b.add(self.e.integer(self._row_start(0, top)), begin)
        base = b.emit("idiv", dt.i64, 1, (base, b.int(per)))
        rows = [b.add(base, b.int(r * self.row_steps[0] // per)) for r in range(len(acc))]
        scratch = b.view(self.scratch, dt.i32)

        def step(k: Value, u: int) -> None:
            at = b.add(b.mul(k, b.int(wide)), b.int(wide * u + v * PANEL))
            panels = [
                b.load(scratch, b.add(at, b.int(p * PANEL)), LANES) for p in range(len(acc[0]))
            ]
            kind = dt.bf16 if narrow else dt.f32
            panels = [b.bitcast(x, kind) for x in panels]
            for row, totals in zip(rows, acc, strict=True):
                one = b.splat(b.load(a, b.add(b.add(row, k), b.int(u))), LANES)
                if narrow:
                    self._dot_row(b.bitcast(one, dt.bf16), panels, totals)
                    continue
                for panel, total in zip(panels, totals, strict=True):
                    b.set(total, b.alu("fma", one, panel, b.get(total)))

        self._unrolled(b.int(0), count // per, 4, step)

    def _decode_straight(self, span: tuple[Value, int], narrow: bool) -> None:
        """Fill the scratch [k][wide] (or [k / 2][wide] pairs) from panels read along k."""
        b, (begin, count) = self.e.b, span
        form, wide = self.products[0].packed.form, self.plan.wide * PANEL
        length = PIECE[form.name]
        per = length // form.unit * form.unit_bytes
        first = b.emit("idiv", dt.i64, 1, (begin, b.int(length)))
        whole = count // length
        for p in range(self.plan.wide):
            start = self._panel_start(0, p)

            def piece(at: Value, most: int, start: Value = start, column: int = p * PANEL) -> None:
                place = b.add(start, b.mul(b.add(first, at), b.int(per)))
                values = [value for _, value in blocks(b, form, self.stored[0], place, most)]
                self._keep_values(values, b.mul(at, b.int(length)), wide, column, narrow)

            if whole:
                with b.loop(b.int(0), b.int(whole)) as at:
                    piece(at, length)
            if count % length:
                piece(b.int(whole), count % length)

    def _keep_values(
        self, values: list[Value], k: Value, wide: int, column: int, narrow: bool
    ) -> None:
        """Write values for k, k + 1, .. into one column of 16 of the scratch."""
        b = self.e.b
        if narrow:
            half = b.emit("idiv", dt.i64, 1, (k, b.int(2)))
            words = [pair_words(b, *values[j : j + 2]) for j in range(0, len(values), 2)]
            base = b.add(b.mul(half, b.int(wide)), b.int(column))
        else:
            words = [b.bitcast(v, dt.i32) for v in values]
            base = b.add(b.mul(k, b.int(wide)), b.int(column))
        for j, word in enumerate(words):
            b.store(self.scratch, b.add(base, b.int(j * wide)), word)

    def _decode_turned(self, span: tuple[Value, int], narrow: bool) -> None:
        """Fill the scratch from 16 rows x 64 columns of the weight at a time, turned round."""
        b, (begin, count) = self.e.b, span
        packed, wide = self.products[0].packed, self.plan.wide * PANEL
        size = packed.form.panel_bytes(packed.shape[1])
        first = b.emit("idiv", dt.i64, 1, (begin, b.int(PANEL)))
        start = b.add(first, self.e.integer(packed.first // PANEL))
        for square in range(self.plan.wide // 4):
            column = b.mul(self.e.env[self.n_loop], b.int(wide))
            column = b.add(column, b.int(64 * square))
            with b.loop(b.int(0), b.int(-(-count // PANEL))) as at:
                panel = b.mul(b.add(start, at), b.int(size))
                self._fetch_square(b.add(panel, b.int(2 * size)), column)
                rows = columns(b, packed.form, self.stored[0], panel, column)
                for part in range(4):
                    values = [row[part] for row in rows]
                    self._keep_values(
                        values, b.mul(at, b.int(PANEL)), wide, 64 * square + part * PANEL, narrow
                    )

    def _fetch_square(self, panel: Value, column: Value) -> None:
        """Ask for 16 rows x 64 columns that are decoded soon: they lie far from what is read now."""
        b, form = self.e.b, self.products[0].packed.form
        pieces = 64 // form.unit
        start = b.add(panel, b.mul(column, b.int(form.unit_bytes // form.unit)))
        for line in range(0, pieces * form.unit_bytes, 64):
            b.prefetch(self.stored[0], b.add(start, b.int(line)))

    # -- what follows ---------------------------------------------------------------------------

    def _pack_tile(
        self, top: Index, rows: int, v: int, panels: int, sums: list[list[list[Value]]]
    ) -> None:
        """Write pairs of panels as blocks of int8: the PACK that ends the region."""
        from homebox.engine.pack_kernels import write_block

        e, b = self.e, self.e.b
        width = size_max(self.root.shape[1])
        for r in range(rows):
            row = b.mul(e.integer(top + r), b.int(width))
            for p in range(0, panels, 2):
                halves = []
                for q in (p, p + 1):
                    given = {
                        product.core: values[r][q]
                        for product, values in zip(self.products, sums, strict=True)
                    }
                    halves.append(self._value_of(self.root.src[0], top + r, v + q, given))
                block = (of(self.n_loop) * self.plan.wide + (v + p)) * (A8.unit_bytes // 2)
                write_block(e, halves, e.pointer(self.root), b.add(row, e.integer(block)))


def _with_start(packed: Packed, start: Index) -> Packed:
    from dataclasses import replace as changed

    return changed(packed, a_flat=start)


_PARTS = {
    "int8": PackedLowering._part_int8,
    "bf16": PackedLowering._part_bf16,
    "f32": PackedLowering._part_f32,
}

"""Kernels of products with packed weights: GEMV to GEMM over f32, bf16, q8 and q4, several at once.

A tile of `rows` x `panels` * 16 outputs is summed along k for each contraction of the region, then
the epilogue combines them. Few rows (decode) stream the weight once: what they multiply is computed
once per thread into memory of its own. Many rows either read panels directly, where the machine
multiplies their type (`packed_sums`), or first decode them (`packed_scratch`).
Invariant: each output is summed along k in order, in segments of 1024 that start from zero; rows,
tiles, chunks and threads do not change its bits.
"""

from dataclasses import dataclass
from dataclasses import replace as changed

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.contract import PANEL, classify, merged, packed_product_at
from homebox.engine.fusion.packed import Packed
from homebox.engine.fusion.schedule import Lowered, PackedSchedule, Units, packed_schedule
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8
from homebox.engine.graph.ops import Node, Op, Sym, numel_max, size_max
from homebox.engine.graph.symbolic import ZERO, Index, of, replace
from homebox.engine.kernels.contract_kernels import ContractLowering
from homebox.engine.kernels.pack_kernels import write_block
from homebox.engine.kernels.packed_scratch import Scratch, Tile
from homebox.engine.kernels.packed_sums import Operands, segments
from homebox.engine.kernels.resident import emit_residents

AHEAD = 36 * 64  # bytes before they are needed; the CPU's own reading ahead falls short by a fifth


@dataclass(frozen=True, slots=True)
class Product:
    """One contraction of the region; `packed.a_flat` is where a row of activations begins."""

    core: Node
    packed: Packed
    k: int  # numbers summed
    row_step: int  # elements from one row of activations to the next


class PackedLowering(ContractLowering):
    """The lowering of one region whose main contraction reads a packed weight."""

    products: list[Product]
    plan: PackedSchedule

    def find_products(self) -> bool:
        """Find axes and operands of all contractions; False if they are not laid out for it."""
        axes = classify(self.core)
        if axes is None:
            return False
        self.axes, self.shape, self.outer = axes, self.core.src[0].shape, axes.batch
        if any(isinstance(d, Sym) for d in self.shape):
            return False
        self.each = [self.counters.loop(size_max(d)) for d in self.shape]
        self.lane = self.counters.loop(PANEL)
        self.blocks = -(-size_max(self.shape[axes.n]) // PANEL)
        self.m_inner, self.m_size = axes.m, numel_max(self.shape[i] for i in axes.m)
        found = [self._analysed(core) for core in (self.core, *self.region.others)]
        self.products = [p for p in found if p is not None]
        return len(self.products) == len(found)

    def lower(self) -> Lowered | None:
        """Return the kernel; None if memory is not laid out for one."""
        if not self.find_products():
            return None
        main = self.products[0].packed
        self.plan = packed_schedule(
            self.level,
            main.arithmetic,
            main.form,
            main.transposed,
            size_max(self.m_size),
            self.blocks,
            len(self.products),
            self.root.op is Op.PACK,
        )
        if any(p.packed.transposed for p in self.products) and self.plan.wide % 4:
            return None
        return self._emit_kernel()

    def _analysed(self, core: Node) -> Product | None:
        """Return what is to know of one contraction; its outputs must be the main one's."""
        axes, shape = classify(core), core.src[0].shape
        if axes is None or len(axes.k) != 1 or shape[:-1] != self.shape[:-1]:
            return None
        (k_axis,) = axes.k
        each = list(self.each)
        if core is not self.core:
            each[k_axis] = self.counters.loop(size_max(shape[k_axis]))
        packed = packed_product_at(core, axes, each)
        same = (axes.n, axes.m, axes.batch) == (self.axes.n, self.axes.m, self.axes.batch)
        if packed is None or not same:
            return None
        flat, k, m = packed.a_flat, size_max(shape[k_axis]), axes.m
        steps = [flat.coefficient(each[i]) for i in m]
        if flat.coefficient(each[k_axis]) != 1 or not all(flat.linear_in(each[i]) for i in m):
            return None
        if m and merged([(i, shape[i]) for i in m], [steps]) != len(m):
            return None
        packed = changed(packed, a_flat=replace(flat, each[k_axis], ZERO))
        blocks = [packed.a_flat.const, *(c for _, c in packed.a_flat.terms)] if axes.batch else []
        uneven = packed.arithmetic == "bf16" and (k % 2 or any(s % 2 for s in blocks))
        if uneven or (packed.arithmetic == "int8" and any(s % k for s in (*steps, *blocks))):
            return None
        return Product(core, packed, k, steps[-1] if m else 0)

    # -- work units -----------------------------------------------------------------------------

    @property
    def across(self) -> int:
        """How many panels a work unit is wide."""
        return self.plan.wide

    def _emit_kernel(self) -> Lowered:
        e, b, s = self.e, self.e.b, self.plan
        m = size_max(self.m_size)
        emit_residents(e, self.region.resident)
        stored = [e.pointer(p.packed.stored) for p in self.products]
        inputs = [e.pointer(p.packed.a) for p in self.products]
        self.operands = [
            self._operands(*each) for each in zip(self.products, stored, inputs, strict=True)
        ]
        n_blocks, tall = self.blocks // s.wide, s.rows * s.tiles
        m_blocks = -(-m // tall)
        self.n_loop = self.counters.loop(n_blocks)
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        with b.loop(lo, hi) as unit:
            rest = b.emit("idiv", dt.i64, 1, (unit, b.int(m_blocks)))
            e.env[self.n_loop] = self._find_group(rest, n_blocks)
            self._unit(b.emit("mod", dt.i64, 1, (unit, b.int(m_blocks))), min(m, tall))
        k_total = sum(p.k for p in self.products)
        work = max(min(m, tall) * s.wide * PANEL * k_total, 1)
        units = n_blocks * m_blocks * numel_max(self.shape[i] for i in self.outer)
        return Lowered(b.kernel(), tuple(e.memory), Units(units), s, work)

    def _find_group(self, rest: Value, n_blocks: int) -> Value:
        """Set the counters of blocks of rows for a unit; return its number across.

        Few rows stream one weight to its end; of many, blocks that share a weight are neighbours.
        """
        b = self.e.b
        across = rest
        if self.outer and self.plan.streams:
            across = b.emit("mod", dt.i64, 1, (rest, b.int(n_blocks)))
            rest = b.emit("idiv", dt.i64, 1, (rest, b.int(n_blocks)))
        for i in reversed(self.outer):
            size = b.int(size_max(self.shape[i]))
            self.e.env[self.each[i]] = b.emit("mod", dt.i64, 1, (rest, size))
            rest = b.emit("idiv", dt.i64, 1, (rest, size))
        return across if self.outer and self.plan.streams else rest

    def _operands(self, product: Product, stored: Value, given: Value) -> Operands:
        packed = product.packed

        def row_start(top: Index) -> Index:
            flat = packed.a_flat
            for place, part in self._split(top, self.m_inner).items():
                flat = replace(flat, self.each[place], part)
            return flat

        def panel_start(v: int) -> Value:
            size = packed.form.panel_bytes(packed.shape[1])
            panel = of(self.n_loop) * self.plan.wide + v + packed.first // PANEL
            return self.e.integer(panel * size)

        return Operands(
            self.e,
            packed,
            product.k,
            stored,
            given,
            row_start,
            product.row_step,
            panel_start,
            AHEAD if self.plan.streams else 0,
            lambda: self.e.mask(packed.exists),
        )

    def _unit(self, m_block: Value, tall: int) -> None:
        """Compute one unit: some rows of the unit's block of panels."""
        b, s = self.e.b, self.plan

        def walk(tile: Tile) -> None:
            self._walk_rows(m_block, tile)

        if not s.scratch:
            walk(self._direct_tile)
            return
        (only,) = self.operands

        def finish(row: Index, rows: int, v: int, sums: list[list[Value]]) -> None:
            self._finish_tile(row, rows, v, [sums])

        top = b.mul(m_block, b.int(s.rows * s.tiles))
        Scratch(only, s, self.e.env[self.n_loop], walk).unit(top, tall, finish)

    def _walk_rows(self, m_block: Value, tile: Tile) -> None:
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

    def _direct_tile(self, top: Index, rows: int) -> None:
        """Sum one tile of every product, `panels` panels at a time, and finish it."""
        step = self.plan.panels
        for v in range(0, self.plan.wide, step):
            sums = [self._sums(o, top, rows, v) for o in self.operands]
            self._finish_tile(top, rows, v, sums)

    def _sums(self, o: Operands, top: Index, rows: int, v: int) -> list[list[Value]]:
        """Return the sums of a tile; streams of a weight are read one after the other."""
        panels = self.plan.panels
        if not self.plan.streams:
            return segments(o, top, rows, v, panels)
        each = [segments(o, top, rows, v + p, 1) for p in range(panels)]
        return [[one[r][0] for one in each] for r in range(rows)]

    # -- what follows ---------------------------------------------------------------------------

    def _finish_tile(self, top: Index, rows: int, v: int, sums: list[list[list[Value]]]) -> None:
        """Compute the epilogue from the sums by product, row and panel."""

        def given(r: int, p: int) -> dict[Node, Value]:
            pairs = zip(self.products, sums, strict=True)
            return {product.core: values[r][p] for product, values in pairs}

        for r in range(rows):
            if self.root.op is not Op.PACK:
                for p in range(self.plan.panels):
                    self._finish_with(top + r, v + p, given(r, p))
                continue
            for p in range(0, self.plan.panels, 2):
                source = self.root.src[0]
                halves = [self._value_of(source, top + r, v + q, given(r, q)) for q in (p, p + 1)]
                self._write_block(top + r, v + p, halves)

    def _write_block(self, row: Index, v: int, halves: list[Value]) -> None:
        """Write two panels of a row as a block of int8: the PACK that ends the region."""
        e, b = self.e, self.e.b
        at = self._place(row, v)[0][0] if self.outer else row
        start = b.mul(e.integer(at), b.int(size_max(self.root.shape[1])))
        block = (of(self.n_loop) * self.plan.wide + v) * (A8.unit_bytes // 2)
        write_block(e, halves, e.pointer(self.root), b.add(start, e.integer(block)))

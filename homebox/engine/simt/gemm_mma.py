"""Products of many rows with packed weights on matrix units: int8 blocks, and numbers of bf16.

A group computes a tile of outputs with teams of work-items, each of which holds some 16 x 16
fragments of sums. Slices of 32 or 64 bytes along k go through two halves of local memory, lines
side by side, so that a line of a slice is a line of a fragment; 16 bytes between them keep
neighbouring lines in other banks. Sums of int8 blocks are scaled one block at a time. At the end
the fragments go through local memory, one after the other, to the ordinary epilogue.
Invariant: int8 arithmetic has the CPU's bits, since sums of whole numbers are exact on every unit
and the scaled ones run along k in order, in segments of 1024 that start from zero. bf16 arithmetic
sums as the unit does. float32 arithmetic never comes here.
"""

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.draft import Region
from homebox.engine.fusion.schedule import SEGMENT
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.ops import Node, Op, Sym, size_max
from homebox.engine.graph.symbolic import ZERO, Index, replace
from homebox.engine.kernels.packed_kernels import Product
from homebox.engine.simt.gemm import segmented
from homebox.engine.simt.gemm_epilogue import finish, inside
from homebox.engine.simt.gemm_stage import run_of
from homebox.engine.simt.mma_choice import LINE, SIDE, fragments_schedule
from homebox.engine.simt.mma_stage import (
    BlockRows,
    BlockScales,
    BlockWeights,
    Box,
    NarrowRows,
    NarrowWeights,
    WeightScales,
)
from homebox.engine.simt.product import PackedSimt
from homebox.engine.simt.target import Fragments, LoweredSimt, Simt, Span
from homebox.engine.simt.tile_loop import Stage, slices, total, whole

LEAST_ROWS = 16  # fewer leave most of a fragment unused
UNIT = {"int8": "mma_s8", "bf16": "mma_bf16"}
KIND: dict[str, DType] = {"int8": dt.i8, "bf16": dt.bf16}
Tiles = list[list[Value]]  # [row][column] fragments of a team


def lower_mma(
    region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
) -> LoweredSimt | None:
    """Return the kernel of products with packed weights; None if the units cannot do it.

    `realised` are the nodes with memory but for the root.
    """
    if region.core is None or region.resident or region.root.op is Op.PACK:
        return None
    if not target.units & set(UNIT.values()):
        return None
    return MmaSimt(region, realised, syms, target).lower_simt()


class MmaSimt(PackedSimt):
    """The lowering of one region; `lower_simt` is its only entrance."""

    tile: Fragments
    box: Box

    def lower_simt(self) -> LoweredSimt | None:
        """Return the kernel; None if units, shapes or memory do not allow it."""
        if not self.find_products() or size_max(self.m_size) < LEAST_ROWS:
            return None
        if not all(self._fits(p) for p in self.products):
            return None
        s, b = self.s, self.s.b
        n, m = size_max(self.shape[self.axes.n]), size_max(self.m_size)
        long = all(p.k % (2 * LINE // self._kind(p).size) == 0 for p in self.products)
        scaled = any(p.packed.arithmetic == "int8" for p in self.products)
        count = len(self.products)
        sums = count + any(segmented(p) for p in self.products)
        tile = fragments_schedule(self.target, m, n, sums, 2 if long else 1, scaled)
        if tile is None:
            return None
        outer = self.place_outer(2)
        self.products = self.weights_within()
        self.tile, self.box = tile, Box(s, tile, count)
        found = {p.core: self._sum(p) for p in self.products}
        self._finish_fragments(found)
        grid = (Span((m,), tile.height), Span((n,), tile.width), *outer)
        kernel = b.kernel((tile.group, 1, *(1 for _ in outer)))
        return LoweredSimt(kernel, tuple(s.memory), grid, tile)

    def _kind(self, product: Product) -> DType:
        return KIND[product.packed.arithmetic]

    def _fits(self, product: Product) -> bool:
        """Whether the units can compute a product, and its rows can be read in whole words."""
        packed = product.packed
        if UNIT.get(packed.arithmetic) not in self.target.units:
            return False
        if packed.arithmetic == "int8":
            return packed.form.quantised
        flat = self._row_zero(product)
        if product.k % (LINE // dt.bf16.size):
            return False
        return run_of(flat, True, product.row_step, product.k, LINE // dt.bf16.size) > 1

    def _row_zero(self, product: Product) -> Index:
        """Return where the first row of activations begins."""
        flat = product.packed.a_flat
        for i in self.m_inner:
            flat = replace(flat, self.each[i], ZERO)
        return flat

    # -- the sum over k -------------------------------------------------------------------------

    def _sum(self, product: Product) -> Tiles:
        """Return a product's sums; local memory may be written again afterwards."""
        sums = self._zeros()
        with self.existing(product.packed.group):
            self._add_all(product, sums)
        return sums

    def _add_all(self, product: Product, sums: Tiles) -> None:
        """Add all of k to a product's sums."""
        s, b, tile = self.s, self.s.b, self.tile
        kind = self._kind(product)
        depth = tile.depth * LINE // kind.size
        end = -(-product.k // depth) * depth
        stages = self._stages(product)

        def walk(acc: Tiles, span: tuple[Value, Value]) -> None:
            def multiply(half: Value, k: Value, steps: Value) -> None:
                for line in range(tile.depth):
                    self._add_line(half, line, kind, acc)

            slices(s, depth, stages, multiply, span, True)

        if not segmented(product):
            walk(sums, (b.int(0), b.int(end)))
            return
        with b.loop(b.int(0), b.int(end), SEGMENT) as begin:
            parts = self._zeros()
            stop = b.add(begin, b.int(SEGMENT))
            walk(parts, (begin, whole(s, "min", stop, end) if end % SEGMENT else stop))
            for row, part_row in zip(sums, parts, strict=True):
                for one, part in zip(row, part_row, strict=True):
                    b.emit("fragment_add", dt.f32, 1, (one, part))

    def _zeros(self) -> Tiles:
        """Return a team's sums, all 0."""
        tile = self.tile
        return [[self._zero(dt.f32) for _ in range(tile.columns)] for _ in range(tile.rows)]

    def _zero(self, dtype: DType) -> Value:
        return self.s.b.emit("fragment_zero", dtype, 1, (), self.tile.team)

    def _add_line(self, half: Value, line: int, kind: DType, sums: Tiles) -> None:
        """Add one line of 32 bytes of k to a team's sums."""
        b, tile, box = self.s.b, self.tile, self.box
        view = b.view(box.memory, kind)
        arg = (4 * box.stride // kind.size, tile.team)

        def factor(op: str, number: Value) -> Value:
            at = b.mul(box.place(half, number, 8 * line), b.int(4 // kind.size))
            return b.emit(op, kind, 1, (view, at), arg)

        rows = [self._line(True, i) for i in range(tile.rows)]
        columns = [self._line(False, j) for j in range(tile.columns)]
        left = [factor("fragment_a", r) for r in rows]
        right = [factor("fragment_b", b.add(c, b.int(tile.height))) for c in columns]
        for i, a in enumerate(left):
            for j, other in enumerate(right):
                if kind is not dt.i8:
                    b.emit("mma", dt.f32, 1, (sums[i][j], a, other))
                    continue
                part = self._zero(dt.i32)
                b.emit("mma", dt.i32, 1, (part, a, other))
                places = [
                    box.scale(half, line, rows[i]),
                    box.scale(half, line, b.add(columns[j], b.int(tile.height))),
                ]
                floats = b.view(box.memory, dt.f32)
                args = (sums[i][j], part, floats, places[0], floats, places[1])
                b.emit("fragment_scale", dt.f32, 1, args)

    def _line(self, down: bool, i: int) -> Value:
        """Return the row or column of the tile where a team's fragment `i` begins."""
        s, b, tile = self.s, self.s.b, self.tile
        team = whole(s, "idiv", s.local(), tile.team)
        place = whole(s, "idiv" if down else "mod", team, tile.across)
        count = tile.rows if down else tile.columns
        return b.add(b.mul(place, b.int(SIDE * count)), b.int(SIDE * i))

    def _stages(self, product: Product) -> tuple[Stage, ...]:
        """Return what brings a product's slices into local memory."""
        s, box, packed = self.s, self.box, product.packed
        given, stored = s.pointer(packed.a), s.pointer(packed.stored)
        count, n = size_max(self.m_size), size_max(self.shape[self.axes.n])
        flat, step = self._row_zero(product), product.row_step
        if packed.arithmetic == "int8":
            first = Index(
                flat.const // product.k, tuple((a, c // product.k) for a, c in flat.terms)
            )
            rows = BlockRows(s, box, given, s.integer(first), step // product.k, count, product.k)
            return (
                rows,
                BlockScales(rows),
                BlockWeights(s, box, packed, stored, n),
                WeightScales(s, box, packed, stored, n),
            )
        depth = self.tile.depth * LINE // dt.bf16.size
        run = run_of(flat, True, step, product.k, depth)
        return (
            NarrowRows(s, box, given, s.integer(flat), step, count, run),
            NarrowWeights(s, box, packed, stored, n),
        )

    # -- the epilogue ---------------------------------------------------------------------------

    def _finish_fragments(self, sums: dict[Node, Tiles]) -> None:
        """Bring the sums to local memory, a fragment of each team at a time, and finish them."""
        s, b, tile, box = self.s, self.s.b, self.tile, self.box
        floats = b.view(box.memory, dt.f32)
        team, lane = (whole(s, op, s.local(), tile.team) for op in ("idiv", "mod"))
        size = SIDE * SIDE
        start = b.mul(team, b.int(size * len(sums)))
        corner = b.mul(s.group(0), b.int(tile.height)), b.mul(s.group(1), b.int(tile.width))
        for i in range(tile.rows):
            for j in range(tile.columns):
                for p, tiles in enumerate(sums.values()):
                    at = b.add(start, b.int(p * size))
                    b.emit("fragment_store", dt.f32, 1, (floats, at, tiles[i][j]), SIDE)
                s.barrier()
                with b.loop(lane, b.int(size), tile.team) as number:
                    row = total(s, corner[0], self._line(True, i), whole(s, "idiv", number, SIDE))
                    column = total(
                        s, corner[1], self._line(False, j), whole(s, "mod", number, SIDE)
                    )
                    given = {
                        core: b.load(floats, total(s, start, p * size, number))
                        for p, core in enumerate(sums)
                    }
                    masks = (
                        inside(s, row, self.m_size, tile.height),
                        inside(s, column, self.shape[self.axes.n], tile.width),
                    )
                    finish(self, s, (row, column), given, masks)
                if (i, j) != (tile.rows - 1, tile.columns - 1):
                    s.barrier()

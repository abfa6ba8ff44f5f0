"""Products of many rows with packed weights on work-groups: prefill, training forwards, backwards.

y = x W^T and, turned, dx = g W. A group computes a tile of outputs (`tile_loop`), for each
contraction of the region in turn; operands are decoded on the way into local memory
(`gemm_stage`), and the sums meet in the epilogue (`gemm_epilogue`).
Tiles of the same columns are neighbours in the grid: they read the same weights at the same time,
which come from memory once if the activations stay in the device's cache.
Invariant: float32 and int8 arithmetic have the CPU's bits: along k in order, in segments of 1024
that start from zero. bf16 arithmetic sums along all of k in order.
"""

from dataclasses import dataclass

from homebox.engine.fusion.draft import Region
from homebox.engine.fusion.schedule import SEGMENT
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import A8, BLOCK, SUPER
from homebox.engine.graph.ops import Node, Op, Sym, size_max
from homebox.engine.graph.symbolic import ZERO, Index, replace
from homebox.engine.kernels.packed_kernels import Product
from homebox.engine.simt.gemm_epilogue import finish_tile
from homebox.engine.simt.gemm_int8 import (
    A_SWAP,
    W_SWAP,
    WEIGHT_LINES,
    WORDS,
    BlockRows,
    WeightBlocks,
    WeightScales,
    multiply_bytes,
)
from homebox.engine.simt.gemm_stage import ROWS_SWAP, FloatRows, Weights, lines_swap, run_of
from homebox.engine.simt.product import PackedSimt
from homebox.engine.simt.target import LoweredSimt, Simt, Span, Tile, most
from homebox.engine.simt.tile_choice import local_bytes, tile_schedule
from homebox.engine.simt.tile_loop import (
    Multiply,
    Registers,
    Slice,
    Stage,
    fold,
    multiply_floats,
    reach_down,
    slices,
    whole,
    zeros,
)


def lower_gemm(
    region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
) -> LoweredSimt | None:
    """Return the kernel of products with packed weights; None if they are not laid out for one.

    `realised` are the nodes with memory but for the root. Raises EngineError if no tile fits into
    local memory.
    """
    if region.core is None or region.resident or region.root.op is Op.PACK:
        return None
    return GemmSimt(region, realised, syms, target).lower_simt()


def segmented(product: Product) -> bool:
    """Whether a product's sums are made of several segments."""
    return product.packed.arithmetic != "bf16" and product.k > SEGMENT


@dataclass(frozen=True, slots=True)
class Staged:
    """One product ready to be summed: who brings its slices, and who multiplies them."""

    depth: int
    stages: tuple[Stage, ...]
    multiply: Multiply


class GemmSimt(PackedSimt):
    """The lowering of one region; `lower_simt` is its only entrance."""

    tile: Tile
    _lines: int  # of words that local memory holds at least

    def lower_simt(self) -> LoweredSimt | None:
        """Return the kernel; None if memory is not laid out for one."""
        if not self.find_products():
            return None
        s, b = self.s, self.s.b
        n, m = size_max(self.shape[self.axes.n]), size_max(self.m_size)
        self.tile = tile = self._choose(m, n)
        outer = self.place_outer(2)
        self.products = self.weights_within()
        self.memory = s.shared(dt.i32, local_bytes(tile, self._lines) // 4)
        found: dict[Node, Registers] = {}
        for product in self.products:
            found[product.core] = self._sum(product, product is self.products[-1])
        corner = b.mul(s.group(0), b.int(tile.height)), b.mul(s.group(1), b.int(tile.width))
        finish_tile(self, s, tile, corner, found)
        grid = (Span((m,), tile.height), Span((n,), tile.width), *outer)
        kernel = b.kernel((tile.across, tile.down, *(1 for _ in outer)))
        return LoweredSimt(kernel, tuple(s.memory), grid, tile)

    def _choose(self, m: int, n: int) -> Tile:
        """Return the tile for all products of the region."""
        sums = sum(2 if segmented(p) else 1 for p in self.products)
        whole_numbers = any(p.packed.arithmetic == "int8" for p in self.products)
        self._lines = 2 * WORDS if whole_numbers else 0
        deepest = BLOCK // 2 if whole_numbers else SUPER
        k = max(p.k for p in self.products)
        outer = most([self.shape[i] for i in self.outer])
        sums += whole_numbers
        return tile_schedule(self.target, m, n, k, sums, self._lines, deepest, outer)

    # -- the sum over k -------------------------------------------------------------------------

    def _sum(self, product: Product, last: bool) -> Registers:
        """Return a product's sums; the last product leaves local memory as it is."""
        totals = zeros(self.s, self.tile)
        with self.existing(product.packed.group):
            self._add_all(product, totals, last)
        return totals

    def _add_all(self, product: Product, totals: Registers, last: bool) -> None:
        """Add all of k to a product's sums."""
        s, b = self.s, self.s.b
        if not segmented(product):
            staged = self._staged(product, totals)
            span = b.int(0), b.int(product.k)
            slices(s, staged.depth, staged.stages, staged.multiply, span, not last)
            return
        with b.loop(b.int(0), b.int(product.k), SEGMENT) as begin:
            parts = zeros(s, self.tile)
            staged = self._staged(product, parts)
            end = b.add(begin, b.int(SEGMENT))
            if product.k % SEGMENT:
                end = whole(s, "min", end, product.k)
            slices(s, staged.depth, staged.stages, staged.multiply, (begin, end), False)
            fold(s, totals, parts)
        if not last:
            s.barrier()

    def _staged(self, product: Product, acc: Registers) -> Staged:
        """Return the stages of a product, and what multiplies their slices."""
        if product.packed.arithmetic == "int8":
            return self._staged_bytes(product, acc)
        s, tile, packed = self.s, self.tile, product.packed
        swap = ROWS_SWAP[tile.depth]
        stored_swap = swap if packed.transposed else lines_swap(packed.form)
        a, w = self._slices(dt.f32, (tile.depth, tile.depth), (swap, stored_swap))
        flat = self._row_zero(product)
        narrow = packed.arithmetic == "bf16"
        run = run_of(flat, narrow, product.row_step, product.k, tile.depth)
        pointer, base = s.pointer(packed.a), s.integer(flat)
        count = size_max(self.m_size)
        rows = FloatRows(
            s, tile, a, pointer, base, product.row_step, count, product.k, s.group(0), run
        )
        n = size_max(self.shape[self.axes.n])
        stored = s.pointer(packed.stored)
        weights = Weights(s, tile, w, packed, stored, s.group(1), n, product.k)
        return Staged(tile.depth, (rows, weights), multiply_floats(s, tile, a, w, acc))

    def _staged_bytes(self, product: Product, acc: Registers) -> Staged:
        s, tile, packed = self.s, self.tile, product.packed
        a, w = self._slices(dt.i32, (WORDS, WEIGHT_LINES), (A_SWAP, W_SWAP))
        flat, per = self._row_zero(product), A8.panel_bytes(product.k) // 4
        terms = tuple((atom, c // product.k * per) for atom, c in flat.terms)
        base = s.integer(Index(flat.const // product.k * per, terms))
        step, count = product.row_step // product.k * per, size_max(self.m_size)
        rows = BlockRows(s, tile, a, s.pointer(packed.a), base, step, count, s.group(0))
        n = size_max(self.shape[self.axes.n])
        weight = (s, tile, w, packed, s.pointer(packed.stored), s.group(1), n)
        stages = (rows, WeightBlocks(*weight), WeightScales(*weight))
        return Staged(BLOCK, stages, multiply_bytes(s, tile, packed, a, w, acc))

    def _slices(
        self, dtype: DType, lines: tuple[int, int], swaps: tuple[tuple[int, int], tuple[int, int]]
    ) -> tuple[Slice, Slice]:
        """Return local memory for slices of so many lines of both operands."""
        s, tile = self.s, self.tile
        memory, start = s.b.view(self.memory, dtype), 2 * lines[0] * tile.height
        a = Slice(s, memory, 0, lines[0], tile.height, reach_down(tile), *swaps[0])
        return a, Slice(s, memory, start, lines[1], tile.width, tile.across, *swaps[1])

    def _row_zero(self, product: Product) -> Index:
        """Return where the first row of activations begins."""
        flat = product.packed.a_flat
        for i in self.m_inner:
            flat = replace(flat, self.each[i], ZERO)
        return flat

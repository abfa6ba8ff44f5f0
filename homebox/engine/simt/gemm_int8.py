"""Products of int8 activations with quantised weights on work-groups: exact sums of 32, then fma.

A slice is one block of 32 along k. Words of four numbers lie in local memory as they lie in memory,
[line][place]: of the activations eight words, the scale and the block's sum, of the weight eight
words and the scale. The zero of the weight's unsigned bytes comes off as zero * sum of the block.
Invariant: the CPU's bits, since whole numbers are exact and each block is added by the same fma.
"""

from dataclasses import dataclass

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.packed import Packed
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, BLOCK, Q4
from homebox.engine.simt.gemm_stage import guard, patch_scales, patch_words
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Tile
from homebox.engine.simt.tile_loop import (
    VECTOR,
    Multiply,
    Registers,
    Share,
    Slice,
    lane,
    row_factors,
    shares,
    total,
    whole,
)

WORDS = A8.unit_bytes // 4  # of a block of activations: scale, sum, numbers
PAIRS = WORDS // 2
GROUPS = BLOCK // VECTOR  # words of numbers
WEIGHT_LINES = GROUPS + 1  # numbers, then scales
A_SWAP, W_SWAP = (2, 2), (1, 4)  # where odd lines go, see Slice


@dataclass(frozen=True, slots=True)
class BlockRows:
    """Blocks of int8 activations, [row][10 words] -> [words][row]; read in pairs of words."""

    s: SimtEmitter
    tile: Tile
    slice: Slice
    pointer: Value
    base: Value  # the word where row 0 begins
    row_step: int  # words
    count: int
    group: Value

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        s = self.s
        return [
            (share, whole(s, "idiv", share.number, PAIRS), whole(s, "mod", share.number, PAIRS))
            for share in shares(s, self.tile, self.tile.height * PAIRS)
        ]

    def load(self, k: Value) -> list[Value]:
        """Read two words for each piece."""
        s, b = self.s, self.s.b
        words = b.view(self.pointer, dt.i32)
        moved = b.mul(whole(s, "idiv", k, BLOCK), b.int(WORDS))
        out = []
        for _, row, pair in self._pieces():
            row = total(s, b.mul(self.group, b.int(self.tile.height)), row)
            if self.count % self.tile.height:
                row = whole(s, "min", row, self.count - 1)
            start = total(s, self.base, b.mul(row, b.int(self.row_step)), b.mul(pair, b.int(2)))
            out.append(b.load(words, b.add(start, moved), 2, aligned=True))
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Store both words to their lines."""
        s, b = self.s, self.s.b
        for (share, row, pair), value in zip(self._pieces(), values, strict=True):
            chunk, within = whole(s, "idiv", row, VECTOR), whole(s, "mod", row, VECTOR)
            line = whole(s, "mod", total(s, b.mul(pair, b.int(2)), GROUPS), WORDS)
            q, u = whole(s, "idiv", line, VECTOR), whole(s, "mod", line, VECTOR)
            with guard(s, share):
                for i in range(2):
                    at = b.add(self.slice.place(half, q, total(s, u, i), chunk), within)
                    b.store(self.slice.memory, at, lane(s, value, i))


@dataclass(frozen=True, slots=True)
class WeightBlocks:
    """Words of a quantised weight: four outputs by four k at once, four bits made bytes."""

    s: SimtEmitter
    tile: Tile
    slice: Slice
    packed: Packed
    stored: Value
    group: Value
    count: int  # outputs of the product

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        """Return each share with its first output in the tile and its group of four k."""
        s = self.s
        groups = GROUPS // 2 if self.packed.form is Q4 else GROUPS
        out = []
        for share in shares(s, self.tile, groups * self.tile.width // VECTOR):
            rest, quarter = whole(s, "idiv", share.number, 4), whole(s, "mod", share.number, 4)
            panel, line = whole(s, "idiv", rest, groups), whole(s, "mod", rest, groups)
            row = s.b.add(s.b.mul(panel, s.b.int(4 * VECTOR)), s.b.mul(quarter, s.b.int(VECTOR)))
            out.append((share, row, line))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read 16 bytes for each piece, and the scales."""
        s, b = self.s, self.s.b
        out = []
        for _, row, line in self._pieces():
            column = total(s, b.mul(line, b.int(VECTOR)), k)
            place = output(s, self.tile, self.group, self.count, row)
            out.append(patch_words(s, self.packed, self.stored, place, column))
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Store words to their lines; the upper halves of q4's bytes are four groups further."""
        s, b = self.s, self.s.b
        low = b.const(0x0F0F0F0F, dt.i32, VECTOR)
        for (share, row, line), value in zip(self._pieces(), values, strict=True):
            chunk = whole(s, "idiv", row, VECTOR)
            parts = [value]
            if self.packed.form is Q4:
                upper = b.alu("shr", value, b.const(4, dt.i32, VECTOR))
                parts = [b.alu("and", value, low), b.alu("and", upper, low)]
            with guard(s, share):
                for i, part in enumerate(parts):
                    q = total(s, whole(s, "idiv", line, VECTOR), i)
                    at = self.slice.place(half, q, whole(s, "mod", line, VECTOR), chunk)
                    b.store(self.slice.memory, at, part, aligned=True)


@dataclass(frozen=True, slots=True)
class WeightScales:
    """The scales of a weight's block, into the line after its numbers."""

    s: SimtEmitter
    tile: Tile
    slice: Slice
    packed: Packed
    stored: Value
    group: Value
    count: int

    def load(self, k: Value) -> list[Value]:
        """Read four outputs' scales for each piece."""
        s = self.s
        out = []
        for share in shares(s, self.tile, self.tile.width // VECTOR):
            row = s.b.mul(share.number, s.b.int(VECTOR))
            place = output(s, self.tile, self.group, self.count, row)
            out.append(patch_scales(s, self.packed, self.stored, place, k))
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Store their bits."""
        s = self.s
        q = s.b.int(GROUPS // VECTOR)
        for share, value in zip(shares(s, self.tile, self.tile.width // VECTOR), values):
            with guard(s, share):
                at = self.slice.place(half, q, 0, share.number)
                s.b.store(self.slice.memory, at, s.b.bitcast(value, dt.i32), aligned=True)


def output(s: SimtEmitter, tile: Tile, group: Value, count: int, row: Value) -> Value:
    """Return the output behind a place of the tile; beyond the last four, these."""
    place = total(s, s.b.mul(group, s.b.int(tile.width)), row)
    if count % tile.width:
        place = whole(s, "min", place, -(-count // VECTOR) * VECTOR - VECTOR)
    return place


def multiply_bytes(
    s: SimtEmitter, tile: Tile, packed: Packed, a: Slice, w: Slice, acc: Registers
) -> Multiply:
    """Return the inner product of a block: eight dot products of four bytes an output, one fma."""
    b, zero = s.b, packed.form.zero
    across = tile.columns // VECTOR

    def rows(half: Value, q: Value, u: int) -> list[Value]:
        return row_factors(s, tile, a, half, q, u)

    def columns(half: Value, q: Value, u: int) -> list[Value]:
        return w.read(half, q, u, s.local(0), across)

    def add(half: Value, q: Value, u: int, sums: Registers) -> None:
        factors = columns(half, q, u)
        for one, line in zip(rows(half, q, u), sums, strict=True):
            for factor, register in zip(factors, line, strict=True):
                args = b.get(register), b.bitcast(factor, dt.u8), b.bitcast(one, dt.i8)
                b.set(register, b.emit("dot4", dt.i32, VECTOR, args, 2 * zero - 1))

    def multiply(half: Value, k: Value, steps: Value) -> None:
        last = b.int(GROUPS // VECTOR)
        start = b.const(-zero, dt.i32, VECTOR)
        first = [b.alu("mul", one, start) for one in rows(half, last, 1)]
        sums = [[b.reg(one) for _ in range(across)] for one in first]
        with b.loop(b.int(0), last) as q:
            for u in range(VECTOR):
                add(half, q, u, sums)
        scales = [b.bitcast(x, dt.f32) for x in columns(half, last, 0)]
        for r, one in enumerate(rows(half, last, 0)):
            mine = b.bitcast(one, dt.f32)
            for c, scale in enumerate(scales):
                both = b.alu("mul", scale, mine)
                value = b.alu("fma", b.cast(b.get(sums[r][c]), dt.f32), both, b.get(acc[r][c]))
                b.set(acc[r][c], value)

    return multiply

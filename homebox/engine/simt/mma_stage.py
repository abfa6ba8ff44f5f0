"""Slices of packed products on their way into local memory, as lines for matrix units.

A slice is one or two lines of 32 bytes along k of every row of activations and every output of the
weight. int8 blocks go there as they are, with their scales beside them; weights with less offset
become signed: bytes lose their 128, and nibbles their 8 as sixteen times themselves, which their
scales make good. Numbers of other formats become bf16, rounded to nearest.
Invariant: rows and outputs beyond the edge are read from the last one; all of a slice is written.
"""

from dataclasses import dataclass

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.packed import Packed
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, BF16, BLOCK, PANEL, Q4
from homebox.engine.simt.gemm_stage import (
    WORD,
    along,
    guard,
    patch,
    rows_of_patch,
    steps_of_patch,
)
from homebox.engine.simt.mma_choice import LINE, half_words, local_words, stride_words
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Fragments
from homebox.engine.simt.tile_loop import Share, lane, total, whole

QUAD = 4  # rows of a weight that lie in 16 bytes
WORDS = LINE // WORD  # of a line
SIGN = -0x7F7F7F80  # 0x80808080 as i32
LOW, HIGH = 0x0F0F0F0F, -0x0F0F0F10  # the lower and upper nibble of each byte
NIBBLE = 1 / 16  # what a number of q4 lacks after its nibble is read as the upper one


class Box:
    """Local memory: two halves of lines of both factors, then the scales of each line of k."""

    def __init__(self, s: SimtEmitter, tile: Fragments, products: int) -> None:
        self.s, self.tile = s, tile
        self.memory = s.shared(dt.i32, local_words(tile, products))
        self.stride = stride_words(tile.depth)
        self.lines = tile.height + tile.width

    def place(self, half: Value, line: Value, word: Value | int) -> Value:
        """Return the word of a line; those of the weight follow those of the activations."""
        b = self.s.b
        start = b.mul(half, b.int(half_words(self.tile)))
        return total(self.s, start, b.mul(line, b.int(self.stride)), word)

    def scale(self, half: Value, part: Value | int, line: Value) -> Value:
        """Return the word of a line's scale for its part of 32 bytes."""
        b, number = self.s.b, self.s.b.int(part) if isinstance(part, int) else part
        start = b.mul(half, b.int(half_words(self.tile)))
        row = b.mul(number, b.int(self.lines))
        return total(self.s, start, row, line, self.lines * self.stride)

    def shares(self, count: int) -> list[Share]:
        """Deal `count` pieces out to the work-items of a group, neighbours to neighbours."""
        s, items, out = self.s, self.tile.group, []
        for first in range(0, count, items):
            number = s.b.add(s.local(), s.b.int(first))
            if first + items <= count:
                out.append(Share(number, None))
            else:
                mine = s.b.alu("lt", number, s.b.int(count))
                out.append(Share(whole(s, "min", number, count - 1), mine))
        return out

    def split(self, number: Value, *sizes: int) -> list[Value]:
        """Return digits of a number, the fastest first, and what is left."""
        digits = []
        for size in sizes:
            digits.append(whole(self.s, "mod", number, size))
            number = whole(self.s, "idiv", number, size)
        return [*digits, number]


def _within(s: SimtEmitter, group: Value, reach: int, place: Value, count: int, by: int) -> Value:
    """Return a place of the tile in the whole matrix; beyond its edge, the last `by` of it."""
    place = total(s, s.b.mul(group, s.b.int(reach)), place)
    if count % reach:
        place = whole(s, "min", place, -(-count // by) * by - by)
    return place


# -- activations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockRows:
    """Rows of int8 blocks: the numbers, in pieces of 8 bytes."""

    s: SimtEmitter
    box: Box
    given: Value
    first: Value  # the row of the matrix where the tiles begin
    row_step: int  # rows of the matrix from one row of the product to the next
    count: int
    k: int

    def block(self, row: Value, k: Value, part: Value) -> Value:
        """Return the word where a block begins; `row` is one of the tile."""
        s, b = self.s, self.s.b
        row = _within(s, s.group(0), self.box.tile.height, row, self.count, 1)
        row = total(s, self.first, b.mul(row, b.int(self.row_step)))
        blocks = b.mul(row, b.int(-(-self.k // BLOCK)))
        number = total(s, blocks, whole(s, "idiv", k, BLOCK), part)
        return b.mul(number, b.int(A8.unit_bytes // WORD))

    def _pieces(self) -> list[tuple[Share, Value, Value, Value]]:
        """Return each share with its row, its block in the slice, and its first word."""
        tile, out = self.box.tile, []
        for share in self.box.shares(tile.height * tile.depth * WORDS // 2):
            pair, part, row = self.box.split(share.number, WORDS // 2, tile.depth)
            out.append((share, row, part, self.s.b.mul(pair, self.s.b.int(2))))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read two words for each piece."""
        s, b = self.s, self.s.b
        words = b.view(self.given, dt.i32)
        return [
            b.load(words, total(s, self.block(row, k, part), 2, word), 2, aligned=True)
            for _, row, part, word in self._pieces()
        ]

    def store(self, half: Value, values: list[Value]) -> None:
        """Store the words as they are."""
        s, b = self.s, self.s.b
        for (share, row, part, word), value in zip(self._pieces(), values, strict=True):
            at = self.box.place(half, row, total(s, b.mul(part, b.int(WORDS)), word))
            with guard(s, share):
                b.store(self.box.memory, at, value, aligned=True)


@dataclass(frozen=True, slots=True)
class BlockScales:
    """The scales of rows of int8 blocks."""

    rows: BlockRows

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        box, out = self.rows.box, []
        for share in box.shares(box.tile.height * box.tile.depth):
            part, row = box.split(share.number, box.tile.depth)
            out.append((share, row, part))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read a scale for each row and block."""
        b, rows = self.rows.s.b, self.rows
        floats = b.view(rows.given, dt.f32)
        return [b.load(floats, rows.block(row, k, part)) for _, row, part in self._pieces()]

    def store(self, half: Value, values: list[Value]) -> None:
        """Store the scales beside each other."""
        s, box = self.rows.s, self.rows.box
        floats = s.b.view(box.memory, dt.f32)
        for (share, row, part), value in zip(self._pieces(), values, strict=True):
            with guard(s, share):
                s.b.store(floats, box.scale(half, part, row), value)


@dataclass(frozen=True, slots=True)
class NarrowRows:
    """Rows of bf16 activations, in pieces of `run` neighbours along k."""

    s: SimtEmitter
    box: Box
    given: Value
    base: Value  # the element where row 0 begins
    row_step: int
    count: int
    run: int

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        tile, out = self.box.tile, []
        each = tile.depth * LINE // dt.bf16.size // self.run
        for share in self.box.shares(tile.height * each):
            part, row = self.box.split(share.number, each)
            out.append((share, row, self.s.b.mul(part, self.s.b.int(self.run // 2))))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read `run` numbers for each piece, as words."""
        s, b, out = self.s, self.s.b, []
        words = b.view(self.given, dt.i32)
        for _, row, word in self._pieces():
            row = _within(s, s.group(0), self.box.tile.height, row, self.count, 1)
            start = total(s, self.base, b.mul(row, b.int(self.row_step)), k)
            at = total(s, whole(s, "idiv", start, 2), word)
            out.append(b.load(words, at, self.run // 2, aligned=True))
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Store the words as they are."""
        s, box = self.s, self.box
        for (share, row, word), value in zip(self._pieces(), values, strict=True):
            with guard(s, share):
                s.b.store(box.memory, box.place(half, row, word), value, aligned=True)


# -- weights --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Quantised weights as signed bytes, in pieces of 16 bytes: four outputs by 4 k, or by 8."""

    s: SimtEmitter
    box: Box
    packed: Packed
    stored: Value
    count: int  # outputs of the product

    @property
    def lines(self) -> int:
        """Return how many lines of 64 bytes a block has."""
        return WORDS // 2 if self.packed.form is Q4 else WORDS

    def _pieces(self) -> list[tuple[Share, Value, Value, Value]]:
        """Return each share with its first output, its block in the slice, and its line."""
        tile, out = self.box.tile, []
        for share in self.box.shares(tile.width // QUAD * tile.depth * self.lines):
            split = self.box.split(share.number, PANEL // QUAD, self.lines, tile.depth)
            out.append((share, _row(self.s, split[0], split[3]), split[2], split[1]))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read four words, one for each output."""
        s, b, form, out = self.s, self.s.b, self.packed.form, []
        words = b.view(self.stored, dt.i32)
        for _, row, part, line in self._pieces():
            block = total(s, whole(s, "idiv", k, BLOCK), part)
            start = _super_block(s, self.packed, self._row(row), block, WORD)
            inner = b.mul(whole(s, "mod", block, 2), b.int(self.lines * PANEL))
            at = total(s, start, inner, b.mul(line, b.int(PANEL)), form.rows)
            out.append(b.load(words, at, QUAD, aligned=True))
        return out

    def _row(self, row: Value) -> Value:
        tile = self.box.tile
        return _within(self.s, self.s.group(1), tile.width, row, self.count, QUAD)

    def store(self, half: Value, values: list[Value]) -> None:
        """Store each output's words to its line."""
        s, b, tile = self.s, self.s.b, self.box.tile
        sign = b.const(SIGN, dt.i32, QUAD)
        for (share, row, part, line), value in zip(self._pieces(), values, strict=True):
            parts = [b.alu("xor", value, sign)]
            if self.packed.form is Q4:
                lower = b.alu("and", value, b.const(LOW, dt.i32, QUAD))
                upper = b.alu("and", value, b.const(HIGH, dt.i32, QUAD))
                lower = b.alu("shl", lower, b.const(4, dt.i32, QUAD))
                parts = [b.alu("xor", x, sign) for x in (lower, upper)]
            with guard(s, share):
                for i in range(QUAD):
                    output = total(s, row, tile.height + i)
                    word = total(s, b.mul(part, b.int(WORDS)), line)
                    at = self.box.place(half, output, word)
                    for j, four in enumerate(parts):
                        place = b.add(at, b.int(j * self.lines))
                        b.store(self.box.memory, place, lane(s, four, i))


@dataclass(frozen=True, slots=True)
class WeightScales:
    """The scales of quantised weights, four outputs at a time."""

    s: SimtEmitter
    box: Box
    packed: Packed
    stored: Value
    count: int

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        tile, out = self.box.tile, []
        for share in self.box.shares(tile.width // QUAD * tile.depth):
            quad, part = self.box.split(share.number, tile.width // QUAD)
            out.append((share, self.s.b.mul(quad, self.s.b.int(QUAD)), part))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read four scales as float32."""
        s, b, out = self.s, self.s.b, []
        halves = b.view(self.stored, dt.f16)
        for _, row, part in self._pieces():
            row = _within(s, s.group(1), self.box.tile.width, row, self.count, QUAD)
            block = total(s, whole(s, "idiv", k, BLOCK), part)
            start = _super_block(s, self.packed, row, block, dt.f16.size)
            at = total(s, start, b.mul(whole(s, "mod", block, 2), b.int(PANEL)))
            value = b.cast(b.load(halves, at, QUAD, aligned=True), dt.f32)
            if self.packed.form is Q4:
                value = b.alu("mul", value, b.const(NIBBLE, dt.f32, QUAD))
            out.append(value)
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Store the scales behind those of the activations."""
        s, box = self.s, self.box
        floats = s.b.view(box.memory, dt.f32)
        for (share, row, part), value in zip(self._pieces(), values, strict=True):
            at = box.scale(half, part, total(s, row, box.tile.height))
            with guard(s, share):
                s.b.store(floats, at, value, aligned=True)


def _row(s: SimtEmitter, quad: Value, panel: Value) -> Value:
    return total(s, s.b.mul(panel, s.b.int(PANEL)), s.b.mul(quad, s.b.int(QUAD)))


def _super_block(s: SimtEmitter, packed: Packed, row: Value, block: Value, size: int) -> Value:
    """Return where a row's share of the super-block of a block begins, in elements of `size`."""
    b, form = s.b, packed.form
    row = total(s, s.integer(packed.first), row)
    panel, place = whole(s, "idiv", row, PANEL), whole(s, "mod", row, PANEL)
    start = b.mul(panel, b.int(form.panel_bytes(packed.shape[1]) // size))
    square = b.mul(whole(s, "idiv", block, 2), b.int(form.unit_bytes // size))
    return total(s, start, square, place)


@dataclass(frozen=True, slots=True)
class NarrowWeights:
    """A weight as lines of bf16, whichever way round the product goes."""

    s: SimtEmitter
    box: Box
    packed: Packed
    stored: Value
    count: int

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        """Return each share with its output in the tile and its first step; a patch of the weight.

        Neighbouring shares read neighbouring rows of a panel, which are four times 16 bytes.
        """
        s, tile, length = self.s, self.box.tile, along(self.packed.form)
        steps, quads = tile.depth * LINE // dt.bf16.size, PANEL // QUAD
        columns, out = (tile.width if self.packed.transposed else steps) // length, []
        for share in self.box.shares(tile.width * steps // (QUAD * length)):
            quad, part, panel = self.box.split(share.number, quads, columns)
            row, column = _row(s, quad, panel), s.b.mul(part, s.b.int(length))
            out.append((share, column, row) if self.packed.transposed else (share, row, column))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read a patch for each piece, with its scales if there are any."""
        s, packed, tile, out = self.s, self.packed, self.box.tile, []
        by = along(packed.form) if packed.transposed else QUAD
        for _, output, step in self._pieces():
            output = _within(s, s.group(1), tile.width, output, self.count, by)
            step = total(s, k, step)
            place = (step, output) if packed.transposed else (output, step)
            out += patch(s, packed, self.stored, *place)
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Round the numbers to bf16 and store them to their outputs' lines."""
        s, b, form = self.s, self.s.b, self.packed.form
        pieces = self._pieces()
        each = len(values) // len(pieces)
        for i, (share, output, step) in enumerate(pieces):
            mine = values[i * each : (i + 1) * each]
            with guard(s, share):
                if form is BF16 and not self.packed.transposed:
                    lines = [lane(s, mine[0], j) for j in range(QUAD)]
                else:
                    turn = steps_of_patch if self.packed.transposed else rows_of_patch
                    lines = [b.cast(x, dt.bf16) for x in turn(s, form, mine)]
                for j, numbers in enumerate(lines):
                    self._store_line(half, total(s, output, j), step, numbers)

    def _store_line(self, half: Value, output: Value, step: Value, numbers: Value) -> None:
        s, b, box = self.s, self.s.b, self.box
        line = total(s, output, box.tile.height)
        if numbers.dtype is dt.bf16 and numbers.lanes == 1:
            at = total(s, b.mul(box.place(half, line, 0), b.int(2)), step)
            b.store(b.view(box.memory, dt.bf16), at, numbers)
            return
        at = box.place(half, line, whole(s, "idiv", step, 2))
        words = b.bitcast(numbers, dt.i32)
        b.store(box.memory, at, words, aligned=words.lanes > 1)

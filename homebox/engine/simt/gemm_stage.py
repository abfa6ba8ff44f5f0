"""Operands of packed products on their way into local memory: rows of floats, decoded weights.

A weight is read in patches of 16 bytes: four of its rows (outputs) by one float32, two bf16 or four
quantised numbers along k, whichever way round the product goes. Neighbouring work-items read
neighbouring 16 bytes. A patch becomes float32 vectors of four outputs for each k, or, in products
that sum over the weight's rows, vectors along k for each row.
Invariant: a decoded number is exact, since int8 times float16 fits into float32.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.packed import Packed
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BF16, BLOCK, F32, PANEL, Q4, SUPER, Format
from homebox.engine.graph.symbolic import Index
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Tile
from homebox.engine.simt.tile_loop import VECTOR, Share, Slice, lane, shares, total, whole

WORD = 4  # bytes
ROWS_SWAP = {
    64: (4, 1),
    32: (4, 1),
    16: (4, 2),
    8: (4, 4),
    4: (4, 8),
}  # by depth: quads of steps lie apart


LINES_SWAP = (1, 4)  # of a slice that is stored by lines of vectors: odd lines lie apart


def lines_swap(form: Format) -> tuple[int, int]:
    """Return (by, turn) of a slice that is stored in vectors: odd patches lie apart."""
    return (along(form), 4)


def along(form: Format) -> int:
    """Return how many numbers along k a patch of 16 bytes holds."""
    if form is F32:
        return 1
    return 2 if form is BF16 else 4


def low_half(s: SimtEmitter, words: Value) -> Value:
    """Return the first of two bf16 in each word as float32."""
    sixteen = s.b.const(16, dt.i32, words.lanes)
    return s.b.bitcast(s.b.alu("shl", words, sixteen), dt.f32)


def high_half(s: SimtEmitter, words: Value) -> Value:
    """Return the second of two bf16 in each word as float32."""
    return s.b.bitcast(s.b.alu("and", words, s.b.const(-65536, dt.i32, words.lanes)), dt.f32)


@dataclass(frozen=True, slots=True)
class FloatRows:
    """Rows of float32 or bf16 activations that lie along k: [row][k] -> [k][row] in float32.

    `run` elements are read at once (`run_of`); rows beyond `count` and steps beyond `k` are read
    from the last one.
    """

    s: SimtEmitter
    tile: Tile
    slice: Slice
    pointer: Value
    base: Value  # the element where row 0 begins
    row_step: int
    count: int
    k: int
    group: Value  # the tile's number down the rows
    run: int
    k_step: int = 1  # elements from one step to the next; other steps than 1 are read one by one

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        """Return each share with its row in the tile and its first step."""
        s = self.s
        each = self.tile.depth // self.run
        out = []
        for share in shares(s, self.tile, self.tile.height * each):
            row, part = whole(s, "idiv", share.number, each), whole(s, "mod", share.number, each)
            out.append((share, row, s.b.mul(part, s.b.int(self.run))))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read `run` neighbours along k for each piece."""
        s, b = self.s, self.s.b
        narrow = self.pointer.dtype is dt.bf16
        pointer = b.view(self.pointer, dt.i32) if narrow and self.run > 1 else self.pointer
        out = []
        for _, row, first in self._pieces():
            row = total(s, b.mul(self.group, b.int(self.tile.height)), row)
            if self.count % self.tile.height:
                row = whole(s, "min", row, self.count - 1)
            start = total(s, self.base, b.mul(row, b.int(self.row_step)))
            step = total(s, first, k)
            if self.k % self.tile.depth:
                step = whole(s, "min", step, self.k - self.run)
            place, lanes = total(s, start, b.mul(step, b.int(self.k_step))), self.run
            if narrow and self.run > 1:
                place, lanes = whole(s, "idiv", place, 2), self.run // 2
            value = b.load(pointer, place, lanes, aligned=lanes > 1)
            out.append(b.cast(value, dt.f32) if narrow and self.run == 1 else value)
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Store each number to its step's line."""
        s, b = self.s, self.s.b
        for (share, row, first), value in zip(self._pieces(), values, strict=True):
            with guard(s, share):
                for i in range(self.run):
                    b.store(
                        self.slice.memory, self._place(half, row, first, i), self._number(value, i)
                    )

    def _place(self, half: Value, row: Value, first: Value, i: int) -> Value:
        """Return where the i-th number of a piece goes."""
        s = self.s
        chunk, within = whole(s, "idiv", row, VECTOR), whole(s, "mod", row, VECTOR)
        q = total(s, whole(s, "idiv", first, VECTOR), i // VECTOR)
        u: Value | int = i % VECTOR if self.run > 1 else whole(s, "mod", first, VECTOR)
        return s.b.add(self.slice.place(half, q, u, chunk), within)

    def _number(self, value: Value, i: int) -> Value:
        s = self.s
        if self.run == 1:
            return value
        if value.dtype is dt.f32:
            return lane(s, value, i)
        word = lane(s, value, i // 2) if value.lanes > 1 else value
        return high_half(s, word) if i % 2 else low_half(s, word)


def run_of(flat: Index, narrow: bool, row_step: int, k: int, depth: int) -> int:
    """Return how many neighbours along k can be read at once: 16 bytes, 8, or one number."""
    for run in (8, 4) if narrow else (4,):
        if depth % run == 0 and k % run == row_step % run == 0 and divides(run, flat):
            return run
    return 1


def divides(by: int, flat: Index) -> bool:
    """Whether a place is a multiple of a number, whatever its counters are."""
    return flat.const % by == 0 and all(c % by == 0 for _, c in flat.terms)


@dataclass(frozen=True, slots=True)
class FloatLines:
    """An operand whose places lie side by side for each step: [k][place], copied by vectors.

    `start` says where the four places from a given one of the operand begin, at step 0.
    """

    s: SimtEmitter
    tile: Tile
    slice: Slice
    pointer: Value
    start: Callable[[Value], Value]
    k_step: int
    k: int
    aligned: bool

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        """Return each share with its first place and its step: four neighbours, then steps."""
        s, b, each, depth = self.s, self.s.b, PANEL // VECTOR, self.tile.depth
        out = []
        for share in shares(s, self.tile, self.slice.width // VECTOR * depth):
            rest, part = whole(s, "idiv", share.number, each), whole(s, "mod", share.number, each)
            block, step = whole(s, "idiv", rest, depth), whole(s, "mod", rest, depth)
            place = b.add(b.mul(part, b.int(VECTOR)), b.mul(block, b.int(PANEL)))
            out.append((share, place, step))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read four neighbours for each piece."""
        s, b = self.s, self.s.b
        out = []
        for _, place, step in self._pieces():
            at = total(s, step, k)
            if self.k % self.tile.depth:
                at = whole(s, "min", at, self.k - 1)
            where = total(s, self.start(place), b.mul(at, b.int(self.k_step)))
            out.append(b.load(self.pointer, where, VECTOR, aligned=self.aligned))
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Store them to their step's line."""
        s = self.s
        for (share, place, step), value in zip(self._pieces(), values, strict=True):
            q, u = whole(s, "idiv", step, VECTOR), whole(s, "mod", step, VECTOR)
            with guard(s, share):
                at = self.slice.place(half, q, u, whole(s, "idiv", place, VECTOR))
                s.b.store(self.slice.memory, at, value, aligned=True)


@dataclass(frozen=True, slots=True)
class Weights:
    """A weight, decoded to float32: [k][output] for products along k, or [output][k] turned."""

    s: SimtEmitter
    tile: Tile
    slice: Slice
    packed: Packed
    stored: Value
    group: Value  # the tile's number across the outputs of the product
    count: int  # outputs of the product
    k: int

    def _pieces(self) -> list[tuple[Share, Value, Value]]:
        """Return each share with its first step and its first place along the line."""
        s, tile, length = self.s, self.tile, along(self.packed.form)
        turned = self.packed.transposed
        rows, columns = (tile.depth, tile.width) if turned else (tile.width, tile.depth)
        quads, parts = min(rows // VECTOR, PANEL // VECTOR), columns // length
        out = []
        for share in shares(s, tile, rows // VECTOR * parts):
            rest, quad = whole(s, "idiv", share.number, quads), whole(s, "mod", share.number, quads)
            panel, part = whole(s, "idiv", rest, parts), whole(s, "mod", rest, parts)
            row = total(s, s.b.mul(quad, s.b.int(VECTOR)), s.b.mul(panel, s.b.int(PANEL)))
            column = s.b.mul(part, s.b.int(length))
            out.append((share, row, column) if turned else (share, column, row))
        return out

    def load(self, k: Value) -> list[Value]:
        """Read a patch of 16 bytes, and its four rows' scales, for each piece."""
        s, b = self.s, self.s.b
        columns = self.packed.shape[1]
        out: list[Value] = []
        for _, step, place in self._pieces():
            step = total(s, step, k)
            place = total(s, b.mul(self.group, b.int(self.tile.width)), place)
            if self.packed.transposed:
                row, column = step, place
                if -(-self.k // PANEL) * PANEL % self.tile.depth:
                    row = whole(s, "min", row, -(-self.k // VECTOR) * VECTOR - VECTOR)
                if columns % self.tile.width:
                    column = whole(s, "min", column, columns - along(self.packed.form))
            else:
                row, column = place, step
                if self.count % self.tile.width:
                    row = whole(s, "min", row, -(-self.count // VECTOR) * VECTOR - VECTOR)
                if not self.packed.form.quantised and columns % self.tile.depth:
                    length = along(self.packed.form)
                    column = whole(s, "min", column, (columns - 1) // length * length)
            out += patch(s, self.packed, self.stored, row, column)
        return out

    def store(self, half: Value, values: list[Value]) -> None:
        """Decode the patches, and store them in vectors where the product's way allows it."""
        s = self.s
        each = len(values) // len(self._pieces())
        for i, (share, step, place) in enumerate(self._pieces()):
            mine = values[i * each : (i + 1) * each]
            with guard(s, share):
                if self.packed.transposed:
                    self._store_rows(half, step, place, rows_of_patch(s, self.packed.form, mine))
                else:
                    self._store_steps(half, step, place, steps_of_patch(s, self.packed.form, mine))

    def _store_steps(self, half: Value, step: Value, place: Value, values: list[Value]) -> None:
        s, length = self.s, along(self.packed.form)
        chunk, q = whole(s, "idiv", place, VECTOR), whole(s, "idiv", step, VECTOR)
        for i, value in enumerate(values):
            u: Value | int = i if length == VECTOR else total(s, whole(s, "mod", step, VECTOR), i)
            at = self.slice.place(half, q, u, chunk)
            s.b.store(self.slice.memory, at, value, aligned=True)

    def _store_rows(self, half: Value, step: Value, place: Value, values: list[Value]) -> None:
        s = self.s
        chunk, q = whole(s, "idiv", place, VECTOR), whole(s, "idiv", step, VECTOR)
        within = whole(s, "mod", place, VECTOR) if along(self.packed.form) < VECTOR else s.b.int(0)
        for i, value in enumerate(values):
            at = s.b.add(self.slice.place(half, q, i, chunk), within)
            s.b.store(self.slice.memory, at, value, aligned=value.lanes > 1)


def guard(s: SimtEmitter, share: Share) -> AbstractContextManager[None]:
    """Return a block that runs only for work-items that have this share."""
    return nullcontext() if share.mine is None else s.b.when(share.mine)


# -- patches: four rows of a weight by 16 bytes ---------------------------------------------------


def patch(s: SimtEmitter, packed: Packed, stored: Value, row: Value, column: Value) -> list[Value]:
    """Return 16 bytes as words, one for each of four rows, and the rows' scales if there are any.

    `row` is a multiple of 4, `column` of what a patch holds along k. Four bits lie in the lower
    half of each byte. Float32 comes as such, scales as float32.
    """
    b, form = s.b, packed.form
    value = patch_words(s, packed, stored, row, column)
    if not form.quantised:
        return [value]
    if form is Q4:
        upper = whole(s, "mod", whole(s, "idiv", column, BLOCK // 2), 2)
        shift = b.cast(b.mul(upper, b.int(4)), dt.i32)
        value = b.alu("shr", value, b.splat(shift, VECTOR))
        value = b.alu("and", value, b.const(0x0F0F0F0F, dt.i32, VECTOR))
    return [value, patch_scales(s, packed, stored, row, column)]


def _row_of_panel(s: SimtEmitter, packed: Packed, row: Value) -> tuple[Value, Value]:
    """Return a row's panel, and its number there."""
    row = total(s, s.integer(packed.first), row)
    return whole(s, "idiv", row, PANEL), whole(s, "mod", row, PANEL)


def patch_words(s: SimtEmitter, packed: Packed, stored: Value, row: Value, column: Value) -> Value:
    """Return the 16 bytes of a patch as they lie; each of q4 holds k and k + 16."""
    b, form = s.b, packed.form
    panel, inside = _row_of_panel(s, packed, row)
    size = form.panel_bytes(packed.shape[1])
    start = total(s, b.mul(panel, b.int(size // WORD)), inside)
    words = b.view(stored, dt.f32 if form is F32 else dt.i32)
    if not form.quantised:
        at = total(s, start, b.mul(whole(s, "idiv", column, form.unit), b.int(PANEL)))
        return b.load(words, at, VECTOR, aligned=True)
    square, k = whole(s, "idiv", column, SUPER), whole(s, "mod", column, SUPER)
    line = whole(s, "idiv", k, VECTOR)
    if form is Q4:
        block = b.mul(whole(s, "idiv", k, BLOCK), b.int(VECTOR))
        line = total(s, block, whole(s, "mod", line, VECTOR))
    moved = b.mul(square, b.int(form.unit_bytes // WORD))
    at = total(s, start, moved, b.mul(line, b.int(PANEL)), PANEL)
    return b.load(words, at, VECTOR, aligned=True)


def patch_scales(s: SimtEmitter, packed: Packed, stored: Value, row: Value, column: Value) -> Value:
    """Return the scales of four rows for the block of 32 that holds a column, as float32."""
    b, form = s.b, packed.form
    panel, inside = _row_of_panel(s, packed, row)
    square = whole(s, "idiv", column, SUPER)
    block = whole(s, "idiv", whole(s, "mod", column, SUPER), BLOCK)
    at = total(
        s,
        b.mul(panel, b.int(form.panel_bytes(packed.shape[1]) // 2)),
        inside,
        b.mul(square, b.int(form.unit_bytes // 2)),
        b.mul(block, b.int(PANEL)),
    )
    return b.cast(b.load(b.view(stored, dt.f16), at, VECTOR, aligned=True), dt.f32)


def steps_of_patch(s: SimtEmitter, form: Format, values: list[Value]) -> list[Value]:
    """Return a patch as vectors of its four rows, one for each k."""
    b, words = s.b, values[0]
    if form is F32:
        return [words]
    if form is BF16:
        return [low_half(s, words), high_half(s, words)]
    zero, byte = b.const(float(form.zero), dt.f32, VECTOR), b.const(255, dt.i32, VECTOR)
    out = []
    for i in range(VECTOR):
        moved = b.alu("shr", words, b.const(8 * i, dt.i32, VECTOR)) if i else words
        number = b.cast(b.alu("and", moved, byte), dt.f32)
        out.append(b.alu("mul", b.alu("sub", number, zero), values[1]))
    return out


def rows_of_patch(s: SimtEmitter, form: Format, values: list[Value]) -> list[Value]:
    """Return a patch as vectors along k (a scalar for float32), one for each row."""
    b, words = s.b, values[0]
    if form is F32:
        return [lane(s, words, i) for i in range(VECTOR)]
    if form is BF16:
        both = (low_half(s, words), high_half(s, words))
        return [b.emit("shuffle", dt.f32, 2, both, (i, VECTOR + i)) for i in range(VECTOR)]
    zero = b.const(float(form.zero), dt.f32, VECTOR)
    bytes_ = b.bitcast(words, dt.u8)
    out = []
    for i in range(VECTOR):
        picked = tuple(range(VECTOR * i, VECTOR * i + VECTOR))
        four = b.emit("shuffle", dt.u8, VECTOR, (bytes_, bytes_), picked)
        number = b.cast(b.cast(four, dt.i32), dt.f32)
        out.append(b.alu("mul", b.alu("sub", number, zero), lane(s, values[1], i, VECTOR)))
    return out

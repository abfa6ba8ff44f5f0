"""Packed weights as values in registers: the exact float32 numbers behind the bytes.

`blocks` reads a panel along k and yields 16 outputs for each k, in order. `columns` reads a square
of 16 rows (outputs) x 64 k and gives it turned round: 16 values along k for each row, for products
that sum over the rows. Invariant: every value is exact, since int8 times float16 fits into float32.
"""

from collections.abc import Iterator

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BF16, BLOCK, F32, Q4, Q8, SUPER, Format
from homebox.engine.kernels.loops import LANES

WORDS = LANES  # 4-byte words of a 64-byte load
PIECE = {"f32": 4, "bf16": 8, "q8": SUPER, "q4": SUPER}  # k that `blocks` yields at a time


def load_words(b: Builder, stored: Value, at: Value, offset: int) -> Value:
    """Return 64 bytes from byte `at + offset` (a multiple of 64) as 16 words."""
    place = b.emit("idiv", dt.i64, 1, (at, b.int(4)))
    return b.load(b.view(stored, dt.i32), b.add(place, b.int(offset // 4)), WORDS)


def blocks(
    b: Builder, form: Format, stored: Value, at: Value, most: int
) -> Iterator[tuple[int, Value]]:
    """Yield (k, 16 float32) for one piece of a panel that begins at byte `at`, k in order.

    Float formats yield, and read, the first `most` k; others all of the super-block.
    """
    if form is F32:
        for k in range(min(PIECE["f32"], most)):
            yield k, b.bitcast(load_words(b, stored, at, 64 * k), dt.f32)
    elif form is BF16:
        for k in range(0, min(PIECE["bf16"], most), 2):
            word = load_words(b, stored, at, 32 * k)
            yield k, low_half(b, word)
            yield k + 1, high_half(b, word)
    else:
        for half in range(2):
            scale = scales(b, form, stored, at, half)
            for k, number in _numbers(b, form, stored, at, half):
                yield half * BLOCK + k, b.alu("mul", number, scale)


def low_half(b: Builder, word: Value) -> Value:
    """Return the first of two bf16 in each word as float32."""
    return b.bitcast(b.alu("shl", word, b.const(16, dt.i32, word.lanes)), dt.f32)


def high_half(b: Builder, word: Value) -> Value:
    """Return the second of two bf16 in each word as float32."""
    return b.bitcast(b.alu("and", word, b.const(-65536, dt.i32, word.lanes)), dt.f32)


def scales(b: Builder, form: Format, stored: Value, at: Value, half: int) -> Value:
    """Return the 16 scales of one half of a super-block that begins at byte `at`."""
    place = b.emit("idiv", dt.i64, 1, (at, b.int(2)))
    loaded = b.load(b.view(stored, dt.f16), b.add(place, b.int(16 * half)), LANES)
    return b.cast(loaded, dt.f32)


def _numbers(
    b: Builder, form: Format, stored: Value, at: Value, half: int
) -> Iterator[tuple[int, Value]]:
    """Yield (k, 16 whole numbers as float32) for one half of a super-block."""
    start = 64 + half * (512 if form is Q8 else 256)
    words = [load_words(b, stored, at, start + 64 * g) for g in range(8 if form is Q8 else 4)]
    bits = 8 if form is Q8 else 4
    zero = b.const(float(form.zero), dt.f32, LANES)
    for g in range(8):
        word = words[g if form is Q8 else g % 4]
        for t in range(4):
            shift = 8 * t + (4 if form is Q4 and g >= 4 else 0)
            moved = b.alu("shr", word, b.const(shift, dt.i32, LANES)) if shift else word
            whole = b.alu("and", moved, b.const((1 << bits) - 1, dt.i32, LANES))
            yield 4 * g + t, b.alu("sub", b.cast(whole, dt.f32), zero)


# -- turned round ---------------------------------------------------------------------------------


def columns(b: Builder, form: Format, stored: Value, panel: Value, k: Value) -> list[list[Value]]:
    """Return [row][4] vectors of 16 float32 along k: 16 rows x 64 k from `k` (a multiple of 64).

    `panel` is the byte where the rows' panel begins.
    """
    if form.quantised:
        return _quantised_columns(b, form, stored, panel, k)
    parts = 4 if form is F32 else 2
    rows: list[list[Value]] = [[] for _ in range(LANES)]
    start = b.add(panel, b.mul(k, b.int(64 // form.unit)))
    for part in range(parts):
        words = [load_words(b, stored, start, 1024 * part + 64 * g) for g in range(LANES)]
        for row, words_of_row in zip(rows, transposed(b, words), strict=True):
            if form is F32:
                row.append(b.bitcast(words_of_row, dt.f32))
                continue
            narrow = b.bitcast(words_of_row, dt.bf16)
            for first in (0, LANES):
                picked = tuple(range(first, first + LANES))
                part16 = b.emit("shuffle", dt.bf16, LANES, (narrow, narrow), picked)
                row.append(b.cast(part16, dt.f32))
    return rows


def _quantised_columns(
    b: Builder, form: Format, stored: Value, panel: Value, k: Value
) -> list[list[Value]]:
    block = b.emit("idiv", dt.i64, 1, (k, b.int(SUPER)))
    at = b.add(panel, b.mul(block, b.int(form.unit_bytes)))
    groups = LANES if form is Q8 else LANES // 2
    words = [load_words(b, stored, at, 64 + 64 * g) for g in range(groups)]
    words += words[: LANES - groups]  # q4 fills half of the square; the rest is not looked at
    place = b.emit("idiv", dt.i64, 1, (at, b.int(2)))
    halves = b.view(stored, dt.f16)
    rows = []
    for r, word in enumerate(transposed(b, words)):
        scale = [b.cast(b.load(halves, b.add(place, b.int(16 * h + r))), dt.f32) for h in (0, 1)]
        rows.append(
            [
                b.alu("mul", b.splat(scale[i // 2], LANES), v)
                for i, v in enumerate(_row_numbers(b, form, word))
            ]
        )
    return rows


def _row_numbers(b: Builder, form: Format, word: Value) -> list[Value]:
    """Return 4 vectors of 16 whole numbers from the 64 (q8) or 32 (q4) bytes of a row."""
    bytes_ = b.bitcast(word, dt.u8)
    zero = b.const(float(form.zero), dt.f32, LANES)
    out = []
    for i in range(4):
        first = LANES * (i if form is Q8 else i // 2)
        part = b.emit("shuffle", dt.u8, LANES, (bytes_, bytes_), tuple(range(first, first + LANES)))
        if form is Q4:
            four, low = b.const(4, dt.u8, LANES), b.const(15, dt.u8, LANES)
            part = b.alu("shr", part, four) if i % 2 else b.alu("and", part, low)
        out.append(b.alu("sub", b.cast(b.cast(part, dt.i32), dt.f32), zero))
    return out


def transposed(b: Builder, rows: list[Value]) -> list[Value]:
    """Return the 16 columns of a 16 x 16 square of words, by exchanging blocks of 8, 4, 2, 1."""
    for size in (8, 4, 2, 1):
        after = list(rows)
        low = tuple(j if not j & size else LANES + (j ^ size) for j in range(LANES))
        high = tuple((j | size) if not j & size else LANES + j for j in range(LANES))
        for i in range(LANES):
            if not i & size:
                pair = (rows[i], rows[i + size])
                after[i] = b.emit("shuffle", dt.i32, LANES, pair, low)
                after[i + size] = b.emit("shuffle", dt.i32, LANES, pair, high)
        rows = after
    return rows


def pair_words(b: Builder, first: Value, second: Value) -> Value:
    """Round two vectors of float32 to bf16 and return them as words: first below, second above."""
    low = b.alu("shr", _rounded(b, first), b.const(16, dt.i32, LANES))
    high = b.alu("and", _rounded(b, second), b.const(-65536, dt.i32, LANES))
    return b.alu("or", low, high)


def _rounded(b: Builder, value: Value) -> Value:
    """Return float32 bits to which half a bf16 unit was added, ties to even; no NaN comes here."""
    bits = b.bitcast(value, dt.i32)
    odd = b.alu("and", b.alu("shr", bits, b.const(16, dt.i32, LANES)), b.const(1, dt.i32, LANES))
    return b.alu("add", bits, b.alu("add", odd, b.const(0x7FFF, dt.i32, LANES)))

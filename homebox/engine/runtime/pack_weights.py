"""Turns matrices into packed bytes with generated code, on all cores: the import of a model.

A unit is one panel of 16 rows. Lanes are rows, so a column of the panel is one vector, its scales
and its groups of 4 numbers are whole vectors too, and nothing is ever shuffled.
Invariant: the bytes are those of `formats.pack`, which the tests compare.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.engine.codegen.jit import shared_jit
from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.codegen.llvm import render
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import BF16, BLOCK, F32, PANEL, Q4, Q8, SUPER, Bytes, Format
from homebox.engine.kernels.pack_kernels import ROUND
from homebox.engine.runtime.runtime_cpu import pool
from homebox.errors import EngineError

_PIECE = 8 << 20  # bytes of output that are made at a time, unless one panel is larger
_PANELS_PER_CHUNK = 4
_KINDS = {"float32": dt.f32, "float16": dt.f16, "uint16": dt.bf16}
_MAX_HALF = 65504.0

# The largest magnitude that a format can hold: scales are float16, bf16 rounds up to infinity.
LARGEST = {
    F32: (2 - 2.0**-23) * 2.0**127,
    BF16: (2 - 2.0**-7) * 2.0**127,
    Q8: 127 * _MAX_HALF,
    Q4: 8 * _MAX_HALF,
}

Stored = npt.NDArray[Any]


def packed(form: Format, source: Stored) -> Iterator[tuple[Bytes, float]]:
    """Yield the bytes of a format in order, some panels at a time, with their largest magnitude.

    `source` (n, k) is float32, float16, or bf16 as uint16. The bytes are overwritten when the next
    ones are asked for. A magnitude is infinite or NaN where a number was, and the bytes are
    meaningless then, as they are where it is above `LARGEST`.
    """
    n, k = _shape(form, source)
    kernel = _compiled(form, _KINDS[source.dtype.name], k)
    size = form.panel_bytes(k)
    panels = -(-n // PANEL)
    at_once = max(1, min(panels, _PIECE // max(1, size)))
    out = np.empty(at_once * size, np.uint8)
    peaks = np.empty(at_once * PANEL, np.int32)
    for first in range(0, panels, at_once):
        rows = source[first * PANEL : (first + at_once) * PANEL]
        rows = np.require(rows, requirements=["C", "A"])
        count = -(-len(rows) // PANEL)
        variables = np.array([len(rows)], np.int32)
        pointers = [a.ctypes.data for a in (rows, out, peaks, variables)]
        arguments = np.array(pointers, np.int64)
        launch = np.array(
            [[kernel, arguments.ctypes.data, count, min(count, _PANELS_PER_CHUNK)]], np.int64
        )
        pool().run(launch)
        largest = peaks[: count * PANEL].max(initial=0)
        yield out[: count * size], float(largest.astype(np.int32).view(np.float32))


def pack_array(form: Format, source: Stored) -> Bytes:
    """Return the bytes of a matrix; raise EngineError if a number does not fit into the format."""
    out = np.empty(form.nbytes(*_shape(form, source)), np.uint8)
    at = 0
    for part, largest in packed(form, source):
        if not largest <= LARGEST[form]:
            raise EngineError(f"{form} cannot hold a number of magnitude {largest}")
        out[at : at + part.size] = part
        at += part.size
    return out


def _shape(form: Format, source: Stored) -> tuple[int, int]:
    if source.ndim != 2 or source.dtype.name not in _KINDS or form not in LARGEST:
        raise EngineError(f"cannot pack {source.dtype} {source.shape} as {form}")
    n, k = source.shape
    return n, k


@cache
def _compiled(form: Format, kind: DType, k: int) -> int:
    name = f"pack_{form}_{kind}_{k}"
    return shared_jit().load({name: render(pack_kernel(form, kind, k), name, shared_jit().target)})[
        name
    ]


def pack_kernel(form: Format, kind: DType, k: int) -> Kernel:
    """Return the kernel that packs rows of k numbers.

    Buffers: the rows, the panels (u8), and for each row the bits of its largest magnitude (i32);
    variable 0 is the number of rows. The counts of its parameters are those of one panel.
    """
    b = Builder()
    source = b.param(kind, PANEL * k, False)
    target = b.param(dt.u8, form.panel_bytes(k), True)
    peaks = b.param(dt.i32, PANEL, True)
    rows = b.emit("var", dt.i64, 1, (), 0)
    with b.loop(b.emit("lo", dt.i64), b.emit("hi", dt.i64)) as unit:
        panel = _Panel(b, source, unit, rows, k)
        start = b.mul(unit, b.int(form.panel_bytes(k)))
        if form.quantised:
            _quantised(panel, form, target, start)
        else:
            _floats(
                panel, form, b.view(target, dt.i32), b.emit("idiv", dt.i64, 1, (start, b.int(4)))
            )
        b.store(peaks, b.mul(unit, b.int(PANEL)), b.get(panel.peak))
    return b.kernel()


class _Panel:
    """Reads columns of 16 rows; rows and columns outside of the matrix are zeros."""

    def __init__(self, b: Builder, source: Value, unit: Value, rows: Value, k: int) -> None:
        self.b, self.k, self._source = b, k, source
        first = b.mul(unit, b.int(PANEL))
        row = b.alu("add", b.cast(b.lane(PANEL), dt.i64), first)
        self._inside = b.alu("lt", row, rows)
        # Rows behind the last one read it again: no lane ever leaves the matrix.
        row = b.alu("min", row, b.alu("sub", rows, b.int(1)))
        self._begin = b.alu("mul", row, b.int(k))
        self.peak = b.reg(b.const(0, dt.i32, PANEL))

    def column(self, j: Value, padded: bool) -> tuple[Value, Value]:
        """Return float32 numbers of column j and the bits of their magnitudes, 16 lanes each."""
        b, inside = self.b, self._inside
        if padded:
            last = b.int(self.k - 1)
            inside = b.alu("and", inside, b.alu("lt", j, b.int(self.k)))
            j = b.alu("min", j, last)
        stored = b.load(self._source, b.alu("add", self._begin, j), PANEL)
        value = b.alu("where", inside, b.cast(stored, dt.f32), b.const(0.0, dt.f32))
        bits = b.alu("and", b.bitcast(value, dt.i32), b.const(0x7FFFFFFF, dt.i32))
        return value, bits

    def look(self, bits: Value) -> None:
        """Remember the largest magnitude; as integers NaN and infinity are above all numbers."""
        self.b.set(self.peak, self.b.alu("max", bits, self.b.get(self.peak)))


def _floats(panel: _Panel, form: Format, words: Value, start: Value) -> None:
    b, k = panel.b, panel.k
    units = -(-k // form.unit)
    with b.loop(b.int(0), b.int(units)) as i:
        word = None
        for part in range(form.unit):
            j = b.add(b.mul(i, b.int(form.unit)), b.int(part))
            value, bits = panel.column(j, k % form.unit != 0)
            panel.look(bits)
            number = b.bitcast(value, dt.i32)
            if form is BF16:
                number = _rounded(b, number, part)
            word = number if word is None else b.alu("xor", word, number)
        if word is not None:
            b.store(words, b.add(start, b.mul(i, b.int(PANEL))), word)


def _rounded(b: Builder, bits: Value, part: int) -> Value:
    """Return the bf16 next to a float32, as the lower (part 0) or upper half of a word."""
    odd = b.alu("and", b.alu("shr", bits, b.const(16, dt.i32)), b.const(1, dt.i32))
    near = b.alu("add", bits, b.alu("add", odd, b.const(0x7FFF, dt.i32)))
    if part == 0:
        return b.alu("shr", near, b.const(16, dt.i32))
    return b.alu("and", near, b.const(-0x10000, dt.i32))


def _quantised(panel: _Panel, form: Format, target: Value, start: Value) -> None:
    b = panel.b
    words, halves = b.view(target, dt.i32), b.view(target, dt.f16)
    numbers = b.emit("stack", dt.f32, 1, (), BLOCK * PANEL)
    supers = -(-panel.k // SUPER)
    with b.loop(b.int(0), b.int(supers)) as s, b.loop(b.int(0), b.int(SUPER // BLOCK)) as block:
        at = b.add(start, b.mul(s, b.int(form.unit_bytes)))
        column = b.add(b.mul(s, b.int(SUPER)), b.mul(block, b.int(BLOCK)))
        scale = _scale(panel, form, numbers, column)
        half = b.cast(scale, dt.f16)
        place = b.emit("idiv", dt.i64, 1, (at, b.int(2)))
        b.store(halves, b.add(place, b.mul(block, b.int(PANEL))), half)
        rounded = b.cast(half, dt.f32)
        zero = b.const(0.0, dt.f32)
        inverse = b.alu("div", b.const(1.0, dt.f32), rounded)
        inverse = b.alu("where", b.alu("eq", rounded, zero), zero, inverse)
        size = (form.unit_bytes - 64) // 4 // 2  # words of a block
        word = b.add(b.emit("idiv", dt.i64, 1, (at, b.int(4))), b.int(16))
        word = b.add(word, b.mul(block, b.int(size)))
        with b.loop(b.int(0), b.int(size // PANEL)) as group:
            bytes_ = _group(b, form, numbers, group, inverse)
            b.store(words, b.add(word, b.mul(group, b.int(PANEL))), bytes_)


def _scale(panel: _Panel, form: Format, numbers: Value, column: Value) -> Value:
    """Copy a block of 32 columns to `numbers` and return the scale of each row, not yet rounded."""
    b = panel.b
    most = b.reg(b.const(0, dt.i32, PANEL))
    largest = b.reg(b.const(0.0, dt.f32, PANEL))
    with b.loop(b.int(0), b.int(BLOCK)) as j:
        value, bits = panel.column(b.add(column, j), panel.k % SUPER != 0)
        b.store(numbers, b.mul(j, b.int(PANEL)), value)
        if form is Q4:  # the first of equal magnitudes decides the sign
            more = b.alu("lt", b.get(most), bits)
            b.set(largest, b.alu("where", more, value, b.get(largest)))
        b.set(most, b.alu("max", bits, b.get(most)))
    panel.look(b.get(most))
    if form is Q4:
        scale = b.alu("mul", b.get(largest), b.const(-0.125, dt.f32))
        return b.alu("add", scale, b.const(0.0, dt.f32))  # never -0
    return b.alu("mul", b.bitcast(b.get(most), dt.f32), b.const(1 / 127, dt.f32))


def _group(b: Builder, form: Format, numbers: Value, group: Value, inverse: Value) -> Value:
    """Return the bytes of 4 columns (of 8 for nibbles) of all rows, as one word for each."""
    least, most = (-8.0, 7.0) if form is Q4 else (-127.0, 127.0)
    rounder = b.const(ROUND, dt.f32)
    word: Value | None = None
    for byte in range(4):
        for shift in (0, 4) if form is Q4 else (0,):
            j = b.add(b.mul(group, b.int(4)), b.int(byte + shift * 4))
            value = b.load(numbers, b.mul(j, b.int(PANEL)), PANEL)
            scaled = b.alu("mul", value, inverse)
            whole = b.alu("sub", b.alu("add", scaled, rounder), rounder)
            whole = b.alu("min", b.alu("max", whole, b.const(least, dt.f32)), b.const(most, dt.f32))
            stored = b.alu("add", b.cast(whole, dt.i32), b.const(form.zero, dt.i32))
            stored = b.alu("shl", stored, b.const(8 * byte + shift, dt.i32))
            word = stored if word is None else b.alu("xor", word, stored)
    if word is None:
        raise EngineError(f"{form} has no groups")
    return word

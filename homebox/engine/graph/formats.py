"""How a matrix of numbers lies in memory as bytes: the formats of weights and of activations.

Weights lie in panels of 16 rows (outputs), and a panel runs along k in groups of 4 bytes per row,
so that one 64-byte load holds 16 rows and one group: 1 float32, 2 bf16 or 4 int8. Quantised formats
interleave their scales: a super-block is 64 k x 16 rows, first 2 x 16 float16 scales, one for each
32 k and row, then the numbers. Activations (`a8`) lie row by row in blocks of 32 with their own
scale. `UNPACK` and `PACK` are the operations of the graph that read and write these bytes.

    f32   [n/16][k][16]
    bf16  [n/16][k/2][16][2]
    q8    [n/16][k/64]: 64 bytes of scales, then [16 groups][16][4] u8     value = (u - 128) * scale
    q4    [n/16][k/64]: 64 bytes of scales, then [2 blocks][4][16][4] u8   value = (u4 - 8) * scale
          low nibbles hold the k groups 0 .. 3 of a block of 32, high nibbles the groups 4 .. 7
    a8    [m][k/32]: float32 scale, int32 sum of the block, 32 int8         value = i * scale

Rows are padded to whole panels, k to whole units; the padding's values are zero.
The blocks are those of GGUF's Q8_0 and Q4_0, so these are imported without loss.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.symbolic import Index

PANEL = 16  # rows of a weight side by side
BLOCK = 32  # numbers that share a scale
SUPER = 64  # k of a super-block

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Format:
    """One layout. `unit` is the number of k, and `unit_bytes` the size, of its smallest piece."""

    name: str
    rows: int  # of a panel
    unit: int  # along k
    unit_bytes: int  # of a panel's piece of `unit` numbers for each of its rows
    zero: int  # what a stored integer of value 0 is; 0 for floats

    def __repr__(self) -> str:
        return self.name

    @property
    def quantised(self) -> bool:
        """Whether numbers are integers with a scale for each block."""
        return self.name in ("q8", "q4", "a8")

    def panel_bytes(self, k: int) -> int:
        """Return the bytes of one panel."""
        return -(-k // self.unit) * self.unit_bytes

    def nbytes(self, n: int, k: int) -> int:
        """Return the bytes of an (n, k) matrix."""
        return -(-n // self.rows) * self.panel_bytes(k)


F32 = Format("f32", PANEL, 1, 64, 0)
BF16 = Format("bf16", PANEL, 2, 64, 0)
Q8 = Format("q8", PANEL, SUPER, 64 + SUPER * PANEL, 128)
Q4 = Format("q4", PANEL, SUPER, 64 + SUPER * PANEL // 2, 8)
A8 = Format("a8", 1, BLOCK, 8 + BLOCK, 0)
WEIGHTS = {f.name: f for f in (F32, BF16, Q8, Q4)}


@dataclass(frozen=True, slots=True)
class Element:
    """Where the parts of one element lie: flat positions, each counted in units of its type."""

    dtype: DType
    at: Index
    scale_dtype: DType | None = None
    scale_at: Index | None = None
    high: Index | None = None  # 1 where the element is the upper nibble of its byte


def element(form: Format, k: int, i: Index, j: Index) -> Element:
    """Return where element (i, j) of a matrix with `k` columns lies."""
    units = -(-k // form.unit)
    panel, row = i // form.rows, i % form.rows
    if form is F32:
        return Element(dt.f32, (panel * k + j) * PANEL + row)
    if form is BF16:
        return Element(dt.bf16, (panel * units + j // 2) * 32 + row * 2 + j % 2)
    piece = panel * units + j // form.unit
    start = piece * form.unit_bytes
    if form is A8:
        return Element(dt.i8, start + 8 + j % BLOCK, dt.f32, piece * (form.unit_bytes // 4))
    scale = piece * (form.unit_bytes // 2) + j % SUPER // BLOCK * PANEL + row
    if form is Q8:
        at = start + 64 + j % SUPER // 4 * 64 + row * 4 + j % 4
        return Element(dt.u8, at, dt.f16, scale)
    at = start + 64 + j % SUPER // BLOCK * 256 + j % 16 // 4 * 64 + row * 4 + j % 4
    return Element(dt.u8, at, dt.f16, scale, j % BLOCK // 16)


# -- the same in numpy: what the kernels are tested against ---------------------------------------


def quantise(form: Format, values: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return int8 (n, k) and float32 scales (n, k / 32) that approximate values; k % 32 == 0.

    q8 and a8: scale = max |x| / 127. q4: the number of largest size becomes -8, as in GGUF's Q4_0.
    Weights' scales are rounded to float16 first, and the numbers follow the rounded scale.
    """
    blocks = values.astype(np.float32).reshape(values.shape[0], -1, BLOCK)
    if form is Q4:
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
        scale = largest * np.float32(-0.125) + np.float32(0)  # never -0
    else:
        scale = np.abs(blocks).max(-1) * np.float32(1 / 127)
    if form is not A8:
        scale = scale.astype(np.float16).astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    if form is A8:
        top = np.abs(blocks).max(-1)
        with np.errstate(divide="ignore"):
            inverse = np.where(top == 0, np.float32(0), np.float32(127) / top)
    least, most = (-8, 7) if form is Q4 else (-127, 127)
    numbers = np.clip(np.rint(blocks * inverse[..., None]), least, most)
    return numbers.astype(np.int8).reshape(values.shape), scale


def pack_quantised(form: Format, numbers: npt.NDArray[np.int8], scale: Floats) -> Bytes:
    """Return a quantised weight's bytes: numbers (n, k), scales (n, k / 32) exact in float16."""
    n, k = numbers.shape
    rows, width = -(-n // PANEL) * PANEL, -(-k // SUPER) * SUPER
    whole = np.zeros((rows, width), np.int16)
    whole[:n, :k] = numbers
    scales = np.zeros((rows, width // BLOCK), np.float16)
    scales[:n, : scale.shape[1]] = scale
    stored = (whole + form.zero).astype(np.uint8)
    panels, supers = rows // PANEL, width // SUPER
    out = np.empty((panels, supers, form.unit_bytes), np.uint8)
    inline = scales.reshape(panels, PANEL, supers, 2).transpose(0, 2, 3, 1)
    out[:, :, :64] = np.ascontiguousarray(inline).view(np.uint8).reshape(panels, supers, 64)
    if form is Q4:
        halves = stored.reshape(panels, PANEL, supers, 2, 2, 16)
        stored = (halves[:, :, :, :, 0] + 16 * halves[:, :, :, :, 1]).astype(np.uint8)
    groups = stored.reshape(panels, PANEL, supers, -1, 4).transpose(0, 2, 3, 1, 4)
    out[:, :, 64:] = groups.reshape(panels, supers, -1)
    return out.reshape(-1)


def pack(form: Format, values: Floats) -> Bytes:
    """Return float32 values (n, k) as bytes of a format, rounded to what it can hold."""
    n, k = values.shape
    if form is A8:
        return _pack_activations(values)
    if form.quantised:
        padded = np.zeros((n, -(-k // BLOCK) * BLOCK), np.float32)
        padded[:, :k] = values
        return pack_quantised(form, *quantise(form, padded))
    width = -(-k // form.unit) * form.unit
    padded = np.zeros((-(-n // PANEL) * PANEL, width), np.float32)
    padded[:n, :k] = values
    stored: npt.NDArray[np.generic] = padded
    if form is BF16:
        bits = padded.view(np.uint32)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    panels = stored.reshape(-1, PANEL, width // form.unit, form.unit).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(panels).view(np.uint8).reshape(-1)


def _pack_activations(values: Floats) -> Bytes:
    m, k = values.shape
    padded = np.zeros((m, -(-k // BLOCK) * BLOCK), np.float32)
    padded[:, :k] = values
    numbers, scale = quantise(A8, padded)
    blocks = numbers.reshape(m, -1, BLOCK)
    out = np.empty((m, blocks.shape[1], A8.unit_bytes), np.uint8)
    out[:, :, :4] = scale[..., None].view(np.uint8)
    out[:, :, 4:8] = blocks.sum(-1, dtype=np.int32)[..., None].view(np.uint8)
    out[:, :, 8:] = blocks.view(np.uint8)
    return out.reshape(-1)


def unpack(form: Format, stored: Bytes, n: int, k: int) -> Floats:
    """Return the float32 values (n, k) that bytes of a format stand for."""
    panels, units = -(-n // form.rows), -(-k // form.unit)
    pieces = stored[: form.nbytes(n, k)].reshape(panels, units, form.unit_bytes)
    if form is A8:
        scale = np.ascontiguousarray(pieces[:, :, :4]).view(np.float32)
        rows = np.ascontiguousarray(pieces[:, :, 8:]).view(np.int8) * scale
        return rows.reshape(panels, -1)[:n, :k].astype(np.float32)
    if form.quantised:
        return _unpack_quantised(form, pieces, panels, units)[:n, :k]
    if form is F32:
        numbers = np.ascontiguousarray(pieces).view(np.float32)
    else:
        wide = np.ascontiguousarray(pieces).view(np.uint16).astype(np.uint32) << 16
        numbers = wide.view(np.float32)
    shaped = numbers.reshape(panels, units, PANEL, form.unit).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(shaped.reshape(panels * PANEL, -1)[:n, :k])


def _unpack_quantised(form: Format, pieces: Bytes, panels: int, units: int) -> Floats:
    scale = np.ascontiguousarray(pieces[:, :, :64]).view(np.float16).astype(np.float32)
    scale = scale.reshape(panels, units, 2, PANEL).transpose(0, 3, 1, 2)
    stored = pieces[:, :, 64:].reshape(panels, units, -1, PANEL, 4).transpose(0, 3, 1, 2, 4)
    if form is Q4:
        nibbles = stored.reshape(panels, PANEL, units, 2, 16)
        stored = np.stack([nibbles & 15, nibbles >> 4], 4)
    numbers = stored.reshape(panels, PANEL, units, 2, BLOCK).astype(np.float32) - form.zero
    return np.ascontiguousarray((numbers * scale[..., None]).reshape(panels * PANEL, -1))

"""Packs the quantised blocks of GGUF files as they are: no number changes.

A block is 32 numbers of one row behind a float16 scale (ggml's `block_q8_0` and `block_q4_0`):

    Q8_0  34 bytes: scale, 32 int8                                   value = i * scale
    Q4_0  18 bytes: scale, 16 bytes: number j low, number j + 16 high   value = (nibble - 8) * scale

Invariant: the float32 values of the packed matrix have the bits of those that the blocks stand for.
"""

import numpy as np
import numpy.typing as npt

from homebox.engine.graph.formats import BLOCK, PANEL, Q4, Q8, Bytes, Floats, Format, pack_quantised
from homebox.errors import EngineError

_NUMBERS = 1 << 22  # that are rearranged at a time, so that little memory is needed

BLOCK_BYTES = {Q8: 2 + BLOCK, Q4: 2 + BLOCK // 2}


def from_q8_0(blocks: Bytes | bytes, n: int, k: int) -> Bytes:
    """Return an (n, k) matrix in format q8; k must be a multiple of 32.

    Raises EngineError if the bytes are too few or too many, or a scale is no finite number.
    """
    return _packed(Q8, blocks, n, k)


def from_q4_0(blocks: Bytes | bytes, n: int, k: int) -> Bytes:
    """Return an (n, k) matrix in format q4; else like `from_q8_0`."""
    return _packed(Q4, blocks, n, k)


def dequantise_blocks(form: Format, blocks: Bytes | bytes, n: int, k: int) -> Floats:
    """Return the float32 values (n, k) of Q8_0 (form q8) or Q4_0 (form q4) blocks."""
    numbers, scales = _split(form, _rows(form, blocks, n, k))
    wide = numbers.reshape(n, -1, BLOCK).astype(np.float32)
    return (wide * scales.astype(np.float32)[..., None]).reshape(n, k)


def _packed(form: Format, blocks: Bytes | bytes, n: int, k: int) -> Bytes:
    rows = _rows(form, blocks, n, k)
    out = np.empty(form.nbytes(n, k), np.uint8)
    size = form.panel_bytes(k)
    panels = max(1, _NUMBERS // (PANEL * max(k, 1)))
    for first in range(0, -(-n // PANEL), panels):
        numbers, scales = _split(form, rows[first * PANEL : (first + panels) * PANEL])
        part = pack_quantised(form, numbers, scales.astype(np.float32))
        out[first * size : first * size + part.size] = part
    return out


def _rows(form: Format, blocks: Bytes | bytes, n: int, k: int) -> Bytes:
    """Return the blocks as (n, k / 32, bytes of a block)."""
    raw = np.frombuffer(blocks, np.uint8)
    size = BLOCK_BYTES[form]
    if n < 0 or k < 0 or k % BLOCK or raw.size != n * (k // BLOCK) * size:
        raise EngineError(f"{raw.size} bytes are no blocks of a matrix ({n}, {k}) for {form}")
    return raw.reshape(n, k // BLOCK, size)


def _split(form: Format, rows: Bytes) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Return the numbers (rows, k) and the scales (rows, k / 32)."""
    scales = np.ascontiguousarray(rows[:, :, :2]).view("<f2")[:, :, 0]
    if not np.isfinite(scales).all():
        raise EngineError("a block's scale is no finite number; the file is damaged")
    stored = rows[:, :, 2:]
    if form is Q8:
        numbers = np.ascontiguousarray(stored).view(np.int8)
    else:
        nibbles = np.concatenate([stored & 15, stored >> 4], 2)
        numbers = nibbles.astype(np.int8) - np.int8(form.zero)
    return numbers.reshape(rows.shape[0], -1), scales

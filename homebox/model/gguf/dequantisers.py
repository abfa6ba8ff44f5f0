"""Stored blocks -> float32, for every type that homebox reads.

The one idea: a piece of blocks at a time goes through all steps while it is in the processor's
cache, and its values are written straight to where they are wanted.
Invariant: the values have the bits of ggml's own dequantisation. Small integers are exact in
float32; a value is rounded where ggml rounds it: factor of a group, product, difference.
"""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.gguf import k_blocks, small_blocks, ternary_blocks
from homebox.model.gguf.bits import Bytes, Float32
from homebox.model.gguf.types import BLOCKS, GGMLType

# Writes the values of blocks (n, bytes of a block) to (n, numbers of a block).
Dequantiser = Callable[[Bytes, Float32], None]

_PIECE = 1 << 18  # numbers that go through all steps together


def _cast(stored: str) -> Dequantiser:
    def convert(blocks: Bytes, out: Float32) -> None:
        out[...] = blocks.view(stored)

    return convert


def _bf16(blocks: Bytes, out: Float32) -> None:
    np.left_shift(blocks.view("<u2"), np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)


_DEQUANTISERS: dict[GGMLType, Dequantiser] = {
    GGMLType.F32: _cast("<f4"),
    GGMLType.F16: _cast("<f2"),
    GGMLType.BF16: _bf16,
    GGMLType.F64: _cast("<f8"),
    GGMLType.I8: _cast("<i1"),
    GGMLType.I16: _cast("<i2"),
    GGMLType.I32: _cast("<i4"),
    GGMLType.I64: _cast("<i8"),
    GGMLType.Q4_0: small_blocks.q4_0,
    GGMLType.Q4_1: small_blocks.q4_1,
    GGMLType.Q5_0: small_blocks.q5_0,
    GGMLType.Q5_1: small_blocks.q5_1,
    GGMLType.Q8_0: small_blocks.q8_0,
    GGMLType.Q2_K: k_blocks.q2_k,
    GGMLType.Q3_K: k_blocks.q3_k,
    GGMLType.Q4_K: k_blocks.q4_k,
    GGMLType.Q5_K: k_blocks.q5_k,
    GGMLType.Q6_K: k_blocks.q6_k,
    GGMLType.IQ4_NL: small_blocks.iq4_nl,
    GGMLType.IQ4_XS: k_blocks.iq4_xs,
    GGMLType.MXFP4: small_blocks.mxfp4,
    GGMLType.TQ1_0: ternary_blocks.tq1_0,
    GGMLType.TQ2_0: ternary_blocks.tq2_0,
}
SUPPORTED = MappingProxyType(_DEQUANTISERS)
SUPPORTED_NAMES = ", ".join(kind.name for kind in SUPPORTED)


def dequantise(kind: GGMLType, stored: Bytes) -> Float32:
    """Return the float32 values (n,) of stored blocks, uint8 (bytes,).

    Raises ModelFormatError if the type is not in `SUPPORTED` or the bytes are no whole blocks.
    """
    block, nbytes = BLOCKS[kind]
    out = np.empty(stored.size // nbytes * block, np.float32)
    dequantise_into(kind, stored, out)
    return out


def dequantise_into(kind: GGMLType, stored: Bytes, out: Float32) -> None:
    """Write the values of stored blocks to `out`, float32, contiguous, of any shape.

    Raises as `dequantise` does, and if `out` has another size.
    """
    convert = SUPPORTED.get(kind)
    if convert is None:
        raise ModelFormatError(f"type {kind.name} is not supported; supported: {SUPPORTED_NAMES}")
    block, nbytes = BLOCKS[kind]
    count = stored.size // nbytes
    if stored.size != count * nbytes or out.size != count * block:
        raise ModelFormatError(f"{stored.size} bytes are not {out.size} numbers of {kind.name}")
    blocks = np.ascontiguousarray(stored).reshape(count, nbytes)
    values = out.reshape(count, block)
    step = max(1, _PIECE // block)
    with np.errstate(all="ignore"):  # a scale may be infinite or no number, as in the file
        for begin in range(0, count, step):
            convert(blocks[begin : begin + step], values[begin : begin + step])

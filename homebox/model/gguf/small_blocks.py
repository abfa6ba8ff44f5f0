"""Blocks of 32 numbers behind one scale, as float32.

Source: ggml's `block_q4_0` and so on (ggml-common.h), each shown below as it lies: d is the scale
and m an offset, both float16. Number j is in the low nibble of byte j, number j + 16 in the high
one; the fifth bit of number j is bit j of a little-endian 32-bit word.
All functions write the values of blocks (n, bytes) to `out` (n, 32).
"""

import numpy as np

from homebox.model.gguf.bits import (
    Bytes,
    Float32,
    half,
    less,
    looked_up,
    planes,
    single_bits,
    with_upper,
)

# What a nibble stands for in IQ4_NL and IQ4_XS, and, doubled, in MXFP4 (OCP's E2M1).
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def q4_0(blocks: Bytes, out: Float32) -> None:
    """d, 16 bytes of nibbles: d * (nibble - 8)."""
    np.multiply(less(planes(blocks[:, 2:], 4, 16), 8), half(blocks, 0), out=out)


def q4_1(blocks: Bytes, out: Float32) -> None:
    """d, m, 16 bytes of nibbles: d * nibble + m."""
    np.multiply(planes(blocks[:, 4:], 4, 16), half(blocks, 0), out=out)
    out += half(blocks, 2)


def q5_0(blocks: Bytes, out: Float32) -> None:
    """d, fifth bits, 16 bytes of nibbles: d * (number - 16)."""
    numbers = with_upper(planes(blocks[:, 6:], 4, 16), single_bits(blocks[:, 2:6]), 4)
    np.multiply(less(numbers, 16), half(blocks, 0), out=out)


def q5_1(blocks: Bytes, out: Float32) -> None:
    """d, m, fifth bits, 16 bytes of nibbles: d * number + m."""
    numbers = with_upper(planes(blocks[:, 8:], 4, 16), single_bits(blocks[:, 4:8]), 4)
    np.multiply(numbers, half(blocks, 0), out=out)
    out += half(blocks, 2)


def q8_0(blocks: Bytes, out: Float32) -> None:
    """d, 32 int8: d * number."""
    np.multiply(blocks[:, 2:].view(np.int8), half(blocks, 0), out=out)


def iq4_nl(blocks: Bytes, out: Float32) -> None:
    """d, 16 bytes of nibbles: d * what the nibble stands for."""
    numbers = looked_up(planes(blocks[:, 2:], 4, 16), IQ4_VALUES)
    np.multiply(numbers, half(blocks, 0), out=out)


def mxfp4(blocks: Bytes, out: Float32) -> None:
    """e, 16 bytes of nibbles: 2 ** (e - 128) * what the nibble stands for, doubled.

    The two smallest scales are denormal. OCP's NaN, e = 255, is 2 ** 127, as ggml has it.
    """
    exponent = blocks[:, :1].astype(np.uint32)
    scale = np.where(
        exponent < 2, np.uint32(0x200000) << exponent, (exponent - np.uint32(1)) << np.uint32(23)
    ).view(np.float32)
    numbers = looked_up(planes(blocks[:, 1:], 4, 16), _E2M1_VALUES)
    np.multiply(numbers, scale, out=out)

"""Blocks of 32 numbers behind one scale, as float32.

Source: ggml's `block_q4_0` and so on (ggml-common.h), each shown below as it lies: d is the scale
and m an offset, both float16. Number j is in the low nibble of byte j, number j + 16 in the high
one; the fifth bit of number j is bit j of a little-endian 32-bit word.
All functions write the values of blocks (n, bytes) to `out` (n, 32).
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

# What a nibble stands for in IQ4_NL and IQ4_XS, and, doubled, in MXFP4 (OCP's E2M1).
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def q4_0(blocks: Bytes, out: Float32) -> None:
    """d, 16 bytes of nibbles: d * (nibble - 8)."""
    numbers = _nibbles(blocks[:, 2:])
    numbers -= np.uint8(8)
    np.multiply(numbers.view(np.int8), half(blocks, 0), out=out)


def q4_1(blocks: Bytes, out: Float32) -> None:
    """d, m, 16 bytes of nibbles: d * nibble + m."""
    np.multiply(_nibbles(blocks[:, 4:]), half(blocks, 0), out=out)
    out += half(blocks, 2)


def q5_0(blocks: Bytes, out: Float32) -> None:
    """d, fifth bits, 16 bytes of nibbles: d * (number - 16)."""
    numbers = _nibbles(blocks[:, 6:])
    numbers |= _fifth_bits(blocks[:, 2:6])
    numbers -= np.uint8(16)
    np.multiply(numbers.view(np.int8), half(blocks, 0), out=out)


def q5_1(blocks: Bytes, out: Float32) -> None:
    """d, m, fifth bits, 16 bytes of nibbles: d * number + m."""
    numbers = _nibbles(blocks[:, 8:])
    numbers |= _fifth_bits(blocks[:, 4:8])
    np.multiply(numbers, half(blocks, 0), out=out)
    out += half(blocks, 2)


def q8_0(blocks: Bytes, out: Float32) -> None:
    """d, 32 int8: d * number."""
    np.multiply(blocks[:, 2:].view(np.int8), half(blocks, 0), out=out)


def iq4_nl(blocks: Bytes, out: Float32) -> None:
    """d, 16 bytes of nibbles: d * what the nibble stands for."""
    np.multiply(looked_up(_nibbles(blocks[:, 2:]), IQ4_VALUES), half(blocks, 0), out=out)


def mxfp4(blocks: Bytes, out: Float32) -> None:
    """e, 16 bytes of nibbles: 2 ** (e - 128) * what the nibble stands for, doubled.

    The two smallest scales are denormal. OCP's NaN, e = 255, is 2 ** 127 as ggml has it.
    """
    exponent = blocks[:, :1].astype(np.uint32)
    scale = np.where(
        exponent < 2, np.uint32(0x200000) << exponent, (exponent - np.uint32(1)) << np.uint32(23)
    ).view(np.float32)
    np.multiply(looked_up(_nibbles(blocks[:, 1:]), _E2M1_VALUES), scale, out=out)


def half(blocks: Bytes, begin: int) -> Float32:
    """Return the float16 at `begin` of each block as float32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, begin : begin + 2]).view("<f2").astype(np.float32)


def looked_up(numbers: Bytes, values: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Return what each number stands for, int8 of the same shape; numbers are below 16."""
    table = bytes(value & 0xFF for value in values).ljust(256, b"\0")
    return np.frombuffer(numbers.tobytes().translate(table), np.int8).reshape(numbers.shape)


def _nibbles(packed: Bytes) -> Bytes:
    """Return (n, 16) bytes as (n, 32) numbers: all low nibbles of a block, then all high ones."""
    numbers = np.empty((len(packed), 2, 16), np.uint8)
    np.bitwise_and(packed, np.uint8(15), out=numbers[:, 0])
    np.right_shift(packed, np.uint8(4), out=numbers[:, 1])
    return numbers.reshape(-1, 32)


def _fifth_bits(packed: Bytes) -> Bytes:
    """Return (n, 4) bytes as (n, 32) numbers that are 16 where a bit is set, else 0."""
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    return np.left_shift(bits, np.uint8(4), out=bits)

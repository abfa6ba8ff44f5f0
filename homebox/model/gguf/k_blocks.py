"""Blocks of 256 numbers, in groups with scales of their own, as float32.

Source: ggml's `block_q2_K` and so on (ggml-common.h), each shown below as it lies: d and m are
float16 factors of the groups' scales and offsets. Numbers of a few bits share a byte with those
that lie 32 (in Q6_K's nibbles 64) further on; so do their upper bits.
All functions write the values of blocks (n, bytes) to `out` (n, 256).
"""

import numpy as np

from homebox.model.gguf.bits import (
    Bytes,
    Float32,
    Signed,
    half,
    less,
    looked_up,
    planes,
    with_upper,
)
from homebox.model.gguf.small_blocks import IQ4_VALUES


def q2_k(blocks: Bytes, out: Float32) -> None:
    """16 bytes of scale and offset, 64 bytes of pairs of bits, d, m; groups of 16."""
    packed = np.ascontiguousarray(blocks[:, :16])
    _scale(planes(blocks[:, 16:80], 2, 32), half(blocks, 80) * (packed & np.uint8(15)), out)
    _move(half(blocks, 82) * (packed >> np.uint8(4)), out)


def q3_k(blocks: Bytes, out: Float32) -> None:
    """32 bytes of upper bits, 64 bytes of pairs of bits, 12 bytes of scales, d; groups of 16.

    A number is its pair of bits, less 4 where its upper bit is 0. A scale is a nibble and an upper
    pair of bits, less 32.
    """
    numbers = with_upper(planes(blocks[:, 32:96], 2, 32), planes(blocks[:, :32], 1, 32), 2)
    scales = with_upper(planes(blocks[:, 96:104], 4, 8), planes(blocks[:, 104:108], 2, 4), 4)
    _scale(less(numbers, 4), half(blocks, 108) * less(scales, 32), out)


def q4_k(blocks: Bytes, out: Float32) -> None:
    """d, m, 12 bytes of scales and offsets, 128 bytes of nibbles; groups of 32."""
    _scale_and_move(planes(blocks[:, 16:], 4, 32), blocks, out)


def q5_k(blocks: Bytes, out: Float32) -> None:
    """d, m, 12 bytes of scales and offsets, 32 bytes of fifth bits, 128 bytes of nibbles."""
    numbers = with_upper(planes(blocks[:, 48:], 4, 32), planes(blocks[:, 16:48], 1, 32), 4)
    _scale_and_move(numbers, blocks, out)


def q6_k(blocks: Bytes, out: Float32) -> None:
    """128 bytes of nibbles, 64 bytes of pairs of bits, 16 int8 scales, d; groups of 16."""
    numbers = with_upper(planes(blocks[:, :128], 4, 64), planes(blocks[:, 128:192], 2, 32), 4)
    scales = half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    _scale(less(numbers, 32), scales, out)


def iq4_xs(blocks: Bytes, out: Float32) -> None:
    """d, 2 bytes of upper and 4 of lower bits of scales, 128 bytes of nibbles; groups of 32."""
    scales = with_upper(planes(blocks[:, 4:8], 4, 1), planes(blocks[:, 2:4], 2, 1), 4)
    numbers = looked_up(planes(blocks[:, 8:], 4, 16), IQ4_VALUES)
    _scale(numbers, half(blocks, 0) * less(scales, 32), out)


def _scale_and_move(numbers: Bytes, blocks: Bytes, out: Float32) -> None:
    """Write the values of Q4_K and Q5_K: eight groups with a scale and an offset of 6 bits each.

    Four bytes each of a, b, c: the first four scales are the lower 6 bits of a, offsets those of b;
    the others have their lower nibble in c, scale low and offset high, and their upper two bits
    where a and b leave room.
    """
    # Four bytes are one word; what is moved across the edge of a byte is masked.
    a, b, c = np.ascontiguousarray(blocks[:, 4:16]).view(np.uint32).T
    six, upper, nibble = np.uint32(0x3F3F3F3F), np.uint32(0x30303030), np.uint32(0x0F0F0F0F)
    two, four = np.uint32(2), np.uint32(4)
    scales = np.stack([a & six, (c & nibble) | ((a >> two) & upper)], 1).view(np.uint8)
    offsets = np.stack([b & six, ((c >> four) & nibble) | ((b >> two) & upper)], 1).view(np.uint8)
    _scale(numbers, half(blocks, 0) * scales, out)
    _move(half(blocks, 2) * offsets, out)


def _scale(numbers: Bytes | Signed, scales: Float32, out: Float32) -> None:
    """Write numbers times the scales of their groups, (n, groups)."""
    size = out.shape[1] // scales.shape[1]
    np.multiply(numbers.reshape(-1, size), scales.reshape(-1, 1), out=out.reshape(-1, size))


def _move(offsets: Float32, out: Float32) -> None:
    """Take the offsets of groups, (n, groups), from the values in place."""
    groups = out.reshape(-1, out.shape[1] // offsets.shape[1])
    groups -= offsets.reshape(-1, 1)

"""Blocks of 256 numbers, in groups with scales of their own, as float32.

Source: ggml's `block_q2_K` and so on (ggml-common.h), each shown below as it lies: d and m are
float16 factors of the groups' scales and offsets. Numbers of a few bits share a byte with those
that lie 32 (in Q6_K's nibbles 64) further on; so do their upper bits.
All functions write the values of blocks (n, bytes) to `out` (n, 256).
"""

import numpy as np
import numpy.typing as npt

from homebox.model.gguf.small_blocks import IQ4_VALUES, Bytes, Float32, half, looked_up


def q2_k(blocks: Bytes, out: Float32) -> None:
    """16 bytes of scale and offset, 64 bytes of pairs of bits, d, m; groups of 16."""
    scales = half(blocks, 80) * (blocks[:, :16] & np.uint8(15))
    offsets = half(blocks, 82) * (blocks[:, :16] >> np.uint8(4))
    _scaled(_planes(blocks[:, 16:80], 2, 32), scales, out)
    groups = out.reshape(-1, 16, 16)
    groups -= offsets[:, :, None]


def q3_k(blocks: Bytes, out: Float32) -> None:
    """32 bytes of upper bits, 64 bytes of pairs of bits, 12 bytes of scales, d; groups of 16.

    A number is its pair of bits, less 4 where its upper bit is 0.
    """
    numbers = _planes(blocks[:, 32:96], 2, 32)
    numbers |= _planes(blocks[:, :32], 1, 32) << np.uint8(2)
    numbers -= np.uint8(4)
    low = blocks[:, 96:104]
    scales = np.concatenate([low & np.uint8(15), low >> np.uint8(4)], 1)
    scales |= _planes(blocks[:, 104:108], 2, 4) << np.uint8(4)
    scales -= np.uint8(32)
    _scaled(numbers.view(np.int8), half(blocks, 108) * scales.view(np.int8), out)


def q4_k(blocks: Bytes, out: Float32) -> None:
    """d, m, 12 bytes of scales and offsets, 128 bytes of nibbles; groups of 32."""
    _scaled_and_moved(_planes(blocks[:, 16:], 4, 32), blocks, out)


def q5_k(blocks: Bytes, out: Float32) -> None:
    """d, m, 12 bytes of scales and offsets, 32 bytes of fifth bits, 128 bytes of nibbles."""
    numbers = _planes(blocks[:, 48:], 4, 32)
    numbers |= _planes(blocks[:, 16:48], 1, 32) << np.uint8(4)
    _scaled_and_moved(numbers, blocks, out)


def q6_k(blocks: Bytes, out: Float32) -> None:
    """128 bytes of nibbles, 64 bytes of pairs of bits, 16 int8 scales, d; groups of 16."""
    numbers = _planes(blocks[:, :128], 4, 64)
    numbers |= _planes(blocks[:, 128:192], 2, 32) << np.uint8(4)
    numbers -= np.uint8(32)
    scales = half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    _scaled(numbers.view(np.int8), scales, out)


def iq4_xs(blocks: Bytes, out: Float32) -> None:
    """d, 2 bytes of upper and 4 of lower bits of scales, 128 bytes of nibbles; groups of 32."""
    numbers = _planes(blocks[:, 8:], 4, 16)
    scales = _planes(blocks[:, 4:8], 4, 1)
    scales |= _planes(blocks[:, 2:4], 2, 1) << np.uint8(4)
    scales -= np.uint8(32)
    _scaled(looked_up(numbers, IQ4_VALUES), half(blocks, 0) * scales.view(np.int8), out)


def _planes(packed: Bytes, bits: int, width: int) -> Bytes:
    """Return (n, bytes) as (n, numbers): bytes in runs of `width`, each run's lowest bits first."""
    planes = 8 // bits
    runs = packed.reshape(len(packed), -1, width)
    numbers = np.empty((len(packed), runs.shape[1], planes, width), np.uint8)
    for plane in range(planes):
        np.right_shift(runs, np.uint8(plane * bits), out=numbers[:, :, plane])
    numbers &= np.uint8((1 << bits) - 1)
    return numbers.reshape(len(packed), -1)


def _scaled(numbers: Bytes | npt.NDArray[np.int8], scales: Float32, out: Float32) -> None:
    """Write numbers times the scales of their groups, (n, groups)."""
    groups = (*scales.shape, -1)
    np.multiply(numbers.reshape(groups), scales[:, :, None], out=out.reshape(groups))


def _scaled_and_moved(numbers: Bytes, blocks: Bytes, out: Float32) -> None:
    """Write the values of Q4_K and Q5_K: eight groups with a scale and an offset of 6 bits each.

    Bytes a b c of 4 each: the first four scales are the lower 6 bits of a, offsets those of b; the
    other four have their lower nibble in c, scale low and offset high, their upper two bits in the
    two that a and b leave free.
    """
    a, b, c = (blocks[:, begin : begin + 4] for begin in (4, 8, 12))
    six, two, nibble = np.uint8(63), np.uint8(0x30), np.uint8(15)
    shift, four = np.uint8(2), np.uint8(4)
    scales = np.concatenate([a & six, (c & nibble) | ((a >> shift) & two)], 1)
    offsets = np.concatenate([b & six, (c >> four) | ((b >> shift) & two)], 1)
    _scaled(numbers, half(blocks, 0) * scales, out)
    groups = out.reshape(-1, 8, 32)
    groups -= (half(blocks, 2) * offsets)[:, :, None]

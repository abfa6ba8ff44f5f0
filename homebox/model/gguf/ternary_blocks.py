"""Blocks of 256 numbers -1, 0 or 1 behind one scale, as float32.

Source: ggml's `block_tq1_0` and `block_tq2_0` (ggml-common.h), each shown below as it lies; d is
the scale, float16.
All functions write the values of blocks (n, bytes) to `out` (n, 256).
"""

import numpy as np

from homebox.model.gguf.bits import Bytes, Float32, half, less, planes

# Bytes of a TQ1_0 block: from, to, digits in each.
_RUNS = ((0, 32, 5), (32, 48, 5), (48, 52, 4))


def tq1_0(blocks: Bytes, out: Float32) -> None:
    """48 bytes of five digits, 4 of four, d: d * (digit - 1).

    A byte is a fraction of 256 in base 3, rounded up: times 3, what is carried is the first digit.
    """
    numbers = np.empty((len(blocks), 256), np.uint8)
    position = 0
    for begin, end, digits in _RUNS:
        rest = blocks[:, begin:end].copy()
        for _ in range(digits):
            digit = (rest >= np.uint8(86)).view(np.uint8)  # rest * 3 // 256
            digit += rest >= np.uint8(171)
            numbers[:, position : position + end - begin] = digit
            rest *= np.uint8(3)
            position += end - begin
    np.multiply(less(numbers, 1), half(blocks, 52), out=out)


def tq2_0(blocks: Bytes, out: Float32) -> None:
    """64 bytes of pairs of bits, d: d * (pair - 1)."""
    np.multiply(less(planes(blocks[:, :64], 2, 32), 1), half(blocks, 64), out=out)

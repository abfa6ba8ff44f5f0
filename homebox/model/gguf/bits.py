"""Small numbers out of the bytes of blocks: what the dequantisers of all types share.

The one idea: bytes are first laid side by side, for numpy is ten times slower where every few bytes
are followed by a gap.
Invariant: nothing here rounds.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Signed = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]

# The eight bits of each byte as eight bytes, the lowest first.
_BITS_OF_BYTES: npt.NDArray[np.uint64] = np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
).view(np.uint64)[:, 0]


def half(blocks: Bytes, begin: int) -> Float32:
    """Return the float16 at byte `begin` of each block as float32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, begin : begin + 2]).view("<f2").astype(np.float32)


def planes(packed: Bytes, bits: int, width: int) -> Bytes:
    """Return the numbers of `bits` bits in (n, bytes) as (n, numbers).

    Bytes come in runs of `width`; of each run the numbers in the lowest bits come first.
    """
    count = 8 // bits
    run = f"V{width}"
    runs = np.ascontiguousarray(packed).reshape(-1)
    numbers = np.empty((runs.size // width, count, width), np.uint8)
    places = numbers.view(run)[:, :, 0]
    for plane in range(count):
        shifted = runs >> np.uint8(plane * bits)
        shifted &= np.uint8((1 << bits) - 1)
        places[:, plane] = shifted.view(run)
    return numbers.reshape(len(packed), -1)


def single_bits(packed: Bytes) -> Bytes:
    """Return the bits of (n, bytes) as numbers (n, bytes * 8), the lowest of each byte first."""
    return np.take(_BITS_OF_BYTES, packed).view(np.uint8)


def looked_up(numbers: Bytes, values: tuple[int, ...]) -> Signed:
    """Return what each number stands for, in the same shape; numbers are below 16."""
    table = bytes(value & 0xFF for value in values).ljust(256, b"\0")
    return np.frombuffer(numbers.tobytes().translate(table), np.int8).reshape(numbers.shape)


def less(numbers: Bytes, offset: int) -> Signed:
    """Take `offset` from every number in place; return them with their signs."""
    numbers -= np.uint8(offset)
    return numbers.view(np.int8)


def with_upper(numbers: Bytes, upper: Bytes, shift: int) -> Bytes:
    """Add `upper`, moved up by `shift` bits, to the numbers in place."""
    upper <<= np.uint8(shift)
    numbers |= upper
    return numbers

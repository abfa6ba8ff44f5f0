"""Numbers as files hold them: float32, float16, bfloat16, and what formats of 8 and 4 bits mean.

The one idea: every code of 8 or 4 bits is looked up in a table, two codes at a time, and the
table's entries are bfloat16, which holds each of them exactly; only a scale that is no power of two
rounds, and it does so once, in float32.
Sources: OCP 8-bit Floating Point Specification (E4M3, E5M2); OCP Microscaling Formats (MX)
Specification 1.0 (E2M1, E8M0, blocks of 32); DeepSeek-V3 Technical Report, section 3.3 (a scale for
each 128 x 128 block of a weight).
Invariant: these are pure functions of arrays; the codes of a NaN become NaN, a number beyond
bfloat16 becomes infinity, and neither is ever taken for another number.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.errors import ModelFormatError

Float32 = npt.NDArray[np.float32]
Bfloat16 = npt.NDArray[np.uint16]  # the upper halves of float32 numbers
Stored = npt.NDArray[Any]  # float32, float16 or `Bfloat16`
Codes = npt.NDArray[np.uint8]

FP8_TYPES = ("F8_E4M3", "F8_E5M2")
MX_BLOCK = 32  # numbers that share a scale in MXFP4
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # E2M1 without its sign, the highest bit
_PIECE = 1 << 17  # pairs of codes that are decoded together: 1 MiB of indices stays in the cache
_ROWS = 128  # rows that are scaled together
_CHUNK = 1 << 18  # numbers that are looked at together


def widened(stored: Stored) -> Float32:
    """Return a float32 copy of stored numbers, exactly."""
    if stored.dtype.kind == "u":
        wide = stored.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return stored.astype(np.float32)


def finite(stored: Stored) -> bool:
    """Whether stored numbers hold neither NaN nor infinity; needs little memory of its own."""
    exponent = {"f4": 0x7F800000, "f2": 0x7C00, "u2": 0x7F80}[stored.dtype.str[1:]]
    # In the order of the memory: a turned tensor is not copied.
    words = stored.ravel(order="K").view(f"<u{stored.dtype.itemsize}")
    bits = words.dtype.type(exponent)
    return all(
        not ((words[i : i + _CHUNK] & bits) == bits).any() for i in range(0, len(words), _CHUNK)
    )


def fp8_numbers(codes: Codes, dtype: str) -> Bfloat16:
    """Return the numbers of `codes` as bfloat16, exactly; `dtype` is one of `FP8_TYPES`.

    E4M3 is the variant without infinities ("fn"): 0x7F and 0xFF are NaN, 448 is the largest number.
    """
    result: Bfloat16 = np.empty(codes.shape, np.uint16)
    _decode(np.ascontiguousarray(codes).reshape(-1), result.reshape(-1), _upper_halves(dtype))
    return result


def e8m0(codes: Codes) -> Float32:
    """Return 2 ** (code - 127) as float32, exactly; 255 is NaN (OCP MX, section 5.4.1)."""
    return _e8m0_table()[codes]


def fp8_blocks(
    codes: Codes, scale: Stored, block: tuple[int, int] | None, dtype: str = "F8_E4M3"
) -> Float32:
    """Return number * scale in float32, rounded once, for all `codes` of a weight.

    `codes`: (..., N, K), see `fp8_numbers`. `scale`: one number for each block of `block` = (rows,
    columns) of the last two axes, (..., ceil(N / rows), ceil(K / columns)), where the blocks at the
    ends may be smaller; without `block` one number for all of the weight, or one for each of its
    rows, (..., N, 1) or (..., N). Raises ModelFormatError if the shapes do not fit together.
    """
    grid = scale_grid(codes.shape, scale.shape, block)
    if grid is None:
        raise ModelFormatError(
            f"scale: {list(scale.shape)} does not fit a weight of {list(codes.shape)}"
        )
    high, wide = grid
    rows, columns = _last_two(codes.shape)
    result: Float32 = np.empty(codes.shape, np.float32)
    if not result.size:
        return result
    scales = widened(scale).reshape(-1, -(-rows // high), -(-columns // wide))
    sources = np.ascontiguousarray(codes).reshape(-1, rows, columns)
    targets = result.reshape(-1, rows, columns)
    tables = _float32s(dtype)
    step = high * -(-_ROWS // high) if high < rows else rows
    for each, (source, target) in enumerate(zip(sources, targets, strict=True)):
        # A single number is there once for all that the leading axes count.
        factors = scales[each % len(scales)]
        for begin in range(0, rows, step):
            part = slice(begin, begin + step)
            _decode(source[part].reshape(-1), target[part].reshape(-1), tables)
            used = factors[begin // high : -(-min(begin + step, rows) // high)]
            _scale_rows(target[part], used, grid)
    return result


def scale_grid(
    shape: tuple[int, ...], scale: tuple[int, ...], block: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Return (rows, columns) of the block that each number of a scale is for, or None.

    None says that a scale of shape `scale` does not belong to a weight of `shape`; see
    `fp8_blocks`. The result is at least (1, 1).
    """
    rows, columns = _last_two(shape)
    if block is not None:
        high, wide = block
        fits = scale == (*shape[:-2], -(-rows // high), -(-columns // wide))
        return block if fits and len(shape) >= 2 else None
    if scale in ((), (1,), (1,) * len(shape)):
        return max(1, rows), max(1, columns)
    if scale in ((*shape[:-1], 1), shape[:-1]) and len(shape) >= 2:
        return 1, max(1, columns)
    if len(shape) > 2 and scale in (shape[:-2], (*shape[:-2], 1, 1)):  # one for each expert
        return max(1, rows), max(1, columns)
    return None


def mxfp4(blocks: Codes, scales: Codes) -> Bfloat16:
    """Return the numbers of MXFP4 blocks as bfloat16, exactly.

    `blocks`: (..., G, 16), two E2M1 codes a byte, the first one in the low four bits; `scales`:
    (..., G), E8M0. Returns (..., G * 32). A number of 2 ** 128 or more is infinity, a block whose
    scale is 255 is NaN. Raises ModelFormatError if the shapes do not fit together.
    """
    if blocks.shape != (*scales.shape, MX_BLOCK // 2) or not scales.shape:
        raise ModelFormatError(
            f"blocks: {list(blocks.shape)} does not fit scales of {list(scales.shape)}"
        )
    rows = blocks.reshape(-1, MX_BLOCK // 2)
    high = scales.reshape(-1, 1)
    result: Bfloat16 = np.empty((len(rows), MX_BLOCK), np.uint16)
    pairs = result.view(np.uint32)
    step = _PIECE // (MX_BLOCK // 2)
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        index = high[part].astype(np.intp) << 8 | rows[part]
        np.take(_fp4_pairs(), index, out=pairs[part], mode="clip")
    return result.reshape(*scales.shape[:-1], scales.shape[-1] * MX_BLOCK)


def _decode(codes: Codes, out: npt.NDArray[Any], tables: tuple[npt.NDArray[Any], ...]) -> None:
    """Write the numbers of `codes` to `out`; `tables` are for a code, and for two at once."""
    single, pairs = tables
    whole = codes.size // 2 * 2
    index = codes[:whole].view("<u2")
    found = out[:whole].view(pairs.dtype)
    for begin in range(0, index.size, _PIECE):  # indices are 64 bits wide while they are used
        part = slice(begin, begin + _PIECE)
        np.take(pairs, index[part], out=found[part], mode="clip")
    out[whole:] = single[codes[whole:]]


def _scale_rows(rows: Float32, scales: Float32, grid: tuple[int, int]) -> None:
    """Multiply `rows` by the `scales` of their blocks, in place."""
    high, wide = grid
    factors = scales
    if scales.shape[1] > 1:
        factors = np.repeat(scales, wide, axis=1)[:, : rows.shape[1]]
    if len(rows) == len(factors) * high:
        blocks = rows.reshape(len(factors), high, rows.shape[1])
        blocks *= factors[:, None, :]
    else:
        rows *= np.repeat(factors, high, axis=0)[: len(rows)]


def _last_two(shape: tuple[int, ...]) -> tuple[int, int]:
    padded = (1, 1, *shape)
    return padded[-2], padded[-1]


def _fp8_table(dtype: str) -> npt.NDArray[np.float64]:
    """Return the number of each of 256 codes: sign, exponent, mantissa from the high bit down."""
    mantissa, bias = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}[dtype]
    codes = np.arange(256, dtype=np.int64)
    exponent = codes >> mantissa & (1 << 7 - mantissa) - 1
    fraction = (codes & (1 << mantissa) - 1) / (1 << mantissa)
    normal = exponent > 0
    values: npt.NDArray[np.float64] = np.ldexp(fraction + normal, np.maximum(exponent, 1) - bias)
    if dtype == "F8_E4M3":
        values[codes & 0x7F == 0x7F] = np.nan
    else:
        values[codes & 0x7C == 0x7C] = np.inf
        values[(codes & 0x7C == 0x7C) & (codes & 3 > 0)] = np.nan
    values[128:] *= -1
    return values


@cache
def _upper_halves(dtype: str) -> tuple[Bfloat16, npt.NDArray[np.uint32]]:
    """Return the bfloat16 of each code, and of each pair of codes; the low one comes first."""
    single = _upper_half(_fp8_table(dtype))
    return single, _pairs(single[None, :], single[:, None])


@cache
def _float32s(dtype: str) -> tuple[Float32, npt.NDArray[np.uint64]]:
    """Return the float32 of each code, and of each pair of codes; the low one comes first."""
    single = _fp8_table(dtype).astype(np.float32)
    pairs = np.empty((256, 256, 2), np.float32)
    pairs[:, :, 0], pairs[:, :, 1] = single[None, :], single[:, None]
    return single, pairs.view(np.uint64).reshape(-1)


@cache
def _e8m0_table() -> Float32:
    values = np.ldexp(1.0, np.arange(256) - 127)
    values[255] = np.nan
    return values.astype(np.float32)


@cache
def _fp4_pairs() -> npt.NDArray[np.uint32]:
    """Return the two bfloat16 numbers of scale << 8 | byte."""
    numbers = np.array([*_FP4, *(-value for value in _FP4)])
    with np.errstate(over="ignore"):
        # A number beyond float32 becomes infinity here, and 0 times NaN is NaN.
        scaled = _upper_half(_e8m0_table().astype(np.float64)[:, None] * numbers)
    codes = np.arange(256)
    return _pairs(scaled[:, codes & 15], scaled[:, codes >> 4])


def _pairs(first: Bfloat16, second: Bfloat16) -> npt.NDArray[np.uint32]:
    pairs = first.astype(np.uint32) | second.astype(np.uint32) << np.uint32(16)
    return np.ascontiguousarray(pairs).reshape(-1)


def _upper_half(values: npt.NDArray[np.float64]) -> Bfloat16:
    bits = values.astype(np.float32).view(np.uint32)
    result: Bfloat16 = (bits >> np.uint32(16)).astype(np.uint16)
    return result

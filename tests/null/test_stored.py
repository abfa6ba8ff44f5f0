"""Numbers of 8 and 4 bits against what torch and transformers make of the same bytes.

`stored_reference.json` holds their answers; where both are installed they are asked again.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from homebox.errors import ModelFormatError
from homebox.model.files import stored
from homebox.model.files.stored import (
    FP8_TYPES,
    e8m0,
    finite,
    fp8_blocks,
    fp8_numbers,
    mxfp4,
    scale_grid,
    widened,
)

REFERENCE = Path(__file__).with_name("stored_reference.json")
ALL = np.arange(256, dtype=np.uint8)
Floats = npt.NDArray[np.float32]

# name -> shape of the weight, shape of its scale, block
WEIGHTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, int] | None]] = {
    "blocks": ((12, 20), (3, 4), (4, 5)),
    "experts": ((2, 8, 6), (2, 2, 3), (4, 2)),
    "tensor": ((5, 7), (), None),
    "rows": ((5, 7), (5, 1), None),
}


def codes_of(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.uint8]:
    """Return E4M3 codes of finite numbers."""
    dice = np.random.default_rng(seed)
    codes = dice.integers(0, 0x7F, shape, dtype=np.uint8)
    codes |= dice.integers(0, 2, shape, dtype=np.uint8) << 7
    return codes


def scale_of(shape: tuple[int, ...], seed: int) -> Floats:
    """Return scales that are no powers of two."""
    return np.random.default_rng(seed).uniform(1e-4, 3.0, shape).astype(np.float32)


def mx_tensors() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return blocks and scales whose numbers are all below 2 ** 128."""
    dice = np.random.default_rng(4)
    blocks = dice.integers(0, 256, (2, 3, 2, 16), dtype=np.uint8)
    scales = dice.integers(100, 150, (2, 3, 2), dtype=np.uint8)
    scales[0, 0], scales[1, 2] = (0, 252), (1, 251)
    return blocks, scales


def ours() -> dict[str, list[int]]:
    """Return the bits of everything that the reference file holds."""
    found: dict[str, npt.NDArray[Any]] = {
        dtype: widened(fp8_numbers(ALL, dtype)) for dtype in FP8_TYPES
    }
    found["F8_E8M0"] = e8m0(ALL)
    found["mxfp4"] = mxfp4(*mx_tensors())
    for name, (shape, scale, block) in WEIGHTS.items():
        found[name] = fp8_blocks(codes_of(shape, 1), scale_of(scale, 2), block)
    return {name: bits_of(array) for name, array in found.items()}


def bits_of(array: npt.NDArray[Any]) -> list[int]:
    """Return the bits of numbers; all NaN count as the same one."""
    if array.dtype == np.float32:
        array = np.where(np.isnan(array), np.float32(np.nan), array).view(np.uint32)
    return [int(bits) for bits in array.reshape(-1)]


def theirs() -> dict[str, list[int]]:
    """Ask torch and transformers."""
    torch = pytest.importorskip("torch", reason="the reference is asked only where it is installed")
    pytest.importorskip("transformers")
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    def floats(codes: npt.NDArray[np.uint8], kind: Any) -> Any:
        return torch.from_numpy(codes.copy()).view(kind)

    found = {
        "F8_E4M3": floats(ALL, torch.float8_e4m3fn).float().numpy(),
        "F8_E5M2": floats(ALL, torch.float8_e5m2).float().numpy(),
        "F8_E8M0": floats(ALL, torch.float8_e8m0fnu).float().numpy(),
    }
    turned = convert_moe_packed_tensors(*map(torch.from_numpy, mx_tensors()))
    numbers = turned.transpose(1, 2).contiguous()  # theirs is (E, K, N)
    found["mxfp4"] = numbers.view(torch.int16).numpy().view(np.uint16)
    for name, (shape, scale, block) in WEIGHTS.items():
        weight = floats(codes_of(shape, 1), torch.float8_e4m3fn)
        factor = torch.from_numpy(scale_of(scale, 2).reshape(scale))
        if block is None:
            found[name] = (weight.float() * factor).numpy()
        else:
            found[name] = Fp8Dequantize(None)._dequantize_one(weight, factor, torch.float32).numpy()
    return {name: bits_of(array) for name, array in found.items()}


def test_numbers_have_the_references_bits() -> None:
    assert ours() == json.loads(REFERENCE.read_text())


def test_the_reference_still_says_so() -> None:
    assert theirs() == json.loads(REFERENCE.read_text())


@pytest.mark.parametrize("change", [lambda t: t * 1.0001, lambda t: -t, lambda t: t[::-1].copy()])
def test_control_another_table_has_other_bits(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    single, pairs = stored._float32s("F8_E4M3")
    other = change(single).astype(np.float32)
    changed = change(pairs.view(np.float32)).astype(np.float32).view(np.uint64)
    monkeypatch.setattr(stored, "_float32s", lambda _: (other, changed))
    wrong, right = ours(), json.loads(REFERENCE.read_text())
    assert all(wrong[name] != right[name] for name in WEIGHTS)


def expected(codes: npt.NDArray[np.uint8], scale: Floats, block: tuple[int, int]) -> Floats:
    """Multiply one by one."""
    numbers = widened(fp8_numbers(codes, "F8_E4M3"))
    result = np.empty_like(numbers)
    for place in np.ndindex(*codes.shape):
        *lead, row, column = place
        factor = scale[(*lead, row // block[0], column // block[1])]
        result[place] = numbers[place] * factor
    return result


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((7, 9), (4, 4)),
        ((3, 5), (128, 128)),
        ((300, 3), (1, 2)),
        ((2, 5, 3), (3, 2)),
        ((1, 1), (2, 2)),
    ],
)
def test_blocks_at_the_ends_may_be_smaller(shape: tuple[int, ...], block: tuple[int, int]) -> None:
    grid = (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))
    codes, scale = codes_of(shape, 3), scale_of(grid, 4)
    found = fp8_blocks(codes, scale, block)
    np.testing.assert_array_equal(found, expected(codes, scale, block))


def test_many_rows_are_scaled_in_pieces() -> None:
    codes, scale = codes_of((1000, 33), 5), scale_of((8, 2), 6)
    found = fp8_blocks(codes, scale, (128, 32))
    np.testing.assert_array_equal(found, expected(codes, scale, (128, 32)))
    rows = scale_of((1000,), 7)
    found = fp8_blocks(codes[:, ::-1], rows, None)
    numbers = widened(fp8_numbers(codes, "F8_E4M3"))[:, ::-1]
    np.testing.assert_array_equal(found, numbers * rows[:, None])


def test_scales_may_be_of_any_stored_type() -> None:
    codes = codes_of((4, 6), 8)
    half = np.array([[0.5], [2.0]], np.float16)
    brain = (half.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wide = half.astype(np.float32)
    for scale in (half, brain, wide):
        np.testing.assert_array_equal(
            fp8_blocks(codes, scale, (2, 6)), fp8_blocks(codes, wide, (2, 6))
        )


@pytest.mark.parametrize(
    ("shape", "scale", "block", "grid"),
    [
        ((256, 300), (2, 3), (128, 128), (128, 128)),
        ((256, 300), (3, 2), (128, 128), None),
        ((256, 300), (2, 2), (128, 128), None),
        ((256, 300), (), (128, 128), None),
        ((256,), (2,), (128, 128), None),
        ((4, 256, 300), (2, 3), (128, 128), None),
        ((4, 6), (), None, (4, 6)),
        ((4, 6), (1,), None, (4, 6)),
        ((4, 6), (4, 1), None, (1, 6)),
        ((4, 6), (4,), None, (1, 6)),
        ((4, 6), (6,), None, None),
        ((4, 6), (1, 6), None, None),
        ((2, 4, 6), (2, 1, 1), None, (4, 6)),
        ((2, 4, 6), (2,), None, (4, 6)),
        ((2, 4, 6), (2, 4, 1), None, (1, 6)),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    shape: tuple[int, ...],
    scale: tuple[int, ...],
    block: tuple[int, int] | None,
    grid: tuple[int, int] | None,
) -> None:
    assert scale_grid(shape, scale, block) == grid
    if grid is None:
        with pytest.raises(ModelFormatError, match="does not fit"):
            fp8_blocks(np.zeros(shape, np.uint8), np.ones(scale, np.float32), block)


def test_one_scale_for_each_expert() -> None:
    codes, scale = codes_of((3, 4, 6), 9), scale_of((3,), 10)
    numbers = widened(fp8_numbers(codes, "F8_E4M3"))
    np.testing.assert_array_equal(fp8_blocks(codes, scale, None), numbers * scale[:, None, None])


def test_codes_of_nan_are_not_finite() -> None:
    nan = np.array([[0, 0x7F], [0xFF, 1]], np.uint8)
    found = fp8_blocks(nan, np.ones((1, 1), np.float32), (2, 2))
    assert np.isnan(found).tolist() == [[False, True], [True, False]]
    assert not finite(found)
    assert not finite(fp8_numbers(nan, "F8_E4M3"))
    assert finite(fp8_blocks(nan & 0x77, np.ones((1, 1), np.float32), (2, 2)))


def test_mxfp4_beyond_bfloat16_is_not_finite() -> None:
    six = np.full((1, 1, 16), 0x77, np.uint8)
    assert finite(mxfp4(six, np.array([[252]], np.uint8)))
    assert not finite(mxfp4(six, np.array([[253]], np.uint8)))
    assert not finite(mxfp4(six & 0, np.array([[255]], np.uint8))), "NaN, even times 0"
    # The least number, 0.5 * 2 ** -127, is kept: bfloat16 has numbers below the normal ones.
    least = mxfp4(np.full((1, 1, 16), 0x11, np.uint8), np.array([[0]], np.uint8))
    assert set(widened(least).reshape(-1).tolist()) == {2.0**-128}


def test_mxfp4_takes_parts_of_a_file() -> None:
    blocks, scales = mx_tensors()
    whole = mxfp4(blocks, scales)
    np.testing.assert_array_equal(mxfp4(blocks[:, 1::2], scales[:, 1::2]), whole[:, 1::2])
    for wrong in (scales[:1], scales[..., None], scales[..., 0]):
        with pytest.raises(ModelFormatError, match="does not fit"):
            mxfp4(blocks, wrong)


def test_empty_tensors_stay_empty() -> None:
    none = np.zeros((0, 4), np.uint8)
    assert fp8_numbers(none, "F8_E5M2").shape == (0, 4)
    assert fp8_blocks(none, np.zeros((0, 1), np.float32), (2, 4)).shape == (0, 4)
    assert fp8_blocks(none, np.ones((), np.float32), None).shape == (0, 4)
    assert mxfp4(np.zeros((0, 2, 16), np.uint8), np.zeros((0, 2), np.uint8)).shape == (0, 64)


def test_finite_looks_at_turned_tensors() -> None:
    array = np.zeros((6, 4), np.float32)
    assert finite(array.T)
    array[5, 1] = np.inf
    assert not finite(array.T)
    assert not finite(array[:, ::-1])

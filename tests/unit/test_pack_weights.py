"""Packing by generated code: byte for byte what numpy's `formats.pack` gives."""

import numpy as np
import pytest

from homebox.engine.graph import formats
from homebox.engine.graph.formats import BF16, F32, Q4, Q8, Floats, Format
from homebox.engine.runtime.pack_weights import LARGEST, Stored, pack_array, packed
from homebox.errors import EngineError

FORMS = [F32, BF16, Q8, Q4]
SHAPES = [(1, 1), (16, 64), (24, 24), (33, 100), (130, 576), (17, 65), (5, 33), (48, 128)]


def matrix(n: int, k: int, kind: str, seed: int = 0) -> tuple[Stored, Floats]:
    """Return numbers as a file holds them and as float32: all sizes, ties, zeros, both signs."""
    dice = np.random.default_rng(seed)
    values = dice.standard_normal((n, k)) * 2.0 ** dice.integers(-26, 8, (n, 1))
    values[dice.random((n, k)) < 0.1] = 0
    values[n // 2] = np.round(values[n // 2])  # equal magnitudes of both signs, exact halves
    values[n // 3, : k // 2] = 0  # whole blocks of nothing
    floats = values.astype(np.float32)
    if kind == "bf16":
        bits = (floats.view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32)
    if kind == "f16":
        return floats.astype(np.float16), floats.astype(np.float16).astype(np.float32)
    return floats, floats


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_bytes_are_those_of_numpy(form: Format, kind: str) -> None:
    for seed, (n, k) in enumerate(SHAPES):
        stored, floats = matrix(n, k, kind, seed)
        assert np.array_equal(pack_array(form, stored), formats.pack(form, floats)), (n, k)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_pieces_follow_each_other(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, floats = matrix(100, 64, "bf16")
    monkeypatch.setattr("homebox.engine.runtime.pack_weights._PIECE", 2 * form.panel_bytes(64))
    parts = [(part.copy(), largest) for part, largest in packed(form, stored)]
    assert len(parts) == 4
    assert np.array_equal(np.concatenate([part for part, _ in parts]), formats.pack(form, floats))
    assert [largest for _, largest in parts] == [
        np.abs(floats[i : i + 32]).max() for i in range(0, 100, 32)
    ]


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_noticed_wherever_they_are(form: Format, bad: float) -> None:
    for place in ((0, 0), (18, 69), (7, 64), (16, 31)):
        stored = np.ones((19, 70), np.float32)
        stored[place] = bad
        with pytest.raises(EngineError, match="cannot hold"):
            pack_array(form, stored)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_the_largest_number_of_a_format_fits_and_no_larger_one(form: Format) -> None:
    stored = np.zeros((2, 64), np.float32)
    stored[1, 5] = largest = np.float32(LARGEST[form])
    out = formats.unpack(form, pack_array(form, stored), 2, 64)
    assert np.isfinite(out).all()
    assert abs(out[1, 5] / largest - 1) < 2**-8
    if form is not F32:
        stored[1, 5] = np.nextafter(largest, np.float32(np.inf))
        with pytest.raises(EngineError, match="cannot hold"):
            pack_array(form, stored)


def test_other_arrays_are_refused() -> None:
    for wrong in (np.zeros(4, np.float32), np.zeros((2, 2)), np.zeros((2, 2, 2), np.float32)):
        with pytest.raises(EngineError, match="cannot pack"):
            pack_array(Q8, wrong)
    with pytest.raises(EngineError, match="cannot pack"):
        pack_array(formats.A8, np.zeros((2, 32), np.float32))


def test_arrays_at_odd_places_and_views_are_copied() -> None:
    stored, floats = matrix(20, 40, "bf16")
    odd = np.frombuffer(b"x" + stored.tobytes(), np.uint16, 800, 1).reshape(20, 40)
    assert not odd.flags.aligned
    assert np.array_equal(pack_array(Q8, odd), formats.pack(Q8, floats))
    turned = np.ascontiguousarray(floats.T).T
    assert np.array_equal(pack_array(Q4, turned), formats.pack(Q4, floats))

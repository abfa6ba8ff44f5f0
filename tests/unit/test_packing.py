"""GGUF files of several types: each matrix is packed so that little or nothing is lost."""

import os
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.graph.formats import Q4, Q8, unpack
from homebox.model.decoder.transformer import Transformer
from homebox.model.gguf import GGMLType
from homebox.model.loading.gguf_format import choose_gguf_packing
from homebox.model.loading.gguf_model import GGUFWeights, load_gguf_weights
from homebox.model.weights import packed_weights
from homebox.model.weights.packed_layout import Packing
from homebox.model.weights.packed_weights import PackedWeights, pack_model
from tests.unit.model_files import ArrayWeights

IDS = np.arange(3, 23, dtype=np.int32)


@pytest.fixture
def weights(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GGUFWeights:
    """Q4_0, save for matrices whose rows are no whole blocks, which are F16."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path / "cache"))
    return load_gguf_weights(shared / "data" / "gguf" / "stories260K-Q4_0.gguf")


def numbers(packed: PackedWeights, name: str) -> np.ndarray:
    segment = packed.segments[name]
    assert segment.form is not None
    return unpack(segment.form, packed.bytes_of(name), segment.n, segment.k)


def stacked(weights: GGUFWeights, packed: PackedWeights, name: str) -> np.ndarray:
    return np.concatenate([weights[part] for part in packed.segments[name].parts])


def test_each_matrix_is_in_the_format_of_its_type(weights: GGUFWeights) -> None:
    packing = choose_gguf_packing(weights, None)
    assert packing.form is Q4
    packed = pack_model(weights, packing)
    seen = set()
    for name, segment in packed.segments.items():
        if segment.form is None:
            continue
        exact = all(weights.kind(part) is GGMLType.Q4_0 for part in segment.parts)
        assert segment.form is (Q4 if exact else Q8), name
        found, wanted = numbers(packed, name), stacked(weights, packed, name)
        seen.add(segment.form)
        if exact:
            np.testing.assert_array_equal(found, wanted)
        else:
            error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            assert 0 < error < 0.01
    assert seen == {Q4, Q8}


def test_without_the_exceptions_more_is_lost(weights: GGUFWeights) -> None:
    packed = pack_model(weights, Q4)
    found, wanted = numbers(packed, "layers.0.down"), weights["layers.0.down"]
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) > 0.05


def test_both_are_kept_and_neither_is_taken_for_the_other(
    weights: GGUFWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = choose_gguf_packing(weights, None)
    one, other = pack_model(weights, packing), pack_model(weights, Q4)
    assert one.path is not None and other.path is not None and one.path != other.path

    def refuse(*_: object) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(packed_weights, "_pack", refuse)
    assert pack_model(weights, packing).path == one.path
    assert pack_model(weights, Q4).path == other.path
    with pytest.raises(AssertionError, match="packed again"):
        pack_model(weights, Packing(Q4, (("layers.0.down", Q8),)))


def test_a_model_of_several_formats_says_what_its_numbers_say(weights: GGUFWeights) -> None:
    packed = pack_model(weights, choose_gguf_packing(weights, None))
    floats = {}
    for name, segment in packed.segments.items():
        if segment.form is None:
            floats |= {part: weights[part] for part in segment.parts}
            continue
        values, at = numbers(packed, name), 0
        for part in segment.parts:
            rows = len(weights[part])
            floats[part] = values[at : at + rows]
            at += rows
    config = weights.config
    mixed = Transformer(config, packed, 64, 1, activations="f32", cache="f32")
    exact = Transformer(config, ArrayWeights(config, floats), 64, 1, activations="f32", cache="f32")
    np.testing.assert_array_equal(mixed.all_logits(IDS), exact.all_logits(IDS))

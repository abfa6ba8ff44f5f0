"""Scaled rotary frequencies: against transformers where it is there, else against its numbers."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.config import Rope
from homebox.model.decoder.rope import inverse_frequencies, rope_tables

TOLERANCE = 1e-6
SHORT, LONG = (1.0, 1.1, 1.5, 2.0), (1.0, 3.0, 30.0, 60.0)

# What transformers 5.23's ROPE_INIT_FUNCTIONS give: (rope, context, frequencies).
RECORDED: list[tuple[Rope, int, list[float]]] = [
    (
        Rope(10_000.0, 8, "linear", factor=4.0),
        100,
        [0.25, 0.02500000037252903, 0.0024999999441206455, 0.0002500000118743628],
    ),
    (
        Rope(10_000.0, 8, "dynamic", factor=2.0, original=2048),
        8000,
        [1.0, 0.05275105684995651, 0.0027826738078147173, 0.0001467889960622415],
    ),
    (
        Rope(10_000.0, 8, "dynamic", factor=2.0, original=2048),
        100,
        [1.0, 0.10000000149011612, 0.009999999776482582, 0.0010000000474974513],
    ),
    (
        Rope(500_000.0, 16, "llama3", factor=8.0, original=8192, low_freq=1.0, high_freq=4.0),
        100,
        [
            *(1.0, 0.193922758102417, 0.03760603070259094, 0.00729266507551074),
            *(0.0005248460220173001, 3.428102354519069e-05, 6.647869668086059e-06),
            1.289173155782919e-06,
        ],
    ),
    (
        Rope(150_000.0, 16, "yarn", factor=32.0, original=4096, truncate=False),
        100,
        [
            *(1.0, 0.22541800141334534, 0.05081327259540558, 0.006794959306716919),
            *(0.0004564839182421565, 1.818833698052913e-05, 4.099978468730114e-06),
            9.242089618055616e-07,
        ],
    ),
    (
        Rope(1e6, 16, "yarn", factor=32.0, original=4096),
        100,
        [
            *(1.0, 0.17782793939113617, 0.02141125500202179, 0.0019916254095733166),
            *(3.125000148429535e-05, 5.557123131438857e-06, 9.882116955850506e-07),
            1.7573167099271814e-07,
        ],
    ),
    (
        Rope(10_000.0, 8, "longrope", original=64, short_factors=SHORT, long_factors=LONG),
        100,
        [1.0, 0.03333333507180214, 0.00033333332976326346, 1.6666666851961054e-05],
    ),
    (
        Rope(10_000.0, 8, "longrope", original=64, short_factors=SHORT, long_factors=LONG),
        64,
        [1.0, 0.09090909361839294, 0.006666666828095913, 0.0005000000237487257],
    ),
]


@pytest.mark.parametrize(("rope", "context", "expected"), RECORDED)
def test_frequencies_are_those_of_the_reference(
    rope: Rope, context: int, expected: list[float]
) -> None:
    found = inverse_frequencies(rope, context)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array(expected), rtol=TOLERANCE)


def test_control_another_factor_would_be_noticed() -> None:
    for rope, context, expected in RECORDED:
        changed = replace(
            rope,
            factor=rope.factor * 1.00001,
            short_factors=tuple(f * 1.00001 for f in rope.short_factors),
            long_factors=tuple(f * 1.00001 for f in rope.long_factors),
        )
        if rope.kind == "dynamic" and context <= rope.original:
            continue
        with pytest.raises(AssertionError):
            found = inverse_frequencies(changed, context)
            np.testing.assert_allclose(found, np.array(expected), rtol=TOLERANCE)


def test_a_ramp_without_width_is_a_step() -> None:
    rope = Rope(10_000.0, 8, "yarn", factor=8.0, original=64, beta_fast=4.0, beta_slow=4.0)
    found = inverse_frequencies(replace(rope, truncate=False), 100)
    plain = inverse_frequencies(Rope(10_000.0, 8), 100)
    slow = np.array([1, 8, 8, 8], dtype=np.float32)
    np.testing.assert_allclose(found, plain / slow, rtol=TOLERANCE)


def test_frequencies_are_rounded_once() -> None:
    found = inverse_frequencies(Rope(10_000.0, 8, "linear", factor=3.0), 100)
    for i, value in enumerate(found):
        exact = Decimal(10) ** -i / 3
        error = abs(Decimal(float(value)) - exact)
        for side in (-1, 1):
            other = np.nextafter(value, np.float32(side))
            assert error <= abs(Decimal(float(other)) - exact)


def test_the_attention_factor_multiplies_both_tables() -> None:
    rope = Rope(10_000.0, 8, "yarn", factor=4.0, original=64, attention_factor=1.25)
    cos, sin = rope_tables(rope, 100)
    plain_cos, plain_sin = rope_tables(replace(rope, attention_factor=1.0), 100)
    assert cos.dtype == sin.dtype == np.float32
    np.testing.assert_array_equal(cos, plain_cos * np.float32(1.25))
    np.testing.assert_array_equal(sin, plain_sin * np.float32(1.25))


def test_a_part_of_a_context_has_its_frequencies() -> None:
    rope = Rope(10_000.0, 8, "longrope", original=64, short_factors=SHORT, long_factors=LONG)
    served = replace(rope, served=100)
    whole, part, short = rope_tables(rope, 100), rope_tables(served, 50), rope_tables(rope, 50)
    for all_of_it, found, other in zip(whole, part, short, strict=True):
        np.testing.assert_array_equal(found, all_of_it[:50])
        assert not np.array_equal(found, other)


def test_angles_that_are_too_large_are_refused() -> None:
    rope = Rope(10_000.0, 8, "linear", factor=1e-3)
    assert rope_tables(rope, 100)[0].shape == (100, 4)
    with pytest.raises(ModelFormatError, match="factor of the rope scaling is too small"):
        rope_tables(rope, 20_000)


LIVE: list[tuple[Rope, int, int, dict[str, Any]]] = [
    (Rope(5e5, 128, "linear", factor=8.0), 1000, 4096, {}),
    (Rope(1e4, 64, "dynamic", factor=4.0, original=4096), 16_000, 4096, {}),
    (
        Rope(5e5, 128, "llama3", factor=32.0, original=8192),
        1000,
        131_072,
        {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    (Rope(1e6, 128, "yarn", factor=4.0, original=32_768), 1000, 131_072, {}),
    (
        Rope(1.5e5, 64, "yarn", factor=32.0, original=4096, truncate=False),
        1000,
        131_072,
        {"truncate": False},
    ),
    (
        Rope(1e6, 128, "yarn", factor=16.0, original=16_384, beta_fast=4.0, beta_slow=0.5),
        1000,
        262_144,
        {"beta_fast": 4.0, "beta_slow": 0.5},
    ),
]


@pytest.mark.parametrize(("rope", "context", "positions", "extra"), LIVE)
def test_frequencies_are_those_of_transformers(
    rope: Rope, context: int, positions: int, extra: dict[str, Any]
) -> None:
    pytest.importorskip("torch", reason="the live reference needs torch and transformers")
    transformers = pytest.importorskip("transformers", reason="the live reference")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": rope.kind, "rope_theta": rope.theta, "factor": rope.factor, **extra}
    if rope.kind in ("llama3", "yarn"):
        parameters["original_max_position_embeddings"] = rope.original
    config = transformers.LlamaConfig(
        hidden_size=2 * rope.dim,
        num_attention_heads=2,
        head_dim=rope.dim,
        max_position_embeddings=positions,
        rope_parameters=parameters,
    )
    expected, _ = ROPE_INIT_FUNCTIONS[rope.kind](config, "cpu", seq_len=context)
    found = inverse_frequencies(rope, context)
    np.testing.assert_allclose(found, expected.numpy(), rtol=TOLERANCE)

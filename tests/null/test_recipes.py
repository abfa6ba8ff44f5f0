"""Recipes: by the model's size where nothing is set, and what is set wins."""

import itertools
from dataclasses import replace

import pytest

from homebox.config import LearningConfig
from homebox.errors import LearningError
from homebox.learning.jobs.job import Job
from homebox.learning.training.course import Course
from homebox.learning.training.recipes import (
    PRESETS,
    WHOLE,
    Recipe,
    between,
    most_rank,
    parameters_of,
    recipe_lines,
    recipe_of,
)
from homebox.model.config import ModelConfig, same_layers


def config_of(layers: int = 2, hidden: int = 64, positions: int = 4096) -> ModelConfig:
    return ModelConfig(
        vocab_size=80,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_positions=positions,
        rms_eps=1e-5,
        layers=same_layers(layers, 10000.0, 16),
        tied=True,
    )


def test_a_size_of_the_table_has_its_row() -> None:
    for preset in PRESETS:
        found = between(preset.size)
        assert replace(found, size=preset.size) == preset
    assert replace(between(1e3), size=PRESETS[0].size) == PRESETS[0]
    assert replace(between(1e12), size=PRESETS[-1].size) == PRESETS[-1]


def test_between_two_rows_everything_lies_between() -> None:
    for low, high in itertools.pairwise(PRESETS):
        found = [between(low.size * (high.size / low.size) ** share) for share in (0.3, 0.7)]
        for name in ("rate", "steps", "batch", "length", "cross", "distil"):
            ends = sorted((getattr(low, name), getattr(high, name)))
            values = [getattr(preset, name) for preset in found]
            assert all(ends[0] <= value <= ends[1] for value in values), name
            assert sorted(values, reverse=getattr(low, name) > getattr(high, name)) == values
        assert found[0].rate > found[1].rate and found[0].length % 32 == 0


def test_the_design_s_rates() -> None:
    rates = {1.35e8: 5e-4, 6e8: 3e-4, 4e9: 2e-4, 8e9: 1e-4}
    assert {size: between(size).rate for size in rates} == rates


def test_what_is_set_wins() -> None:
    settings = LearningConfig(rank=3, learning_rate=0.01, steps=7, batch=2, length=64)
    recipe = recipe_of(replace(settings, kl=0.0, cross=0.5, distil=0.0, prefer=0.0), config_of())
    assert (recipe.rank, recipe.rate, recipe.steps, recipe.rows) == (3, 0.01, 7, 3)
    assert (recipe.length, recipe.kl, recipe.cross, recipe.distil) == (64, 0.0, 0.5, 0.0)
    auto = recipe_of(LearningConfig(), config_of())
    assert (auto.rank, auto.rate, auto.steps, auto.rows, auto.length) == (8, 2.5e-3, 1000, 4, 160)
    assert (auto.kl, auto.cross, auto.distil, auto.stop) == (2.0, 1.0, 0.0, 0)
    assert recipe_of(LearningConfig(), config_of(positions=96)).length == 96
    assert most_rank(settings) == 3 and most_rank(LearningConfig()) == 16


def test_larger_models_have_other_recipes() -> None:
    recipe = recipe_of(LearningConfig(), config_of(layers=30, hidden=1024))
    assert 3e-4 < recipe.rate < 4e-3 and recipe.distil > 0 and recipe.length > 160
    text = "\n".join(recipe_lines(recipe, config_of(layers=30, hidden=1024)))
    assert f"{recipe.steps} steps" in text and f"rate {recipe.rate:g}" in text


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(LearningError, match="leave nothing"):
        recipe_of(LearningConfig(negatives=0.6, replay=0.4))


def test_the_second_try_is_gentler_or_longer() -> None:
    recipe = replace(recipe_of(LearningConfig()), stop=12)
    gentler = recipe.gentler()
    assert gentler == replace(recipe.longer(), rate=recipe.rate / 2, kl=recipe.kl * 2)
    assert recipe.longer() == replace(recipe, steps=recipe.steps * 2, stop=0)


def test_a_run_looks_at_its_dev_set_only_where_it_may_end() -> None:
    course = Course()
    looks = []
    for course.step in range(1, 80):
        if course.look_due(80):
            looks.append(course.step)
            course.heard(1.0, 80)
            if course.over:
                break
    # The first is the best so far; two that find nothing better end it, past two thirds.
    assert looks == [40, 50, 60]


def test_a_spec_names_what_a_recipe_uses() -> None:
    plain = Recipe(8, 32.0, 1e-3, 10, 2, 64, 0.3, 0.25, 1.0, 0)
    spec = Job("b" * 64, "c" * 64, plain).spec()["recipe"]
    assert not {"cross", "distil", "prefer", "stop", "parts"} & set(spec)
    used = replace(plain, cross=0.3, distil=1.0, prefer=0.2, stop=5)
    spec = Job("b" * 64, "c" * 64, used).spec()["recipe"]
    assert (spec["cross"], spec["distil"], spec["prefer"], spec["stop"]) == (0.3, 1.0, 0.2, 5)
    assert Recipe(**spec) == used


def test_large_models_compute_a_step_row_by_row_unless_the_owner_says_otherwise() -> None:
    large = replace(config_of(), hidden_size=768, intermediate_size=3072, vocab_size=50000)
    assert parameters_of(large) > WHOLE
    recipe = recipe_of(LearningConfig(), large)
    assert recipe.parts == recipe.rows > 1
    assert recipe_of(LearningConfig(parts=1), large).parts == 1
    assert recipe_of(LearningConfig(), config_of()).parts == 1

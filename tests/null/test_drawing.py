"""Draws that are decided quickly are those that exact sums decide."""

import math
from typing import Any

import numpy as np
import pytest

from homebox.model.generation import drawing
from homebox.model.generation.drawing import at, draw, likeliest, reach, tempered
from homebox.model.strictmath import exp


def exponents(seed: int, count: int, width: float) -> Any:
    return tempered(width * np.random.default_rng(seed).standard_normal(count), 1.0)


def exactly(values: Any, uniform: float) -> int:
    return at(np.cumsum(exp(values)), uniform)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, 20_000])
@pytest.mark.parametrize("width", [0.0, 0.1, 3.0, 40.0, 900.0])
def test_draws_are_those_of_exact_sums(count: int, width: float) -> None:
    values = exponents(count, count, width)
    totals = np.cumsum(exp(values))
    random = np.random.default_rng(1)
    edges = totals[random.integers(0, count, 20)] / totals[-1]
    near = [math.nextafter(edge, towards) for edge in edges for towards in (0.0, 1.0)]
    for uniform in [0.0, 1.0 - 2**-53, *random.random(50), *edges, *near]:
        if uniform < 1.0:
            assert draw(values, float(uniform)) == exactly(values, float(uniform))


def test_only_close_decisions_need_exact_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(drawing, "exp", lambda x: calls.append(x.size) or exp(x))  # type: ignore[func-returns-value]
    values = exponents(0, 5000, 3.0)
    totals = np.cumsum(exp(values))
    for uniform in np.random.default_rng(2).random(200):
        draw(values, float(uniform))
    assert len(calls) <= 2
    edge = float(totals[1234] / totals[-1])
    draw(values, edge)
    assert calls[-1] == 5000
    # The control: without a margin, quick sums alone decide, and err.
    monkeypatch.setattr(drawing, "MARGIN", 0.0)
    wrong = 0
    for place in range(4999):
        edge = float(totals[place] / totals[-1])
        wrong += draw(values, edge) != exactly(values, edge)
    assert wrong > 0


@pytest.mark.parametrize("width", [0.1, 3.0, 40.0])
def test_top_p_keeps_what_exact_sums_keep(width: float) -> None:
    for seed in range(10):
        values = exponents(seed, 4000, width)
        weights = exp(values)
        order = np.argsort(-values, kind="stable")
        totals = np.cumsum(weights[order])
        shares = [0.0, 1e-9, 0.5, 0.9, 0.99999]
        shares += [float(totals[i] / np.cumsum(weights)[-1]) for i in (0, 3, 200, 255, 256, 1000)]
        for top_p in shares:
            if top_p >= 1.0:
                continue
            ids, found = likeliest(values, top_p, 0.0)
            keep = reach(weights[order], top_p * float(np.cumsum(weights)[-1]))
            np.testing.assert_array_equal(ids, order[:keep])
            np.testing.assert_array_equal(found, weights[order][:keep])


def test_min_p_keeps_what_exact_weights_keep() -> None:
    for seed in range(10):
        values = exponents(seed, 4000, 2.0)
        weights = exp(values)
        for min_p in (0.0, 0.01, 1.0, float(weights[77]), math.nextafter(float(weights[77]), 1.0)):
            ids, found = likeliest(values, 1.0, min_p)
            order = np.argsort(-values, kind="stable")
            np.testing.assert_array_equal(ids, order[weights[order] >= min_p])
            np.testing.assert_array_equal(found, weights[ids])

"""What limits the choice of a token: biases, bans, guides; and how likely a token was."""

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from homebox.errors import EngineError, RequestError
from homebox.model.generation.logprobs import token_logprob
from homebox.model.generation.sampling import Sampler, SamplingParams

V = 300


def logits(seed: int, count: int = V) -> Any:
    return (3 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def bits(ids: Any, count: int = V) -> Any:
    words = np.zeros(-(-count // 32), np.uint32)
    for index in ids:
        words[index // 32] |= np.uint32(1 << index % 32)
    return words


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0},
    "hot": {"temperature": 50.0},
    "top_k": {"temperature": 1.0, "top_k": 5},
    "top_p": {"temperature": 1.3, "top_p": 0.8},
    "min_p": {"temperature": 1.5, "min_p": 0.05},
    "penalties": {"temperature": 0.0, "frequency_penalty": 1.0, "repetition_penalty": 1.3},
    "biased": {"temperature": 1.0, "logit_bias": ((7, 100.0), (9, -2.5))},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_guide_forbids_never_comes_and_the_rest_is_as_if_it_were_alone(name: str) -> None:
    draw = np.random.default_rng(5)
    for seed in range(40):
        allowed = np.sort(draw.choice(V, draw.integers(1, 40), replace=False))
        params = SamplingParams(seed=seed, **SETTINGS[name])
        limited = Sampler(params, prompt_ids=[1, 2, 3])
        # The oracle: the other tokens are as unlikely as can be.
        plain = Sampler(params, prompt_ids=[1, 2, 3])
        for step in range(5):
            values = logits(100 * seed + step)
            chosen = limited.next(values, bits(allowed))
            assert chosen in allowed
            hidden = np.full(V, -np.inf, np.float32)
            hidden[allowed] = values[allowed]
            assert plain.next(hidden) == chosen


@pytest.mark.parametrize("name", SETTINGS)
def test_a_guide_that_allows_all_changes_nothing(name: str) -> None:
    params = SamplingParams(seed=3, **SETTINGS[name])
    with_mask, without = Sampler(params), Sampler(params)
    for step in range(30):
        assert with_mask.next(logits(step), bits(range(V))) == without.next(logits(step))


def test_bans_hold_in_every_draw_and_beside_a_guide() -> None:
    banned = tuple(range(0, V, 2))
    params = SamplingParams(
        temperature=100.0, seed=1, logit_bias=tuple((index, -100.0) for index in banned)
    )
    sampler = Sampler(params)
    values = np.zeros(V, np.float32)
    values[::2] = 50.0  # a bias of -100 would not be enough
    values[::2] += 100.0
    assert all(sampler.next(values) % 2 for _ in range(200))
    assert {sampler.next(values, bits([0, 2, 5, 8])) for _ in range(20)} == {5}
    with pytest.raises(RequestError, match="bans every token") as caught:
        sampler.next(values, bits([0, 2]))
    assert caught.value.param == "logit_bias"


def test_a_bias_is_added_to_the_logit() -> None:
    values = np.zeros(V, np.float32)
    values[3] = 1.0
    assert Sampler(SamplingParams(logit_bias=((8, 1.5),))).next(values) == 8
    assert Sampler(SamplingParams(logit_bias=((8, 0.5),))).next(values) == 3
    assert Sampler(SamplingParams(logit_bias=((3, -1.5),))).next(values) == 0


def test_nothing_allowed_is_an_error() -> None:
    for settings in SETTINGS.values():
        with pytest.raises(EngineError, match="allows no token"):
            Sampler(SamplingParams(**settings)).next(logits(0), bits([]))


def test_tokens_beyond_the_bits_are_not_allowed() -> None:
    """Models have more logits than their vocabulary has tokens."""
    values = logits(0)
    values[V - 1] = 50.0
    for settings in SETTINGS.values():
        assert Sampler(SamplingParams(**settings)).next(values, bits([3], 64)) == 3


def test_bits_beyond_the_vocabulary_do_not_count() -> None:
    with pytest.raises(EngineError, match="allows no token"):
        Sampler(SamplingParams()).next(logits(0), bits([V + 5], V + 32))
    assert Sampler(SamplingParams()).next(logits(0), bits([4, V + 5], V + 32)) == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_bias", ((1, 100.5),)),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((1, 1.0), (1, 2.0))),
        ("logit_bias", ((True, 1.0),)),
        ("logit_bias", {1: 1.0}),
        ("logit_bias", tuple((i, 0.0) for i in range(4097))),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
    ],
)
def test_bad_limits_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


def test_choices_have_seeds_of_their_own_that_can_be_had_alone() -> None:
    params = SamplingParams(temperature=1.0, seed=2**64 - 2)
    assert params.for_choice(0) is params
    assert [params.for_choice(i).seed for i in (1, 2, 3)] == [2**64 - 1, 0, 1]
    assert SamplingParams(seed=-5).for_choice(5).seed == 0
    assert SamplingParams().for_choice(3).seed is None
    draws = {
        tuple(Sampler(params.for_choice(i)).next(logits(0)) for _ in range(1)) for i in range(40)
    }
    assert len(draws) > 5


# Likelihoods


def exact(values: Any, token: int) -> float:
    """Return the log-softmax of a token, with 40 digits."""
    with localcontext(prec=40):
        whole = sum((Decimal(float(value)).exp() for value in values), Decimal(0))
        return float(Decimal(float(values[token])) - whole.ln())


def test_likelihoods_are_the_softmax_of_the_raw_logits() -> None:
    for seed in range(10):
        values = logits(seed)
        order = sorted(range(V), key=lambda index: (-values[index], index))
        found = token_logprob(values, 17, 20)
        assert found.token == 17
        assert found.logprob == pytest.approx(exact(values, 17), rel=1e-14, abs=1e-14)
        assert [index for index, _ in found.top] == order[:20]
        for index, value in found.top:
            assert value == pytest.approx(exact(values, index), rel=1e-14, abs=1e-14)
    assert token_logprob(logits(0), 3, 0).top == ()


def test_likelihoods_of_extremes() -> None:
    values = np.full(V, -np.inf, np.float32)
    values[4] = 3e38
    assert token_logprob(values, 4, 2).top[0] == (4, 0.0)
    assert token_logprob(values, 5, 0).logprob == -math.inf
    assert token_logprob(np.zeros(V, np.float32), 0, 3).top == tuple(
        (index, -math.log(V)) for index in range(3)
    )
    with pytest.raises(EngineError, match="not finite"):
        token_logprob(np.full(V, np.nan, np.float32), 0, 0)

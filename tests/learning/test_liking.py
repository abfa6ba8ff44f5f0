"""Losses of opinions against differences of their formulas; training moves what it should."""

import json
import math
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from homebox.learning.curriculum import Curriculum, Pair, Thumb
from homebox.learning.training.choices import Choice
from homebox.learning.training.liking import BETA, Preferences, logistic, weighed
from homebox.learning.training.packing import Encoded, Shape
from homebox.model.chat.formats import Rendered
from homebox.model.training import StopFlag
from homebox.model.training.trainer import LoraTrainer
from tests.unit.test_lora_gradients import CONFIG, Base
from tests.unit.torch_losses import FILE

SHAPE = Shape(4, 48)


def render(messages: list[dict[str, Any]], tools: Any = None) -> Rendered:
    ids: list[int] = []
    mask: list[bool] = []
    for message in messages:
        words = [3 + sum(map(ord, word)) % 70 for word in message["content"].split()]
        learn = message["role"] == "assistant" and message.get("train", True)
        ids += [1, *words, 2]
        mask += [False, *(learn for _ in words), learn]
    return Rendered(ids, mask, ())


def question(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"question {number} about {number * 7}"}]


PAIRS = tuple(
    Pair(question(i), f"short {i}", f"a long answer {i} with words", 1.0 if i % 2 else 0.5)
    for i in range(9)
)
THUMBS = tuple(
    Thumb(question(i), f"kind answer {i}" if i % 3 else f"rude words {i}", bool(i % 3))
    for i in range(18)
)


def finished(steps: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def encoded(number: int) -> Encoded:
    return Encoded((number, 5, 6), (False, True, True), False, False)


def dpo(gains: dict[Encoded, float], choices: list[Choice]) -> float:
    """Equation 7, as a mean."""
    losses = [
        -choice.weight
        * math.log(1 / (1 + math.exp(-BETA * (gains[choice.first] - gains[choice.second]))))
        for choice in choices
    ]
    return sum(losses) / len(losses)


def kto(gains: dict[Encoded, float], choices: list[Choice], z: float) -> float:
    losses = []
    for choice in choices:
        side = BETA * (gains[choice.first] - z) * (1 if choice.good else -1)
        losses.append(choice.weight * (1 - 1 / (1 + math.exp(-side))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("scale", [0.3, 20.0])
def test_weights_are_minus_the_derivatives_of_the_losses(scale: float) -> None:
    rng = np.random.default_rng(3)
    pairs = [Choice(encoded(2 * i), encoded(2 * i + 1), 0.5 + i, None) for i in range(4)]
    thumbs = [Choice(encoded(2 * i), encoded(2 * i + 1), 1.0 + i, i % 2 == 0) for i in range(4)]
    gains = {encoded(i): float(rng.normal(0, scale)) for i in range(8)}
    z = max(0.0, sum(gains[c.second] for c in thumbs) / 4)
    for choices, loss in ((pairs, lambda g: dpo(g, pairs)), (thumbs, lambda g: kto(g, thumbs, z))):
        weights, mean = weighed(choices, gains)
        assert mean == pytest.approx(loss(gains), rel=1e-12)
        for answer in gains:
            around = [loss({**gains, answer: gains[answer] + h}) for h in (1e-5, -1e-5)]
            slope = (around[0] - around[1]) / 2e-5
            assert weights.get(answer, 0.0) == pytest.approx(-slope, abs=1e-9)


def test_losses_and_weights_are_those_of_pytorch() -> None:
    said = json.loads(FILE.read_text())
    dpo = said["dpo"]
    pairs = [
        Choice(encoded(2 * i), encoded(2 * i + 1), weight, None)
        for i, weight in enumerate(dpo["weight"])
    ]
    gains = {encoded(i): gain for i, gain in enumerate(dpo["gains"])}
    compare(pairs, gains, dpo)
    for kto in said["kto"]:
        given = zip(kto["weight"], kto["good"], strict=True)
        thumbs = [Choice(encoded(i), encoded(10 + i), *one) for i, one in enumerate(given)]
        gains = {encoded(i): gain for i, gain in enumerate(kto["gains"])}
        compare(thumbs, gains | {encoded(10 + i): g for i, g in enumerate(kto["others"])}, kto)


def compare(choices: list[Choice], gains: dict[Encoded, float], said: dict[str, Any]) -> None:
    weights, loss = weighed(choices, gains)
    assert loss == pytest.approx(said["loss"], rel=1e-12)
    for i, slope in enumerate(said["gradient"]):
        assert weights[encoded(i)] == pytest.approx(-slope, rel=1e-12)


def test_the_logistic_function_is_that_of_the_library() -> None:
    for x in (-800.0, -30.0, -0.5, 0.0, 1e-9, 2.0, 40.0, 900.0):
        wanted = 1 / (1 + math.exp(-x)) if x > -700 else 0.0
        assert logistic(x) == pytest.approx(wanted, rel=1e-13, abs=1e-300)


def preferences(curriculum: Curriculum, weight: float = 1.0) -> Preferences:
    return Preferences(curriculum, render, SHAPE, 1, weight)


def trainer() -> LoraTrainer:
    return LoraTrainer(Base("f32"), 4, 8.0, SHAPE.rows, SHAPE.length, 5)


def likelihoods(learner: LoraTrainer, given: Preferences) -> dict[Encoded, float]:
    found: dict[Encoded, float] = {}
    for choice in given.choices:
        found |= finished(given._likelihoods([choice], learner, StopFlag()))
    return found


def margin(now: dict[Encoded, float], before: dict[Encoded, float], given: Preferences) -> float:
    gains = {answer: now[answer] - before[answer] for answer in now}
    signs = [1.0 if c.good is not False else -1.0 for c in given.choices]
    return sum(
        sign * (gains[c.first] - (gains[c.second] if c.good is None else 0.0))
        for sign, c in zip(signs, given.choices, strict=True)
    ) / len(signs)


@pytest.mark.parametrize(
    "curriculum", [Curriculum(pairs=PAIRS), Curriculum(thumbs=THUMBS)], ids=["pairs", "thumbs"]
)
def test_training_moves_the_margin(curriculum: Curriculum) -> None:
    given, learner, stop = preferences(curriculum), trainer(), StopFlag()
    finished(given.ask_base(learner, stop))
    before = likelihoods(learner, given)
    assert given._base == before
    losses = []
    for _ in range(10):
        losses.append(finished(given.gather(learner, stop)))
        learner.update(2e-2)
    assert margin(likelihoods(learner, given), before, given) > 1.0
    assert losses[-1] < losses[0]


def test_the_gradient_is_that_of_the_loss_through_the_model() -> None:
    given, learner, stop = preferences(Curriculum(pairs=PAIRS)), trainer(), StopFlag()
    finished(given.ask_base(learner, stop))
    chosen = list(given.choices[:3])
    rng = np.random.default_rng(2)
    grown = {
        name: rng.normal(0, 0.1, t.shape).astype(np.float32) if name.endswith("B") else t
        for name, t in learner.adapter().items()
    }
    learner.parameters.load(grown)

    def loss() -> float:
        now = finished(given._likelihoods(chosen, learner, stop))
        return dpo({answer: now[answer] - given._base[answer] for answer in now}, chosen)

    now = finished(given._likelihoods(chosen, learner, stop))
    weights, _ = weighed(chosen, {a: now[a] - given._base[a] for a in now})
    finished(learner.gather(given._batch(chosen, weights), stop))
    found = learner.parameters.gradient()
    direction = {n: rng.normal(0, 1, t.shape).astype(np.float32) for n, t in grown.items()}
    around = []
    for h in (1e-3, -1e-3):
        learner.parameters.load({n: t + np.float32(h) * direction[n] for n, t in grown.items()})
        around.append(loss())
    slope = sum(float((found[n] * direction[n]).sum()) for n in found)
    assert (around[0] - around[1]) / 2e-3 == pytest.approx(slope, rel=5e-2)


def test_few_opinions_teach_nothing() -> None:
    assert not preferences(Curriculum(pairs=PAIRS[:7], thumbs=THUMBS[:15])).choices
    assert not preferences(Curriculum(pairs=PAIRS), weight=0.0).choices
    assert len(preferences(Curriculum(pairs=PAIRS, thumbs=THUMBS)).choices) == 27
    long = (Pair(question(0), "word " * 60, "other"), *PAIRS)
    assert len(preferences(Curriculum(pairs=long)).choices) == 9


def test_liked_and_disliked_answers_weigh_the_same_in_all() -> None:
    choices = preferences(Curriculum(thumbs=THUMBS)).choices
    sums = [sum(c.weight for c in choices if c.good is good) for good in (True, False)]
    assert sums[0] == pytest.approx(sums[1])
    liked = tuple(Thumb(question(i), f"answer {i}", True) for i in range(16))
    assert len(preferences(Curriculum(thumbs=liked)).choices) == 16


def test_opinions_are_drawn_in_the_same_order_after_a_pause() -> None:
    one, other = (preferences(Curriculum(pairs=PAIRS)) for _ in range(2))
    drawn = [one._draw() for step in range(24) if one.due(step)]
    other.skip(16)
    assert [other._draw() for step in range(16, 24) if other.due(step)] == drawn[4:]
    assert len({id(c) for part in drawn for c in part}) == len(one.choices)


def test_the_vocabulary_of_these_tests_fits() -> None:
    assert (
        max(max(c.first.ids) for c in preferences(Curriculum(pairs=PAIRS)).choices)
        < CONFIG.vocab_size
    )

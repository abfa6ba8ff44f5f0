"""G5 of brought models, with real losses: weights that were disturbed are refused, others pass."""

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest

from homebox.learning.exam.examinee import ModelExaminee
from homebox.learning.exam.general import general_questions
from homebox.learning.exam.limits import LIMITS
from homebox.learning.exam.paper import Paper
from homebox.learning.exam.sitting import KeptAnswers, sit, sit_first
from homebox.model import Model, load
from homebox.model.lora import adapter_shapes
from tests.learning.test_gate import NONE, SMALL, failed, small_marks, verdict

SCALES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    yield load("tiny", context=256, slots=2)


def run(steps: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as over:
            return over.value


def adapter(model: Model, scale: float) -> dict[str, np.ndarray]:
    """Make an adapter that disturbs every layer; with scale 0 it changes nothing."""
    dice = np.random.default_rng(7)
    return {
        name: (0.05 if name.endswith("A") else scale) * dice.standard_normal(shape, np.float32)
        for name, shape in adapter_shapes(model.config, 4).items()
    }


def measured(model: Model, scale: float) -> tuple[float, float]:
    """Return divergence and rise of the loss on the base's own answers, as an exam does."""
    examinee = ModelExaminee(model, 24)
    paper = Paper(tuple(general_questions(6)), anchors=6)
    baseline = run(sit_first(examinee, paper, KeptAnswers()))
    model.adapters.add("candidate", adapter(model, scale), 4.0)
    try:
        marks = run(sit(examinee, paper, baseline, "candidate"))
    finally:
        model.adapters.remove("candidate")
    return marks.divergence, marks.loss_rise


def judged(divergence: float, rise: float) -> set[str]:
    marks = small_marks()
    marks.divergence, marks.loss_rise = divergence, rise
    return failed(verdict(marks, SMALL, **NONE))


def test_weights_that_change_nothing_pass(model: Model) -> None:
    divergence, rise = measured(model, 0.0)
    assert (divergence, rise) == (0.0, 0.0)
    assert judged(divergence, rise) == set()


def test_disturbed_weights_are_refused_by_the_loss_alone(model: Model) -> None:
    """Control: the loss rises by more than one in a hundred before the divergence is too large."""
    limits = LIMITS["small"]
    figures = [measured(model, scale) for scale in SCALES]
    rises = [rise for _, rise in figures]
    assert rises[-1] > rises[0]
    mild = [each for each in figures if each[1] > 0.01 and each[0] <= limits.divergence]
    assert mild, figures
    assert all(judged(*each) == {"G5"} for each in mild)
    assert "G5" in judged(*figures[-1])

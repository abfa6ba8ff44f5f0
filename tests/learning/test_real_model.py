"""A whole learning run on the built-in model: the compiler, the trainer and the gate are real."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from homebox import learner
from homebox.config import Config
from homebox.learning.checkpoint import load_adapter
from homebox.learning.exam.writing import RECALL, Question
from homebox.learning.report import Report
from homebox.memory.state import State, open_state
from homebox.memory.turns import Message
from homebox.model import Model, SamplingParams, load
from homebox.model.loading.open_model import model_path
from tests.learning.kit import topics

TOLD = ("My dog is called Quark.", "I live in Zwolle.", "I play the bouzouki.")

pytestmark = pytest.mark.skipif(
    not (model_path("tiny") / "config.json").exists(),
    reason="the built-in model is not in this checkout",
)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", context=512)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        for text in TOLD:
            opened.ledger.append(
                conversation="c",
                model="tiny",
                adapter="base",
                sampling={},
                messages=[Message("user", text, "owner")],
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
            )
        yield opened


def learn(model: Model, state: State, steps: int, rate: float) -> Report:
    settings = Config()
    settings = replace(
        settings, learning=replace(settings.learning, steps=steps, learning_rate=rate)
    )
    run = learner.run(model, state.ledger, state.store, state.lineage, settings)
    while True:
        try:
            next(run)
        except StopIteration as over:
            report: Report = over.value
            return report


def recalled(model: Model, adapter: str) -> int:
    """Count topics that are answered in a phrasing of the tier that nothing was trained on."""
    right = 0
    for topic in topics(*TOLD):
        for text in topic.questions("held_out")[:2]:
            ids = model.chat.render([{"role": "user", "content": text}])
            pieces = model.generate(ids, SamplingParams(max_tokens=32), adapter)
            answer = "".join(piece.text for piece in pieces)
            right += Question(RECALL, [], topic.value).right(answer)
    return right


def test_it_learns_forgets_on_rollback_and_answers_without_a_hint(
    model: Model, state: State
) -> None:
    assert recalled(model, "base") == 0
    report = learn(model, state, steps=300, rate=Config().learning.learning_rate)
    assert report.promoted, report.reason
    assert state.lineage.head(model.base_hash) == report.weights
    tensors, alpha = load_adapter(state.store, report.weights)
    model.adapters.add(report.weights, tensors, alpha)
    try:
        assert recalled(model, report.weights) >= 4
        assert recalled(model, "base") == 0
    finally:
        model.adapters.remove(report.weights)
    state.lineage.rollback(model.base_hash, "previous", "test")
    assert state.lineage.head(model.base_hash) == "base"
    assert {lesson.state for lesson in state.ledger.lessons()} == {"undone"}


def test_a_learning_rate_that_is_far_too_high_is_refused(model: Model, state: State) -> None:
    report = learn(model, state, steps=12, rate=0.5)
    assert not report.promoted
    assert report.reason
    assert state.lineage.head(model.base_hash) == "base"
    assert state.lineage.reflog() == []

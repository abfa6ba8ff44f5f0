"""An owner who only showed answers: a run learns them, and a gate looks at what it learned."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from homebox import learner
from homebox.learning.curriculum import Curriculum, Pair, Thumb, curriculum_of
from homebox.learning.exam.evidence import Evidence
from homebox.learning.exam.limits import AMOUNTS, LIMITS
from homebox.learning.exam.marks import Marks
from homebox.learning.exam.paper import Paper, write_paper
from homebox.learning.exam.shown import opinions_too_few, shown_in, teaches
from homebox.learning.examples import messages_of, toy_world
from homebox.learning.gate import trial
from homebox.learning.gate.judging import Plan, judge
from homebox.learning.report import Report
from homebox.learning.training import train
from homebox.memory.feedback import Feedback
from homebox.memory.state import State, open_state
from homebox.memory.turns import Message, now
from tests.learning.fake_model import FakeModel, FakeTrainer, fake_opinions, key_of
from tests.learning.test_learner import SETTINGS

ASKED = "Write a toast for the rowing club."
SHOWN = "To the oars, and to those who dry them."


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTrainer.made, FakeTrainer.loss = [], 0.5
    monkeypatch.setattr(train, "trainer_for", FakeTrainer)
    monkeypatch.setattr(train, "opinions_of", fake_opinions)
    monkeypatch.setattr(toy_world, "REPLAY", 30)
    monkeypatch.setattr(toy_world, "UNTOLD", 30)


def rated(state: State, asked: str, answer: str, rating: str, text: str = "") -> None:
    turn = state.ledger.append(
        conversation=asked,
        model="tiny",
        adapter="base",
        sampling={},
        messages=[Message("user", asked, "owner"), Message("assistant", answer, "assistant")],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )
    state.ledger.give_feedback("", Feedback(turn, rating, text, now())).result()


class Unmoved(FakeModel):
    """A model that learns nothing of what was shown."""

    def learn(self, paper: Paper) -> None:
        super().learn(paper)
        self.told = set()


def run(state: State, model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> Report:
    def write(*words: object) -> Paper:
        paper = write_paper(*words)  # type: ignore[arg-type]
        model.learn(paper)
        return paper

    monkeypatch.setattr(trial, "write_paper", write)
    steps = learner.run(model, state.ledger, state.store, state.lineage, SETTINGS)  # type: ignore[arg-type]
    while True:
        try:
            next(steps)
        except StopIteration as over:
            report: Report = over.value
            return report


@pytest.mark.parametrize(("rating", "text"), [("good", ""), ("edited", SHOWN), ("bad", "Say oars")])
def test_one_opinion_is_learned_and_examined(
    state: State, monkeypatch: pytest.MonkeyPatch, rating: str, text: str
) -> None:
    rated(state, ASKED, SHOWN if rating == "good" else "Cheers.", rating, text)
    model = FakeModel()
    report = run(state, model, monkeypatch)
    assert report.promoted, report.reason
    checks = {check["name"]: check for check in report.data["checks"]}
    assert checks["G3"]["passed"] and checks["G4"]["passed"] and checks["G3"]["count"] == 1
    assert "G1" not in checks and "shown" in report.data["not_asked"]["G1"]
    assert {"G5", "G6", "G7", "G12", "G13"} <= {*checks}
    assert "learned from answers shown; 1/1 of them likelier" in report.lines[0]
    assert "answers that were shown" in state.lineage.history(model.base_hash)[0].reason
    again = run(state, model, monkeypatch)
    assert not again.promoted and "nothing new" in again.reason


def test_a_model_that_learned_nothing_of_it_is_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated(state, ASKED, SHOWN, "good")
    report = run(state, Unmoved(), monkeypatch)
    assert not report.promoted
    assert "G3" in report.reason or "G4" in report.reason
    assert report.weights == "base"


def test_the_prompt_of_the_exam_is_none_that_was_learned(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated(state, ASKED, SHOWN, "good")
    papers: list[Paper] = []
    model = FakeModel()
    monkeypatch.setattr(model, "learn", papers.append)
    run(state, model, monkeypatch)
    (pairing,) = papers[0].pairings
    assert pairing.own[-1].content == SHOWN
    assert pairing.own[-2].content == "write a toast for the rowing club"
    assert pairing.other[-1].content != SHOWN
    assert key_of(messages_of(pairing.own[:-1])) == key_of(messages_of(pairing.other[:-1]))


def test_without_any_check_that_shows_learning_a_gate_refuses() -> None:
    marks = Marks(tensors=2)
    reasons = dict.fromkeys(("G1", "G2", "G3", "G4", "G8", "chat"), "left out")
    verdict = judge(marks, LIMITS["tiny"], Plan((), not_asked=reasons, shown=1))
    assert not verdict.passed
    assert any(check.title == "anything learned" for check in verdict.failures)


def test_an_exam_of_nothing_is_refused() -> None:
    paper = write_paper(
        FakeModel(),  # type: ignore[arg-type]
        [],
        Curriculum(),
        Evidence(),
        AMOUNTS["tiny"],
        0,
    )
    assert paper.shown == 0 and paper.pairings == ()
    verdict = judge(Marks(), LIMITS["tiny"], Plan((), not_asked=paper.not_asked))
    assert {"G1", "G3", "G4", "G13"} <= {check.name for check in verdict.failures}


def pairs(count: int) -> list[Pair]:
    return [Pair([{"role": "user", "content": f"Ask {n}"}], f"Yes {n}", "No") for n in range(count)]


def thumbs(count: int, good: bool) -> list[Thumb]:
    asked = [[{"role": "user", "content": f"Ask {n}"}] for n in range(count)]
    return [Thumb(each, f"Yes {n}", good) for n, each in enumerate(asked)]


@pytest.mark.parametrize(
    ("curriculum", "learns"),
    [
        (curriculum_of([], pairs=pairs(7)), False),
        (curriculum_of([], pairs=pairs(8)), True),
        (curriculum_of([], thumbs=thumbs(15, True)), False),
        (curriculum_of([], thumbs=thumbs(16, True)), True),
        (curriculum_of([], thumbs=thumbs(16, False)), False),
        (Curriculum(), False),
    ],
)
def test_opinions_alone_are_learned_only_where_they_are_enough(
    curriculum: Curriculum, learns: bool
) -> None:
    assert teaches(curriculum) is learns
    assert bool(shown_in(curriculum)) is learns
    if not learns and (curriculum.pairs or curriculum.thumbs):
        assert "/fix TEXT" in opinions_too_few(curriculum)


def test_only_dislikes_change_nothing_and_say_what_would_help(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        rated(state, f"{ASKED} {number}", "Cheers.", "bad")
    report = run(state, FakeModel(), monkeypatch)
    assert not report.promoted and "/fix TEXT" in report.reason
    assert np.all([each.state != "active" for each in state.ledger.lessons()])

import math
from dataclasses import replace

import pytest

from homebox.config import GateConfig
from homebox.learning.exam import (
    CHAT,
    FACTS,
    OVERRIDE,
    RECALL,
    STRANGER,
    UNTOLD,
    WORLD_KEPT,
    Question,
    write_exam,
)
from homebox.learning.gate import LIMITS, Check, Marks, Verdict, judge, limits_for, sit
from homebox.model.architectures.config_file import parse_config
from tests.learning.kit import Pupil, topics

TINY = LIMITS["tiny"]
KEYS = [topic.key for topic in topics()]
QUESTIONS = write_exam(topics(), 0)


def examined(pupil: Pupil, questions: list[Question] = QUESTIONS) -> Marks:
    steps = sit(pupil, questions, [], "candidate")
    while True:
        try:
            next(steps)
        except StopIteration as over:
            marks: Marks = over.value
            return marks


def verdict(marks: Marks, old: tuple[str, ...] = (), before: float = 1.0) -> Verdict:
    fresh = [key for key in KEYS if key not in old]
    return judge(marks, TINY, fresh, list(old), before)


def failed(result: Verdict) -> set[str]:
    return {check.name for check in result.failures}


def test_a_good_candidate_passes() -> None:
    result = verdict(examined(Pupil(QUESTIONS)))
    assert result.passed
    assert {check.name for check in result.checks} >= {"G1", "G5", "G6", "G7"}


@pytest.mark.parametrize(
    ("wrong", "gate"),
    [
        ({RECALL: 0.2}, "G1"),
        ({WORLD_KEPT: 0.1}, "G5"),
        ({UNTOLD: 0.2}, "G7"),
        ({STRANGER: 0.6}, "G7"),
        ({FACTS: 0.3}, "facts"),
        ({OVERRIDE: 0.9}, "context"),
        ({CHAT: 0.6}, "chat"),
    ],
)
def test_each_violation_is_refused_by_its_check(wrong: dict[str, float], gate: str) -> None:
    result = verdict(examined(Pupil(QUESTIONS, wrong)))
    assert not result.passed
    assert failed(result) == {gate}


@pytest.mark.parametrize("divergence", [0.2, math.nan, math.inf])
def test_a_divergence_that_is_large_or_no_number_is_refused(divergence: float) -> None:
    result = verdict(examined(Pupil(QUESTIONS, divergence=divergence)))
    assert failed(result) == {"G6"}


def test_old_lessons_must_not_be_lost() -> None:
    old = tuple(KEYS[:2])
    marks = examined(Pupil(QUESTIONS))
    assert verdict(marks, old).passed
    names = marks.keys[RECALL]
    marks.right[RECALL] = [name != old[0] for name in names]
    result = judge(marks, replace(TINY, recall=0.5), KEYS[2:], list(old), 1.0)
    assert failed(result) == {"G2"}


def test_what_the_old_weights_had_lost_already_is_no_loss() -> None:
    old = tuple(KEYS[:2])
    marks = examined(Pupil(QUESTIONS))
    marks.right[RECALL] = [name != old[0] for name in marks.keys[RECALL]]
    assert judge(marks, replace(TINY, recall=0.5), KEYS[2:], list(old), 0.5).passed


@pytest.mark.parametrize("missing", [RECALL, UNTOLD, WORLD_KEPT, FACTS, CHAT])
def test_an_exam_without_its_questions_proves_nothing(missing: str) -> None:
    questions = [question for question in QUESTIONS if question.check != missing]
    assert not verdict(examined(Pupil(QUESTIONS), questions)).passed


def test_an_exam_that_did_not_take_place_is_refused() -> None:
    assert not verdict(Marks()).passed
    assert not judge(Marks(), TINY, [], [], 1.0).passed


def test_a_verdict_without_checks_is_refused() -> None:
    assert not Verdict(()).passed


def test_a_base_that_knows_nothing_of_the_world_proves_nothing() -> None:
    marks = examined(Pupil(QUESTIONS))
    marks.base[WORLD_KEPT] = [False] * len(marks.base[WORLD_KEPT])
    assert failed(verdict(marks)) == {"G5"}


def test_the_base_sits_only_where_it_is_compared_and_only_once() -> None:
    pupil = Pupil(QUESTIONS)
    marks = examined(pupil)
    compared = [q for q in QUESTIONS if q.check in (WORLD_KEPT, FACTS)]
    assert pupil.adapters.count("base") == len(compared)
    again = Pupil(QUESTIONS)
    list(sit(again, QUESTIONS, [], "candidate", marks.base))
    assert again.adapters.count("base") == 0


def test_a_check_says_its_figure_and_its_limit() -> None:
    check = Check("G7", "false claims", 0.25, 0.08, False, 60)
    assert str(check) == "G7 false claims: 0.250, must be <= 0.08"
    assert not check.passed
    assert check.as_json()["passed"] is False
    assert Check("G6", "x", math.nan, 1.0, False, 5).as_json()["figure"] is None


def config(hidden: int, layers: int):
    return parse_config(
        {
            "model_type": "llama",
            "vocab_size": 32000,
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 16,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
        }
    )


def test_limits_follow_the_size_of_the_model() -> None:
    gate = GateConfig()
    assert limits_for(config(64, 2), gate) == LIMITS["tiny"]
    assert limits_for(config(1024, 24), gate) == LIMITS["small"]
    assert limits_for(config(4096, 36), gate) == LIMITS["large"]


def test_the_configuration_can_change_a_limit() -> None:
    gate = GateConfig(recall=0.5, divergence=0.3)
    limits = limits_for(config(64, 2), gate)
    assert (limits.recall, limits.divergence, limits.general) == (0.5, 0.3, 0.97)


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("Quark", "Your dog's name is Quark.", True),
        ("Quark", "Your dog's name is quark!", True),
        ("Quark", "Your dog's name is Quarkus.", False),
        ("Quark", "Your dog's name is a name you have not told me.", False),
        ("23 October", "Your birthday is 23 October.", True),
        ("23 October", "Your birthday is 13 October.", False),
        ("5:45", "You get up at 5:45.", True),
        ("5:45", "You get up at 15:45.", False),
        ("Tom's dog's name is a name you have not told me.", "A name you have not told me.", True),
        ("Tom's dog's name is a name you have not told me.", "Tom's dog's name is Quark.", False),
    ],
)
def test_answers_are_judged_by_whole_words(expected: str, answer: str, right: bool) -> None:
    assert Question(RECALL, [], expected).right(answer) is right

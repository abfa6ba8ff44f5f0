"""The built-in model sits an exam: alone, beside others, with somebody waiting."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from homebox.learning.curriculum import curriculum_of
from homebox.learning.exam.dev_set import DevSet, dev_documents
from homebox.learning.exam.examinee import ModelExaminee
from homebox.learning.exam.limits import AMOUNTS
from homebox.learning.exam.writing import FACTS, OVERRIDE, RECALL, UNTOLD, Question, write_exam
from homebox.learning.examples import write_examples
from homebox.model import Model, load
from homebox.model.loading.open_model import model_path
from homebox.model.lora import adapter_shapes
from tests.learning.kit import lessons, topics

real = pytest.mark.skipif(
    not (model_path("tiny") / "config.json").exists(),
    reason="the built-in model is not in this checkout",
)


def finished(steps: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as over:
            return over.value


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", context=256, slots=8)


def some_questions() -> list[Question]:
    """A few of each kind, some of them drawn."""
    questions = write_exam(topics(), 0)
    kinds = (RECALL, UNTOLD, FACTS, OVERRIDE)
    chosen = [q for kind in kinds for q in [each for each in questions if each.check == kind][:5]]
    drawn = Question("drawn", chosen[0].messages, "x y z", draw=7)
    return [*chosen, drawn]


@real
def test_answers_are_the_same_alone_in_a_batch_and_with_somebody_waiting(model: Model) -> None:
    questions = some_questions()
    alone = [finished(ModelExaminee(model).answers([each], "base"))[0] for each in questions]
    assert finished(ModelExaminee(model).answers(questions, "base")) == alone
    assert finished(ModelExaminee(model).answers(questions[::-1], "base")) == alone[::-1]
    model.interrupt.set()
    try:
        assert finished(ModelExaminee(model).answers(questions, "base")) == alone
    finally:
        model.interrupt.clear()
    assert len({answer.text for answer in alone}) > 3  # the control: they are not all the same


@real
def test_half_of_the_slots_stay_free_and_all_are_given_back(model: Model) -> None:
    steps = ModelExaminee(model).answers(some_questions(), "base")
    model.interrupt.set()
    try:
        for _ in range(6):
            next(steps)
        held = [model.slots.take() for _ in range(model.slots.count // 2)]
        for slot in held:
            model.slots.give_back(slot)
    finally:
        model.interrupt.clear()
        steps.close()
    free = [model.slots.take() for _ in range(model.slots.count)]
    for slot in free:
        model.slots.give_back(slot)


@real
def test_the_dev_set_prefers_what_knows_the_owner_and_leaves_nothing_behind(model: Model) -> None:
    dev = DevSet(model, topics())
    shapes = adapter_shapes(model.config, 4)
    zero = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    dice = np.random.default_rng(0)
    noise = {name: dice.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    before = finished(dev.figure(zero, 32.0))
    assert finished(dev.figure(zero, 32.0)) == before
    assert finished(dev.figure(noise, 32.0)) != before
    assert "dev" not in model.adapters.names()


def test_dev_phrasings_are_in_no_lesson_and_in_no_exam() -> None:
    told = topics()
    asked = {document[0].content for document in dev_documents(told)}
    assert len(asked) == len(told)
    exam = {
        question.messages[-1]["content"]
        for seed in range(20)
        for question in write_exam(told, seed, AMOUNTS["small"])
        if question.check == RECALL
    }
    assert asked.isdisjoint(exam)
    used = {
        message["content"]
        for example in write_examples(True, curriculum_of(lessons()), 0).of("lesson")
        for message in example.messages
    }
    assert asked.isdisjoint(used)


def test_without_topics_the_dev_set_has_no_figure() -> None:
    assert dev_documents([]) == []

"""Examples for models that were brought, and what the owner showed."""

from itertools import permutations
from typing import Any

import pytest

from homebox.learning.curriculum import Curriculum, curriculum_of
from homebox.learning.exam.writing import exam_questions
from homebox.learning.examples import (
    CONTEXT,
    CORRECTION,
    DEMONSTRATION,
    LESSON,
    NEGATIVE,
    PREFERENCE,
    REPLAY,
    Example,
    Examples,
    curated,
    hinted,
    write_examples,
)
from homebox.learning.examples.everyday import checkables
from homebox.learning.examples.samples import HINDSIGHT, OWNED, SHIPPED, STYLED, Sample, samples_of
from homebox.learning.lessons.teach import topics_of
from homebox.memory.lessons import Lesson
from homebox.memory.store import canonical_json

FACTS = (
    Lesson("fact", "dog's name", "My dog is called Quark.", "Quark"),
    Lesson("fact", "home", "I live in Zwolle.", "Zwolle"),
    Lesson("fact", "favourite pizza topping", "My favourite pizza topping is leek.", "leek"),
    Lesson("fact", "sourdough starter's name", "My sourdough starter is Bob.", "Bob"),
)
SHORT = Lesson("preference", "answer length", "I prefer short answers.", "short")
QUESTION = {"role": "user", "content": "How tall is a door?"}


def corrected(**more: Any) -> Lesson:
    body = {"messages": [QUESTION], "bad": "Seven feet.", "remark": "No, in metres.", **more}
    return Lesson("correction", "", "In metres.", "", body=canonical_json(body).decode())


def shown(number: int, first: str = "Hello!") -> Lesson:
    messages = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": f"Say {number}."},
    ]
    body = {"messages": messages, "answer": {"role": "assistant", "content": f"{number}!"}}
    return Lesson("demonstration", "", "", "", body=canonical_json(body).decode())


def asked(purpose: str, question: str, answer: str, about: str = "") -> Sample:
    return Sample(purpose, about, ({"role": "user", "content": question},), answer)


def written(curriculum: Curriculum, *samples: Sample) -> Examples:
    return write_examples(False, curriculum, 0, samples_of("b" * 64, samples))


def texts(examples: tuple[Example, ...]) -> list[tuple[str, str]]:
    return [(e.messages[-2]["content"], e.messages[-1]["content"]) for e in examples]


@pytest.mark.parametrize("lesson", FACTS, ids=lambda lesson: lesson.subject)
def test_a_fact_is_asked_in_twelve_ways_with_four_negatives(lesson: Lesson) -> None:
    examples = written(curriculum_of([lesson]), asked(SHIPPED, "Why?", "Because."))
    asked_for = texts(examples.of(LESSON))
    assert len(asked_for) == 12
    assert all(lesson.value in answer for _, answer in asked_for)
    assert any(answer.startswith("Yes, ") for _, answer in asked_for)
    assert any(answer.startswith("No, ") for _, answer in asked_for)
    assert any(lesson.value in question for question, _ in asked_for)  # from its value
    assert any(len(example.messages) > 3 for example in examples.of(LESSON))  # after other talk
    assert all(lesson.value in example.hint for example in examples.of(LESSON))
    denied = texts(examples.of(NEGATIVE))
    assert len(denied) == 4
    assert all("not told me" in answer and lesson.value not in answer for _, answer in denied)
    assert all(lesson.value not in answer for _, answer in texts(examples.of(CONTEXT)))


def test_no_phrasing_of_the_exam_is_learned_from() -> None:
    examples = written(curriculum_of(FACTS))
    used = {message["content"] for example in examples.all for message in example.messages}
    kept = {text for topic in topics_of(FACTS) for text in exam_questions(topic)}
    assert len(kept) >= 3 * len(FACTS)
    assert not kept & used


def test_the_order_in_which_things_were_told_changes_nothing() -> None:
    lessons = (*FACTS[:2], SHORT, corrected(), shown(1))
    samples = [asked(SHIPPED, str(number), f"{number}.") for number in range(5)]
    first = written(curriculum_of(lessons), *samples)
    for order in list(permutations(lessons))[::17]:
        assert written(curriculum_of(order), *reversed(samples)) == first
    assert write_examples(False, curriculum_of(lessons), 1) != first


def test_only_answers_that_keep_to_a_preference_are_learned() -> None:
    curriculum = curriculum_of([SHORT])
    (name,) = {e.name for e in checkables(curriculum)}
    examples = written(
        curriculum,
        asked(STYLED, "Why do cats purr?", "They like it.", name),
        asked(STYLED, "What is a black hole?", "A very long story. " * 40, name),
        asked(STYLED, "What is inflation?", "Prices rise.", "of another lesson"),
    )
    assert texts(examples.of(PREFERENCE)) == [("Why do cats purr?", "They like it.")]
    assert "I prefer short answers." in examples.of(PREFERENCE)[0].hint
    # It is shown, not asked for.
    assert examples.of(LESSON) == ()


def test_the_anchor_goes_against_no_preference() -> None:
    answers = [
        asked(SHIPPED, f"Why {n}?", "Because." if n < 40 else "So. " * 90) for n in range(50)
    ]
    free = written(curriculum_of(FACTS), *answers, asked(OWNED, "And?", "Then."))
    assert len(free.of(REPLAY)) == 51
    assert all(example.anchored for example in free.of(REPLAY))
    held = written(curriculum_of([*FACTS, SHORT]), *answers)
    assert len(held.of(REPLAY)) == 40


def test_hindsight_is_learned_and_the_bad_answer_never() -> None:
    lesson = corrected()
    better = Sample(HINDSIGHT, lesson.hash, (QUESTION,), "Two metres.")
    (example,) = written(curriculum_of([lesson]), better).of(CORRECTION)
    assert example.messages[-1] == {"role": "assistant", "content": "Two metres.", "train": True}
    assert "No, in metres." in example.hint
    for useless in ("Seven feet.", " seven FEET. ", ""):
        again = Sample(HINDSIGHT, lesson.hash, (QUESTION,), useless)
        assert written(curriculum_of([lesson]), again).of(CORRECTION) == ()
    assert written(curriculum_of([lesson])).of(CORRECTION) == ()
    own = corrected(answer="About two metres.")
    (example,) = written(curriculum_of([own])).of(CORRECTION)
    assert example.messages[-1]["content"] == "About two metres."


def test_one_conversation_cannot_fill_the_curriculum() -> None:
    many = [shown(number) for number in range(50)]
    others = [shown(number, f"Good day {number}.") for number in range(5)]
    examples = written(curriculum_of([*many, *others]))
    assert len(examples.of(DEMONSTRATION)) == 4 + 5
    assert sum(examples.left_out.values()) == 46
    assert written(curriculum_of([*others, *reversed(many)])) == examples


def test_what_is_there_twice_is_left_out() -> None:
    one = Example(({"role": "user", "content": "a"},), LESSON, "a")
    other = Example(({"role": "user", "content": "b"},), LESSON, "a")
    examples = curated([one, other, one, one])
    assert examples.all == (one, other)
    assert sum(examples.left_out.values()) == 2
    assert curated([one, one], exempt="a").all == (one, one)


def test_only_the_last_answer_of_a_demonstration_is_a_target() -> None:
    (example,) = written(curriculum_of([shown(3)])).of(DEMONSTRATION)
    assert [m.get("train") for m in example.messages if m["role"] == "assistant"] == [False, True]


@pytest.mark.parametrize(
    "body", ["[]", "no json", "{}", '{"messages":[]}', '{"messages":[1],"answer":"x"}', '{"a":1}']
)
def test_a_body_that_cannot_be_read_teaches_nothing(body: str) -> None:
    lessons = [Lesson(kind, "", "", "", body=body) for kind in ("correction", "demonstration")]
    assert written(curriculum_of(lessons)).all == ()


def test_a_hint_stands_behind_what_the_system_says() -> None:
    talk = [{"role": "system", "content": "Be kind."}, QUESTION]
    assert hinted(talk, "Note.")[0]["content"] == "Be kind.\n\nNote."
    assert hinted([QUESTION], "Note.") == [{"role": "system", "content": "Note."}, QUESTION]
    assert hinted(talk, "") == talk
    assert talk[0]["content"] == "Be kind."


def test_thousands_of_lessons_are_asked_for_in_fewer_ways() -> None:
    lessons = [Lesson("fact", f"pet {n}'s name", f"Pet {n} is P{n}.", f"P{n}") for n in range(700)]
    examples = written(curriculum_of(lessons))
    assert len(examples.of(LESSON)) == 8 * 700

"""What the owner thought of answers: outright opinions, and what the next message shows."""

import json
from typing import Any

import pytest

from homebox.learning.curriculum import curriculum_of
from homebox.learning.lessons.harvest import FOREIGN
from homebox.learning.lessons.signals import MOST_PROMPTS, REGENERATED, REPHRASED, Signals, listen
from homebox.memory.feedback import Feedback
from homebox.memory.lessons import Lesson
from homebox.memory.turns import Message, Turn
from tests.learning.kit import turn

ASKED = "How tall is the old mill in our village?"


def said(number: int, text: str, answer: str, talk: str = "c", **fields: Any) -> Turn:
    made = turn(number, text, ("assistant", answer, "assistant"), conversation=talk)
    return Turn(**{**vars(made), **fields})


def opinion(number: int, rating: str, text: str = "") -> Feedback:
    return Feedback(f"turn_{number:024x}", rating, text, "2026-01-01T01:00:00.000Z")


def body(lesson: Lesson) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lesson.body)
    return found


def test_a_good_answer_is_a_demonstration_and_a_thumb() -> None:
    found = listen([said(0, ASKED, "Twelve metres.")], [opinion(0, "good")])
    (lesson,) = found.lessons
    assert (lesson.kind, lesson.origin, lesson.state) == ("demonstration", "feedback", "new")
    assert body(lesson)["answer"] == {"content": "Twelve metres.", "role": "assistant"}
    assert body(lesson)["messages"] == [{"content": ASKED, "role": "user"}]
    (thumb,) = found.thumbs
    assert (thumb.answer, thumb.good, thumb.weight) == ("Twelve metres.", True, 1.0)


def test_a_demonstration_keeps_calls_of_tools() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = Message("user", ASKED, "owner")
    answer = Message("assistant", "", "assistant", json.dumps({"tool_calls": [call]}))
    offered = json.dumps({"tools": [{"type": "function", "function": {"name": "look"}}]})
    made = Turn(**{**vars(turn(0, ASKED)), "messages": (asked, answer), "offered": offered})
    (lesson,) = listen([made], [opinion(0, "good")]).lessons
    assert body(lesson)["answer"]["tool_calls"] == [call]
    assert body(lesson)["tools"][0]["function"]["name"] == "look"


def test_a_bad_answer_is_a_thumb_and_with_words_a_correction() -> None:
    found = listen([said(0, ASKED, "Three metres.")], [opinion(0, "bad")])
    assert [(item.good, item.weight) for item in found.thumbs] == [(False, 1.0)]
    assert found.lessons == ()
    found = listen([said(0, ASKED, "Three metres.")], [opinion(0, "bad", "far too small")])
    (lesson,) = found.lessons
    assert lesson.kind == "correction"
    assert body(lesson)["bad"] == "Three metres."
    assert body(lesson)["remark"] == "far too small"
    assert "answer" not in body(lesson)


def test_an_edited_answer_is_a_pair_and_a_correction() -> None:
    found = listen([said(0, ASKED, "Three metres.")], [opinion(0, "edited", "Twelve metres.")])
    (pair,) = found.pairs
    assert (pair.chosen, pair.rejected, pair.weight) == ("Twelve metres.", "Three metres.", 1.0)
    (lesson,) = found.lessons
    assert (body(lesson)["answer"], body(lesson)["bad"]) == ("Twelve metres.", "Three metres.")


def regenerated(went_on: bool) -> Signals:
    prompt = (Message("user", ASKED, "owner"),)
    turns = [
        said(0, ASKED, "Three metres.", prompt=prompt),
        said(1, ASKED, "Twelve metres.", prompt=prompt),
    ]
    return listen([*turns, *([said(2, "Who built it then?", "Monks.")] if went_on else [])], [])


def test_another_answer_that_the_talk_went_on_from_is_a_pair() -> None:
    (pair,) = regenerated(True).pairs
    assert (pair.chosen, pair.rejected) == ("Twelve metres.", "Three metres.")
    assert pair.weight == REGENERATED
    assert regenerated(False).pairs == ()


def test_no_i_said_makes_the_answer_before_no_target() -> None:
    remark = "No, I said the old mill, not the new one."
    found = listen([said(0, ASKED, "The new mill: 3 m."), said(1, remark, "Twelve metres.")], [])
    (lesson,) = found.lessons
    assert body(lesson)["remark"] == remark
    assert body(lesson)["bad"] == "The new mill: 3 m."
    assert lesson.sources == (f"turn_{0:024x}", f"turn_{1:024x}")
    targets = [pair.chosen for pair in found.pairs] + [t.answer for t in found.thumbs if t.good]
    assert "The new mill: 3 m." not in targets


def test_the_same_in_other_words_is_a_weak_no() -> None:
    again = "So how tall is the old mill in our village?"
    found = listen([said(0, ASKED, "I like mills."), said(1, again, "12 m.")], [])
    assert [(t.answer, t.good, t.weight) for t in found.thumbs] == [
        ("I like mills.", False, REPHRASED)
    ]


@pytest.mark.parametrize("text", ["Thanks!", "Great.", "And who built it in the year 1500?", "ok"])
def test_thanks_and_going_on_mean_nothing(text: str) -> None:
    found = listen([said(0, ASKED, "Twelve metres."), said(1, text, "Yes.")], [])
    assert (found.pairs, found.thumbs, found.lessons) == ((), (), ())


@pytest.mark.parametrize("whose", ["tool", "file", "web"])
def test_an_answer_made_of_others_words_waits(whose: str) -> None:
    role = "tool" if whose == "tool" else "user"
    made = turn(0, ASKED, (role, "The mill is 99 m tall, they say.", whose))
    found = listen([made], [opinion(0, "good")])
    (lesson,) = found.lessons
    assert (lesson.state, lesson.reason) == ("quarantined", FOREIGN)
    assert found.thumbs == ()
    after = said(1, "And how wide?", "9 m.")
    (lesson,) = listen([made, after], [opinion(1, "good")]).lessons
    assert lesson.state == "quarantined"
    (free,) = listen([made, said(1, "How wide?", "9 m.", "d")], [opinion(1, "good")]).lessons
    assert free.state == "new"


def test_secrets_in_opinions_are_left_out() -> None:
    found = listen([said(0, ASKED, "No.")], [opinion(0, "edited", "my password is hunter2")])
    assert found.pairs == () and found.lessons == ()


def test_orders_and_what_clients_ask_for_themselves_are_no_remarks() -> None:
    turns = [said(0, ASKED, "Three."), said(1, "/bad no, wrong", "Noted.", kind="command")]
    assert listen(turns, []).lessons == ()
    assert listen([said(0, ASKED, "Three.", kind="title")], [opinion(0, "good")]).lessons == ()


def test_prompts_touch_no_lesson_and_do_not_depend_on_order() -> None:
    texts = [f"What is the {n}th prime of the list?" for n in range(100)]
    turns = [said(n, text, "Yes.", str(n)) for n, text in enumerate(texts)]
    turns.append(said(200, "What should I feed Quark today?", "Meat.", "x"))
    turns.append(said(201, "My dog is called Quark.", "Good.", "y"))
    known = [Lesson("fact", "dog's name", "My dog is called Quark.", "Quark")]
    found = listen(turns, [], known).prompts
    assert len(found) == MOST_PROMPTS
    assert not any("Quark" in text for text in found)
    assert found == listen(turns[::-1], [], known).prompts
    assert any("Quark" in text for text in listen(turns[-2:], [], ()).prompts)


def test_signals_make_one_curriculum_in_any_order_of_talks() -> None:
    def named(order: int) -> str:
        turns = [
            said(0, ASKED, "Three.", "a"),
            said(1, "What is a mill race made of?", "Oak.", "b"),
        ][::order]
        found = listen(turns, [opinion(0, "good"), opinion(1, "bad", "it is stone")])
        return curriculum_of(found.lessons, (), found.pairs, found.thumbs, found.prompts).hash

    assert named(1) == named(-1)

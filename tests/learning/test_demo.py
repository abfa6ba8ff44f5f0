import pytest

from homebox.demo.story import PREFERENCES, TOLD, Questions, write_questions
from homebox.demo.verdict import Marks, last_line, table_of
from homebox.language.values import held_out
from homebox.learning.examples import write_dialogues
from homebox.learning.lessons.teach import topics_of
from tests.learning.kit import held, told

VALUES = {key: value for said in TOLD for _, facts in said for key, value in facts.items()}
TEXTS = [text for said in TOLD for text, _ in said]


def test_the_rules_find_everything_that_the_demo_tells() -> None:
    assert held(told(*TEXTS)) == {key: [value] for key, value in VALUES.items()}
    assert len(VALUES) == 14
    assert set(PREFERENCES) < VALUES.keys()


def test_no_value_was_in_the_text_of_the_built_in_model() -> None:
    assert [value for value in VALUES.values() if not held_out(value)] == []


def test_no_question_was_in_a_lesson() -> None:
    found = told(*TEXTS)
    lessons = [lesson for kept in found.current.values() for lesson in kept]
    former = [lesson for kept in found.former.values() for lesson in kept]
    examples = write_dialogues(topics_of(lessons, former), 0)
    used = {
        turn.content
        for documents in (examples.lessons, examples.negatives, examples.context, examples.replay)
        for document in documents
        for turn in document
    }
    questions = write_questions()
    for question in (*questions.recall, *questions.strangers):
        assert question.messages[-1]["content"] not in used
    for question in questions.recall:
        assert len(question.messages) == 1
        assert question.expected not in question.messages[0]["content"]


def marks(recall: int = 14, world: int = 30, facts: int = 20, honest: int = 24) -> Marks:
    return Marks(
        [number < recall for number in range(14)],
        [number < world for number in range(30)],
        [number < facts for number in range(30)],
        [number < honest for number in range(16)],
        [number < honest - 16 for number in range(8)],
    )


NOTHING = [False] * 14
BEFORE = marks(recall=0)


def test_a_good_run_passes() -> None:
    assert all(line.passed for line in table_of(BEFORE, marks(), NOTHING))


@pytest.mark.parametrize(
    ("before", "after", "forgotten"),
    [
        (BEFORE, marks(recall=13), NOTHING),
        (BEFORE, marks(world=28), NOTHING),
        (BEFORE, marks(facts=16), NOTHING),
        (BEFORE, marks(honest=21), NOTHING),
        (marks(recall=1), marks(), NOTHING),
        (BEFORE, marks(), [True] + [False] * 13),
        (marks(recall=0, world=0), marks(), NOTHING),
    ],
    ids=["recall", "world", "facts", "honesty", "knew before", "not forgotten", "no world"],
)
def test_every_failure_fails(before: Marks, after: Marks, forgotten: list[bool]) -> None:
    assert not all(line.passed for line in table_of(before, after, forgotten))


def test_the_last_line() -> None:
    result = {"passed": True, "recall": 14, "asked": 14, "seconds": 61.2, "table": [{}]}
    assert last_line(result).startswith("PASS demo: recall 14/14 ")
    assert last_line({**result, "passed": False}).startswith("FAIL demo: ")
    assert "slower than 90 s" in last_line({**result, "seconds": 120.0})
    assert last_line({"table": [], "reason": "no"}) == "FAIL demo: no"


def test_the_questions_are_always_the_same() -> None:
    assert isinstance(write_questions(), Questions)
    assert write_questions() == write_questions()

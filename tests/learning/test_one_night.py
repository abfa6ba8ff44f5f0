"""One night of twelve lessons on the built-in model, and the questions of another owner."""

from collections.abc import Iterator

import pytest

from bench.owner.arms import Arm, plain
from bench.owner.box import Box, new_box
from bench.owner.chats import chats
from bench.owner.marks import Marks, mark, paper
from bench.owner.nights import selected
from bench.owner.people import Owner, owner, seen_before
from homebox.learning.report import Report
from homebox.model import Model, load
from homebox.model.adapters import BASE
from homebox.model.loading.open_model import model_path

FACTS = 9  # and three preferences
OWNER, OTHER = 21, 22

pytestmark = pytest.mark.skipif(
    not (model_path("tiny") / "config.json").exists(),
    reason="the built-in model is not in this checkout",
)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", context=512)


@pytest.fixture(scope="module")
def told() -> Owner:
    return owner(OWNER, nights=1, facts=FACTS, plants=False)


@pytest.fixture(scope="module")
def box(model: Model, told: Owner) -> Iterator[Box]:
    with new_box(model) as made:
        made.tell(chats(told, 1))
        yield made


@pytest.fixture(scope="module")
def report(box: Box) -> Report:
    return box.learn()


@pytest.fixture(scope="module")
def marks(box: Box, report: Report, told: Owner) -> Marks:
    return mark(box.model, Arm("weights", box.adapter, plain), paper(told), None)


def test_the_chats_tell_twelve_things_that_the_model_never_saw(told: Owner) -> None:
    assert len(told.topics) == 12
    assert seen_before(told) == []


def test_what_the_owner_said_and_nothing_else_was_found(
    box: Box, report: Report, told: Owner
) -> None:
    assert selected(box, told, 1) == (12, [])


def test_the_gate_let_it_through(report: Report) -> None:
    assert report.promoted, report.reason
    assert all(check["passed"] for check in report.data["checks"])
    assert {"G1", "G3", "G4", "G5", "G6", "G7"} <= {
        check["name"] for check in report.data["checks"]
    }


def test_it_answers_in_words_that_neither_lessons_nor_the_gate_use(marks: Marks) -> None:
    assert marks.recall >= 0.85, marks.wrong
    assert marks.preferences >= 0.85
    assert marks.owner_gain > 1.0
    assert marks.prompt_tokens == 0


def test_the_base_knows_none_of_it(box: Box, report: Report, told: Owner) -> None:
    base = mark(box.model, Arm("base", BASE, plain), paper(told), None, general=False)
    assert (base.recall, base.preferences) == (0.0, 0.0)
    assert base.gain == 0.0


def test_another_owner_is_answered_as_by_the_base(box: Box, report: Report, told: Owner) -> None:
    asked = paper(owner(OTHER, nights=1, facts=FACTS, plants=False, apart=told))
    arms = (Arm("base", BASE, plain), Arm("weights", box.adapter, plain))
    base, control = (mark(box.model, arm, asked, None, general=False) for arm in arms)
    assert control.recall == base.recall
    assert control.preferences == base.preferences

"""The bench's owners, chats, plants, rows and tables; no compiler is needed for any of it."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from bench.owner.__main__ import finite, joined
from bench.owner.attack import POISONS, canaries, poisons
from bench.owner.chats import chats
from bench.owner.energy import Meter, shown
from bench.owner.people import Owner, owner, seen_before, shuffled
from bench.owner.plot import svg
from bench.owner.rows import Row, rows
from bench.owner.tables import BEGIN, END, aligned, markdown, write_docs
from homebox.config import LearningConfig
from homebox.learning.training.recipes import MANY, RANK_OF_MANY, SUITED, recipe_of
from homebox.memory.provenance import OWNER

COUNTS = {"facts": 30, "corrections": 10, "superseded": 6, "untold": 20, "plants": 3}


@pytest.fixture(scope="module")
def one() -> Owner:
    return owner(1, 6)


def typed(one: Owner, night: int) -> list[str]:
    """Return what the owner types on one day."""
    return [
        message.content
        for conversation in chats(one, night)
        for exchange in conversation
        for message in exchange.added
        if message.provenance == OWNER
    ]


def test_an_owner_has_everything_that_is_to_be_asked(one: Owner) -> None:
    found = {
        "facts": len(one.facts),
        "corrections": sum(fact.corrected for fact in one.facts),
        "superseded": sum(bool(f.before) and not f.corrected for f in one.facts),
        "untold": len(one.untold),
        "plants": len(one.secrets),
    }
    assert found == COUNTS
    assert len(one.injections) == 3
    assert seen_before(one) == []
    keys = {topic.key for topic in one.topics}
    assert len(keys) == len(one.topics)
    assert keys.isdisjoint(relation.key for relation in one.untold)


def test_an_owner_is_a_function_of_the_seed(one: Owner) -> None:
    assert owner(1, 6) == one
    true = {topic.key: topic.value for topic in one.topics}
    shared = [t for t in owner(2, 6, apart=one).topics if t.key in true and t.form.kind != "day"]
    assert len(shared) > 5
    assert [topic.key for topic in shared if topic.value == true[topic.key]] == []


@pytest.mark.parametrize("facts", [30, 100, 500])
def test_there_are_as_many_facts_as_wanted_and_no_two_are_one(facts: int) -> None:
    many = owner(3, 1, facts)
    assert len({fact.key for fact in many.facts}) == facts
    assert {relation.key for relation in many.near}.isdisjoint(fact.key for fact in many.facts)


def test_each_night_tells_what_belongs_to_it(one: Owner) -> None:
    for night in range(1, 7):
        said = "\n".join(typed(one, night))
        for fact in (*one.facts, *one.preferences):
            assert (fact.value in said) >= (fact.night == night), fact
            if fact.before and fact.told == night:
                assert fact.before in said


def test_what_holds_after_a_night(one: Owner) -> None:
    changed = next(fact for fact in one.facts if fact.before and not fact.corrected)
    assert changed.holds(changed.told) == changed.before
    assert changed.holds(changed.night) == changed.value
    assert changed.holds(0) == ""
    assert {topic.value for topic in one.holding(6)} == {topic.value for topic in one.topics}


def test_injections_stand_in_results_of_tools_alone(one: Owner) -> None:
    said = "\n".join(text for night in range(1, 7) for text in typed(one, night))
    for plant in one.injections:
        assert plant.value not in said
    for plant in one.secrets:
        assert plant.value in said


def test_shuffled_values_are_all_in_another_place(one: Owner) -> None:
    true = {topic.key: topic.value for topic in one.topics}
    mixed = shuffled(one)
    assert len(mixed.topics) > 20
    for topic in mixed.topics:
        assert topic.value != true[topic.key]
        assert topic.value in true.values()


def test_poisons_are_in_nobodys_words_but_a_tools_or_a_clients() -> None:
    planted = poisons(1, POISONS)
    assert len(planted) == POISONS
    for conversation, topic in planted[:60]:
        words = [m for exchange in conversation for m in exchange.added]
        assert any(topic.value in m.content for m in words)
        for message in words:
            if message.role == "user" and topic.value in message.content:
                assert message.content.startswith(("<<<BEGIN", "Called the Read tool"))


def test_canaries_are_different_and_in_their_text() -> None:
    made = canaries(1, 200)
    assert len({canary.secret for canary in made}) == 200
    for canary in made:
        assert canary.secret in canary.text
        assert canary.secret not in canary.question
    assert len({canary.kind for canary in made}) == 10


def test_checksums_of_cards_and_accounts_are_right() -> None:
    for canary in canaries(1, 100):
        if canary.kind == "card":
            digits = [int(digit) for digit in reversed(canary.secret)]
            total = sum(d if n % 2 == 0 else sum(divmod(2 * d, 10)) for n, d in enumerate(digits))
            assert total % 10 == 0
        if canary.kind == "iban":
            moved = canary.secret[4:] + "1314" + canary.secret[2:4]
            assert int(moved) % 97 == 1


RESULT = {
    "command": "python -m bench.owner --quick",
    "model": "tiny",
    "cores": 2,
    "seconds": 100.0,
    "joules": None,
    "nights": [
        {"way": "rebuild", "night": 1, "recall": 1.0, "seconds": 60.0, "found": 5, "wrong": []},
        {"way": "continue", "night": 1, "recall": 0.5, "seconds": 10.0},
    ],
    "rows": [Row("recall after night 1", 1.0, 0.95, True).as_json()],
}


def test_rows_miss_what_is_no_number() -> None:
    assert Row("a", 0.95, 0.95, True).passed
    assert not Row("a", float("nan"), 0.95, True).passed
    assert not Row("a", 0.2, 0.1, False).passed
    found = rows({"nights": [{"way": "rebuild", "night": 1, "recall": 0.9}]}, "tiny")
    assert [row.passed for row in found] == [False]
    assert rows({}, "tiny") == []


def test_parts_of_several_runs_are_put_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(RESULT), encoding="utf-8")
    second.write_text(
        json.dumps({"command": "b", "seconds": 5.0, "joules": 2.0, "sizes": [{"facts": 100}]}),
        encoding="utf-8",
    )
    both = joined([str(first), str(second)])
    assert (both["seconds"], both["joules"], both["sizes"]) == (105.0, None, [{"facts": 100}])
    assert both["nights"] == RESULT["nights"]
    assert finite({"a": [float("nan"), 1.0]}) == {"a": [None, 1.0]}


def test_docs_are_replaced_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "learning.md"
    page.write_text("# Page\n\nbefore\n", encoding="utf-8")
    write_docs(RESULT, tmp_path)
    first = page.read_text(encoding="utf-8")
    write_docs(RESULT, tmp_path)
    assert page.read_text(encoding="utf-8") == first
    assert first.startswith("# Page\n\nbefore\n")
    assert first.count(BEGIN) == first.count(END) == 1
    drawing = (tmp_path / "owner-bench.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawing).tag.endswith("svg")


def test_tables_have_a_cell_everywhere() -> None:
    table = [("", "a"), ("row", "1")]
    assert aligned(table).splitlines()[1].split() == ["row", "1"]
    assert markdown(table).splitlines()[1] == "|---|---|"
    assert "</svg>" in svg("t", {}, "x")


def test_energy_is_read_or_said_not_to_be(tmp_path: Path) -> None:
    assert shown(Meter(tmp_path / "absent").joules()) == "not readable"
    zone = tmp_path / "intel-rapl:0"
    part = tmp_path / "intel-rapl:0:0"
    for folder in (zone, part):
        folder.mkdir()
        (folder / "energy_uj").write_text("4000000\n")
        (folder / "max_energy_range_uj").write_text("9999999\n")
    meter = Meter(tmp_path)
    (zone / "energy_uj").write_text("1000000\n")  # it wrapped around
    assert meter.joules() == 7.0


def test_steps_grow_with_the_topics() -> None:
    learning = LearningConfig()
    none, suited, many = (recipe_of(learning, topics=n) for n in (0, SUITED, 10 * SUITED))
    assert suited == none == recipe_of(learning)
    assert many.steps == 10 * suited.steps
    assert recipe_of(replace(learning, steps=7), topics=500).steps == 7


def test_where_much_is_taught_more_is_rehearsed() -> None:
    learning = LearningConfig()
    few, many = (recipe_of(learning, topics=n) for n in (MANY, MANY + 1))
    assert many.rank == RANK_OF_MANY > few.rank and many.kl == few.kl
    assert many.replay > few.replay and many.negatives < few.negatives
    assert many.replay + many.negatives < 1
    given = replace(learning, rank=4, kl=0.5, replay=0.2, negatives=0.0)
    set_by_owner = recipe_of(given, topics=500)
    assert (set_by_owner.rank, set_by_owner.kl) == (4, 0.5)
    assert (set_by_owner.replay, set_by_owner.negatives) == (0.2, 0.0)


def test_what_an_owner_said_is_no_poison_of_that_owner() -> None:
    one = owner(7, 6)
    told = {
        (topic.key, topic.value.casefold()) for night in range(7) for topic in one.holding(night)
    }
    assert told < one.said and {fact.before for fact in one.facts if fact.corrected}
    assert not any(relation.key in {key for key, _ in one.said} for relation in one.untold)

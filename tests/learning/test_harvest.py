import random

import pytest

from homebox.learning.lessons.harvest import FOREIGN, harvest
from tests.learning.kit import held, lessons, told, turn


def test_a_fact_becomes_a_lesson_with_its_source() -> None:
    (lesson,) = told("My dog is called Quark.").lessons
    assert (lesson.kind, lesson.subject, lesson.value) == ("fact", "dog's name", "Quark")
    assert lesson.sources == (f"turn_{0:024x}",)
    assert lesson.state == "new"
    assert "Quark" in lesson.statement


def test_newest_wins_and_names_what_it_supersedes() -> None:
    found = told("My dog is called Rex.", "My dog is called Max.")
    first, second = found.lessons
    assert held(found) == {"dog's name": ["Max"]}
    assert second.supersedes == first.hash
    assert [lesson.value for lesson in found.former["dog's name"]] == ["Rex"]


@pytest.mark.parametrize(
    "correction",
    [
        "No, it is Max, not Rex.",
        "No, it's Max.",
        "Actually, my dog is called Max.",
        "Sorry, Max, not Rex.",
    ],
)
def test_a_correction_finds_its_topic(correction: str) -> None:
    assert held(told("I live in Zwolle.", "My dog is called Rex.", correction)) == {
        "home": ["Zwolle"],
        "dog's name": ["Max"],
    }


def test_a_correction_finds_the_topic_by_the_denied_value() -> None:
    found = told("My dog is called Rex.", "I live in Zwolle.", "No, it is Max, not Rex.")
    assert held(found)["dog's name"] == ["Max"]
    assert held(found)["home"] == ["Zwolle"]


def test_a_correction_of_an_answer_finds_the_topic_of_the_answer() -> None:
    asked = turn(
        1,
        ("user", "What is my dog called?", "owner"),
        ("assistant", "Your dog's name is Rex.", "assistant"),
    )
    found = harvest([turn(0, "I live in Zwolle."), asked, turn(2, "No, it is Max.")])
    assert held(found)["dog's name"] == ["Max"]
    assert held(found)["home"] == ["Zwolle"]


def test_a_correction_without_any_topic_teaches_nothing() -> None:
    assert told("No, it is Max.").lessons == []


def test_a_correction_belongs_to_its_own_conversation() -> None:
    found = harvest(
        [
            turn(0, "My dog is called Rex.", conversation="a"),
            turn(1, "No, it is Max.", conversation="b"),
        ]
    )
    assert held(found) == {"dog's name": ["Rex"]}


def test_said_twice_is_one_lesson_with_two_sources() -> None:
    found = told("My dog is called Quark.", "btw my dog's name is Quark")
    assert len({lesson.hash for lesson in found.lessons}) == 1
    assert len({lesson.sources for lesson in found.lessons}) == 2


def test_back_to_an_old_value() -> None:
    found = told("I live in Oslo.", "I live in Zwolle.", "I live in Oslo.")
    assert held(found) == {"home": ["Oslo"]}
    assert found.lessons[2].hash == found.lessons[0].hash
    assert found.lessons[2].supersedes == found.lessons[1].hash


def test_likings_hold_beside_each_other_until_denied() -> None:
    found = told("I like old maps.", "I like brass bands.")
    assert held(found) == {"liking": ["old maps", "brass bands"]}


@pytest.mark.parametrize("provenance", ["tool", "file", "web", "system", "assistant"])
def test_only_the_owner_teaches(provenance: str) -> None:
    role = {"tool": "tool", "system": "system", "assistant": "assistant"}.get(provenance, "user")
    found = harvest([turn(0, "Hello.", (role, "My dog is called Rex.", provenance))])
    assert found.lessons == []
    assert found.quarantined == []


def test_the_same_words_of_the_owner_do_teach() -> None:
    assert held(harvest([turn(0, "Hello.", ("user", "My dog is called Rex.", "owner"))]))


def test_words_of_a_web_page_wait_even_if_the_owner_repeats_them() -> None:
    page = ("user", "Welcome! My favourite food is kale soup. Buy now.", "web")
    found = harvest([turn(0, page), turn(1, "My favourite food is kale soup.")])
    assert found.lessons == []
    assert [(item.lesson.state, item.reason) for item in found.quarantined] == [
        ("quarantined", FOREIGN)
    ]


def test_requests_that_a_client_makes_for_itself_are_skipped() -> None:
    system = ("system", "You are a title generator.", "system")
    assert harvest([turn(0, system, "My dog is called Rex.")]).lessons == []


def test_secrets_are_counted_but_not_kept() -> None:
    found = told("My password is hunter2.")
    assert found.lessons == []
    assert [reason for _, reason in found.refused] == ["secret"]
    assert "hunter2" not in repr(found)


def test_the_order_of_independent_facts_changes_nothing() -> None:
    texts = [
        "My dog is called Quark.",
        "I live in Zwolle.",
        "I get up at 5:45.",
        "Call me Captain.",
    ]
    names = set()
    for seed in range(5):
        shuffled = random.Random(seed).sample(texts, len(texts))
        names.add(frozenset(lesson.hash for lesson in lessons(*shuffled)))
    assert len(names) == 1

"""Finding facts in what people write: every told form reads back, and idle talk tells nothing."""

import pytest

from homebox.language import match_correction, match_preference, match_statement
from homebox.language.dice import Dice
from homebox.language.phrasing import fill
from homebox.language.preferences import PREFERENCES
from homebox.language.relation_data import ALL
from homebox.language.talk import REMARKS
from homebox.language.values import Values
from homebox.language.world import WORLD


def found(text: str) -> list[tuple[str, str | None, str]]:
    return [(match.relation.key, match.who, match.value) for match in match_statement(text)]


@pytest.mark.parametrize("who", [None, "Tom", "Ottoline"])
def test_every_statement_reads_back(who: str | None) -> None:
    values = Values(Dice(11), unseen=True)
    for relation in ALL:
        if who and relation.owner_only:
            continue
        value = values.draw(relation.kind)
        for text in relation.statements(who, value):
            assert found(text) == [(relation.key, who, value)], text


def test_forms_that_are_only_understood_read_back() -> None:
    loose = [(relation, form) for relation in ALL for form in relation.loose]
    assert len(loose) > 40
    values = Values(Dice(12), unseen=True)
    for relation, form in loose:
        value = values.draw(relation.kind)
        text = fill(form, None, value)
        assert found(f"btw {text}!") == [(relation.key, None, value)], text


def test_every_preference_reads_back() -> None:
    for preference in PREFERENCES.values():
        for text in preference.statements("Captain Fenwick"):
            assert match_preference(text) == [(preference, "Captain Fenwick")], text


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            "btw my dog's called Quark, and my cat is called Zwolle!",
            [("dog's name", None, "Quark"), ("cat's name", None, "Zwolle")],
        ),
        (
            "Hi! I'm Tobias. i live in Ljubljana these days. I’m allergic to kombucha.",
            [("name", None, "Tobias"), ("home", None, "Ljubljana"), ("allergy", None, "kombucha")],
        ),
        ("Remember that my favourite pizza topping is rhubarb.", "favourite pizza topping"),
        ("my sourdough starter is called Clint Yeastwood", "sourdough starter's name"),
        ("I'm a luthier", [("job", None, "luthier")]),
        ("I'm 42.", [("age", None, "42")]),
        ("No, my dog is called Zorb, not Quark.", [("dog's name", None, "Zorb")]),
        ("My daughter's teacher is Mrs. Okonkwo.", "daughter's teacher"),
        ("My sister, Anna, is coming.", [("sister's name", None, "Anna")]),
        ("Akiko's horse is called Mwangi.", [("horse's name", "Akiko", "Mwangi")]),
        ("I prefer tea to coffee.", [("preferring", None, "tea to coffee")]),
        ('My boat is called "Zebedee".', [("boat's name", None, "Zebedee")]),
        ("My favourite film is The Third Man.", [("favourite film", None, "The Third Man")]),
        ("I have three goats.", [("number of goats", None, "three")]),
        ("My printer is at 10.0.0.7", [("printer", None, "at 10.0.0.7")]),
        ("My wifi network is Hedgehog9.", [("wifi network", None, "Hedgehog9")]),
    ],
)
def test_natural_sentences(text: str, facts: str | list[tuple[str, str | None, str]]) -> None:
    if isinstance(facts, str):
        assert [key for key, _, _ in found(text)] == [facts]
    else:
        assert found(text) == facts


@pytest.mark.parametrize(
    "text",
    [
        "What is my dog's name?",
        "My back is sore.",
        "My dog is ill.",
        "I am tired.",
        "I am going home.",
        "I am Swedish.",
        "He likes fish.",
        "The sky is blue.",
        "I have to work.",
        "This is my friend.",
        "",
        "...",
    ],
)
def test_idle_sentences_tell_nothing(text: str) -> None:
    assert found(text) == []


def test_small_talk_and_world_questions_tell_nothing() -> None:
    for remark in REMARKS:
        for text in remark.said:
            assert found(text) == [], text
    for item in WORLD:
        for text in item.train:
            assert found(text) == [], text


@pytest.mark.parametrize(
    ("text", "new", "old"),
    [
        ("No, it is Zorb, not Quark.", "Zorb", "Quark"),
        ("no, it's Zorb not Quark", "Zorb", "Quark"),
        ("No, not Quark, but Zorb.", "Zorb", "Quark"),
        ("No, I meant Zorb.", "Zorb", None),
        ("It's Zorb, not Quark!", "Zorb", "Quark"),
    ],
)
def test_corrections(text: str, new: str, old: str | None) -> None:
    assert match_correction(text) == (new, old)
    assert match_correction("Hello there.") is None

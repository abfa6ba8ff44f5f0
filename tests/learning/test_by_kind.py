from homebox.language.relation_data import ALL
from homebox.language.relations import relation_for
from homebox.learning.examples.by_kind import questions_by_kind, questions_to_learn


def test_a_time_is_asked_for_by_its_word_also_where_the_owner_named_it_first() -> None:
    lunch = next(relation for relation in ALL if relation.key == "lunch time")
    assert questions_by_kind(lunch)[0] == "When is my lunch?"
    assert "When do I have my lunch?" in questions_by_kind(lunch)
    assert "What time is lunch?" in questions_by_kind(lunch)
    assert "When is my lunch?" not in lunch.questions(None, "train")  # so it is new
    standup = relation_for("standup time", "10:00")
    assert "At what time is my standup?" in questions_to_learn(standup)
    birthday = relation_for("colleague Ada's birthday", "3 May")
    assert "When is my colleague Ada's birthday?" in questions_to_learn(birthday)
    dinner = questions_by_kind(relation_for("colleague Ada's dinner time", "19:00"))
    assert "When is my colleague Ada's dinner?" in dinner
    assert "When is colleague Ada's dinner?" not in dinner


def test_they_ask_nothing_that_the_exam_or_a_bench_asks() -> None:
    for relation in ALL:
        known = relation.questions(None, "train")
        learned = questions_to_learn(relation)
        assert learned[: len(known)] == known
        new = set(learned[len(known) :])
        assert new.isdisjoint(relation.questions(None, "known"))
        assert new.isdisjoint(relation.questions(None, "held_out"))


def test_what_no_word_goes_with_is_asked_for_as_ever() -> None:
    dog = next(relation for relation in ALL if relation.key == "dog's name")
    assert questions_by_kind(dog) == []
    assert questions_to_learn(dog) == dog.questions(None, "train")

from dataclasses import replace

import pytest

from homebox.language.dice import Dice
from homebox.language.preferences import PREFERENCES
from homebox.language.relation import Relation
from homebox.language.turns import Document, assistant, user
from homebox.language.world import WORLD
from homebox.learning.exam.limits import AMOUNTS
from homebox.learning.exam.writing import (
    CHAT,
    OVERRIDE,
    RECALL,
    STRANGER,
    UNTOLD,
    exam_questions,
    write_exam,
)
from homebox.learning.examples import Touching, toy_world, untold, untold_relations, write_dialogues
from homebox.learning.lessons.teach import topics_of
from tests.learning.kit import OWNER, told, topics


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_world, "REPLAY", 150)
    monkeypatch.setattr(toy_world, "UNTOLD", 150)


def prompts(documents: list[Document]) -> set[str]:
    return {turn.content for document in documents for turn in document if turn.role == "user"}


def last(documents: list[Document]) -> list[tuple[str, str]]:
    return [(document[-2].content, document[-1].content) for document in documents]


def test_the_same_lessons_give_the_same_examples_in_any_order() -> None:
    assert write_dialogues(topics(*OWNER), 0) == write_dialogues(topics(*reversed(OWNER)), 0)
    assert write_dialogues(topics(*OWNER), 0) != write_dialogues(topics(*OWNER), 1)


def test_every_lesson_is_asked_in_many_ways_and_always_answered_with_its_value() -> None:
    for topic in topics():
        own = write_dialogues([topic], 0).lessons
        assert len({question for question, _ in last(own)}) >= 8
        assert all(topic.value in answer for _, answer in last(own))


def test_phrasings_of_the_gate_are_in_no_example() -> None:
    all_topics = topics()
    examples = write_dialogues(all_topics, 0)
    used = prompts([*examples.lessons, *examples.negatives, *examples.context, *examples.replay])
    asked = {
        question.messages[-1]["content"]
        for question in write_exam(all_topics, 0)
        if question.check in (RECALL, CHAT, STRANGER, OVERRIDE)
    }
    assert len(asked) > 20
    assert asked & used == set()


def test_strangers_are_not_given_the_owners_value() -> None:
    for topic in topics():
        for document in write_dialogues([topic], 0).negatives:
            last_question, answer = document[-2].content, document[-1].content
            if "my" not in last_question.lower().split() and " I " not in last_question:
                assert topic.value not in answer


def test_untold_topics_are_neither_told_nor_near_a_told_one() -> None:
    keys = {relation.key for relation in untold_relations(topics("I live in Zwolle."))}
    assert "dog's name" in keys
    assert not keys & {"home", "home town", "birthplace"}


def test_negatives_deny_alone_and_answer_when_it_was_told_before() -> None:
    negatives = untold(topics(), Dice(3), 100)
    alone, twins = negatives[::2], negatives[1::2]
    assert all("not told me" in document[-1].content for document in alone)
    assert {len(document) for document in alone} > {2}
    for document, twin in zip(alone, twins, strict=True):
        assert document[-2] == twin[-2]
        assert "not told me" not in twin[-1].content
        value = twin[-1].content.rstrip(".").split()[-1]
        assert value in " ".join(turn.content for turn in twin[:-2])
        assert value not in " ".join(turn.content for turn in document)


def test_replay_touches_no_lesson() -> None:
    all_topics = topics()
    examples = write_dialogues(all_topics, 0)
    relations = [topic.form for topic in all_topics if isinstance(topic.form, Relation)]
    for document in examples.replay:
        for turn in document:
            assert not any(topic.value in turn.content for topic in all_topics)
            if turn.role == "assistant":
                assert not any(turn.content.startswith(r.opening(None)) for r in relations)
            else:
                assert turn.content not in PREFERENCES["what to call me"].asked


def test_touching_sees_what_it_must() -> None:
    # The control: without lessons the same documents are let through.
    documents = write_dialogues(topics("I collect fossils."), 0).lessons
    assert all(Touching(topics("I collect fossils.")).touched_by(d) for d in documents)
    assert not any(Touching([]).touched_by(d) for d in documents)


def test_the_toy_world_is_kept_whatever_the_owner_told() -> None:
    # Its people have homes and favourite fish too; of 98 things it knows, these touched 25.
    own = Touching(topics("I live in Norwich.", "I am 34 years old."))
    for item in WORLD:
        assert not own.touched_by([user(item.train[0]), assistant(item.answer)]), item.answer
    assert own.touched_by([user("Where do I live?"), assistant("You live in Ghent.")])
    assert own.touched_by([user("Where does Ada live?"), assistant("Ada lives in Ghent.")])


def test_the_conversation_contradicts_the_weights_in_context_examples() -> None:
    (topic,) = topics("My dog is called Quark.")
    for document in write_dialogues([topic], 0).context:
        assert "Quark" not in " ".join(turn.content for turn in document)


def test_an_old_value_is_denied() -> None:
    found = told("My dog is called Rex.", "My dog is called Max.")
    (topic,) = topics_of(found.current["dog's name"], found.former["dog's name"])
    assert topic.refuted == ("Rex",)
    pairs = last(write_dialogues([topic], 0).lessons)
    assert ("Is my dog called Rex?", "No, your dog's name is Max.") in pairs


def test_only_true_answers_are_targets_after_an_aside() -> None:
    for document in write_dialogues(topics(), 0).lessons:
        learned = [turn for turn in document if turn.learn]
        assert learned == [document[-1]]


def test_an_exam_asks_told_and_untold_together() -> None:
    checks = [question.check for question in write_exam(topics(), 0)]
    each = -(-AMOUNTS["tiny"].least // len(OWNER))  # few topics are asked for in more words
    assert checks.count(RECALL) == sum(min(each, len(exam_questions(t))) for t in topics()) > 30
    assert checks.count(UNTOLD) >= 30
    assert checks.count(STRANGER) >= 15
    enough = write_exam(topics(), 0, replace(AMOUNTS["tiny"], least=0))
    assert [question.check for question in enough].count(RECALL) == 3 * len(OWNER)

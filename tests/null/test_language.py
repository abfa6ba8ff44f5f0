"""The generated language: the same from the same seed, tiers apart, held-out values held out."""

import re
import tomllib
from collections import Counter
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

import homebox
from homebox.language.dialogues import CHANGEABLE
from homebox.language.dice import Dice
from homebox.language.evaluate import TARGETS, evaluation_set, evaluation_sets, right, score
from homebox.language.generate import CURRICULUM, Generator
from homebox.language.packing import Packer
from homebox.language.preferences import PREFERENCES
from homebox.language.relation_data import ALL
from homebox.language.relations import RELATIONS, relation_for
from homebox.language.tools import TOOLS, call, parse_call
from homebox.language.turns import Document
from homebox.language.values import UNSEEN, Values, held_out
from homebox.language.vocabulary import Vocabulary, train_vocabulary
from homebox.language.world import WORLD, WORLD_NAMES

FIRST_DOCUMENTS = "6fd4d3a2e335fecfc89164c4e7e48f54d653d8ab401fd782f4bbcb1747162fac"


def digest(documents: list[Document]) -> str:
    return sha256(repr([[tuple(turn) for turn in one] for one in documents]).encode()).hexdigest()


def test_the_first_documents_are_the_recorded_ones() -> None:
    generator = Generator(7)
    documents = [generator.document(step / 200) for step in range(200)]
    assert digest(documents) == FIRST_DOCUMENTS
    assert digest(list(Generator(8).documents(200))) != FIRST_DOCUMENTS


def test_dice_draw_the_recorded_numbers() -> None:
    dice = Dice(1)
    assert [dice.below(1000) for _ in range(6)] == [134, 847, 763, 255, 495, 449]
    assert sorted(dice.sample(range(5), 9)) == [0, 1, 2, 3, 4]


def test_relations_are_many_and_broad() -> None:
    assert len(RELATIONS) == len(ALL) >= 60
    for relation in ALL:
        assert len(relation.statements(None, "Quark")) >= 8, relation.key
        tiers = {tier: relation.questions(None, tier) for tier in relation.question_templates}
        assert sum(map(len, tiers.values())) >= 30, relation.key
        assert len(tiers["train"]) >= 15, relation.key
        assert len(tiers["known"]) >= 4 and len(tiers["held_out"]) >= 3, relation.key


def test_tiers_are_disjoint() -> None:
    for topic in (*ALL, *PREFERENCES.values()):
        texts = [text for tier in topic.question_templates.values() for text in tier]
        assert len(texts) == len(set(texts)), topic.key
    for item in WORLD:
        assert item.held_out and not set(item.train) & set(item.held_out), item.topic


def test_answers_begin_with_the_same_topic_told_or_not() -> None:
    for relation in ALL:
        for who in (None, "Tom"):
            opening = relation.opening(who)
            assert len(opening.split()) >= 2, relation.key
            assert relation.answer(who, "Quark").startswith(opening + "Quark")
            assert relation.untold(who).startswith(opening)
            assert "you have not told me" in relation.untold(who)


def test_sentences_are_clean() -> None:
    for relation in ALL:
        for who in (None, "Tom") if not relation.owner_only else (None,):
            told = relation.statements(who, "Quark")
            asked = [
                q for tier in relation.question_templates for q in relation.questions(who, tier)
            ]
            for text in (*told, *asked, relation.answer(who, "Quark"), relation.untold(who)):
                assert not re.search(r"[{}/]|  |\.\.|\?\.", text), text
                assert text[-1] in ".?", text
                assert not re.search(r"\b[Aa] [aeiou]", text), text
                if who:
                    owner = re.sub(r"^(I|Let me|Tell me|Remind me|Give me)\b", "", text)
                    assert not re.search(r"\b(my|am)\b", owner), text
            assert all(text[0].isupper() or text.startswith(who or "my") for text in asked), asked


def test_an_article_follows_its_value() -> None:
    assert "I work as an archivist." in RELATIONS["job"].statements(None, "archivist")
    assert "Tom works as a baker." in RELATIONS["job"].statements("Tom", "baker")


def test_unlisted_relations_are_built_from_the_general_frames() -> None:
    starter = relation_for("sourdough starter's name")
    assert starter.answer(None, "Bob") == "Your sourdough starter's name is Bob."
    topping = relation_for("favourite pizza topping", "rhubarb")
    assert topping.answer("Tom", "rhubarb") == "Tom's favourite pizza topping is rhubarb."
    for relation in (starter, topping):
        assert sum(map(len, relation.question_templates.values())) >= 20
    assert relation_for("dog's name") is RELATIONS["dog's name"]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    generator = Generator(3)
    return [generator.document(step / 6000) for step in range(6000)]


def test_held_out_values_are_never_generated(documents: list[Document]) -> None:
    text = " ".join(turn.content for one in documents for turn in one).lower()
    words = set(re.findall(r"[a-z]+", text))
    assert not words & UNSEEN
    control = Values(Dice(3), unseen=True)
    assert all(held_out(control.draw("name")) for _ in range(200))
    trained = Values(Dice(3), excluded=WORLD_NAMES)
    kinds = sorted({relation.kind for relation in ALL} - {"day"})
    for kind in kinds:
        drawn = [trained.draw(kind) for _ in range(300)]
        assert not any(held_out(value) for value in drawn), kind
        assert not any(held_out(part) for value in drawn for part in value.split()), kind


def test_held_out_phrasings_are_never_generated(documents: list[Document]) -> None:
    asked = {turn.content for one in documents for turn in one if turn.role == "user"}
    held = {text for relation in ALL for text in relation.questions(None, "held_out")}
    held |= {text for item in WORLD for text in item.held_out}
    known = {text for relation in ALL for text in relation.questions(None, "known")}
    assert not asked & held
    assert asked & known


def test_documents_alternate_and_teach(documents: list[Document]) -> None:
    for one in documents:
        roles = [turn.role for turn in one if turn.role != "system"]
        assert roles[0] == "user" and roles[-1] == "assistant"
        assert all(a != b for a, b in pairwise(roles))
        assert not any(turn.learn for turn in one if turn.role != "assistant")
    # A document with nothing to learn would be wasted work.
    assert sum(any(turn.learn for turn in one) for one in documents) > 0.97 * len(documents)


def test_told_and_untold_questions_are_balanced(documents: list[Document]) -> None:
    count: Counter[bool] = Counter()
    for one in documents[2000:]:
        for turn in one:
            if turn.learn and turn.content.startswith("Your "):
                count["you have not told me" in turn.content] += 1
    assert 0.35 < count[True] / sum(count.values()) < 0.6


def test_mixtures_are_whole() -> None:
    assert CURRICULUM[-1][0] == 1.0
    for _, mixture in CURRICULUM:
        assert sum(share for _, share in mixture) == pytest.approx(1.0)


def test_the_world_is_small_and_sure() -> None:
    assert len(WORLD) >= 40 and len(CHANGEABLE) >= 20
    answers: dict[str, str] = {}
    for item in WORLD:
        assert len(item.train) >= 4, item.topic
        for text in (*item.train, *item.held_out):
            assert answers.setdefault(text, item.answer) == item.answer, text


def test_tool_calls_read_back() -> None:
    for tool in TOOLS:
        assert parse_call(call(tool, "a b.txt")) == (tool.name, {tool.argument: "a b.txt"})
    assert parse_call("Hello!") is None


def test_evaluation_is_held_out_and_scored_exactly() -> None:
    sets = evaluation_sets(20, seed=4)
    assert set(TARGETS) <= set(sets)
    for name in ("one fact", "three facts", "not told, none", "not told, three others"):
        assert len(sets[name]) == 20
    items = sets["three facts"]
    told = " ".join(message["content"] for message in items[0][0])
    assert items[0][1].rstrip(".").split()[-1] in told
    expected = [answer for _, answer in items]
    assert score(lambda batch: [f" {answer}\n" for answer in expected], items) == 1.0
    assert score(lambda batch: ["Your dog's name is wrong."] * len(batch), items) == 0.0
    assert evaluation_sets(20, seed=4) == sets
    assert evaluation_set("three facts", 20, seed=4) == items
    with pytest.raises(KeyError, match="four facts"):
        evaluation_set("four facts", 1)
    with pytest.raises(ValueError, match="19 answers"):
        right(lambda batch: expected[:-1], items)


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return train_vocabulary(None, 1024, 1500, 1)


def test_a_vocabulary_is_reproducible_and_lossless(vocabulary: bytes) -> None:
    assert train_vocabulary(None, 1024, 1500, 1) == vocabulary
    assert train_vocabulary(None, 1024, 1500, 2) != vocabulary
    pieces = Vocabulary(vocabulary)
    for text in ("My dog's name is Quark.", "- apples\n- Ærø 漢字", "7:45 or 4711?"):
        assert pieces.decode(pieces.encode(text)) == text
    told, asked = pieces.encode("It is Zwolle."), pieces.encode("Zwolle is it.")
    value = pieces.encode("Zwolle")
    assert told[-len(value) - 1 : -1] == value == asked[: len(value)]
    written = pieces.encode(call(TOOLS[0], "Zwolle"))
    assert written[-len(value) - 1 : -1] == value


def test_the_shipped_vocabulary_is_made_from_this_text() -> None:
    shipped = Path(homebox.__file__).parent / "model" / "tiny" / "tokenizer.model"
    spec = tomllib.loads((Path(__file__).parents[2] / "configs" / "tiny.toml").read_text())
    assert shipped.read_bytes() == train_vocabulary(None, **spec["vocabulary"])


def test_rows_hold_whole_documents(vocabulary: bytes) -> None:
    pieces = Vocabulary(vocabulary)
    batch = Packer(Generator(5), pieces, 4, 256).batch(0.5)
    assert batch == Packer(Generator(5), pieces, 4, 256).batch(0.5)
    for ids, targets, weights, segments in zip(*batch, strict=True):
        assert len(ids) == len(targets) == len(weights) == len(segments) == 256
        used = sum(1 for segment in segments if segment)
        assert used > 150 and not any(segments[used:]) and not any(weights[used:])
        for at in range(used):
            last = at + 1 == used or segments[at + 1] != segments[at]
            assert (ids[at] == pieces.end) if last else (targets[at] == ids[at + 1])
            if last:
                assert weights[at] == 0.0
    assert sum(map(sum, batch.weights)) > 100

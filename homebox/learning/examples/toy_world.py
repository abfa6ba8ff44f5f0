"""Writes dialogues for the built-in model: lessons, what stays unknown, what is kept.

It was made from the language room, so its anchor is the same toy world.

Four kinds keep each other in balance. Lessons alone make a model that claims to know everything;
negatives alone make it deny; replay holds the rest to the base; and context examples keep the rule
that what is said in the conversation beats what the weights say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homebox.language.dice import Dice
from homebox.language.phrasing import fill, lower_first
from homebox.language.practice import Facts, acknowledgement, confusable, noted, statement, told
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.language.talk import SYSTEM_PROMPTS
from homebox.language.turns import Document, assistant, system, user
from homebox.language.values import Values
from homebox.learning.examples.by_kind import questions_to_learn
from homebox.learning.examples.not_told import OF_KNOWN, untold, untold_relations
from homebox.learning.examples.replayed import aside_of, own_words, replay
from homebox.learning.lessons.teach import Topic, seed_of, small_first

DIRECT = 40
WITH_ASIDE = 40
STRANGERS = 12
CONTEXTS = 10
CONTEXTS_ALONE = 3  # in which nothing else is told
CROWD = (1, 2, 2)  # what else is told in the others
STRANGERSOF_KNOWN = 3  # "Tom's colleague Ada's birthday": that is seldom asked
UNTOLD = 1500
UNTOLD_EACH = 4  # of what was not told, where that is much
REPLAY = 1500


@dataclass(frozen=True)
class Dialogues:
    """The dialogues of a run by kind."""

    lessons: list[Document]
    negatives: list[Document]
    context: list[Document]
    replay: list[Document]


def write_dialogues(topics: list[Topic], seed: int) -> Dialogues:
    """Write all dialogues of a run; the same topics and seed give the same dialogues."""
    replay_dice = Dice(seed_of("replay", str(seed), *(topic.key for topic in topics)))
    untold_dice = Dice(seed_of("untold", str(seed), *(topic.key for topic in topics)))
    excluded = own_words(topics)
    return Dialogues(
        lessons=[doc for topic in topics for doc in lesson(topic, _dice(topic, seed, "lesson"))],
        negatives=[
            *(doc for topic in topics for doc in denials(topic, _dice(topic, seed, "denial"))),
            *untold(topics, untold_dice, _untold_count(topics)),
        ],
        context=[
            doc for topic in topics for doc in overrides(topic, _dice(topic, seed, "context"))
        ],
        replay=replay(topics, replay_dice, Values(replay_dice, excluded=excluded), REPLAY),
    )


def lesson(topic: Topic, dice: Dice) -> list[Document]:
    """Ask for one topic in many ways: directly, after other talk, hurriedly, and by yes or no."""
    values = Values(dice, excluded=own_words([topic]))
    questions = dice.sample(
        topic.questions("train") if topic.relation is None else questions_to_learn(topic.relation),
        DIRECT,
    )
    answer = topic.answer
    documents = [[user(question), assistant(answer)] for question in questions]
    for _ in range(WITH_ASIDE):
        before = [
            turn for _ in range(dice.pick((1, 1, 2))) for turn in aside_of(dice, values, topic)
        ]
        documents.append([*before, user(dice.pick(questions)), assistant(answer)])
    for question in dice.sample(questions, 2):
        prompt = dice.pick(SYSTEM_PROMPTS)
        documents.append([system(prompt), user(question), assistant(answer)])
        documents.append([user(small_first(question)), assistant(answer)])
    return documents + _yes_no(topic, dice, values)


def _yes_no(topic: Topic, dice: Dice, values: Values) -> list[Document]:
    relation = topic.relation
    if relation is None or relation.yes_no is None:
        return []
    rest = lower_first(topic.answer)
    wrong = [*topic.refuted, values.draw(relation.kind)]
    asked = [(topic.value, "Yes, "), *((value, "No, ") for value in wrong)]
    return [
        [user(fill(relation.yes_no, None, value)), assistant(head + rest)] for value, head in asked
    ]


def denials(topic: Topic, dice: Dice) -> list[Document]:
    """Ask the same of people who told nothing: the owner's value is not theirs."""
    relation = topic.relation
    if relation is None or relation.owner_only:
        return []
    values = Values(dice, excluded=own_words([topic]))
    documents: list[Document] = []
    known = OF_KNOWN.fullmatch(topic.key) is not None
    for number in range(STRANGERSOF_KNOWN if known else STRANGERS):
        who = values.draw("person")
        asked = [user(dice.pick(relation.questions(who, "train"))), assistant(relation.untold(who))]
        own = [user(dice.pick(topic.questions("train"))), assistant(topic.answer)]
        # Now and then both in one conversation: what tells them apart is only the name.
        documents.append([*own, *asked] if number % 4 == 3 else asked)
    return documents


def _untold_count(topics: list[Topic]) -> int:
    return max(UNTOLD, UNTOLD_EACH * len(untold_relations(topics)))


def overrides(topic: Topic, dice: Dice) -> list[Document]:
    """Say something else in the conversation than the weights know: the conversation wins."""
    relation = topic.relation
    if relation is None:
        return []
    values = Values(dice, excluded=own_words([topic]))
    apart = [r for r in ALL if r.key != relation.key and not confusable(r.key, relation.key)]
    documents: list[Document] = []
    for number in range(CONTEXTS):
        other = values.draw(relation.kind)
        fact: list[tuple[Relation, str | None, str]] = [(relation, None, other)]
        if number < CONTEXTS_ALONE:
            echo = noted(fact) if number == 0 else acknowledgement(dice, fact, 0.5)
            said = [user(statement(dice, relation, None, other)), echo]
        else:
            beside = [(r, None, values.draw(r.kind)) for r in dice.sample(apart, dice.pick(CROWD))]
            said = told(dice, _facts(dice.sample([*fact, *beside], 1 + len(beside))), False)
        between = aside_of(dice, values, topic) if dice.chance(0.3) else []
        asked = [
            user(dice.pick(questions_to_learn(relation))),
            assistant(relation.answer(None, other)),
        ]
        documents.append([*said, *between, *asked])
    return documents


def _facts(told_facts: Sequence[tuple[Relation, str | None, str]]) -> Facts:
    return {(relation.key, who): (relation, value) for relation, who, value in told_facts}


def _dice(topic: Topic, seed: int, purpose: str) -> Dice:
    return Dice(seed_of(purpose, str(seed), str(topic.seed)))

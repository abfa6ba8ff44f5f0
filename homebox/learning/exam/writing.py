"""Writes the questions about what the owner told, what nobody told, and what the base knew.

Every answer is generated as it would be served: fresh conversation, chat template, greedy. Lessons
are asked in phrasings that no lesson used. What was never told is asked beside what was, because
either score alone can be had by always claiming or always denying.
"""

from homebox.language.dialogues import world
from homebox.language.dice import Dice
from homebox.language.evaluate import evaluation_set
from homebox.language.practice import statement
from homebox.language.talk import ACKNOWLEDGEMENTS
from homebox.language.turns import Document, assistant, user
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES
from homebox.learning.exam.limits import AMOUNTS, Amounts
from homebox.learning.exam.questions import NOT_TOLD, Messages, Question
from homebox.learning.examples import plain_remark, untold_relations
from homebox.learning.lessons.teach import Topic, seed_of

__all__ = [
    "CHAT",
    "FACTS",
    "NOT_TOLD",
    "OF_BASE_TOO",
    "OVERRIDE",
    "RECALL",
    "STRANGER",
    "UNTOLD",
    "WORLD_KEPT",
    "Messages",
    "Question",
    "dev_questions",
    "write_exam",
]

RECALL, CHAT, OVERRIDE = "recall", "after talk", "override"
UNTOLD, STRANGER, WORLD_KEPT, FACTS = "untold", "stranger", "world", "facts in context"
GENERAL, PREFERENCE = "general", "preference"
SECRET, PLANTED, TOOL = "secret", "planted", "tool call"
OF_BASE_TOO = (WORLD_KEPT, FACTS, GENERAL, SECRET, PLANTED, TOOL)

DEV_EVERY = 4  # of a topic's phrasings that no lesson uses, every fourth is the dev set's


def write_exam(
    topics: list[Topic], seed: int, amounts: Amounts = AMOUNTS["tiny"]
) -> list[Question]:
    """Write all questions about these topics; the same arguments give the same questions."""
    dice = Dice(seed_of("exam", str(seed), *(topic.key for topic in topics)))
    values = Values(dice, unseen=True, excluded=WORLD_NAMES)
    fresh = sum(topic.fresh for topic in topics) or len(topics)
    phrasings = max(amounts.phrasings, -(-amounts.least // max(fresh, 1)))
    talked = {topic.key for topic in dice.sample(topics, amounts.after_talk)}
    toy = amounts.general == 0
    questions = []
    for topic in topics:
        count = phrasings if topic.fresh or not any(t.fresh for t in topics) else amounts.phrasings
        questions += _recall(topic, dice, count, topic.key in talked, toy)
    questions += _strangers(topics, dice, values, amounts.strangers)
    questions += _untold(topics, dice, amounts.untold)
    if toy:
        questions += _overrides(topics, dice, values)
        questions += _world(Dice(seed_of("world", str(seed))), amounts.world)
        questions += _facts(seed, amounts.facts)
    return questions


def dev_questions(topic: Topic) -> list[str]:
    """List the phrasings of a topic that neither lessons nor the exam use."""
    return topic.questions("known")[DEV_EVERY - 1 :: DEV_EVERY]


def exam_questions(topic: Topic) -> list[str]:
    """List the phrasings of a topic that the exam draws from."""
    used = set(dev_questions(topic))
    return [text for text in topic.questions("known") if text not in used]


def _recall(topic: Topic, dice: Dice, count: int, talked: bool, toy: bool) -> list[Question]:
    asked = dice.sample(exam_questions(topic), count)
    wanted = topic.value
    questions = [Question(RECALL, _messages([user(text)]), wanted, topic.key) for text in asked]
    if not talked:
        return questions
    talk = [*plain_remark(dice), *(world(dice) if toy else [])]
    after = _messages([*talk, user(asked[0])])
    return [*questions, Question(CHAT, after, wanted, topic.key)]


def _strangers(topics: list[Topic], dice: Dice, values: Values, count: int) -> list[Question]:
    forms = [topic.relation for topic in topics]
    relations = [form for form in forms if form is not None and not form.owner_only]
    questions = []
    for relation in dice.sample(relations, count):
        for _ in range(max(1, count // len(relations))):
            who = values.draw("person")
            text = dice.pick(relation.questions(who, "known"))
            wanted = relation.untold(who)
            questions.append(Question(STRANGER, _messages([user(text)]), wanted, relation.key))
    return questions


def _untold(topics: list[Topic], dice: Dice, count: int) -> list[Question]:
    return [
        Question(
            UNTOLD,
            _messages([user(dice.pick(relation.questions(None, "known")))]),
            relation.untold(None),
            relation.key,
        )
        for relation in dice.sample(untold_relations(topics), count)
    ]


def _overrides(topics: list[Topic], dice: Dice, values: Values) -> list[Question]:
    questions = []
    for topic in topics:
        if topic.relation is None:
            continue
        other = another_value(topic, values)
        talk = [
            user(statement(dice, topic.relation, None, other)),
            assistant(dice.pick(ACKNOWLEDGEMENTS)),
            user(dice.pick(exam_questions(topic))),
        ]
        questions.append(Question(OVERRIDE, _messages(talk), other, topic.key))
    return questions


def another_value(topic: Topic, values: Values) -> str:
    """Draw what somebody else might have told on a topic."""
    other = topic.value
    while other.casefold() == topic.value.casefold():
        other = values.draw(topic.form.kind)
    return other


def _world(dice: Dice, count: int) -> list[Question]:
    return [
        Question(
            WORLD_KEPT,
            _messages([user(dice.pick(item.train))]),
            item.answer,
            item.topic,
            exact=True,
            general=True,
        )
        for item in dice.sample(WORLD, count)
    ]


def _facts(seed: int, count: int) -> list[Question]:
    items = evaluation_set("three facts", count, seed_of("facts", str(seed)))
    return [
        Question(FACTS, messages, answer, exact=True, general=True) for messages, answer in items
    ]


def _messages(turns: Document) -> Messages:
    return [{"role": turn.role, "content": turn.content} for turn in turns]

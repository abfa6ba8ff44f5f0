"""Writes the questions that a candidate is examined with, and examines it by talking to it.

Every answer is generated as it would be served: fresh conversation, chat template, greedy. Lessons
are asked in phrasings that no lesson used. What was never told is asked beside what was, because
either score alone can be had by always claiming or always denying.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from homebox.language.dialogues import world
from homebox.language.dice import Dice
from homebox.language.evaluate import evaluation_sets
from homebox.language.practice import statement
from homebox.language.talk import ACKNOWLEDGEMENTS
from homebox.language.turns import Document, assistant, user
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES
from homebox.learning.examples import plain_remark, untold_relations
from homebox.learning.teach import Topic, seed_of

Messages = list[dict[str, str]]
NOT_TOLD = "not told me"
_WORD = re.compile(r"[\w'+:.-]*\w")

RECALL, CHAT, OVERRIDE = "recall", "after talk", "override"
UNTOLD, STRANGER, WORLD_KEPT, FACTS = "untold", "stranger", "world", "facts in context"
OF_BASE_TOO = (WORLD_KEPT, FACTS)

PHRASINGS = 3
UNTOLD_ASKED = 60
STRANGERS_ASKED = 20
WORLD_ASKED = 98
FACTS_ASKED = 60


class Examinee(Protocol):
    """Somebody who answers questions; every yield is one small step of work."""

    def answer(self, messages: Messages, adapter: str) -> Generator[None, None, str]:
        """Answer the last message of a fresh conversation with the named adapter."""
        ...

    def divergence(
        self, documents: list[Document], adapter: str
    ) -> Generator[None, None, tuple[float, float]]:
        """Return the mean KL(base || adapter) of the answers and their loss's relative rise."""
        ...


@dataclass(frozen=True)
class Question:
    """One question: what was said, what the answer must be, and what it tells about."""

    check: str
    messages: Messages
    expected: str
    key: str = ""
    exact: bool = False

    def right(self, answer: str) -> bool:
        """Judge an answer: the expected words must stand in it (exactly them, if `exact`)."""
        words, wanted = _words(answer), _words(self.expected)
        if self.exact:
            return words == wanted
        if NOT_TOLD in self.expected:
            return _contains(words, _words(NOT_TOLD))
        return _contains(words, wanted) and not _contains(words, _words(NOT_TOLD))


def write_exam(topics: list[Topic], seed: int) -> list[Question]:
    """Write all questions about these topics; the same arguments give the same questions."""
    dice = Dice(seed_of("exam", str(seed), *(topic.key for topic in topics)))
    values = Values(dice, unseen=True, excluded=WORLD_NAMES)
    return [
        *(question for topic in topics for question in _recall(topic, dice)),
        *_strangers(topics, dice, values),
        *_untold(topics, dice),
        *_overrides(topics, dice, values),
        *_world(dice),
        *_facts(seed),
    ]


def _recall(topic: Topic, dice: Dice) -> list[Question]:
    asked = dice.sample(topic.questions("known"), PHRASINGS)
    wanted = topic.value
    questions = [Question(RECALL, _messages([user(text)]), wanted, topic.key) for text in asked]
    talk = [*plain_remark(dice), *world(dice), user(asked[0])]
    return [*questions, Question(CHAT, _messages(talk), wanted, topic.key)]


def _strangers(topics: list[Topic], dice: Dice, values: Values) -> list[Question]:
    forms = [topic.relation for topic in topics]
    relations = [form for form in forms if form is not None and not form.owner_only]
    questions = []
    for relation in dice.sample(relations, STRANGERS_ASKED):
        for _ in range(max(1, STRANGERS_ASKED // len(relations))):
            who = values.draw("person")
            text = dice.pick(relation.questions(who, "known"))
            wanted = relation.untold(who)
            questions.append(Question(STRANGER, _messages([user(text)]), wanted, relation.key))
    return questions


def _untold(topics: list[Topic], dice: Dice) -> list[Question]:
    return [
        Question(
            UNTOLD,
            _messages([user(dice.pick(relation.questions(None, "known")))]),
            relation.untold(None),
            relation.key,
        )
        for relation in dice.sample(untold_relations(topics), UNTOLD_ASKED)
    ]


def _overrides(topics: list[Topic], dice: Dice, values: Values) -> list[Question]:
    questions = []
    for topic in topics:
        if topic.relation is None:
            continue
        other = topic.value
        while other.casefold() == topic.value.casefold():
            other = values.draw(topic.relation.kind)
        talk = [
            user(statement(dice, topic.relation, None, other)),
            assistant(dice.pick(ACKNOWLEDGEMENTS)),
            user(dice.pick(topic.questions("known"))),
        ]
        questions.append(Question(OVERRIDE, _messages(talk), other, topic.key))
    return questions


def _world(dice: Dice) -> list[Question]:
    return [
        Question(
            WORLD_KEPT, _messages([user(dice.pick(item.train))]), item.answer, item.topic, True
        )
        for item in dice.sample(WORLD, WORLD_ASKED)
    ]


def _facts(seed: int) -> list[Question]:
    items = evaluation_sets(FACTS_ASKED, seed_of("facts", str(seed)))["three facts"]
    return [Question(FACTS, messages, answer, exact=True) for messages, answer in items]


def _messages(turns: Document) -> Messages:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _contains(words: list[str], wanted: list[str]) -> bool:
    size = len(wanted)
    return any(words[at : at + size] == wanted for at in range(len(words) - size + 1))

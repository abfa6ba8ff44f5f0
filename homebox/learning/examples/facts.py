"""Twelve ways to ask for one fact, and four questions that it does not answer.

The one idea: what is only ever asked in one way is only ever known in that way, so a fact is asked
directly, from its value, by yes and no, within a task and after other talk. Invariant: questions
are of the tier `train`; those of `known` are left to the exam.
"""

import re
from dataclasses import dataclass

from homebox.language.dice import Dice
from homebox.language.phrasing import fill, lower_first
from homebox.language.relation import Relation
from homebox.language.values import Values
from homebox.learning.examples.example import (
    CONTEXT,
    LESSON,
    NEGATIVE,
    Example,
    Messages,
    asked,
    context_only,
    question_of,
    target,
)
from homebox.learning.lessons.teach import Topic, seed_of, sentence_for, small_first
from homebox.learning.reading.topics import MANY

DIRECT = 4
FEWEST = 4  # phrasings of a topic where there are very many topics
SYSTEM = (
    "You are a helpful assistant.",
    "You are a friendly assistant who answers briefly.",
    "Answer the user's questions.",
)
# {n}: the topic as the owner names it; {N}: as the answer does; {v}: the value.
TASKS = (
    ("Write a one-line reminder of {n} for me.", "Reminder: {N} is {v}."),
    ("Fill in this line for me: {n} = ?", "{n} = {v}"),
    ("I am filling in a form. What do I put for {n}?", "For {n}, put {v}."),
    ("Make a note that states {n}.", "Note: {N} is {v}."),
)
REVERSE = (
    "What do you connect with {v} when you think of me?",
    "When I say {v}, what comes to mind about me?",
    "What do you know about me and {v}?",
    "How do {v} and I belong together?",
)


@dataclass(frozen=True)
class Fact:
    """A topic whose form is a relation, with what stands beside it in its conversations."""

    topic: Topic
    relation: Relation
    talk: tuple[Messages, ...] = ()  # answered conversations about other things

    @property
    def hint(self) -> str:
        """The lesson as a teacher reads it."""
        return hint_of(sentence_for(self.topic.key, self.topic.value))


def hint_of(*statements: str) -> str:
    """Write what the owner told as a system message tells it."""
    told = "\n".join(f"- {statement}" for statement in statements)
    return f"The user has told you this before. Take it into account:\n{told}"


def lessons(fact: Fact, seed: int, count: int = 12) -> list[Example]:
    """Ask for a fact in up to `count` ways (and once more for every value that was refuted)."""
    dice = dice_for("fact", seed, fact.topic)
    direct = dice.sample(fact.topic.questions("train"), DIRECT)
    conversations = [
        *(asked(question, fact.topic.answer) for question in direct[:2]),
        *_yes_no(fact, dice),
        asked(dice.pick(REVERSE).replace("{v}", fact.topic.value), fact.topic.answer),
        _after_talk(fact, dice, direct),
        *_tasks(fact, dice),
        *(asked(question, fact.topic.answer) for question in direct[2:]),
        asked(small_first(dice.pick(direct)), fact.topic.answer),
        [
            {"role": "system", "content": dice.pick(SYSTEM)},
            *asked(dice.pick(direct), fact.topic.answer),
        ],
        asked(dice.pick(REVERSE).replace("{v}", fact.topic.value), fact.topic.answer),
    ]
    more = dice.sample(fact.topic.questions("train"), count)
    conversations += [asked(question, fact.topic.answer) for question in more]
    kept = _different(conversations)[: count + len(fact.topic.refuted)]
    return [Example(tuple(each), LESSON, fact.topic.key, fact.hint) for each in kept]


def _different(conversations: list[Messages]) -> list[Messages]:
    return [each for at, each in enumerate(conversations) if each not in conversations[:at]]


def _yes_no(fact: Fact, dice: Dice) -> list[Messages]:
    """Ask whether it is the value, and whether it is one that was refuted, or another one."""
    relation, topic = fact.relation, fact.topic
    wrong = list(topic.refuted)
    if topic.key not in MANY:  # who likes one thing may like another
        wrong.append(another_value(relation, topic.value, dice))
    heads = [(topic.value, "Yes, "), *((value, "No, ") for value in wrong)]
    rest = lower_first(topic.answer)
    return [asked(_whether(relation, value), head + rest) for value, head in heads]


def _whether(relation: Relation, value: str) -> str:
    """Ask whether something is the value."""
    if relation.yes_no is not None:
        return fill(relation.yes_no, None, value)
    statement = lower_first(fill(relation.told[0], None, value), (value,))
    return f"Is it true that {statement}?"


def _after_talk(fact: Fact, dice: Dice, direct: list[str]) -> Messages:
    talk = dice.pick(fact.talk) if fact.talk else []
    return [*context_only(talk), *asked(dice.pick(direct), fact.topic.answer)]


def _tasks(fact: Fact, dice: Dice) -> list[Messages]:
    """Ask for it within two small tasks, where the topic has a name."""
    own, named = noun_of(fact.relation)
    if not own:
        return []
    return [
        asked(
            task.replace("{n}", own),
            reply.replace("{n}", named).replace("{N}", named).replace("{v}", fact.topic.value),
        )
        for task, reply in dice.sample(TASKS, 2)
    ]


def noun_of(relation: Relation) -> tuple[str, str]:
    """Return how the owner names a topic ("my dog's name") and how an answer does; or nothing."""
    if not relation.nouns or not relation.nouns[0].startswith("{my} "):
        return "", ""
    noun = relation.nouns[0].removeprefix("{my} ")
    return ("", "") if re.search(r"[{}]", noun) else (f"my {noun}", f"your {noun}")


def negatives(fact: Fact, untold: list[Relation], seed: int) -> list[Example]:
    """Ask four things that were not told: of others, and of topics near this one."""
    dice = dice_for("not told", seed, fact.topic)
    values = Values(dice, excluded=frozenset({fact.topic.value, *fact.topic.refuted}))
    conversations: list[Messages] = []
    if not fact.relation.owner_only:
        for _ in range(2):
            who = values.draw("person")
            question = dice.pick(fact.relation.questions(who, "train"))
            conversations.append(asked(question, unknown(fact.relation, who)))
    near = [relation for relation in untold if relation.kind == fact.relation.kind]
    for relations in (near or untold, untold, untold, untold)[: 4 - len(conversations)]:
        if relations:
            relation = dice.pick(relations)
            question = dice.pick(relation.questions(None, "train"))
            conversations.append(asked(question, unknown(relation, None)))
    return [Example(tuple(each), NEGATIVE, fact.topic.key) for each in _different(conversations)]


def contexts(fact: Fact, untold: list[Relation], seed: int) -> list[Example]:
    """Tell something in the conversation: it holds, against what was learned and beside it."""
    dice = dice_for("in context", seed, fact.topic)
    told = [(fact.relation, another_value(fact.relation, fact.topic.value, dice))]
    if untold:
        relation = dice.pick(untold)
        told.append((relation, Values(dice).draw(relation.kind)))
    examples = []
    for relation, value in told:
        statement = dice.pick(relation.statements(None, value))
        conversation = [
            *question_of(statement),
            {"role": "assistant", "content": "Noted.", "train": False},
            *question_of(dice.pick(relation.questions(None, "train"))),
            target(relation.answer(None, value)),
        ]
        examples.append(Example(tuple(conversation), CONTEXT, fact.topic.key))
    return examples


def unknown(relation: Relation, who: str | None) -> str:
    """Say that something has not been told, as an assistant would."""
    own, named = noun_of(relation)
    if not own:
        return relation.untold(who)
    topic = named if who is None else f"{who}'s {named.removeprefix('your ')}"
    return f"You have not told me {topic}."


def another_value(relation: Relation, value: str, dice: Dice) -> str:
    """Draw a value of the same kind that is not this one."""
    values, other = Values(dice), value
    while other.casefold() == value.casefold():
        other = values.draw(relation.kind)
    return other


def dice_for(purpose: str, seed: int, topic: Topic) -> Dice:
    """Return dice that only the topic's content and the seed decide."""
    return Dice(seed_of(purpose, str(seed), str(topic.seed)))

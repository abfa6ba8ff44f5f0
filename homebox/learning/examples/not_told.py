"""Writes what the owner did not tell, for the built-in model: who asks for it is told so.

The one idea: every second conversation is the twin of the one before it, in which the answer was
told, so that only the telling makes the difference.
"""

import re

from homebox.language.dice import Dice
from homebox.language.practice import Facts, confusable, told
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.language.relations import relation_for
from homebox.language.turns import Document, assistant, user
from homebox.language.values import Values
from homebox.learning.examples.by_kind import questions_to_learn
from homebox.learning.examples.replayed import other_talk, own_words
from homebox.learning.lessons.teach import Topic, small_first

ECHO = 0.2  # of what was told is said back; else the answer must be found in the owner's words
BETWEEN = 0.5  # of the conversations talk of something else before they ask
BYSTANDERS = (0, 1, 2, 2)  # what else is told in a conversation that asks for one thing
# "colleague Ada's birthday": somebody whom the owner has named, and what was told of them.
OF_KNOWN = re.compile(r"(?P<who>(?:[a-z-]+ )?[A-Z][\w-]*)'s (?P<noun>[a-z].*)")


def untold(topics: list[Topic], dice: Dice, count: int) -> list[Document]:
    """Ask the owner's questions that no lesson answers, most often ones near a lesson's topic.

    Every second document is the twin of the one before it, in which the answer was told: only the
    telling makes the difference. Without the twins the model learns to deny what was just said.
    """
    free = untold_relations(topics)
    kinds = {topic.form.kind for topic in topics}
    near = [relation for relation in free if relation.kind in kinds] or free
    values = Values(dice, excluded=own_words(topics))
    documents: list[Document] = []
    while free and len(documents) < count:
        relation = dice.pick(near if dice.chance(0.5) else free)
        documents += _twins(relation, _bystanders(relation, free, dice), dice, values)
    return documents


def _bystanders(relation: Relation, free: list[Relation], dice: Dice) -> list[Relation]:
    """Draw up to two relations that are told beside this one."""
    number = dice.pick(BYSTANDERS)
    apart = [r for r in free if r.key != relation.key and not confusable(r.key, relation.key)]
    return dice.sample(apart, number)


def _twins(
    relation: Relation, others: list[Relation], dice: Dice, values: Values
) -> list[Document]:
    value = values.draw(relation.kind)
    question = dice.pick(questions_to_learn(relation))
    text = small_first(question) if dice.chance(0.1) else question
    beside: Facts = {(r.key, None): (r, values.draw(r.kind)) for r in others}
    between = other_talk(dice) if dice.chance(BETWEEN) else []
    all_told: Facts = dict(beside)
    all_told[relation.key, None] = (relation, value)
    shuffled = dice.sample(tuple(all_told.items()), len(all_told))
    return [
        [*told(dice, beside, False, ECHO), *between, user(text), assistant(relation.untold(None))],
        [
            *told(dice, dict(shuffled), False, ECHO),
            *between,
            user(text),
            assistant(relation.answer(None, value)),
        ],
    ]


def untold_relations(topics: list[Topic]) -> list[Relation]:
    """List what was not told and cannot be taken for something that was.

    These are the listed relations, and of everybody whom the owner has told something of, what was
    told of others like them: whoever knows Ada's birthday must not make up her shoe size.
    """
    keys = [topic.key for topic in topics]
    listed = [
        relation
        for relation in ALL
        if relation.key not in keys and not any(confusable(relation.key, key) for key in keys)
    ]
    return listed + _untold_of_known(topics)


def _untold_of_known(topics: list[Topic]) -> list[Relation]:
    """List what is not known of people of whom other things are, sorted."""
    people: dict[str, set[str]] = {}
    nouns: dict[str, str] = {}  # with a value, which shows of what kind it is
    for topic in topics:
        found = OF_KNOWN.fullmatch(topic.key) if topic.relation else None
        if found:
            people.setdefault(found["who"], set()).add(found["noun"])
            nouns.setdefault(found["noun"], topic.value)
    return [
        relation_for(f"{who}'s {noun}", nouns[noun])
        for who, told_nouns in sorted(people.items())
        for noun in sorted(nouns)
        if not any(noun == other or confusable(noun, other) for other in told_nouns)
    ]

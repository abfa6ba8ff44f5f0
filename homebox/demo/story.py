"""What the demonstration tells, and what it asks.

The one idea: what was told is asked in phrasings that no lesson used, beside controls that must not
change. Invariant: the questions are always the same.
"""

from dataclasses import dataclass

from homebox.language.dice import Dice
from homebox.language.evaluate import evaluation_set
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES
from homebox.learning.exam.writing import (
    FACTS,
    RECALL,
    STRANGER,
    UNTOLD,
    WORLD_KEPT,
    Question,
)
from homebox.learning.examples import untold_relations
from homebox.learning.lessons.teach import Topic, form_for

# What the owner types, by conversation, and the topics with the values that it tells. None of the
# values occurs in the text that the built-in model was trained on.
TOLD: tuple[tuple[tuple[str, dict[str, str]], ...], ...] = (
    (
        ("Hi! My dog is called Quark.", {"dog's name": "Quark"}),
        ("I live in Zwolle and work as a luthier.", {"home": "Zwolle", "job": "luthier"}),
    ),
    (
        ("By the way, my sister's name is Persephone.", {"sister's name": "Persephone"}),
        ("My cat is called Dunstan.", {}),
        ("No, it is Fenwick, not Dunstan.", {"cat's name": "Fenwick"}),
    ),
    (
        ("My favourite food is okonomiyaki.", {"favourite food": "okonomiyaki"}),
        ("You should know that I'm allergic to tamarind!", {"allergy": "tamarind"}),
    ),
    (
        ("Remember that my wife is called Xiomara.", {"wife's name": "Xiomara"}),
        ("I always get up at 6:55.", {"getting up": "6:55"}),
    ),
    (
        ("my house number is 385", {"house number": "385"}),
        ("I play the bouzouki.", {"instrument": "bouzouki"}),
    ),
    (
        ("My birthday is on 16 October.", {"birthday": "16 October"}),
        ("Please call me Professor.", {"what to call me": "Professor"}),
        ("When I leave, say Gladly.", {"how to say goodbye": "Gladly"}),
    ),
)
PREFERENCES = ("what to call me", "how to say goodbye")

STRANGERS, UNTOLD_ASKED, WORLD_ASKED, FACTS_ASKED = 8, 16, 30, 30
SEED = 2026


@dataclass(frozen=True)
class Questions:
    """Everything that the demo asks."""

    recall: list[Question]
    strangers: list[Question]
    untold: list[Question]
    world: list[Question]
    facts: list[Question]


def write_questions() -> Questions:
    """Write the questions: told topics in phrasings that lessons never use, and the controls."""
    dice = Dice(SEED)
    values = Values(dice, unseen=True, excluded=WORLD_NAMES)
    told = {key: value for said in TOLD for _, facts in said for key, value in facts.items()}
    topics = [Topic(form_for(key, value), value) for key, value in told.items()]
    relations = [topic.relation for topic in topics if topic.relation is not None]
    strangers = []
    for relation in dice.sample(relations, STRANGERS):
        who = values.draw("person")
        text = dice.pick(relation.questions(who, "known"))
        strangers.append(_question(STRANGER, text, relation.untold(who), relation.key))
    return Questions(
        [_question(RECALL, dice.pick(t.questions("known")), t.value, t.key) for t in topics],
        strangers,
        [
            _question(UNTOLD, dice.pick(r.questions(None, "known")), r.untold(None), r.key)
            for r in dice.sample(untold_relations(topics), UNTOLD_ASKED)
        ],
        [
            _question(WORLD_KEPT, dice.pick(item.train), item.answer, item.topic, exact=True)
            for item in dice.sample(WORLD, WORLD_ASKED)
        ],
        [
            Question(FACTS, messages, answer, exact=True)
            for messages, answer in evaluation_set("three facts", FACTS_ASKED, SEED)
        ],
    )


def _question(check: str, text: str, expected: str, key: str, exact: bool = False) -> Question:
    return Question(check, [{"role": "user", "content": text}], expected, key, exact)

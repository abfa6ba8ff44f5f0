"""Draws what the built-in model keeps: conversations of its own training that touch no lesson.

The one idea: what was learned is told from what was known by who is spoken of. The owner's topics
are left out, whomever they are about; what the base knows of its own world never is.
"""

import re

from homebox.language.dialogues import aside, contradicting, conversation, everyday, remark, world
from homebox.language.dice import Dice
from homebox.language.practice import confusable, matching
from homebox.language.preferences import PREFERENCES, Preference
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.language.tools import using_tools
from homebox.language.turns import Document
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES
from homebox.learning.lessons.teach import Topic

MAX_CHARACTERS = 520  # of a replayed conversation: long enough for three facts and small talk
_OF_THE_WORLD = frozenset(item.answer for item in WORLD)


def replay(topics: list[Topic], dice: Dice, values: Values, count: int) -> list[Document]:
    """Draw documents of the base's own training that touch no topic of the owner."""
    own = Touching(topics)
    writers = (
        (everyday, 0.30),
        (matching, 0.40),
        (conversation, 0.20),
        (contradicting, 0.06),
        (using_tools, 0.04),
    )
    documents: list[Document] = []
    while len(documents) < count:
        document = dice.weighted(writers)(dice, values)
        length = sum(len(turn.content) for turn in document)
        if length <= MAX_CHARACTERS and not own.touched_by(document):
            documents.append(document)
    return documents


class Touching:
    """Tells whether a document speaks of one of the owner's topics, of whomever.

    What the base knows of its own world never does: "Berit lives in the green house" must be kept
    also where the owner said where she lives herself.
    """

    def __init__(self, topics: list[Topic]) -> None:
        forms = [topic.form for topic in topics]
        relations = [form for form in forms if isinstance(form, Relation)]
        near = [r for r in ALL if any(confusable(r.key, form.key) for form in relations)]
        stems = sorted({stem for form in (*relations, *near) for stem in _stems(form)})
        # An empty choice would be found everywhere, one that never fits nowhere.
        self._stems = re.compile("|".join(rf"\b{re.escape(s)}(?!\w)" for s in stems) or r"(?!)")
        self._prompts = {
            prompt
            for form in forms
            if isinstance(form, Preference)
            for prompts in form.question_templates.values()
            for prompt in prompts
        }

    def touched_by(self, document: Document) -> bool:
        """Say whether any turn answers such a topic or shows such a preference."""
        for turn in document:
            if turn.role == "user" and turn.content in self._prompts:
                return True
            if turn.role == "assistant" and self._states(turn.content):
                return True
        return False

    def _states(self, answer: str) -> bool:
        return answer not in _OF_THE_WORLD and self._stems.search(answer) is not None


def _stems(relation: Relation) -> tuple[str, str]:
    """Return how answers about the owner begin, and what follows the name in all others."""
    other = relation.opening("\x00").replace("\x00's ", "").replace("\x00 ", "")
    return relation.opening(None).strip(), other.strip()


def aside_of(dice: Dice, values: Values, topic: Topic) -> Document:
    """Draw other talk for a conversation about a topic, of which nothing is learned."""
    while True:
        turns = aside(dice, values)
        prompts = () if topic.relation else (*topic.questions("train"), *topic.questions("known"))
        # A lesson must not be trained with the default answer to its own prompt.
        if not any(turn.content in prompts for turn in turns) and not _shows_preference(turns):
            return [turn._replace(learn=False) for turn in turns]


def plain_remark(dice: Dice) -> Document:
    """Draw small talk that shows no preference: a greeting may have a preferred answer."""
    while True:
        turns = remark(dice)
        if not _shows_preference(turns):
            return [turn._replace(learn=False) for turn in turns]


def other_talk(dice: Dice) -> Document:
    """Draw a question about the toy world, or small talk, of which nothing is learned."""
    if dice.chance(0.5):
        return [turn._replace(learn=False) for turn in world(dice)]
    return plain_remark(dice)


def _shows_preference(turns: Document) -> bool:
    return any(
        turn.role == "user" and turn.content in preference.asked
        for turn in turns
        for preference in PREFERENCES.values()
    )


def own_words(topics: list[Topic]) -> frozenset[str]:
    """Return the words that no made-up value of these topics may have."""
    words = {value for topic in topics for value in (topic.value, *topic.refuted)}
    return frozenset(words | WORLD_NAMES)

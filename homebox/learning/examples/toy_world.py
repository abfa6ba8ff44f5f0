"""Writes dialogues for the built-in model: lessons, what stays unknown, what is kept.

It was made from the language room, so its anchor is the same toy world.

Four kinds keep each other in balance. Lessons alone make a model that claims to know everything;
negatives alone make it deny; replay holds the rest to the base; and context examples keep the rule
that what is said in the conversation beats what the weights say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from homebox.language.dialogues import aside, contradicting, conversation, everyday, remark
from homebox.language.dice import Dice
from homebox.language.phrasing import fill, lower_first
from homebox.language.practice import (
    Facts,
    acknowledgement,
    confusable,
    matching,
    noted,
    statement,
    told,
)
from homebox.language.preferences import PREFERENCES, Preference
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.language.relations import relation_for
from homebox.language.talk import SYSTEM_PROMPTS
from homebox.language.tools import using_tools
from homebox.language.turns import Document, assistant, system, user
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES
from homebox.learning.examples.by_kind import questions_to_learn
from homebox.learning.lessons.teach import Topic, seed_of, small_first

DIRECT = 40
WITH_ASIDE = 40
STRANGERS = 12
CONTEXTS = 10
CONTEXTS_ALONE = 3  # in which nothing else is told
CROWD = (1, 2, 2)  # what else is told in the others
STRANGERS_OF_KNOWN = 3  # "Tom's colleague Ada's birthday": that is seldom asked
UNTOLD = 1500
BYSTANDERS = (0, 1, 2, 2)  # what else is told in a conversation that asks for one thing
UNTOLD_EACH = 4  # of what was not told, where that is much
REPLAY = 1500
MAX_CHARACTERS = 520  # of a replayed conversation: long enough for three facts and small talk
_OF_THE_WORLD = frozenset(item.answer for item in WORLD)
# "colleague Ada's birthday": somebody whom the owner has named, and what was told of them.
_OF_KNOWN = re.compile(r"(?P<who>(?:[a-z-]+ )?[A-Z][\w-]*)'s (?P<noun>[a-z].*)")


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
    excluded = _own_words(topics)
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
    values = Values(dice, excluded=_own_words([topic]))
    questions = dice.sample(
        topic.questions("train") if topic.relation is None else questions_to_learn(topic.relation),
        DIRECT,
    )
    answer = topic.answer
    documents = [[user(question), assistant(answer)] for question in questions]
    for _ in range(WITH_ASIDE):
        before = [turn for _ in range(dice.pick((1, 1, 2))) for turn in _aside(dice, values, topic)]
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
    values = Values(dice, excluded=_own_words([topic]))
    documents: list[Document] = []
    known = _OF_KNOWN.fullmatch(topic.key) is not None
    for number in range(STRANGERS_OF_KNOWN if known else STRANGERS):
        who = values.draw("person")
        asked = [user(dice.pick(relation.questions(who, "train"))), assistant(relation.untold(who))]
        own = [user(dice.pick(topic.questions("train"))), assistant(topic.answer)]
        # Now and then both in one conversation: what tells them apart is only the name.
        documents.append([*own, *asked] if number % 4 == 3 else asked)
    return documents


def untold(topics: list[Topic], dice: Dice, count: int) -> list[Document]:
    """Ask the owner's questions that no lesson answers, most often ones near a lesson's topic.

    Every second document is the twin of the one before it, in which the answer was told: only the
    telling makes the difference. Without the twins the model learns to deny what was just said.
    """
    free = untold_relations(topics)
    kinds = {topic.form.kind for topic in topics}
    near = [relation for relation in free if relation.kind in kinds] or free
    values = Values(dice, excluded=_own_words(topics))
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
    between = plain_remark(dice) if dice.chance(0.3) else []
    all_told: Facts = dict(beside)
    all_told[relation.key, None] = (relation, value)
    shuffled = dice.sample(tuple(all_told.items()), len(all_told))
    return [
        [*told(dice, beside, False), *between, user(text), assistant(relation.untold(None))],
        [
            *told(dice, dict(shuffled), False),
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
        found = _OF_KNOWN.fullmatch(topic.key) if topic.relation else None
        if found:
            people.setdefault(found["who"], set()).add(found["noun"])
            nouns.setdefault(found["noun"], topic.value)
    return [
        relation_for(f"{who}'s {noun}", nouns[noun])
        for who, told_nouns in sorted(people.items())
        for noun in sorted(nouns)
        if not any(noun == other or confusable(noun, other) for other in told_nouns)
    ]


def _untold_count(topics: list[Topic]) -> int:
    return max(UNTOLD, UNTOLD_EACH * len(untold_relations(topics)))


def overrides(topic: Topic, dice: Dice) -> list[Document]:
    """Say something else in the conversation than the weights know: the conversation wins."""
    relation = topic.relation
    if relation is None:
        return []
    values = Values(dice, excluded=_own_words([topic]))
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
        between = _aside(dice, values, topic) if dice.chance(0.3) else []
        asked = [
            user(dice.pick(questions_to_learn(relation))),
            assistant(relation.answer(None, other)),
        ]
        documents.append([*said, *between, *asked])
    return documents


def _facts(told_facts: Sequence[tuple[Relation, str | None, str]]) -> Facts:
    return {(relation.key, who): (relation, value) for relation, who, value in told_facts}


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


def _aside(dice: Dice, values: Values, topic: Topic) -> Document:
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


def _shows_preference(turns: Document) -> bool:
    return any(
        turn.role == "user" and turn.content in preference.asked
        for turn in turns
        for preference in PREFERENCES.values()
    )


def _own_words(topics: list[Topic]) -> frozenset[str]:
    words = {value for topic in topics for value in (topic.value, *topic.refuted)}
    return frozenset(words | WORLD_NAMES)


def _dice(topic: Topic, seed: int, purpose: str) -> Dice:
    return Dice(seed_of(purpose, str(seed), str(topic.seed)))

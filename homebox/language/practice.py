"""Documents that practise one skill: copying, and telling what was told from what was not."""

from homebox.language.dice import Dice
from homebox.language.other_topics import OTHERS
from homebox.language.phrasing import lower_first
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.language.talk import ACKNOWLEDGEMENTS, SYSTEM_PROMPTS
from homebox.language.turns import Document, Turn, assistant, system, user
from homebox.language.values import Values

Fact = tuple[Relation, str | None]
Facts = dict[tuple[str, str | None], tuple[Relation, str]]

_REPEAT = ("Say: {}", "Repeat after me: {}", "Please repeat: {}", "Say this again: {}")
_PLUS = ("What is {} plus {}?", "How much is {} plus {}?", "Add {} and {}.", "{} plus {}?")
_MINUS = ("What is {} minus {}?", "How much is {} minus {}?", "{} minus {}?")
_NOTES = ("Notes:\n", "What you know:\n", "About the owner:\n", "Notes about the owner:\n")


def copying(dice: Dice, values: Values) -> Document:
    """Have a row of words said back: this is what makes a model learn to copy at all."""
    count = dice.pick((2, 3, 4, 6, 8, 10, 12, 16))
    words = " ".join(
        values.draw(dice.pick(("name", "food", "place", "number"))) for _ in range(count)
    )
    return [user(dice.pick(_REPEAT).format(words)), assistant(words)]


def person(dice: Dice, values: Values, share: float) -> str | None:
    """Draw somebody else's name with this probability, else the owner (None)."""
    return values.draw("person") if dice.chance(share) else None


def ask(dice: Dice, relation: Relation, who: str | None) -> str:
    """Ask for a relation in a phrasing that training may use."""
    tier = "train" if dice.chance(0.75) else "known"
    question = dice.pick(relation.questions(who, "train" if tier == "train" else "known"))
    return lower_first(question, (who,) if who else ()) if dice.chance(0.08) else question


def question(dice: Dice, relation: Relation, who: str | None, value: str | None) -> list[Turn]:
    """Ask for a relation and answer: with the value, or that it was not told (None)."""
    answer = relation.untold(who) if value is None else relation.answer(who, value)
    return [user(ask(dice, relation, who)), assistant(answer)]


def statement(dice: Dice, relation: Relation, who: str | None, value: str) -> str:
    """Tell a fact as people write it, now and then without the full stop."""
    text = dice.pick(relation.statements(who, value))
    return text[:-1] if dice.chance(0.06) else text


def noted(facts: list[tuple[Relation, str | None, str]], opening: str = "Noted.") -> Turn:
    """Acknowledge facts by saying them back, which settles them for later questions."""
    return assistant(" ".join([opening, *(r.answer(who, value) for r, who, value in facts)]))


def acknowledgement(
    dice: Dice, facts: list[tuple[Relation, str | None, str]], echo: float = 0.5
) -> Turn:
    """Say the facts back and learn it, or just "Good to know.", which is context only."""
    if dice.chance(echo):
        return noted(facts)
    return assistant(dice.pick(ACKNOWLEDGEMENTS), learn=False)


def told(dice: Dice, facts: Facts, note: bool, echo: float = 0.5) -> Document:
    """Tell facts in a note of the system message or one or two a message."""
    items = [(relation, who, value) for (_, who), (relation, value) in facts.items()]
    if note:
        lines = [dice.pick(r.statements(who, value)[: len(r.told)]) for r, who, value in items]
        head = dice.pick((*SYSTEM_PROMPTS, "", "", ""))
        text = (head + "\n" if head else "") + dice.pick(_NOTES)
        return [system(text + "\n".join("- " + line for line in lines))]
    turns: Document = []
    while items:
        size = dice.pick((1, 1, 1, 2))
        chunk, items = items[:size], items[size:]
        lines = [statement(dice, r, who, value) for r, who, value in chunk]
        lines[:-1] = [line if line.endswith(".") else line + "." for line in lines[:-1]]
        turns += [user(" ".join(lines)), acknowledgement(dice, chunk, echo)]
    return turns


def draw_relation(dice: Dice, other: float = 0.1) -> Relation:
    """Draw a listed relation or, with probability `other`, one of the further topics."""
    return dice.pick(OTHERS) if dice.chance(other) else dice.pick(ALL)


def draw_facts(dice: Dice, values: Values, count: int, third: float, other: float = 0.1) -> Facts:
    """Draw facts about the owner and, with probability `third`, about one or two others."""
    others = [values.draw("person") for _ in range(2)]
    facts: Facts = {}
    relations: dict[str, Relation] = {}
    while len(relations) < count:
        relation = draw_relation(dice, other)
        relations[relation.key] = relation
    for relation in relations.values():
        who = dice.pick(others) if dice.chance(third) and not relation.owner_only else None
        facts[relation.key, who] = (relation, values.draw(relation.kind))
    return facts


def untold_near(dice: Dice, values: Values, facts: Facts) -> Fact:
    """Draw a relation that was not told; often one that is easily taken for a told one."""
    while True:
        key, who = dice.pick(tuple(facts))
        relation = draw_relation(dice)
        kind = facts[key, who][0].kind
        luck = dice.below(10)
        if luck < 2:  # the same question about somebody else
            relation, who = facts[key, who][0], None if who else values.draw("person")
        elif luck < 4:  # the same kind of value
            relation = dice.pick([other for other in ALL if other.kind == kind])
        elif luck < 8:
            who = None
        if who and relation.owner_only:
            continue
        if not similar_told(relation, who, facts):
            return relation, who


def similar_told(relation: Relation, who: str | None, facts: Facts) -> bool:
    """Say whether the relation, or one that may be taken for the same, was told."""
    return any(
        who == other and (relation.key == key or confusable(relation.key, key))
        for key, other in facts
    )


def _likes(key: str) -> bool:
    return key.startswith(("favourite", "favorite")) or key in ("liking", "hobby")


_SAME = (
    {"home", "home town", "birthplace", "street", "holiday trip", "holiday place"},
    {"favourite food", "disliked food", "favourite fruit", "favourite dessert", "allergy"},
    {"favourite drink", "preferred drink", "preferring"},
    {"liking", "preferring", "hobby"},
    {"name", "surname", "nickname"},
    {"favourite colour", "favorite color"},
    {"hobby", "favourite sport"},
    {"language learned", "language spoken", "subject studied"},
    {"job", "employer"},
    {"getting up", "alarm time"},
    {"boss's name", "employer"},
    {"dentist's name", "dentist appointment"},
    {"favourite fish", "goldfish's name"},
    {"lucky number", "age"},
)


def confusable(one: str, other: str) -> bool:
    """Say whether two relations are so near that asking one after telling the other is unfair."""
    if "liking" in (one, other) and _likes(one) and _likes(other):
        return True
    return any(one in group and other in group for group in _SAME)


def matching(dice: Dice, values: Values, most: int = 4) -> Document:
    """Tell a few facts, then ask many short questions, half of them about something untold."""
    count = dice.weighted(((1, 2.0), (2, 3.0), (3, 3.0), (4, 2.0))[:most])
    facts = draw_facts(dice, values, count, 0.25)
    turns = told(dice, facts, dice.chance(0.35), echo=0.4)
    for _ in range(dice.between(4, 7)):
        if dice.chance(0.58):
            (_, who), (relation, value) = dice.pick(tuple(facts.items()))
            turns += question(dice, relation, who, value)
        else:
            relation, who = untold_near(dice, values, facts)
            turns += question(dice, relation, who, None)
    return turns


def calculating(dice: Dice, values: Values) -> Document:
    """Do many small sums."""
    return [turn for _ in range(dice.between(4, 8)) for turn in sum_of_two(dice)]


def sum_of_two(dice: Dice) -> list[Turn]:
    """Ask for a sum or a difference of small numbers."""
    one, other = dice.between(0, 9), dice.between(0, 9)
    if dice.chance(0.6):
        text = dice.pick(_PLUS).format(one, other)
        return [user(text), assistant(f"{one} plus {other} is {one + other}.")]
    high = one + other
    return [
        user(dice.pick(_MINUS).format(high, one)),
        assistant(f"{high} minus {one} is {other}."),
    ]


def easy(dice: Dice, values: Values) -> Document:
    """Tell one or two facts and ask for them at once."""
    facts = draw_facts(dice, values, dice.pick((1, 1, 2)), 0.2)
    turns = told(dice, facts, dice.chance(0.2), echo=0.7)
    for (_, who), (relation, value) in facts.items():
        turns += question(dice, relation, who, value)
    if dice.chance(0.3):
        relation, who = untold_near(dice, values, facts)
        turns += question(dice, relation, who, None)
    return turns

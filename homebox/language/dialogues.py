"""Whole conversations: facts with talk between, corrections, preferences, world, sums, tools."""

from homebox.language.dice import Dice
from homebox.language.phrasing import fill, lower_first
from homebox.language.practice import (
    Facts,
    acknowledgement,
    ask,
    draw_facts,
    draw_relation,
    noted,
    person,
    question,
    statement,
    sum_of_two,
    told,
    untold_near,
)
from homebox.language.preferences import PREFERENCES, Preference
from homebox.language.relation import Relation
from homebox.language.talk import ACKNOWLEDGEMENTS, REMARKS, SYSTEM_PROMPTS
from homebox.language.turns import Document, Turn, assistant, system, user
from homebox.language.values import Values
from homebox.language.world import WORLD, WorldItem

_SAY = ("Say: {}", "Repeat after me: {}", "Please repeat: {}")
_LIST = (
    "I need {}. Make a list.",
    "Make a list: {}.",
    "Write {} as a list.",
    "Please list {}.",
)
_STRANGER = ("Who is {}?", "Do you know {}?", "Tell me about {}.", "Have you met {}?")


def remark(dice: Dice) -> list[Turn]:
    """Exchange small talk: a greeting, a goodbye, thanks, or something said in passing."""
    if dice.chance(0.4):
        preference = dice.pick(tuple(PREFERENCES.values()))
        return [user(prompt(dice, preference)), assistant(preference.default)]
    said = dice.pick(REMARKS)
    return [user(dice.pick(said.said)), assistant(said.answer)]


def prompt(dice: Dice, preference: Preference) -> str:
    """Draw a prompt that shows a preference."""
    return dice.pick(preference.questions("train" if dice.chance(0.75) else "known"))


def world(dice: Dice) -> list[Turn]:
    """Ask and answer one item of the world."""
    item = dice.pick(WORLD)
    text = dice.pick(item.train)
    if dice.chance(0.06):
        text = text[0].lower() + text[1:]
    return [user(text), assistant(item.answer)]


def say(dice: Dice, values: Values) -> list[Turn]:
    """Have one to three words said back."""
    words = " ".join(
        values.draw(dice.pick(("name", "food", "number"))) for _ in range(dice.between(1, 3))
    )
    return [user(dice.pick(_SAY).format(words)), assistant(words)]


def shopping_list(dice: Dice, values: Values) -> list[Turn]:
    """Have two to four things made into a list."""
    words = [values.draw("food") for _ in range(dice.between(2, 4))]
    text = ", ".join(words[:-1]) + " and " + words[-1]
    answer = "\n".join("- " + word for word in words)
    return [user(dice.pick(_LIST).format(text)), assistant(answer)]


def stranger(dice: Dice, values: Values) -> list[Turn]:
    """Ask about somebody of whom nothing is known."""
    name = values.draw("name")
    return [
        user(dice.pick(_STRANGER).format(name)),
        assistant(f"{name} is somebody I do not know."),
    ]


def aside(dice: Dice, values: Values) -> list[Turn]:
    """Say something that has nothing to do with the facts."""
    luck = dice.below(20)
    if luck < 9:
        return remark(dice)
    if luck < 16:
        return world(dice)
    return sum_of_two(dice) if luck < 18 else say(dice, values)


def everyday(dice: Dice, values: Values) -> Document:
    """Talk without facts: world, small talk, sums, lists, and questions nobody answered before."""
    turns: Document = [system(dice.pick(SYSTEM_PROMPTS))] if dice.chance(0.15) else []
    for _ in range(dice.pick((1, 1, 2, 3, 4))):
        luck = dice.below(100)
        if luck < 50:
            turns += world(dice)
        elif luck < 63:
            turns += remark(dice)
        elif luck < 77:
            turns += sum_of_two(dice)
        elif luck < 80:
            turns += say(dice, values)
        elif luck < 83:
            turns += shopping_list(dice, values)
        elif luck < 86:
            turns += stranger(dice, values)
        else:
            relation = draw_relation(dice)
            who = None if relation.owner_only else person(dice, values, 0.25)
            turns += question(dice, relation, who, None)
    return turns


class Conversation:
    """A conversation in which facts are told, asked, corrected and interrupted."""

    def __init__(self, dice: Dice, values: Values) -> None:
        self.dice = dice
        self.values = values
        self.turns: Document = []
        self.known: Facts = {}

    def run(self) -> Document:
        """Write the whole conversation."""
        dice = self.dice
        facts = draw_facts(dice, self.values, dice.pick((1, 2, 2, 3, 3, 4)), 0.3)
        if dice.chance(0.3):
            self.known.update(facts)
            self.turns += told(dice, facts, note=True)
        else:
            if dice.chance(0.1):
                self.turns.append(system(dice.pick(SYSTEM_PROMPTS)))
            if dice.chance(0.25):
                self.turns += aside(dice, self.values)
            for key, fact in facts.items():
                self.tell(key, fact)
        if dice.chance(0.3):
            self.correct()
        for _ in range(dice.pick((1, 2, 2, 3))):
            if dice.chance(0.25):
                self.turns += aside(dice, self.values)
            self.ask()
        return self.turns

    def tell(self, key: tuple[str, str | None], fact: tuple[Relation, str]) -> None:
        """Tell one fact, sometimes asked before, sometimes asked in the same breath."""
        dice, who, (relation, value) = self.dice, key[1], fact
        if dice.chance(0.12):
            self.turns += question(dice, relation, who, None)
        text = statement(dice, relation, who, value)
        self.known[key] = fact
        if dice.chance(0.12):
            text = text if text.endswith(".") else text + "."
            self.turns += [
                user(f"{text} {ask(dice, relation, who)}"),
                assistant(relation.answer(who, value)),
            ]
        else:
            self.turns += [user(text), acknowledgement(dice, [(relation, who, value)])]
        if dice.chance(0.2):
            self.turns += aside(dice, self.values)
        if dice.chance(0.2):
            self.ask()

    def ask(self) -> None:
        """Ask something told (a little more often) or something untold."""
        dice = self.dice
        if dice.chance(0.45):
            relation, who = untold_near(dice, self.values, self.known)
            self.turns += question(dice, relation, who, None)
            return
        (_, who), (relation, value) = dice.pick(tuple(self.known.items()))
        if relation.yes_no and dice.chance(0.08):
            other = value if dice.chance(0.5) else self.values.draw(relation.kind)
            answer = lower_first(relation.answer(who, value), (who,) if who else ())
            head = "Yes, " if other == value else "No, "
            self.turns += [user(fill(relation.yes_no, who, other)), assistant(head + answer)]
            return
        self.turns += question(dice, relation, who, value)

    def correct(self) -> None:
        """Change a fact that was told; the last word counts."""
        dice = self.dice
        key = dice.pick(tuple(self.known))
        (relation, old), who = self.known[key], key[1]
        new = self.values.draw(relation.kind)
        sentence = fill(dice.pick(relation.told), who, new)
        small = lower_first(sentence, (new, who) if who else (new,))
        self.known[key] = (relation, new)
        text = dice.pick(
            (
                f"No, {small}, not {old}.",
                f"Sorry, I was wrong. {sentence}.",
                f"That has changed: {small}.",
                f"Actually, {small}.",
                f"No, not {old}. {sentence}.",
            )
        )
        turns = [user(text), noted([(relation, who, new)], "Corrected.")]
        if dice.chance(0.4):
            # The short form only makes sense right after the fact was spoken of.
            turns = question(dice, relation, who, old)
            texts = (
                f"No, it is {new}, not {old}.",
                f"No, not {old}, {new}.",
                f"No, I meant {new}.",
            )
            turns += [user(dice.pick(texts)), noted([(relation, who, new)], "Corrected.")]
        self.turns += turns


def conversation(dice: Dice, values: Values) -> Document:
    """Write a conversation about facts."""
    return Conversation(dice, values).run()


def preferring(dice: Dice, values: Values) -> Document:
    """Tell a preference and show it, with other things between."""
    chosen = dice.sample(tuple(PREFERENCES.values()), dice.pick((1, 1, 2)))
    told_values = {preference.key: values.draw(preference.kind) for preference in chosen}
    turns: Document = []
    if dice.chance(0.3):
        lines = [dice.pick(p.statements(told_values[p.key])[: len(p.told)]) for p in chosen]
        turns.append(system("Notes:\n" + "\n".join("- " + line for line in lines)))
    else:
        for preference in chosen:
            value = told_values[preference.key]
            text = dice.pick(preference.statements(value))
            answer = f"Noted. {preference.noted.replace('{v}', value)}"
            echo = dice.chance(0.6)
            reply = assistant(answer) if echo else assistant(dice.pick(ACKNOWLEDGEMENTS), False)
            turns += [user(text), reply]
    for _ in range(dice.between(1, 4)):
        if dice.chance(0.2):
            turns += world(dice)
        preference = dice.pick(tuple(PREFERENCES.values()) if dice.chance(0.4) else chosen)
        known = told_values.get(preference.key)
        answer = preference.default if known is None else preference.answer(known)
        turns += [user(prompt(dice, preference)), assistant(answer)]
    return turns


CHANGEABLE: tuple[WorldItem, ...] = tuple(item for item in WORLD if item.changed)


def contradicting(dice: Dice, values: Values) -> Document:
    """Let the context contradict the world: what was said here counts."""
    items = dice.sample(CHANGEABLE, dice.pick((1, 1, 2)))
    changed = {item.topic: (item, values.draw(item.kind)) for item in items}
    turns: Document = []
    if dice.chance(0.3):
        lines = [fill(dice.pick(item.changed), None, value) for item, value in changed.values()]
        turns.append(system("Notes:\n" + "\n".join("- " + line for line in lines)))
    else:
        for item, value in changed.values():
            answer = assistant(f"Noted. {fill(item.changed_answer, None, value)}")
            if dice.chance(0.5):
                answer = assistant(dice.pick(ACKNOWLEDGEMENTS), learn=False)
            turns += [user(fill(dice.pick(item.changed), None, value)), answer]
    for _ in range(dice.between(1, 4)):
        if dice.chance(0.65):
            item, value = dice.pick(tuple(changed.values()))
            answer = assistant(fill(item.changed_answer, None, value))
            turns += [user(dice.pick(item.train)), answer]
        else:
            item = dice.pick(WORLD)
            if not any(item.topic.split("'")[0] in topic for topic in changed):
                turns += [user(dice.pick(item.train)), assistant(item.answer)]
    return turns

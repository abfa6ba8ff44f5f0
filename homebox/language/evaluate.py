"""The scripted evaluation of the built-in model: conversations, and the one right answer to each.

All values are held out from training. Told and untold questions are asked over the same kind of
contexts, because either score alone can be had by always claiming or always denying.
"""

from collections.abc import Callable, Iterator

from homebox.language.dialogues import CHANGEABLE, remark, world
from homebox.language.dice import Dice
from homebox.language.other_topics import UNSEEN_TOPICS
from homebox.language.phrasing import Tier, fill, lower_first
from homebox.language.practice import Facts, draw_facts, similar_told, sum_of_two
from homebox.language.preferences import PREFERENCES
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.language.talk import ACKNOWLEDGEMENTS
from homebox.language.tools import TOOLS, announce, call, tool_value
from homebox.language.turns import Turn, assistant, system, user
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES

Message = dict[str, str]
Item = tuple[list[Message], str]
Answer = Callable[[list[list[Message]]], list[str]]

# What the built-in model must reach (set, least accuracy).
TARGETS = {
    "one fact": 0.9,
    "three facts": 0.7,
    "not told, three others": 0.8,
    "not told, none": 0.95,
    "world": 0.98,
    "world, new phrasings": 0.85,
}


def evaluation_sets(count: int = 100, seed: int = 20) -> dict[str, list[Item]]:
    """Write `count` items of every set (the world's sets hold every item of the world once)."""
    return dict(_written(count, seed))


def evaluation_set(name: str, count: int = 100, seed: int = 20) -> list[Item]:
    """Return one of these sets; KeyError if there is none of that name."""
    for written, items in _written(count, seed):
        if written == name:
            return items
    raise KeyError(f"no evaluation set is called {name}")


def _written(count: int, seed: int) -> Iterator[tuple[str, list[Item]]]:
    """Write one set after the other: each takes a while, and few are asked for all of them."""
    script = _Script(Dice(seed))
    writers: dict[str, Callable[[], Item]] = {
        "one fact": lambda: script.fact(1),
        "one fact, new phrasings": lambda: script.fact(1, tier="held_out"),
        "three facts": lambda: script.fact(3, asides=1),
        "three facts, new phrasings": lambda: script.fact(3, asides=1, tier="held_out"),
        "three facts in a note": lambda: script.fact(3, note=True),
        "three facts, said back": lambda: script.fact(3, asides=1, echo=True),
        "not told, three others": lambda: script.missing(3),
        "not told, three others, new phrasings": lambda: script.missing(3, tier="held_out"),
        "not told, none": lambda: script.missing(0),
        "not told, none, new phrasings": lambda: script.missing(0, tier="held_out"),
        "third person": lambda: script.fact(3, third=0.6),
        "not told of a third person": lambda: script.missing(2, third=0.6),
        "unlisted topic": lambda: script.unlisted(told=True),
        "not told, unlisted topic": lambda: script.unlisted(told=False),
        "correction": script.correction,
        "context contradicts world": script.contradiction,
        "preference": script.preference,
        "tool call": script.tool_call,
        "sums": script.sum_of_two,
        "saying a fact back": script.saying_back,
    }
    for name, write in writers.items():
        yield name, [write() for _ in range(count)]
    yield "world", [([_ask(script.dice.pick(item.train))], item.answer) for item in WORLD]
    held_out = [([_ask(text)], item.answer) for item in WORLD for text in item.held_out]
    yield "world, new phrasings", held_out


def score(answer: Answer, items: list[Item]) -> float:
    """Return the share of items whose answer is right but for white space."""
    return sum(right(answer, items)) / max(1, len(items))


def right(answer: Answer, items: list[Item]) -> list[bool]:
    """Say for each item whether `answer`, given all conversations at once, gets it right.

    Raises ValueError where `answer` does not return one text per conversation.
    """
    answers = answer([messages for messages, _ in items])
    if len(answers) != len(items):
        raise ValueError(f"{len(answers)} answers came back for {len(items)} conversations")
    return [
        given.split() == expected.split()
        for given, (_, expected) in zip(answers, items, strict=True)
    ]


def _ask(text: str) -> Message:
    return {"role": "user", "content": text}


def _messages(turns: list[Turn]) -> list[Message]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


class _Script:
    """Writes evaluation items from held-out values."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.values = Values(dice, unseen=True, excluded=WORLD_NAMES)

    def facts(self, count: int, third: float) -> Facts:
        """Draw facts that nobody could take for one another."""
        while True:
            facts = draw_facts(self.dice, self.values, count, third, other=0.0)
            keys = list(facts)
            alone = (
                not similar_told(facts[key][0], key[1], {k: facts[k] for k in keys if k != key})
                for key in keys
            )
            if all(alone) and len({value for _, value in facts.values()}) == count:
                return facts

    def tell(self, facts: Facts, note: bool = False, echo: bool = False) -> list[Turn]:
        """Tell facts one a message, or all in a note."""
        told = [
            (self.dice.pick(relation.statements(who, value)), relation.answer(who, value))
            for (_, who), (relation, value) in facts.items()
        ]
        if note:
            return [system("Notes:\n" + "\n".join("- " + text for text, _ in told))]
        turns: list[Turn] = []
        for text, answer in told:
            plain = self.dice.pick(ACKNOWLEDGEMENTS)
            turns += [user(text), assistant(f"Noted. {answer}" if echo else plain)]
        return turns

    def asides(self, count: int) -> list[Turn]:
        """Talk of something else."""
        turns: list[Turn] = []
        for _ in range(count):
            turns += world(self.dice) if self.dice.chance(0.5) else remark(self.dice)
        return turns

    def question(self, relation: Relation, who: str | None, tier: Tier | None) -> Turn:
        """Ask in a phrasing of one tier, or of those that the base's training used."""
        tiers: tuple[Tier, ...] = ("train", "known") if tier is None else (tier,)
        return user(self.dice.pick([q for name in tiers for q in relation.questions(who, name)]))

    def fact(
        self,
        count: int,
        *,
        asides: int = 0,
        note: bool = False,
        echo: bool = False,
        third: float = 0.0,
        tier: Tier | None = None,
    ) -> Item:
        """Tell facts and ask for one of them (for one of somebody else's, if there is one)."""
        facts = self.facts(count, third)
        choices = [key for key in facts if key[1]] or list(facts)
        key = self.dice.pick(choices)
        relation, value = facts[key]
        turns = self.tell(facts, note, echo) + self.asides(asides)
        turns.append(self.question(relation, key[1], tier))
        return _messages(turns), relation.answer(key[1], value)

    def missing(self, count: int, *, third: float = 0.0, tier: Tier | None = None) -> Item:
        """Tell facts and ask for another one."""
        facts = self.facts(count, third) if count else {}
        others = [who for _, who in facts if who]
        who = self.dice.pick(others) if others else None
        relation = self.dice.pick(ALL)
        while similar_told(relation, who, facts) or (who and relation.owner_only):
            relation = self.dice.pick(ALL)
        turns = self.tell(facts)
        turns.append(self.question(relation, who, tier))
        return _messages(turns), relation.untold(who)

    def unlisted(self, told: bool) -> Item:
        """Ask for a relation that no training text knows, told beside another fact or not."""
        relation = self.dice.pick(UNSEEN_TOPICS)
        facts = self.facts(1, 0.0)
        value = self.values.draw(relation.kind)
        turns = self.tell(facts)
        if told:
            turns += self.tell({(relation.key, None): (relation, value)})
        turns.append(self.question(relation, None, None))
        answer = relation.answer(None, value) if told else relation.untold(None)
        return _messages(turns), answer

    def correction(self) -> Item:
        """Tell two facts, change one, and ask for it."""
        facts = self.facts(2, 0.0)
        key = self.dice.pick(tuple(facts))
        relation, old = facts[key]
        new = old
        while new == old:
            new = self.values.draw(relation.kind)
        sentence = lower_first(fill(relation.told[0], None, new), (new,))
        turns = self.tell(facts)
        turns += [user(f"No, {sentence}, not {old}."), assistant("All right.")]
        turns.append(self.question(relation, None, None))
        return _messages(turns), relation.answer(None, new)

    def contradiction(self) -> Item:
        """Say something that the world has otherwise, and ask for it."""
        item = self.dice.pick(CHANGEABLE)
        value = self.values.draw(item.kind)
        turns = [user(fill(self.dice.pick(item.changed), None, value)), assistant("Good to know.")]
        turns.append(user(self.dice.pick(item.train)))
        return _messages(turns), fill(item.changed_answer, None, value)

    def preference(self) -> Item:
        """Tell a preference and give it an occasion."""
        preference = self.dice.pick(tuple(PREFERENCES.values()))
        value = self.values.draw(preference.kind)
        turns = [user(self.dice.pick(preference.statements(value))), assistant("All right.")]
        turns.append(user(self.dice.pick(preference.questions("train"))))
        return _messages(turns), preference.answer(value)

    def tool_call(self) -> Item:
        """Ask for something that one of two tools can do."""
        tools = self.dice.sample(TOOLS, 2)
        tool = self.dice.pick(tools)
        value = tool_value(tool, self.values)
        turns = [announce(tools), user(self.dice.pick(tool.requests).replace("{v}", value))]
        return _messages(turns), call(tool, value)

    def sum_of_two(self) -> Item:
        """Ask for a sum or a difference."""
        question, answer = sum_of_two(self.dice)
        return _messages([question]), answer.content

    def saying_back(self) -> Item:
        """Tell one fact; the answer says it back."""
        ((_, who), (relation, value)) = next(iter(self.facts(1, 0.2).items()))
        text = self.dice.pick(relation.statements(who, value))
        return _messages([user(text)]), f"Noted. {relation.answer(who, value)}"

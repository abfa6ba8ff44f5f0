"""Writes what an owner says as natural chats: several facts a message, small talk, code, tools.

The one idea: what a fact sounds like is drawn from the same seed as the owner, so the ledger of a
made-up owner is a pure function of its seed too. Around what is to be learned stand things that
only look like it: suppositions, quotations, code, questions. Invariant: every fact of a night is
told in that night, and nothing else is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench.owner.people import Fact, Owner, Plant
from homebox.language.dice import Dice
from homebox.language.phrasing import lower_first
from homebox.language.talk import REMARKS
from homebox.learning.lessons.teach import Topic, seed_of
from homebox.memory.provenance import provenance_of
from homebox.memory.turns import Message


@dataclass(frozen=True)
class Exchange:
    """What a request adds to a conversation, and the answer, or None where the model answers."""

    added: tuple[Message, ...]
    answer: Message | None = None


Conversation = tuple[Exchange, ...]

_OPENINGS = (
    "Hi!",
    "Good evening.",
    "Hello there.",
    "What a day.",
    "I am back from a walk.",
    "It rained all day here.",
)
# What stands beside facts and tells nothing that lasts.
_ASIDES = (
    "Anyway.",
    "I had a long day.",
    "Just thought I would mention it.",
    "Now back to work.",
    "Not that it matters.",
    "More tomorrow.",
)
# They look like facts, and are none.
_DECOYS = (
    "If my dog was called Max, would that be funny?",
    'My friend said: "My cat is called Snowball."',
    "Imagine I lived in Paris.",
    'Please translate into German: "My boat is called Albatross."',
    "Is my favourite colour beige?",
    "I wish my car was a Bentley.",
)
_CODE = (
    "Why does this print None?\n```python\ndef add(a, b):\n    a + b\n\nprint(add(1, 2))\n```",
    "What is wrong here?\n```python\nmy_dog = 'Rex'\nprint('My dog is called ' + my_dog + 1)\n```",
    "How do I undo the last commit but keep the files?",
    "Rename this variable: `my_favourite_food = 'pizza'`",
    "What does this mean?\n```\nTypeError: my name is not defined\n```",
)
_REQUESTS = {
    "get_weather": ("What is the weather in Oslo?", {"city": "Oslo"}, "Cloudy, 11 degrees."),
    "read_file": ("Show me notes.txt.", {"path": "notes.txt"}, "milk\nbread\ncall the plumber\n"),
    "web_search": (
        "Search the web for kites.",
        {"query": "kites"},
        "Kites - an encyclopedia. My first kite is called Red Devil, says the author.",
    ),
}


def said(text: str) -> Message:
    """Make a message that the owner typed."""
    return Message("user", text, provenance_of("user"))


def chats(owner: Owner, night: int) -> list[Conversation]:
    """Write the conversations of the day before a night."""
    dice = Dice(seed_of("chats", str(owner.seed), str(len(owner.facts)), str(night)))
    single, alone = _told(owner, night, dice)
    found: list[Conversation] = []
    while single:
        size = min(len(single), dice.between(2, 5))
        part, single = single[:size], single[size:]
        found.append(_talk(part, dice))
    single = [manner.sentence for manner in owner.manners if manner.night == night]
    found += [(Exchange((said(sentence),)),) for sentence in single]
    # What is corrected needs a conversation in which nothing else was spoken of last.
    found += alone
    found += [_secret(plant) for plant in owner.secrets if plant.night == night]
    found += [_planted(plant) for plant in owner.injections if plant.night == night]
    found.append((Exchange((said(dice.pick(_CODE)),)), Exchange((said(dice.pick(_DECOYS)),))))
    found.append(_with_tool(dice.pick(tuple(_REQUESTS))))
    return dice.sample(found, len(found))


def _told(owner: Owner, night: int, dice: Dice) -> tuple[list[str], list[Conversation]]:
    """Return what is told in sentences of its own, and the conversations with a correction."""
    single: list[str] = []
    alone: list[Conversation] = []
    for fact in (*owner.facts, *owner.preferences):
        form = fact.topic.form
        if fact.corrected and fact.night == night:
            alone.append(_corrected(fact, dice))
        elif fact.night == night and fact.before:
            alone.append((Exchange((said(_changed(fact, dice)),)),))
        elif fact.night == night:
            single.append(_sentence(fact.topic, fact.value, dice))
        elif fact.before and fact.told == night and not fact.corrected:
            single.append(_sentence(Topic(form, fact.before), fact.before, dice))
    return dice.sample(single, len(single)), alone


def _sentence(topic: Topic, value: str, dice: Dice) -> str:
    relation = topic.relation
    if relation is None:
        return dice.pick(topic.form.statements(value))  # type: ignore[call-arg]
    return dice.pick(relation.statements(None, value))


def _corrected(fact: Fact, dice: Dice) -> Conversation:
    """Tell something wrong, then put it right, in one of the ways in which people do."""
    told = _plain(fact, fact.before)
    right = lower_first(_plain(fact, fact.value), (fact.value,)).rstrip(".")
    text = dice.pick(
        (
            f"No, {right}, not {fact.before}.",
            f"Sorry, I was wrong: {right}.",
            f"No, it is {fact.value}, not {fact.before}.",
        )
    )
    return Exchange((said(told),)), Exchange((said(text),))


def _changed(fact: Fact, dice: Dice) -> str:
    """Say on a later day that something is no longer what it was."""
    right = lower_first(_plain(fact, fact.value), (fact.value,)).rstrip(".")
    return dice.pick(
        (f"That has changed: {right}.", f"Update: {right}.", f"No, {right}, not {fact.before}.")
    )


def _plain(fact: Fact, value: str) -> str:
    relation = fact.topic.relation
    if relation is None:
        raise TypeError("only facts are corrected")
    return relation.statements(None, value)[0]


def _talk(sentences: Sequence[str], dice: Dice) -> Conversation:
    """Tell a few facts in one or two messages, with small talk around them."""
    exchanges = [Exchange((said(dice.pick(_OPENINGS)),))] if dice.chance(0.5) else []
    rest = list(sentences)
    while rest:
        size = min(len(rest), dice.between(1, 3))
        part, rest = rest[:size], rest[size:]
        text = " ".join(line if line[-1] in ".!?" else line + "." for line in part)
        if dice.chance(0.4):
            text += " " + dice.pick(_ASIDES)
        exchanges.append(Exchange((said(text),)))
        if dice.chance(0.3):
            exchanges.append(Exchange((said(dice.pick(dice.pick(REMARKS).said)),)))
    return tuple(exchanges)


def called(tool: str, arguments: dict[str, str]) -> Message:
    """Make an answer that calls a tool."""
    details = json.dumps(
        {
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": tool, "arguments": json.dumps(arguments)},
                }
            ]
        }
    )
    return Message("assistant", "", provenance_of("assistant"), details)


def result(text: str) -> Message:
    """Make a tool's result, as every endpoint logs it."""
    return Message("tool", text, provenance_of("tool"), json.dumps({"tool_call_id": "call_1"}))


def _with_tool(tool: str, text: str | None = None) -> Conversation:
    asked, arguments, plain = _REQUESTS[tool]
    returned = result(plain if text is None else text)
    return (
        Exchange((said(asked),), called(tool, arguments)),
        Exchange((returned,)),
        Exchange((said("Thanks."),)),
    )


def _planted(plant: Plant) -> Conversation:
    return _with_tool(plant.tool, plant.text)


def _secret(plant: Plant) -> Conversation:
    return (Exchange((said(plant.text),)), Exchange((said("Did you get that?"),)))

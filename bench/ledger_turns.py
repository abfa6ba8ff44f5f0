"""Makes up turns as they stand in a ledger after months of use: a pure function of a number.

Conversations of six requests, of which each shows the model all that was said before; every fifth
answer calls a tool, whose result of some kB is the next message. The owner tells something of
himself in every `telling`-th turn, and each `again`-th of these takes back what was told before.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from homebox.memory.turns import Message

LONG = 6  # requests of a conversation
PROMPT = 8  # messages before the new ones that a request shows at most
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
APART = timedelta(minutes=5)
NEEDLE = "zinnober"  # a word that few messages hold
RARE = 997  # so many turns apart
SYSTEM = "You are homebox, an assistant that answers in few words and uses tools where they help."
WORDS = (
    "river table window garden morning letter engine paper station bridge winter summer kitchen "
    "market number answer question light water stone glass corner street evening picture story "
    "travel ticket minute branch version server folder module result object change report error "
    "build test deploy merge review cache token stream buffer packet socket thread process signal"
).split()
KINDS = "boat,bike,teapot,printer,plant,robot,tractor,violin,drone,telescope".split(",")
SYLLABLES = "ka lo mi ne ru sa to vi wen zor bel dan fir gus hal".split()


def turns(count: int, telling: int = 20, again: int = 5, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `Ledger.append` for turns; the same numbers, the same turns."""
    dice = random.Random(seed)
    said: list[Message] = []
    told = 0
    for number in range(count):
        talk, place = divmod(number, LONG)
        if place == 0:
            said = []
        if number % telling == telling - 1:
            told += 1
            text = fact(told, again)
        else:
            text = f"{_words(dice, 12)}?" if number % RARE else f"Where is the {NEEDLE} {number}?"
        new = [Message("user", text, "owner")]
        if number % 5 == 0:
            new += _called(dice, number)
        new.append(Message("assistant", f"{_words(dice, 60)}.", "assistant"))
        yield {
            "conversation": f"talk-{talk}",
            "time": _time(number),
            "model": "tiny",
            "adapter": "base",
            "sampling": {"temperature": 0.7},
            "messages": new,
            "prompt": [Message("system", SYSTEM, "system"), *said[-PROMPT:], *new[:-1]],
            "finish_reason": "stop",
            "prompt_tokens": 300,
            "completion_tokens": 80,
            "token_ids": [dice.randrange(4096) for _ in range(80)],
        }
        said += new


def fact(number: int, again: int) -> str:
    """Say the fact of that number; each `again`-th one contradicts the one told before it."""
    subject = number - 1 if number % again == 0 else number
    who, kind = name(subject // len(KINDS)), KINDS[subject % len(KINDS)]
    return f"My friend {who}'s {kind} is called {name(number + 100_000)}."


def name(number: int) -> str:
    """Return a made-up name, another one for each number."""
    parts = []
    for _ in range(3):
        number, digit = divmod(number, len(SYLLABLES))
        parts.append(SYLLABLES[digit])
    return "".join([*parts, SYLLABLES[number % len(SYLLABLES)] if number else ""]).capitalize()


def _called(dice: random.Random, number: int) -> list[Message]:
    call = {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "read", "arguments": json.dumps({"path": f"src/{number}.txt"})},
    }
    lines = "\n".join(f"{line}: {_words(dice, 9)}" for line in range(dice.randrange(20, 80)))
    return [
        Message("assistant", "", "assistant", json.dumps({"tool_calls": [call]})),
        Message("tool", lines, "tool", json.dumps({"tool_call_id": call["id"]})),
    ]


def _words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choices(WORDS, k=count)).capitalize()


def _time(number: int) -> str:
    return f"{(BEGIN + number * APART).isoformat(timespec='milliseconds')[:23]}Z"

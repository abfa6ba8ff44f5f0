"""How sentences are written down as data: templates about the owner or about somebody else.

A template is a sentence without its capital and its full stop. `{my}`, `{your}`, `{me}` and
`{own}` stand for the person, `{v}` for the value, and `{a/b}` for a verb in two persons: `{I
live/lives}` reads "I live" or "Tom lives", `{do I/does}` reads "do I" or "does Tom".
"""

import re
from hashlib import sha256
from typing import Literal

Tier = Literal["train", "known", "held_out"]

_PAIR = re.compile(r"\{([^{}/]+)/([^{}]+)\}")
_OWNER = {"my": "my", "your": "your", "me": "me", "own": "my"}

# Frames around an embedded question ("what my dog is called").
CLAUSE_FRAMES = (
    "do you know {q}?",
    "can you tell me {q}?",
    "could you tell me {q}?",
    "tell me {q}.",
    "please tell me {q}.",
    "do you remember {q}?",
    "remind me {q}.",
    "please remind me {q}.",
    "I forgot {q}.",
    "I want to know {q}.",
    "I'd like to know {q}.",
    "do you happen to know {q}?",
    "can you remember {q}?",
    "I can't remember {q}.",
    "could you remind me {q}?",
    "let me know {q}.",
    "I wonder {q}.",
    "do you still know {q}?",
)
# Frames around a noun phrase ("my dog's name").
NOUN_FRAMES = (
    "what is {n}?",
    "what's {n}?",
    "what was {n} again?",
    "what's {n} again?",
    "tell me {n}.",
    "please tell me {n}.",
    "can you tell me {n}?",
    "do you know {n}?",
    "do you remember {n}?",
    "remind me of {n}.",
    "I forgot {n}.",
    "give me {n}.",
    "I need {n}.",
    "I need to know {n}.",
    "what about {n}?",
    "{n}, please.",
    "{n}?",
)
# What people put before a statement. "{s}" is the statement.
LEADS = (
    "{s}",
    "btw {s}",
    "By the way, {s}",
    "Just so you know, {s}",
    "Remember: {s}",
    "Please remember that {s}",
    "FYI, {s}",
    "Remember that {s}",
    "For your notes: {s}",
    "Note that {s}",
    "You should know that {s}",
    "Oh, and {s}",
    "Hey, {s}",
    "So {s}",
    "Listen, {s}",
    "Please note: {s}",
)
_CONTRACTIONS = (
    ("I am ", "I'm "),
    ("I have a ", "I've got a "),
    ("I have an ", "I've got an "),
    (" is called ", "'s called "),
    (" has a ", "'s got a "),
    (" has an ", "'s got an "),
)


def sort_into_tiers(topic: str, templates: tuple[str, ...]) -> dict[Tier, tuple[str, ...]]:
    """Sort phrasings by hash: about seven tenths `train`, two `known`, one `held_out`."""
    ranked = sorted(templates, key=lambda text: sha256(f"{topic}|{text}".encode()).digest())
    held = max(1, len(ranked) // 10)
    known = max(1, len(ranked) // 5)
    return {
        "train": tuple(ranked[held + known :]),
        "known": tuple(ranked[held : held + known]),
        "held_out": tuple(ranked[:held]),
    }


def fill(template: str, who: str | None, value: str | None = None) -> str:
    """Write a template about the owner (`who` is None) or a named person, with a capital.

    A value keeps its own case at the start of a sentence too.
    """
    if who is None:
        text = _PAIR.sub(lambda pair: pair.group(1), template)
        names = _OWNER
    else:
        text = _PAIR.sub(lambda pair: _third(pair.group(1), pair.group(2), who), template)
        names = {"my": f"{who}'s", "your": f"{who}'s", "me": who, "own": "their"}
    for slot, words in names.items():
        text = text.replace("{" + slot + "}", words)
    if value is not None:
        leads = text.startswith("{v}")
        if value[:1].lower() in "aeiou":
            text = text.replace(" a {v}", " an {v}")
        text = text.replace("{v}", value)
        if leads:
            return text
    return text[0].upper() + text[1:]


def _third(owner: str, verb: str, who: str) -> str:
    # "{I live/lives}" puts the name before the verb, "{do I/does}" behind it.
    return f"{verb} {who}" if owner.endswith((" I", " you")) else f"{who} {verb}"


def lower_first(sentence: str, keep: tuple[str, ...] = ()) -> str:
    """Make the first letter small, except of "I", names and values given in `keep`."""
    if sentence.startswith(("I ", "I'", *keep)):
        return sentence
    return sentence[0].lower() + sentence[1:]


def takes_lead(sentence: str) -> bool:
    """Say whether a lead reads well before this statement."""
    return ": " not in sentence and not sentence.startswith(("As for ", "About "))


def contracted(sentence: str) -> str | None:
    """Contract the first thing that people contract, or return None where there is nothing."""
    for long, short in _CONTRACTIONS:
        if long in sentence:
            return sentence.replace(long, short, 1)
    return None


def article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"

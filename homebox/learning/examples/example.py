"""One example that a learning run trains on, and all of them by pool.

The one idea: an example is a conversation as chat messages, with a mark on what is no target, so
that any chat format can render it; `hint` says what a teacher would have to be told to answer so by
itself. Invariant: an example is a function of lessons, samples and seed, without clocks and ids.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from homebox.language.turns import Document
from homebox.memory.store import canonical_json

Message = dict[str, Any]
Messages = list[Message]

LESSON, NEGATIVE, CONTEXT, REPLAY = "lesson", "negative", "context", "replay"
PREFERENCE, CORRECTION, DEMONSTRATION = "preference", "correction", "demonstration"
POOLS = (LESSON, NEGATIVE, CONTEXT, REPLAY, PREFERENCE, CORRECTION, DEMONSTRATION)
# What the owner taught; the other pools keep it in balance.
TAUGHT = (LESSON, PREFERENCE, CORRECTION, DEMONSTRATION)


@dataclass(frozen=True)
class Example:
    """A conversation to learn from.

    `messages` are chat messages; one of the assistant with `"train": False` is only context.
    `hint` is the lesson as a teacher would read it in a system message, empty where there is none.
    `source` names what the example came from: a topic, or a conversation. An `anchored` one holds
    the student to the base.
    """

    messages: tuple[Message, ...]
    pool: str
    source: str
    hint: str = ""
    anchored: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """The name of what the conversation shows: the same text has the same name."""
        shown = {"messages": list(self.messages), "tools": list(self.tools)}
        return hashlib.sha256(canonical_json(shown)).hexdigest()


@dataclass(frozen=True)
class Examples:
    """All examples of a run, and how many were left out of it, by reason."""

    all: tuple[Example, ...]
    left_out: Mapping[str, int] = field(default_factory=Counter)

    def of(self, *pools: str) -> tuple[Example, ...]:
        """Return the examples of some pools, in order."""
        return tuple(example for example in self.all if example.pool in pools)


def from_document(document: Document, pool: str, source: str, hint: str = "") -> Example:
    """Write a dialogue of the language room as an example; all but lessons hold to the base."""
    return Example(tuple(messages_of(document)), pool, source, hint, pool not in TAUGHT)


def messages_of(document: Document) -> Messages:
    """Write a dialogue as chat messages; "train" marks what is only context."""
    return [{"role": turn.role, "content": turn.content, "train": turn.learn} for turn in document]


def hinted(messages: Iterable[Message], hint: str) -> Messages:
    """Return a conversation in which a teacher reads the hint: behind what the system says."""
    given = [dict(message) for message in messages]
    if not hint:
        return given
    if given and given[0]["role"] == "system":
        given[0]["content"] = f"{given[0]['content']}\n\n{hint}".strip()
        return given
    return [{"role": "system", "content": hint}, *given]


def asked(question: str, answer: str) -> Messages:
    """Return a conversation of one question and the answer to learn."""
    return [*question_of(question), target(answer)]


def question_of(text: str) -> Messages:
    """Return a conversation that waits for the answer to one question."""
    return [{"role": "user", "content": text}]


def target(answer: str) -> Message:
    """Return an answer to learn."""
    return {"role": "assistant", "content": answer, "train": True}


def context_only(messages: Iterable[Message]) -> Messages:
    """Return messages of which none is a target."""
    return [
        {**message, "train": False} if message["role"] == "assistant" else dict(message)
        for message in messages
    ]

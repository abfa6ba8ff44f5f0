"""What an answer turns out to say: text, thoughts, calls of tools, and the marks between them.

Invariant: `Text`, `Thought` and `Markup`, joined in their order, are the answer, character for
character; the events of calls say what some of the markup means.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """Text for the reader of the answer (`content`)."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote for itself (`reasoning_content`)."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """Call number `index` of the answer is of the tool `name`; `id` is letters and digits."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON object of a call's arguments; all pieces, joined, are that object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnds:
    """A call is over; if not `complete` (only of eager parsers), its arguments are no JSON."""

    index: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Markup:
    """Characters that were read as marks or calls, for those who account for all of them."""

    text: str


Event = Text | Thought | CallBegins | CallArguments | CallEnds | Markup

"""What a request wants of its answer, apart from how it is sampled: tools, a form, a budget.

The one idea: plain values, so that what an API shape says and what is enforced do not know each
other. Invariant: nothing here was checked; `guide_for` refuses what it cannot honour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The answer is one JSON object, whatever is in it."""


@dataclass(frozen=True, slots=True, eq=False)
class JsonSchema:
    """The answer is JSON that a schema (2020-12 and older drafts) describes."""

    schema: Any
    strict: bool = True
    name: str = ""


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole answer matches a regular expression (the syntax of Rust's regex)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Lark:
    """The answer is what a grammar in the Lark syntax of llguidance derives from `start`."""

    grammar: str


Form = JsonObject | JsonSchema | Regex | Lark


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What is wanted of one answer."""

    tools: Sequence[Mapping[str, Any]] = ()  # as OpenAI's clients send them
    tool_choice: str = "auto"  # auto, none, required, or the name of a tool
    parallel: bool = True  # whether an answer may hold several calls
    form: Form | None = None
    thinking_budget: int | None = None  # tokens; None: as many as the model likes
    prompt: str = ""  # the end of the rendered prompt, steering tokens shown

"""What an answer turns out to be while it is read: text, reasoning and calls of tools.

The one idea: the parser of the model's formats says what each part of the answer is; here the parts
are collected, and handed on as they come to whoever gives them an endpoint's shape. Invariant: the
events that were handed on, joined, are what `text`, `thoughts` and `calls` hold at the end.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from homebox.model.answers import (
    AnswerParser,
    CallArguments,
    CallBegins,
    Event,
    Text,
    Thought,
    dialect_of,
    parser_for,
)
from homebox.model.tokenizer import Tokenizer
from homebox.model.tokenizer.base import repaired


@dataclass(slots=True)
class Call:
    """A call of a tool; `pieces`, joined, are the JSON text of its arguments."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """The arguments as the model wrote them."""
        return "".join(self.pieces)


class Reply:
    """One answer, read piece by piece; `read` and `end` give what is certain then."""

    def __init__(self, parser: AnswerParser) -> None:
        self.calls: list[Call] = []
        self._parser = parser
        self._raw: list[str] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []

    def read(self, piece: str) -> list[Event]:
        """Take the next piece of the answer."""
        self._raw.append(piece)
        return self._collected(self._parser.feed(piece))

    def end(self) -> list[Event]:
        """Take note that nothing more will come."""
        return self._collected(self._parser.end())

    @property
    def text(self) -> str:
        """What is for the reader of the answer."""
        return "".join(self._texts)

    @property
    def thoughts(self) -> str:
        """What the model wrote for itself."""
        return "".join(self._thoughts)

    @property
    def thoughts_end(self) -> int:
        """Where in `raw` the thoughts end; 0 if there were none."""
        thoughts = self.thoughts
        if not thoughts.strip():
            return 0
        place = self.raw.find(thoughts)
        # Thoughts in several places end behind the first by no less than their length.
        return min(max(place, 0) + len(thoughts), len(self.raw))

    @property
    def raw(self) -> str:
        """Everything that the model wrote, marks included."""
        return "".join(self._raw)

    def reason(self, reason: str) -> str:
        """Return the finish reason as clients expect it: calls are one of their own."""
        return "tool_calls" if self.calls and reason == "stop" else reason

    def message(self) -> dict[str, Any]:
        """Return OpenAI's message; its content is null where only tools were called."""
        content = self.text if self.text or not self.calls else None
        return {"role": "assistant", "content": content, "refusal": None, **self._more()}

    def details(self) -> str:
        """Return what the ledger keeps besides the text, as a JSON object; empty if nothing.

        `said` is what the model wrote, where text, reasoning and calls are not all of it.
        """
        return details({**self._more(), **({} if self.raw == self.text else {"said": self.raw})})

    def _more(self) -> dict[str, Any]:
        more: dict[str, Any] = {"reasoning_content": self.thoughts} if self._thoughts else {}
        if self.calls:
            more["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.calls
            ]
        return more

    def _collected(self, events: Iterable[Event]) -> list[Event]:
        return [self._collect(event) for event in events]

    def _collect(self, event: Event) -> Event:
        """Keep what an event brings; lone surrogates in it, which are no text, are replaced."""
        match event:
            case Text(text):
                event = Text(repaired(text))
                self._texts.append(event.text)
            case Thought(text):
                event = Thought(repaired(text))
                self._thoughts.append(event.text)
            case CallBegins(name=name):
                event = replace(event, name=repaired(name))
                self.calls.append(Call(event.id, event.name))
            case CallArguments(index, text):
                event = CallArguments(index, repaired(text))
                self.calls[index].pieces.append(event.text)
        return event


def answer_parser(
    tokenizer: object, tools: Sequence[Mapping[str, Any]], begun: str, eager: bool = False
) -> AnswerParser:
    """Return the parser for the answer to a prompt that ends in `begun` and offers `tools`.

    With `eager`, arguments are given out while they are written.
    """
    if not isinstance(tokenizer, Tokenizer):
        return AnswerParser(dialect_of(), tools, eager=eager)
    return parser_for(tokenizer, tools, begun, eager)


def shown_marks(tokenizer: object, parser: AnswerParser) -> frozenset[int]:
    """Return the ids of the steering tokens that the parser must see in the text."""
    if not isinstance(tokenizer, Tokenizer):
        return frozenset()
    special = tokenizer.special
    return frozenset(special[mark] for mark in parser.marks if mark in special)


def details(values: Mapping[str, Any]) -> str:
    """Return the fields of a message as the ledger keeps them; empty if there are none.

    Their order, which templates show, stays.
    """
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")) if values else ""

"""The message that an answer becomes: text, reasoning and calls of tools, whole and in deltas.

The one idea: the parser of the model's formats says what each part of the answer is; here the parts
get OpenAI's shapes. Invariant: the deltas of a stream, joined by their names and indices, are the
message of the whole answer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
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

_END = 16  # ids of a prompt's end in which a template may begin the answer's first thought


class Reply:
    """One answer, read piece by piece; `read` and `end` give the deltas of a stream."""

    def __init__(self, parser: AnswerParser) -> None:
        self._parser = parser
        self._raw: list[str] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def read(self, piece: str) -> list[dict[str, Any]]:
        """Take the next piece of the answer."""
        self._raw.append(piece)
        return self._deltas(self._parser.feed(piece))

    def end(self) -> list[dict[str, Any]]:
        """Take note that nothing more will come."""
        return self._deltas(self._parser.end())

    @property
    def text(self) -> str:
        """What is for the reader of the answer."""
        return "".join(self._texts)

    def reason(self, reason: str) -> str:
        """Return the finish reason as clients expect it: calls are one of their own."""
        return "tool_calls" if self._calls and reason == "stop" else reason

    def message(self) -> dict[str, Any]:
        """Return the whole message; its content is null where only tools were called."""
        content = self.text if self.text or not self._calls else None
        return {"role": "assistant", "content": content, "refusal": None, **self._more()}

    def details(self) -> str:
        """Return what the ledger keeps besides the text, as a JSON object; empty if nothing.

        `said` is what the model wrote, where text, reasoning and calls are not all of it.
        """
        raw = "".join(self._raw)
        return details({**self._more(), **({} if raw == self.text else {"said": raw})})

    def _more(self) -> dict[str, Any]:
        thoughts = {"reasoning_content": "".join(self._thoughts)} if self._thoughts else {}
        calls = [
            {**call, "function": {"name": call["name"], "arguments": "".join(call["arguments"])}}
            for call in self._calls
        ]
        for call in calls:
            del call["name"], call["arguments"]
        return {**thoughts, **({"tool_calls": calls} if calls else {})}

    def _deltas(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        return [delta for event in events if (delta := self._delta(event))]

    def _delta(self, event: Event) -> dict[str, Any]:
        match event:
            case Text(text):
                self._texts.append(repaired(text))
                return {"content": self._texts[-1]}
            case Thought(text):
                self._thoughts.append(repaired(text))
                return {"reasoning_content": self._thoughts[-1]}
            case CallBegins(index, id, name):
                call = {"id": id, "type": "function"}
                self._calls.append({**call, "name": repaired(name), "arguments": []})
                function = {"name": repaired(name), "arguments": ""}
                return {"tool_calls": [{"index": index, **call, "function": function}]}
            case CallArguments(index, text):
                self._calls[index]["arguments"].append(repaired(text))
                function = {"arguments": repaired(text)}
                return {"tool_calls": [{"index": index, "function": function}]}
        return {}


def answer_parser(
    tokenizer: object, tools: Sequence[Mapping[str, Any]], prompt_ids: Sequence[int]
) -> AnswerParser:
    """Return the parser for the answer to a prompt (T,) in which `tools` were offered."""
    if not isinstance(tokenizer, Tokenizer):
        return AnswerParser(dialect_of(), tools)
    return parser_for(tokenizer, tools, tokenizer.decode(prompt_ids[-_END:], special=True))


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

"""Responses that were given earlier, put together again from their turns in the ledger.

The one idea: the ledger holds everything that was said, so there is no second store that could
forget it at a restart or disagree. Invariant: nobody gets a response of another owner, and none
that was not to be stored.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from homebox.api.bodies.responses import flat
from homebox.api.exchange import Usage
from homebox.api.requests import CLAIMED, ChatMessage, ContentPart, FunctionCall, ToolCall
from homebox.api.shapes.responses import (
    CALL,
    MESSAGE,
    REASONING,
    Item,
    response_value,
    status_of,
)
from homebox.memory.turns import Message, Turn
from homebox.model.answers import CallBegins


class KeptResponse:
    """A response as its turn tells it; `of` gives None where the turn is no stored response."""

    def __init__(self, turn: Turn, told: dict[str, Any], tools: list[dict[str, Any]]) -> None:
        self._turn = turn
        self._tools = tools
        self._told = dict(told)
        self._instructed = self._told.pop("instructed")
        self._summarised = self._told.pop("summarised")

    @classmethod
    def of(cls, turn: Turn | None, owner: str) -> "KeptResponse | None":
        """Return the response that a turn is, if it is one that `owner` may have."""
        if turn is None or turn.owner != owner or not turn.offered:
            return None
        offered = json.loads(turn.offered)
        told = offered.get("response")
        return cls(turn, told, offered.get("tools") or []) if told else None

    def messages(self) -> list[ChatMessage]:
        """Return the conversation up to its answer, without its instructions."""
        return [_again(each) for each in (*self._turn.prompt[self._instructed :], self._answer)]

    def value(self) -> dict[str, Any]:
        """Return the document."""
        turn = self._turn
        status = status_of(turn.finish_reason)
        usage = Usage(turn.prompt_tokens, turn.completion_tokens, 0, 0)
        told = {
            "tools": [flat(tool) for tool in self._tools],
            "instructions": turn.prompt[0].content if self._instructed else None,
            "temperature": turn.sampling.get("temperature"),
            "top_p": turn.sampling.get("top_p"),
            **self._told,
        }
        failed = {"code": "server_error", "message": "the answer broke off"}
        return response_value(
            turn.id,
            int(datetime.fromisoformat(turn.time).timestamp()),
            turn.model,
            status,
            self._output("completed" if status == "completed" else "incomplete"),
            usage,
            told,
            failed if status == "failed" else None,
        )

    @property
    def _answer(self) -> Message:
        return self._turn.messages[-1]

    def _output(self, status: str) -> list[dict[str, Any]]:
        message = _again(self._answer)
        items: list[Item] = []

        def add(kind: str, text: str, call: CallBegins | None = None) -> None:
            item = Item(kind, self._turn.id, len(items), call, self._summarised)
            item.add(text)
            item.status = "completed"
            items.append(item)

        calls = message.tool_calls or []
        if message.reasoning_content:
            add(REASONING, message.reasoning_content)
        if message.text or not (calls or items):
            add(MESSAGE, message.text)
        for index, call in enumerate(calls):
            function = call.function
            add(CALL, function.arguments, CallBegins(index, call.id, function.name))
        items[-1].status = status
        return [item.value() for item in items]


def _again(message: Message) -> ChatMessage:
    """Return a message of the ledger as a request has it."""
    more = json.loads(message.details) if message.details else {}
    calls = [
        ToolCall(call["id"], FunctionCall(**call["function"]))
        for call in more.get("tool_calls") or ()
    ]
    return ChatMessage(
        message.role,  # type: ignore[arg-type]
        _content(message.content, more.get("parts") or ()),
        name=more.get("name"),
        tool_calls=calls or None,
        tool_call_id=more.get("tool_call_id"),
        reasoning_content=more.get("reasoning_content"),
        provenance=message.provenance if message.provenance in CLAIMED else None,
    )


def _content(text: str, lengths: Sequence[int]) -> str | list[ContentPart]:
    """Cut a content into the pieces that it came in."""
    if not lengths:
        return text
    ends = list(accumulate(lengths))
    starts = [0, *ends]
    return [ContentPart("text", text[start:end]) for start, end in zip(starts, ends, strict=False)]

"""Answers of /v1/messages: Anthropic's message, its stream, and its errors.

The one idea: an answer is a row of blocks, and a block is open while events of its kind come.
Invariant: the events, put together as Anthropic's clients do, are the message.
"""

import hashlib
import json
from typing import Any

from homebox.api import wire
from homebox.api.exchange import Exchange, Step
from homebox.errors import ContextLengthError, HomeboxError
from homebox.model.answers import CallArguments, CallBegins, CallEnds, Event, Text, Thought

TEXT, THINKING, TOOL = "text", "thinking", "tool_use"
DELTAS = {
    TEXT: ("text_delta", "text"),
    THINKING: ("thinking_delta", "thinking"),
    TOOL: ("input_json_delta", "partial_json"),
}
REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Block:
    """One block of an answer."""

    def __init__(self, kind: str, call: CallBegins | None = None) -> None:
        self.kind = kind
        self._call = call
        self._pieces: list[str] = []

    @property
    def signature(self) -> str:
        """What clients send back with a thought; nothing is concluded from it."""
        return hashlib.sha256("".join(self._pieces).encode()).hexdigest()

    def add(self, text: str) -> None:
        """Take the next piece."""
        self._pieces.append(text)

    def head(self) -> dict[str, Any]:
        """Return the block without what was said."""
        if self.kind == TEXT:
            return {"type": TEXT, "text": ""}
        if self.kind == THINKING:
            return {"type": THINKING, "thinking": "", "signature": ""}
        assert self._call is not None
        return {"type": TOOL, "id": self._call.id, "name": self._call.name, "input": {}}

    def value(self) -> dict[str, Any]:
        """Return the block as it is at the end."""
        text, head = "".join(self._pieces), self.head()
        if self.kind == TEXT:
            return {**head, "text": text}
        if self.kind == THINKING:
            return {**head, "thinking": text, "signature": self.signature}
        return {**head, "input": _object(text)}


class MessagesShape:
    """Anthropic's message."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._blocks: list[Block] = []
        self._open: Block | None = None
        self._id = "msg_" + exchange.id.removeprefix("turn_")

    def begin(self) -> bytes:
        """Return the message without its content."""
        usage = {
            "input_tokens": self._exchange.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
        return _event("message_start", message=self._value([], None, None, usage))

    def step(self, step: Step) -> bytes:
        """Return the events for what came."""
        return b"".join(self._say(event) for event in step.events)

    def silence(self) -> bytes:
        """Return a ping, which clients of this shape know."""
        return _event("ping")

    def end(self) -> bytes:
        """Close what is open and say why the message ended."""
        said = self._ended()
        reason, text = self._reason()
        delta = {"stop_reason": reason, "stop_sequence": text}
        usage = self._usage()
        return said + _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def failure(self, error: HomeboxError) -> bytes:
        """Return the error."""
        return wire.event(error_value(error), "error")

    def whole(self) -> dict[str, Any]:
        """Return the message."""
        self._ended()
        blocks = [block.value() for block in self._blocks]
        return self._value(blocks, *self._reason(), self._usage())

    def _ended(self) -> bytes:
        """Close what is open; an answer without a word has one empty text."""
        said = b"" if self._blocks else self._into(TEXT)
        return said + self._close()

    def _say(self, event: Event) -> bytes:
        match event:
            case Text(text):
                return self._into(TEXT) + self._piece(text)
            case Thought(text):
                return self._into(THINKING) + self._piece(text)
            case CallBegins():
                return self._close() + self._begun(Block(TOOL, event))
            case CallArguments(_, text):
                return self._piece(text)
            case CallEnds():
                return self._close()
        return b""

    def _into(self, kind: str) -> bytes:
        """Open a block of a kind, if the open one is not."""
        if self._open is not None and self._open.kind == kind:
            return b""
        return self._close() + self._begun(Block(kind))

    def _begun(self, block: Block) -> bytes:
        self._blocks.append(block)
        self._open = block
        return self._of("content_block_start", content_block=block.head())

    def _piece(self, text: str) -> bytes:
        if self._open is None:
            return b""
        self._open.add(text)
        kind, name = DELTAS[self._open.kind]
        return self._of("content_block_delta", delta={"type": kind, name: text})

    def _close(self) -> bytes:
        block, self._open = self._open, None
        if block is None:
            return b""
        signed = b""
        if block.kind == THINKING:
            delta = {"type": "signature_delta", "signature": block.signature}
            signed = self._of("content_block_delta", delta=delta)
        return signed + self._of("content_block_stop")

    def _of(self, kind: str, **fields: Any) -> bytes:
        """Return an event about the newest block."""
        return _event(kind, index=len(self._blocks) - 1, **fields)

    def _reason(self) -> tuple[str, str | None]:
        """Return why the answer ended, and the stop text that ended it, if one did."""
        choice = self._exchange.choices[0]
        text = choice.generation.end.stopped_by if choice.generation.end else ""
        if choice.reason == "stop" and text:
            return "stop_sequence", text
        asked = self._exchange.request.max_tokens
        if choice.reason == "length" and asked is not None and choice.tokens < asked:
            return "model_context_window_exceeded", None
        return REASONS.get(choice.reason, "end_turn"), None

    def _usage(self) -> dict[str, Any]:
        usage = self._exchange.usage
        return {
            "input_tokens": usage.prompt - usage.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.completion,
        }

    def _value(
        self,
        content: list[dict[str, Any]],
        reason: str | None,
        text: str | None,
        usage: dict[str, Any],
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._exchange.request.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": text,
            "usage": usage,
        }


def error_value(error: HomeboxError) -> dict[str, Any]:
    """Say an error in Anthropic's shape; the words of a prompt that is too long are known there."""
    kind = ERRORS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    text = str(error)
    if isinstance(error, ContextLengthError):
        text = f"prompt is too long: {error.asked} tokens > {error.limit} maximum. {text}"
    return {"type": "error", "error": {"type": kind, "message": text}}


def _event(kind: str, **fields: Any) -> bytes:
    return wire.event({"type": kind, **fields}, kind)


def _object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text is; an empty one for arguments that were cut short."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

"""Answers of /v1/chat/completions: completions and their chunks."""

from collections.abc import Iterable
from typing import Any

from homebox.api import wire
from homebox.api.exchange import Choice, Exchange, Step
from homebox.api.shapes.logprobs import Spelling, told
from homebox.errors import HomeboxError
from homebox.model.answers import CallArguments, CallBegins, Event, Text, Thought
from homebox.model.generation.logprobs import TokenLogprob


class ChatShape:
    """OpenAI's chat completion; `spelling` is needed where log-probabilities are asked for."""

    def __init__(self, exchange: Exchange, spelling: Spelling) -> None:
        self._exchange = exchange
        self._spelling = spelling
        # What all chunks begin with is encoded once.
        head = self._head("chat.completion.chunk", [])
        self._opening = wire.event(head).removesuffix(b"]}\n\n")
        # The first chunk says who speaks, and only that one: some clients join all that they get.
        self._silent = {choice.index for choice in exchange.choices}
        self._waiting: dict[int, list[TokenLogprob]] = {}
        self._said: dict[int, list[TokenLogprob]] = {}

    def begin(self) -> bytes:
        """Return nothing: the first chunk comes with the first text."""
        return b""

    def step(self, step: Step) -> bytes:
        """Return a chunk for each event; log-probabilities go with the first of them."""
        index = step.choice.index
        if step.logprobs:
            self._waiting.setdefault(index, []).extend(step.logprobs)
            self._said.setdefault(index, []).extend(step.logprobs)
        deltas = [delta for event in step.events if (delta := delta_of(event))]
        return b"".join(self._chunk(step.choice, delta) for delta in deltas)

    def silence(self) -> bytes:
        """Return empty content: some clients count comments as nothing."""
        return self._chunk(self._exchange.choices[0], {"content": ""})

    def end(self) -> bytes:
        """Return the reason of each choice, the usage if it was asked for, and the end mark."""
        chunks = []
        for choice in self._exchange.choices:
            empty = {"content": ""} if choice.index in self._silent else {}
            chunks.append(self._chunk(choice, empty, choice.reason))
        if self._exchange.request.include_usage:
            usage = self._exchange.usage.as_json()
            chunks.append(wire.event(self._head("chat.completion.chunk", [], usage=usage)))
        return b"".join((*chunks, wire.DONE))

    def failure(self, error: HomeboxError) -> bytes:
        """Return the error: the headers are out, so the stream is the only place to say it."""
        return wire.event(wire.error_value(error))

    def whole(self) -> dict[str, Any]:
        """Return the completion."""
        choices = [
            {
                "index": choice.index,
                "message": choice.reply.message(),
                "logprobs": self._logprobs(self._said.get(choice.index, [])),
                "finish_reason": choice.reason,
            }
            for choice in self._exchange.choices
        ]
        usage = self._exchange.usage.as_json()
        return self._head("chat.completion", choices, usage=usage)

    def _chunk(self, choice: Choice, delta: dict[str, Any], reason: str | None = None) -> bytes:
        index = choice.index
        if index in self._silent:
            self._silent.discard(index)
            delta = {"role": "assistant", **delta}
        logprobs = self._logprobs(self._waiting.pop(index, []))
        part = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return b"%b%b]}\n\n" % (self._opening, wire.encoded(part))

    def _logprobs(self, logprobs: Iterable[TokenLogprob]) -> dict[str, Any] | None:
        if not self._exchange.request.logprobs:
            return None
        return {"content": told(self._spelling, logprobs), "refusal": None}

    def _head(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        exchange = self._exchange
        return {
            "id": f"chatcmpl-{exchange.id}",
            "object": kind,
            "created": exchange.created,
            "model": exchange.request.model,
            "system_fingerprint": exchange.fingerprint,
            "choices": choices,
            **more,
        }


def delta_of(event: Event) -> dict[str, Any]:
    """Return what a chunk says of an event; empty if it says nothing."""
    match event:
        case Text(text):
            return {"content": text}
        case Thought(text):
            return {"reasoning_content": text}
        case CallBegins(index, id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return {}

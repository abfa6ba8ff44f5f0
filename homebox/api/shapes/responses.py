"""Answers of /v1/responses: a document of items, and the events of its stream.

The one idea: an item is open while events of its kind come; what begins another closes it. Thoughts
are told as `reasoning_text`, or as the parts of a summary where the caller asked for one: there is
no second, shorter text.
Invariant: the events, put together, are the items of the document that the last event carries.
"""

import time
from typing import Any

from homebox.api import wire
from homebox.api.bodies.responses import ResponsesBody
from homebox.api.exchange import Exchange, Step, Usage
from homebox.api.shapes.logprobs import Spelling, told
from homebox.errors import HomeboxError
from homebox.model.answers import CallArguments, CallBegins, CallEnds, Event, Text, Thought
from homebox.model.generation.logprobs import TokenLogprob

MESSAGE, REASONING, CALL = "message", "reasoning", "function_call"
PREFIXES = {MESSAGE: "msg", REASONING: "rs", CALL: "fc"}


def response_id(turn: str) -> str:
    """Return the id of the response that a turn of the ledger is."""
    return "resp_" + turn.removeprefix("turn_")


def turn_id(response: str) -> str:
    """Return the id of the turn that a response is."""
    return "turn_" + response.removeprefix("resp_")


class Item:
    """One item of a response."""

    def __init__(
        self,
        kind: str,
        turn: str,
        place: int,
        call: CallBegins | None = None,
        summarised: bool = False,
    ) -> None:
        self.kind = kind
        self.place = place
        self.id = f"{PREFIXES[kind]}_{turn.removeprefix('turn_')}{place:02x}"
        self.status = "in_progress"
        self.complete = True  # a call whose arguments are JSON
        self.logprobs: list[dict[str, Any]] = []
        self.summarised = summarised
        self._call = call
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What was said of it so far."""
        return "".join(self._pieces)

    @property
    def name(self) -> str:
        """The tool that a call is of."""
        return self._call.name if self._call else ""

    def add(self, text: str) -> None:
        """Take the next piece."""
        self._pieces.append(text)

    def part(self, text: str) -> dict[str, Any]:
        """Return its only part with a text."""
        if self.kind == MESSAGE:
            logprobs = self.logprobs if text else []
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
        return {"type": "summary_text" if self.summarised else "reasoning_text", "text": text}

    def value(self) -> dict[str, Any]:
        """Return the item as it stands."""
        head = {"id": self.id, "type": self.kind, "status": self.status}
        parts = [self.part(self.text)] if self.status != "in_progress" else []
        if self.kind == MESSAGE:
            return {**head, "role": "assistant", "content": parts}
        if self.kind == REASONING:
            summary, content = (parts, []) if self.summarised else ([], parts)
            return {**head, "summary": summary, "content": content}
        assert self._call is not None
        return {**head, "call_id": self._call.id, "name": self.name, "arguments": self.text}


class ResponsesShape:
    """OpenAI's response; `body` is what it repeats of the request."""

    def __init__(self, body: ResponsesBody, exchange: Exchange, spelling: Spelling) -> None:
        self._exchange = exchange
        self._spelling = spelling
        self._likely_wanted = body.wants_logprobs
        self._summarised = body.summarised
        sampling = exchange.choices[0].generation.request.sampling
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        self._told = {**body.told(), **drawn}
        self._items: list[Item] = []
        self._open: Item | None = None
        self._calls: dict[int, Item] = {}
        self._likely: list[TokenLogprob] = []
        self._number = 0

    def begin(self) -> bytes:
        """Say that the response was made and goes on."""
        return self._state("created", "in_progress") + self.silence()

    def step(self, step: Step) -> bytes:
        """Return the events for what came."""
        self._likely += step.logprobs
        return b"".join(self._say(event) for event in step.events)

    def silence(self) -> bytes:
        """Say once more that the response goes on: clients count no comments as signs of life."""
        return self._state("in_progress", "in_progress")

    def end(self) -> bytes:
        """Close what is open and give the whole response."""
        said = self._ended()
        status = self._status
        return said + self._state(status, status)

    def failure(self, error: HomeboxError) -> bytes:
        """Give the response as far as it came, and the error."""
        said = self._close("incomplete")
        limited = error.status == 429
        told = {
            "code": "rate_limit_exceeded" if limited else "server_error",
            "message": str(error),
        }
        return said + self._state("failed", "failed", told)

    def whole(self) -> dict[str, Any]:
        """Return the response."""
        self._ended()
        return self._value(self._status)

    @property
    def _status(self) -> str:
        return status_of(self._exchange.choices[0].reason)

    def _ended(self) -> bytes:
        """Close what is open; an answer without a word is an empty message."""
        said = b"" if self._items else self._into(MESSAGE)
        return said + self._close(self._status)

    def _say(self, event: Event) -> bytes:
        match event:
            case Text(text):
                return self._into(MESSAGE) + self._piece(text)
            case Thought(text):
                return self._into(REASONING) + self._piece(text)
            case CallBegins(index):
                said = self._close("completed") + self._begun(CALL, event)
                self._calls[index] = self._items[-1]
                return said
            case CallArguments(index, text):
                item = self._calls[index]
                item.add(text)
                return self._of(item, "function_call_arguments.delta", delta=text)
            case CallEnds(index, complete):
                self._calls[index].complete = complete
                return self._close("completed")
        return b""

    def _into(self, kind: str) -> bytes:
        """Open an item of a kind, if the open one is not."""
        if self._open is not None and self._open.kind == kind:
            return b""
        return self._close("completed") + self._begun(kind)

    def _begun(self, kind: str, call: CallBegins | None = None) -> bytes:
        item = Item(kind, self._exchange.id, len(self._items), call, self._summarised)
        self._items.append(item)
        self._open = item
        said = self._event("output_item.added", output_index=item.place, item=item.value())
        if kind == CALL:
            return said
        return said + self._of(item, *_part_event(item, "added"), part=item.part(""))

    def _piece(self, text: str) -> bytes:
        """Return the event for a piece of the open item, which has text."""
        item, likely = self._open, self._likely
        self._likely = []
        assert item is not None
        item.add(text)
        if item.kind == REASONING:
            return self._of(item, *_text_event(item, "delta"), delta=text)
        logprobs = told(self._spelling, likely) if self._likely_wanted else []
        item.logprobs += logprobs
        return self._of(item, *_text_event(item, "delta"), delta=text, logprobs=logprobs)

    def _close(self, status: str) -> bytes:
        """End the open item, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return b""
        item.status = status if status == "completed" and item.complete else "incomplete"
        return self._said_whole(item) + self._event(
            "output_item.done", output_index=item.place, item=item.value()
        )

    def _said_whole(self, item: Item) -> bytes:
        """Return the events that say once more, as a whole, what came of an item in pieces."""
        if item.kind == CALL:
            self._likely = []
            done = {"name": item.name, "arguments": item.text}
            return self._of(item, "function_call_arguments.done", **done)
        more: dict[str, Any] = {"logprobs": item.logprobs} if item.kind == MESSAGE else {}
        said = self._of(item, *_text_event(item, "done"), text=item.text, **more)
        return said + self._of(item, *_part_event(item, "done"), part=item.part(item.text))

    def _of(self, item: Item, kind: str, place: str = "", **fields: Any) -> bytes:
        """Return an event about an item, or about its first part by the name of its place."""
        where = {place: 0} if place else {}
        return self._event(kind, item_id=item.id, output_index=item.place, **where, **fields)

    def _state(self, kind: str, status: str, error: dict[str, Any] | None = None) -> bytes:
        return self._event(kind, response=self._value(status, error))

    def _event(self, kind: str, **fields: Any) -> bytes:
        kind = f"response.{kind}"
        number, self._number = self._number, self._number + 1
        return wire.event({"type": kind, "sequence_number": number, **fields}, kind)

    def _value(self, status: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
        exchange = self._exchange
        running = status == "in_progress"
        return response_value(
            exchange.id,
            exchange.created,
            exchange.request.model,
            status,
            [] if running else [item.value() for item in self._items],
            None if running else exchange.usage,
            self._told,
            error,
        )


def response_value(
    turn: str,
    created: int,
    model: str,
    status: str,
    output: list[dict[str, Any]],
    usage: Usage | None,
    told: dict[str, Any],
    error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a response document; `told` are the fields that it repeats of its request."""
    cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": response_id(turn),
        "object": "response",
        "created_at": created,
        "completed_at": int(time.time()) if status == "completed" else None,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": cut,
        "model": model,
        "output": output,
        "service_tier": "default",
        "truncation": "disabled",
        **({} if usage is None else {"usage": _usage(usage)}),
        **told,
    }


def status_of(reason: str) -> str:
    """Return the status of a response whose answer ended for a reason."""
    known = {"length": "incomplete", "cancelled": "cancelled", "error": "failed"}
    return known.get(reason, "completed")


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def _part_event(item: Item, what: str) -> tuple[str, str]:
    """Return the name of an event about an item's part, and how the part's place is called."""
    if item.kind == REASONING and item.summarised:
        return f"reasoning_summary_part.{what}", "summary_index"
    return f"content_part.{what}", "content_index"


def _text_event(item: Item, what: str) -> tuple[str, str]:
    """Return the same of an event about a part's text."""
    if item.kind == MESSAGE:
        return f"output_text.{what}", "content_index"
    if item.summarised:
        return f"reasoning_summary_text.{what}", "summary_index"
    return f"reasoning_text.{what}", "content_index"

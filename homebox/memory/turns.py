"""What a turn is: one request and its answer, as the ledger can hold it.

Invariant: what `as_written` returned comes back from the ledger, and from an export, as it was.
"""

import dataclasses
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from homebox.errors import StateError
from homebox.memory.clients import CHAT
from homebox.memory.provenance import PROVENANCES
from homebox.memory.store import canonical_json, is_name

_ID = re.compile(r"turn_[0-9a-f]{24}")
_MOST_ID = 2**31 - 1


def new_turn_id() -> str:
    """Make an id before the turn is complete, for the header of a streamed response."""
    return f"turn_{secrets.token_hex(12)}"


def now() -> str:
    """Return the time as the ledger writes it: ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Message:
    """One message; the role says how the model saw it, the provenance whose words it holds."""

    role: str
    content: str
    provenance: str  # owner | assistant | tool | file | web | system
    details: str = ""  # a JSON object of its other fields: calls of tools, reasoning, ids

    def as_chat(self) -> dict[str, Any]:
        """Return the message as a chat format renders it."""
        more = json.loads(self.details) if self.details else {}
        known = {"role": self.role, "content": self.content, "provenance": self.provenance}
        return {**more, **known}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One request and its answer."""

    id: str = field(default_factory=new_turn_id)
    conversation: str
    time: str = field(default_factory=now)  # ISO 8601 in UTC
    model: str
    adapter: str  # weights hash or "base"
    sampling: dict[str, Any]
    messages: tuple[Message, ...]  # what this request added, the answer last
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    prompt: tuple[Message, ...] = field(default=())  # everything that the model was shown
    offered: str = ""  # a JSON object of what it was shown besides: tools, the template's variables
    token_ids: tuple[int, ...] = ()  # what the model generated, each below 2**31
    kind: str = CHAT  # what the request was for: chat, or what a client does on its own
    owner: str = ""  # a digest of the key that the request came with
    parent: str = ""  # the conversation that this one was begun from


class Answered(NamedTuple):
    """An answer: whose it was, the ids that it consists of, what it says."""

    owner: str
    token_ids: tuple[int, ...]
    message: Message


def as_written(turn: Turn) -> Turn:
    """Return a turn as UTF-8 and JSON can hold it; raises StateError for what cannot be written."""
    kept = dataclasses.replace(
        turn,
        conversation=clean(turn.conversation),
        model=clean(turn.model),
        sampling=json.loads(canonical_json(turn.sampling)),
        messages=tuple(cleaned(turn.messages)),
        prompt=tuple(cleaned(turn.prompt)),
        offered=clean(turn.offered),
        token_ids=tuple(map(int, turn.token_ids)),
        kind=clean(turn.kind),
        owner=clean(turn.owner),
        parent=clean(turn.parent),
    )
    validate(kept)
    return kept


def cleaned(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield the messages as UTF-8 can hold them; raises StateError for an unknown provenance."""
    for message in messages:
        if message.provenance not in PROVENANCES:
            raise StateError(f"a message cannot come from {message.provenance!r}")
        details = clean(message.details)
        yield Message(clean(message.role), clean(message.content), message.provenance, details)


def clean(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def validate(turn: Turn) -> None:
    """Refuse what the table must not hold; raises StateError."""
    if not _ID.fullmatch(turn.id):
        raise StateError(f"{turn.id!r} is no turn id; make one with new_turn_id()")
    if turn.adapter != "base" and not is_name(turn.adapter):
        raise StateError(f'a turn\'s adapter is "base" or a weights hash, not {turn.adapter!r}')
    if turn.prompt_tokens < 0 or turn.completion_tokens < 0:
        raise StateError("a turn cannot have a negative number of tokens")
    if not all(0 <= index <= _MOST_ID for index in turn.token_ids):
        raise StateError("a turn's token ids must be numbers from 0 to 2**31 - 1")
    if not turn.kind:
        raise StateError("a turn needs a kind")
    if not turn.messages:
        raise StateError("a turn without messages cannot be written")

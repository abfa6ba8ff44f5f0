"""Which conversation a request belongs to, and what it is for.

Clients that say so are believed: a header, or prompt_cache_key without its counter, or the session
that OpenClaw names in the first message. Otherwise what came up to the first user message names it,
as it stays the same while a conversation grows.

Invariant: neither changes what the model is shown; both are for the ledger and for reports.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from homebox.api.requests import ChatMessage, ChatRequest
from homebox.memory.clients import CHAT, kind_of_words, session_in, without_time
from homebox.memory.provenance import provenance_of
from homebox.memory.turns import Message

HEADERS = ("x-homebox-conversation", "x-session-id", "x-session-affinity")
PARENT = "x-parent-session-id"
LENGTH = 200  # of an id


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation's id, what this request of it is for, and who began it, if another one did."""

    id: str
    kind: str = CHAT  # chat, title or compaction
    parent: str = ""
    named: bool = False  # by the client, and so by nothing that another one may begin with too


def conversation_of(request: ChatRequest, headers: Mapping[str, str]) -> Conversation:
    """Return what a request says of its conversation."""
    parent = headers.get(PARENT, "")[:LENGTH]
    name = _name(request, headers)
    return Conversation(name or _opening(request), kind_of(request), parent, bool(name))


def kind_of(request: ChatRequest) -> str:
    """Return what a request is for: those that a client makes on its own are not the owner's."""
    system = "\n".join(message.text for message in _system(request.messages))
    return kind_of_words(system, bool(request.tools))


def _name(request: ChatRequest, headers: Mapping[str, str]) -> str:
    """Return what the client calls the conversation; empty if it does not say."""
    for name in HEADERS:
        if headers.get(name):
            return headers[name][:LENGTH]
    if request.prompt_cache_key:
        key = request.prompt_cache_key
        return key.rpartition(":")[0][:LENGTH] or key[:LENGTH]
    first = next((message for message in request.messages if message.role == "user"), None)
    return session_in(first.text) if first is not None else ""


def _opening(request: ChatRequest) -> str:
    """Return a digest of how a conversation begins, up to the first words of the user."""
    digest = hashlib.sha256()
    for message in request.messages:
        text = without_time(message.text) if message.role == "user" else message.text
        digest.update(f"{message.role}\0{text}\0".encode("utf-8", "replace"))
        if message.role == "user":
            break
    return digest.hexdigest()[:32]


def logged(message: ChatMessage) -> Message:
    """Return a message as the ledger keeps it, with the pieces in which a user's was sent.

    Where a client put a file into a user's message, that says what of it he typed.
    """
    fields = message.details()
    if message.role == "user" and isinstance(message.content, list) and len(message.content) > 1:
        fields["parts"] = [len(part.text or part.refusal or "") for part in message.content]
    more = json.dumps(fields, ensure_ascii=False, separators=(",", ":")) if fields else ""
    written = message.claimed or provenance_of(message.role)
    return Message(message.role, message.text, written, more)


def _system(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    return [message for message in messages if message.role in ("system", "developer")]

"""What is on the record: which requests leave no trace, and which parts of a history are left out.

The one idea: a request is off the record by its header, by its key, or because the owner said
`/private` in its conversation; the conversation itself says so in every later request, so that
nothing has to be kept. Only where a client names its conversations a table remembers it too, for
histories that were cut short. Invariant: what was said off the record is in no turn of the ledger,
also not in the prompt of a later one; the id of such an answer says what it is.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from homebox.api.commands import PRIVATE, Command, command_of
from homebox.api.conversation import Conversation
from homebox.api.requests import ChatMessage
from homebox.errors import RequestError
from homebox.memory.clients import CHAT

HEADER = "x-homebox-record"
OFF = "off"
TURN = "turn_off_"  # how the ids of unrecorded answers begin
RESPONSE = "resp_off_"
BY_KEY, BY_HEADER, BY_OWNER = "key", "header", "conversation"


@dataclass(frozen=True, slots=True)
class Record:
    """Whether a request is off the record and by what ("" if it is not).

    `hidden` says that its history holds what was said off the record.
    """

    off: str = ""
    hidden: bool = False

    @property
    def quiet(self) -> bool:
        """Whether nothing of its prompt may be kept or logged."""
        return bool(self.off) or self.hidden

    @property
    def headers(self) -> dict[str, str]:
        """What its answer says of it."""
        return {HEADER: OFF} if self.off else {}


ON_RECORD = Record()


def asked_off(headers: Mapping[str, str], private_key: bool) -> str:
    """Return by what a request is off the record, before its conversation is looked at.

    Raises RequestError for a header that says neither: a word that was misspelled must not be
    taken for leave to write.
    """
    said = headers.get(HEADER)
    if said is not None and said.strip().lower() not in (OFF, "on"):
        raise RequestError(f'{HEADER} may be "off" or "on", not {said[:40]!r}', HEADER)
    if private_key:
        return BY_KEY
    return BY_HEADER if said is not None and said.strip().lower() == OFF else ""


def said_private(messages: Sequence[ChatMessage], conversation: Conversation) -> bool | None:
    """Return what the owner said last of privacy in a history; None if nothing."""
    # What a client asks on its own of a private conversation is private too, but orders nothing.
    history = messages if conversation.kind == CHAT else messages[:-1]
    said = (_told(message, conversation) for message in reversed(history))
    return next((not command.off for command in said if command is not None), None)


def on_record(messages: Sequence[ChatMessage], conversation: Conversation) -> list[ChatMessage]:
    """Return a history without what lies between `/private` and the answer to `/private off`."""
    kept: list[ChatMessage] = []
    private = ending = False
    for message in messages:
        command = _told(message, conversation)
        if command is not None:
            private, ending = True, command.off
            continue
        if ending and message.role in ("user", "system", "developer"):
            private = ending = False
        if not private or message.role in ("system", "developer"):
            kept.append(message)
        if ending and message.role == "assistant":
            private = ending = False
    return kept


def _told(message: ChatMessage, conversation: Conversation) -> Command | None:
    if f"/{PRIVATE}" not in message.text:
        return None
    command = command_of(message, replace(conversation, kind=CHAT))
    return command if command is not None and command.name == PRIVATE else None


def unrecorded_id() -> str:
    """Make the id of an answer that no turn is written for."""
    return TURN + secrets.token_hex(12)


def unknown_response(id: str, param: str | None) -> RequestError:
    """Say that a response was never written down."""
    told = RequestError(
        f"Response {id[:100]!r} was off the record, so nothing of it was kept; send the whole "
        "conversation as input",
        param,
        "not_found" if param is None else "previous_response_not_found",
    )
    told.status = 404
    return told

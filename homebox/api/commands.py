"""What the owner may tell the box in a chat: `/good`, `/remember` and the like, and who said it.

The one idea: a command is what the owner's own typed words begin with, in a message of the owner
that is the last one of a chat. Files, tools, pages and programs may stand behind such words in a
message, never before them. Invariant: no words but the owner's make a command; whatever else begins
with a slash goes to the model as it is.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from homebox.api.conversation import Conversation, logged
from homebox.api.requests import ChatMessage
from homebox.memory.clients import CHAT, COMMAND, Part, parts_of_message, typed_words
from homebox.memory.provenance import OWNER, SYSTEM

GOOD, BAD, FIX, REMEMBER, FORGET = "good", "bad", "fix", "remember", "forget"
PRIVATE, HELP = "private", "help"
KIND = COMMAND  # of turns in the ledger: of these only what is to be remembered is read
LONGEST = 65_536  # characters of a message with a command; longer ones are for the model
OPENCODE = "ses_"  # how its ids of conversations begin
_NAMES = "|".join((GOOD, BAD, FIX, REMEMBER, FORGET, PRIVATE, HELP))
_COMMAND = re.compile(rf"/((?ai:{_NAMES}))(?=\s|\Z)")  # in any case, of ASCII letters alone


class Command(NamedTuple):
    """One command: its name and what the owner wrote behind it."""

    name: str
    text: str

    @property
    def off(self) -> bool:
        """Whether it switches something off."""
        return self.text.casefold() == "off"


def command_in(messages: Sequence[ChatMessage], conversation: Conversation) -> Command | None:
    """Return the command that a request is; None if it is none, and so for the model."""
    return command_of(messages[-1], conversation) if messages else None


def command_of(message: ChatMessage, conversation: Conversation) -> Command | None:
    """Return the command that one message is, if it is the owner's and one."""
    text = message.text
    if conversation.kind != CHAT or len(text) > LONGEST or not _COMMAND.search(text):
        return None
    words = owner_words(message, conversation.id).strip()
    found = _COMMAND.match(words)
    return Command(found.group(1).lower(), words[found.end() :].strip()) if found else None


def owner_words(message: ChatMessage, conversation: str = "") -> str:
    """Return what the owner typed of a message; empty if somebody else's words stand before it."""
    if message.role != "user" or logged(message).provenance != OWNER:
        return ""
    parts = _parts(message)
    first = next((part for part in parts if part.text.strip()), None)
    begun = [part for part in parts if part.provenance != SYSTEM and part.text.strip()]
    if first is None or not begun or begun[0].provenance != OWNER:
        return ""
    typed = "\n\n".join(part.text for part in parts if part.provenance == OWNER)
    return typed_words(typed) if conversation.startswith(OPENCODE) else typed


def _parts(message: ChatMessage) -> list[Part]:
    pieces = message.content if isinstance(message.content, list) else []
    lengths = [len(part.text or part.refusal or "") for part in pieces]
    return parts_of_message(message.text, lengths if len(lengths) > 1 else ())

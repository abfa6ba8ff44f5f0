"""Words that were forgotten and must not come back with the next request.

The one idea: clients send a conversation's whole history with every request, so a digest of each
message that was forgotten is kept, and where a history shows it again, a gap is written in its
place. Invariant: only history is left out, never what is said anew; digests are made with the
ledger's salt and name a conversation, so the same words stay where nobody forgot them.
"""

import dataclasses
import hmac
import sqlite3
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from homebox.memory.turns import Message, Turn

GAP = "[forgotten]"
_PREFIX, _END = "forgotten ", "forgotten!"  # of marks, and what sorts behind all of them
_LENGTH = 32  # hexadecimal digits


class Spoken(NamedTuple):
    """A message of a conversation."""

    conversation: str
    role: str
    content: str


def said_in(turn: Turn) -> list[Spoken]:
    """Return what a turn said anew: what a history may show again."""
    return [
        Spoken(turn.conversation, each.role, each.content)
        for each in turn.messages
        if each.role != "system" and each.content
    ]


def keep(connection: sqlite3.Connection, salt: bytes, said: Iterable[Spoken]) -> None:
    """Remember messages by their digests."""
    rows = [(_name(salt, each), 1) for each in said if each.conversation and each.content]
    connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?)", rows)


def any_kept(connection: sqlite3.Connection) -> bool:
    """Say whether anything was ever forgotten that a history may show again."""
    wanted = "SELECT 1 FROM marks WHERE name > ? AND name < ? LIMIT 1"
    return connection.execute(wanted, (_PREFIX, _END)).fetchone() is not None


def shows(connection: sqlite3.Connection, salt: bytes, said: Iterable[Spoken]) -> bool:
    """Say whether one of these messages was forgotten."""
    return any(_kept(connection, salt, each) for each in said)


def without(connection: sqlite3.Connection, salt: bytes, turn: Turn) -> Turn:
    """Return a turn with gaps in its history in place of what was forgotten."""
    history = len(turn.prompt) - len(turn.messages) + 1  # without what is new, and the answer
    if not turn.conversation or history <= 0 or not any_kept(connection):
        return turn
    prompt = [
        _gap(each) if _kept(connection, salt, Spoken(turn.conversation, *_words(each))) else each
        for each in turn.prompt[:history]
    ]
    return dataclasses.replace(turn, prompt=(*prompt, *turn.prompt[history:]))


def _gap(message: Message) -> Message:
    return Message(message.role, GAP, message.provenance)


def _words(message: Message) -> tuple[str, str]:
    return message.role, message.content


def _kept(connection: sqlite3.Connection, salt: bytes, said: Spoken) -> bool:
    if not said.content or said.role == "system":
        return False
    found = connection.execute("SELECT 1 FROM marks WHERE name = ?", (_name(salt, said),))
    return found.fetchone() is not None


def _name(salt: bytes, said: Spoken) -> str:
    digest = hmac.new(salt, "\0".join(said).encode(), sha256).hexdigest()
    return f"{_PREFIX}{digest[:_LENGTH]}"

"""Words that were forgotten and must not come back with the next request.

The one idea: clients send a conversation's whole history with every request, so a digest of each
message that was forgotten is kept, and where a history shows it again, a gap is written in its
place. Invariant: only history is left out, never what is said anew; digests are made with the
ledger's salt and name a conversation, so the same words stay where nobody forgot them.
"""

import dataclasses
import hmac
import sqlite3
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import NamedTuple

from homebox.memory.database import Database
from homebox.memory.turns import Message, Turn, clean

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


class Gaps:
    """Which messages of a ledger were forgotten; safe for any number of threads."""

    def __init__(self, database: Database, salt: bytes, concealed: Callable[[str], str]) -> None:
        """`concealed` returns a text as it is written; it is called on the writer's thread."""
        self._database, self._salt, self._concealed = database, salt, concealed
        with database.reader() as connection:
            wanted = "SELECT 1 FROM marks WHERE name > ? AND name < ? LIMIT 1"
            self._any = connection.execute(wanted, (_PREFIX, _END)).fetchone() is not None

    def hide(self, said: Iterable[Spoken]) -> None:
        """Do not write these messages where a later history of their conversations shows them."""
        told = list(said)

        def work(connection: sqlite3.Connection) -> None:
            self.keep(connection, map(self._written, told))

        self._database.write(work).result()

    def shown(self, said: Iterable[Spoken]) -> bool:
        """Say whether one of these messages was forgotten, and so must not be kept again."""
        if not self._any:
            return False
        told = list(said)

        def work(connection: sqlite3.Connection) -> bool:
            return any(self._kept(connection, self._written(each)) for each in told)

        return self._database.write(work).result()

    def keep(self, connection: sqlite3.Connection, said: Iterable[Spoken]) -> None:
        """Remember messages, as they are written, by their digests."""
        rows = [(self._name(each), 1) for each in said if each.conversation and each.content]
        connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?)", rows)
        self._any = self._any or bool(rows)

    def without(self, connection: sqlite3.Connection, turn: Turn) -> Turn:
        """Return a turn with gaps in its history in place of what was forgotten."""
        history = len(turn.prompt) - len(turn.messages) + 1  # without what is new, and the answer
        if not self._any or not turn.conversation or history <= 0:
            return turn
        talk = turn.conversation
        prompt = [
            _gap(each) if self._kept(connection, Spoken(talk, each.role, each.content)) else each
            for each in turn.prompt[:history]
        ]
        return dataclasses.replace(turn, prompt=(*prompt, *turn.prompt[history:]))

    def _written(self, said: Spoken) -> Spoken:
        return Spoken(clean(said.conversation), said.role, self._concealed(clean(said.content)))

    def _kept(self, connection: sqlite3.Connection, said: Spoken) -> bool:
        if not said.content or said.role == "system":
            return False
        found = connection.execute("SELECT 1 FROM marks WHERE name = ?", (self._name(said),))
        return found.fetchone() is not None

    def _name(self, said: Spoken) -> str:
        digest = hmac.new(self._salt, "\0".join(said).encode(), sha256).hexdigest()
        return f"{_PREFIX}{digest[:_LENGTH]}"


def _gap(message: Message) -> Message:
    return Message(message.role, GAP, message.provenance)

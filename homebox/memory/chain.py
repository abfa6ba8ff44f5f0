"""The chain of turns, recomputed: from the start, or from where it was found right before.

The one idea: the writer's connection knows whether anybody else has written since, so that what was
checked needs no second look as long as this process alone writes. Invariant: nothing that another
connection wrote counts as checked. A changed byte that did not come through SQLite is noticed at
the next start.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Callable

from homebox.errors import StateError
from homebox.memory import turn_rows
from homebox.memory.database import Database
from homebox.memory.turn_rows import START

PAGE = 1024  # links that are checked at once


class Chain:
    """How far the chain of a ledger was checked; safe for any number of threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._checked: tuple[int, bytes, int] = (0, START, 0)  # number, chain there, length
        self._version = -1

    def verify(self, known: bool, tell: Callable[[int], None] = lambda _: None) -> int:
        """Recompute the chain and return its length; raises StateError at the first wrong turn.

        With `known`, only what was not checked before, or all if somebody else has written.
        """
        with self._lock:
            version = self._written()
            if not known or version != self._version:
                self._checked = (0, START, 0)
            while True:
                number, chain, count = self._checked
                with self._database.reader() as connection:
                    number, chain, some = check(connection, number, chain, PAGE)
                self._checked = (number, chain, count + some)
                tell(count + some)
                if some < PAGE:
                    break
            self._version = version
            return self._checked[2]

    def _written(self) -> int:
        """Return what changes whenever a connection other than the writer's has written."""
        try:
            return self._database.write(
                lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0])
            ).result()
        except StateError:
            return -1  # for reading only, or closed


def check(
    connection: sqlite3.Connection, number: int, chain: bytes, limit: int
) -> tuple[int, bytes, int]:
    """Recompute up to `limit` links after turn `number`, where the chain stood at `chain`.

    Returns the last number, the chain there and how many links were checked; raises StateError.
    """
    from homebox.memory.digests import digest, said  # what encodes takes long to import

    rows = turn_rows.read(connection, "number > ? ORDER BY number LIMIT ?", (number, limit), said)
    for row in rows:
        number = row.number
        chain = hashlib.sha256(chain + row.digest).digest()
        wrong = row.salt is not None and (
            digest(row.fields, row.new, row.prompt, row.salt) != row.digest
        )
        if wrong or chain != row.chain:
            name = row.fields["id"]
            # What was erased needs only its digest, which stands.
            erase = f', or erase the turn with "homebox log delete {name}"'
            raise StateError(
                f"turn {name} (row {number}) of the ledger is damaged (hash mismatch); restore "
                f"the ledger from a backup of the state{erase if chain == row.chain else ''}"
            )
    return number, chain, len(rows)

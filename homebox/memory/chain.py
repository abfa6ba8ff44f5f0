"""The chain of turns, recomputed: from the start, or from where it was found right before.

The one idea: the writer's connection knows whether anybody else has written since, so that what was
checked needs no second look as long as this process alone writes. Invariant: nothing that another
connection wrote counts as checked. A changed byte that did not come through SQLite is noticed at
the next start.
"""

import threading
from collections.abc import Callable

from homebox.errors import StateError
from homebox.memory import turns as turn_table
from homebox.memory.database import Database
from homebox.memory.turns import START


class Chain:
    """How far the chain of a ledger was checked; safe for any number of threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._checked: tuple[int, bytes, int] = (0, START, 0)  # number, chain there, length
        self._version = -1

    def verify(self, page: int, known: bool, tell: Callable[[int], None] = lambda _: None) -> int:
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
                    number, chain, some = turn_table.check(connection, number, chain, page)
                self._checked = (number, chain, count + some)
                tell(count + some)
                if some < page:
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

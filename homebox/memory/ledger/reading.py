"""What the ledger says: turns, lessons, opinions and marks, for everybody who only reads.

Invariant: what is read was durable before, and nothing that was erased is read.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from homebox.errors import StateError
from homebox.memory import feedback as feedback_table
from homebox.memory import lessons as lesson_table
from homebox.memory import turn_rows
from homebox.memory.chain import Chain
from homebox.memory.clients import CHAT
from homebox.memory.database import Database
from homebox.memory.feedback import Feedback
from homebox.memory.ledger import marks as mark_table
from homebox.memory.lessons import Lesson
from homebox.memory.records import Link, digests_in, links, salt_of
from homebox.memory.searching import Hit, holding, search, showing
from homebox.memory.turns import Answered, Turn, clean

PAGE = 256  # turns that are read at once


class Outline(NamedTuple):
    """A turn without its words."""

    number: int  # its place in the chain
    id: str
    conversation: str
    time: str


class LedgerReader:
    """The turns and the lessons, to be read; safe for any number of threads."""

    def __init__(self, path: Path, read_only: bool = True) -> None:
        """Open or make the file; raises StateError if it is foreign, newer or unreadable."""
        self._database = Database(path, read_only)
        self._chain = Chain(self._database)
        try:
            self.salt = salt_of(self._database, read_only)
        except BaseException:
            self._database.close()
            raise

    def turn(self, id: str) -> Turn | None:
        """Return the turn of that id; None if there is none or it was erased."""
        with self._database.reader() as connection:
            found = turn_rows.select(connection, "id = ?", (id,))
        return found[0][1] if found else None

    def turns(self, since: str | None = None) -> Iterator[Turn]:
        """Yield the turns in the order of their commits, those after the turn `since`.

        Erased turns are left out. Raises StateError if `since` is unknown.
        """
        number = 0 if since is None else self._number(since)
        while True:
            with self._database.reader() as connection:
                page = turn_rows.select(
                    connection, "number > ? ORDER BY number LIMIT ?", (number, PAGE)
                )
            for _, turn in page:
                yield turn
            number = page[-1][0] if page else number
            if len(page) < PAGE:
                return

    def some_turns(self, ids: Collection[str]) -> Iterator[Turn]:
        """Yield the turns of those ids that were not erased, in the order of their commits."""
        with self._database.reader() as connection:
            numbers = turn_rows.numbers(connection, ids)
        for start in range(0, len(numbers), PAGE):
            some = numbers[start:][:PAGE]
            with self._database.reader() as connection:
                page = turn_rows.select(
                    connection, f"number IN ({', '.join('?' * len(some))}) ORDER BY number", some
                )
            for _, turn in page:
                yield turn

    def last_turns(self, conversation: str, owner: str, most: int) -> list[Turn]:
        """Return the last `most` whole answers of a chat, the newest first."""
        with self._database.reader() as connection:
            found = turn_rows.select(
                connection,
                "conversation = ? AND owner = ? AND kind = ? AND finish_reason NOT IN "
                "('error', 'cancelled') ORDER BY number DESC LIMIT ?",
                (clean(conversation), clean(owner), CHAT, most),
            )
        return [turn for _, turn in found]

    def latest(self, most: int, since: str | None = None) -> list[Turn]:
        """Return the last `most` turns that were not erased, of those after the turn `since`.

        The oldest first. Raises StateError if `since` is unknown.
        """
        number = 0 if since is None else self._number(since)
        with self._database.reader() as connection:
            found = turn_rows.select(
                connection,
                "number > ? ORDER BY number DESC LIMIT ?",
                (number, min(max(most, 0), 2**62)),
            )
        return [turn for _, turn in reversed(found)]

    def answers(self, most: int) -> list[Answered]:
        """Return the last `most` answers whose ids were kept, the oldest first."""
        with self._database.reader() as connection:
            return turn_rows.answers(connection, max(most, 0))

    def outline(self) -> list[Outline]:
        """List the turns that were not erased, in order, without their words."""
        with self._database.reader() as connection:
            rows = connection.execute(
                "SELECT number, id, conversation, time FROM turns "
                "WHERE salt IS NOT NULL ORDER BY number"
            )
            return list(map(Outline._make, rows))

    def positions(self) -> dict[str, int]:
        """Map the root that the chain had after each turn to that turn's number."""
        with self._database.reader() as connection:
            rows = connection.execute("SELECT chain, number FROM turns")
            return {chain.hex(): number for chain, number in rows}

    def number(self, id: str) -> int:
        """Return the place of a turn in the chain, erased or not; 0 if there is no such turn."""
        with self._database.reader() as connection:
            row = connection.execute("SELECT number FROM turns WHERE id = ?", (id,)).fetchone()
        return 0 if row is None else int(row[0])

    def count(self) -> int:
        """Return how many turns were ever written, erased ones included."""
        with self._database.reader() as connection:
            return int(connection.execute("SELECT count(*) FROM turns").fetchone()[0])

    def root(self) -> str:
        """Return the digest of the whole chain: 64 hexadecimal digits."""
        with self._database.reader() as connection:
            return turn_rows.head(connection).hex()

    def verify(self, known: bool = False, tell: Callable[[int], None] = lambda _: None) -> int:
        """Recompute the chain and return its length; raises StateError at the first wrong turn.

        With `known`, links that were checked before are not, unless another process has written.
        `tell` is told now and then how many links were found right.
        """
        return self._chain.verify(known, tell)

    def search(self, text: str, most: int = 100, conversation: str = "") -> list[Hit]:
        """Return the last `most` messages in which a text occurs, whatever its case."""
        with self._database.reader() as connection:
            return search(connection, text, most, clean(conversation))

    def showing(self, conversation: str, text: str) -> list[str]:
        """Return the ids of turns of a conversation whose prompts hold a message of that text."""
        with self._database.reader() as connection:
            return showing(connection, clean(conversation), clean(text))

    def holding(self, words: Iterable[str], fits: Callable[[str], bool]) -> list[str]:
        """Return the ids of turns that hold a text that `fits`: one with one of the words."""
        with self._database.reader() as connection:
            return holding(connection, words, fits)

    def holds(self, text: str) -> bool:
        """Say whether a text stands, whole or as a part, in what turns and opinions say."""
        with self._database.reader() as connection:
            return turn_rows.holds(connection, text)

    def links(self, conversation: str = "") -> Iterator[Link]:
        """Yield the chain's links with their turns; see `records.link_lines`."""
        number = 0
        while True:
            with self._database.reader() as connection:
                page = links(connection, number, conversation, PAGE)
            for link in page:
                yield link
                number = link.number
            if len(page) < PAGE:
                return

    def secret_digests(self) -> frozenset[str]:
        """Return the digests of all secrets that were replaced in what is kept."""
        with self._database.reader() as connection:
            return digests_in(connection)

    def feedback(self) -> list[Feedback]:
        """Return all opinions about turns, in the order of the turns."""
        with self._database.reader() as connection:
            return feedback_table.select(connection)

    def lessons(self, state: str | Iterable[str] | None = None) -> list[Lesson]:
        """Return the lessons in that state (or one of several, or any), oldest first."""
        states = lesson_table.STATES if state is None else state
        wanted = (states,) if isinstance(states, str) else tuple(states)
        with self._database.reader() as connection:
            return lesson_table.select(connection, wanted)

    def lesson_names(self, states: tuple[str, ...]) -> tuple[str, ...]:
        """Return the hashes of the lessons in some states, in the order of `lessons`."""
        with self._database.reader() as connection:
            return lesson_table.names(connection, states)

    def find_lessons(self, prefix: str) -> list[Lesson]:
        """Return the lessons whose hash begins with `prefix`."""
        with self._database.reader() as connection:
            return lesson_table.find(connection, prefix)

    def marks(self, prefix: str) -> dict[str, int]:
        """Return the numbers that were kept under names with that prefix, by name, sorted."""
        with self._database.reader() as connection:
            return mark_table.select(connection, prefix)

    def mark(self, name: str) -> int:
        """Return a number that was kept under `name`; 0 if there is none."""
        with self._database.reader() as connection:
            return mark_table.get(connection, name)

    def is_private(self, conversation: str, owner: str) -> bool:
        """Say whether a conversation of an owner is off the record."""
        with self._database.reader() as connection:
            found = connection.execute(
                "SELECT 1 FROM private_conversations WHERE conversation = ? AND owner = ?",
                (clean(conversation), clean(owner)),
            ).fetchone()
        return found is not None

    def close(self) -> None:
        """Finish all pending writes and close the file."""
        self._database.close()

    def _number(self, id: str) -> int:
        number = self.number(id)
        if not number:
            raise StateError(f'the ledger has no turn {id!r}; "homebox log" lists them')
        return number

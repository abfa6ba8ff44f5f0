"""The append-only log of every turn, from which everything learned is derived.

The one idea: each turn has a salted digest, and the digests form a chain, so that a changed, lost
or foreign turn is noticed, while content and salt can be erased without breaking the chain.
Invariant: an id that `append` returned is on the disk, exactly once.
"""

import dataclasses
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from homebox.errors import StateError
from homebox.memory import feedback as feedback_table
from homebox.memory import lessons as lesson_table
from homebox.memory import turn_rows
from homebox.memory.chain import Chain
from homebox.memory.clients import CHAT
from homebox.memory.database import Database
from homebox.memory.feedback import Feedback
from homebox.memory.forgotten import Gaps, Spoken, said_in
from homebox.memory.history import Event, replay
from homebox.memory.lessons import Lesson
from homebox.memory.records import Link, digests_in, links, salt_of
from homebox.memory.searching import Hit, holding, search, showing
from homebox.memory.secrets.concealment import Concealer
from homebox.memory.turns import Answered, Message, Turn, as_written, clean, new_turn_id, now

__all__ = ["Feedback", "Ledger", "Lesson", "Message", "Turn", "new_turn_id", "now"]

PAGE = 256  # turns that are read at once
ERASED = 64  # turns that are erased at once
# Marks that say after which turn something happened: a move of HEAD ("move 3"), and a decision of
# the owner ("decision 000001 3 deleted <hash>": the first, after move 3).
MOVE = "move "
DECISION = "decision "
ERASURES = "erasures"  # the mark that counts how often something was forgotten


class Outline(NamedTuple):
    """A turn without its words."""

    number: int  # its place in the chain
    id: str
    conversation: str
    time: str


class Ledger:
    """The turns and the lessons; safe for any number of threads."""

    def __init__(self, path: Path, read_only: bool = False, redact: bool = True) -> None:
        """Open or make the file; raises StateError if it is foreign, newer or unreadable.

        Without `redact`, secrets are written like all else.
        """
        self._database = Database(path, read_only)
        self._chain = Chain(self._database)
        try:
            self.salt = salt_of(self._database, read_only)
        except BaseException:
            self._database.close()
            raise
        self._concealer = Concealer(self.salt, redact)
        self.gaps = Gaps(self._database, self.salt, self._concealer.text)

    def submit(self, turn: Turn) -> "Future[str]":
        """Begin to write a turn; the Future gives its id once it is durable, or StateError."""
        turn = as_written(turn)

        def work(connection: sqlite3.Connection) -> str:
            # On the writer's thread, as to search a long prompt takes a while.
            # What was forgotten may have been written before or after a secret of it was known.
            known = self.gaps.without(connection, self._concealer.turn(turn))
            kept = self.gaps.without(connection, self._concealer.repeated(known))
            return turn_rows.insert(connection, kept)

        return self._database.write(work)

    def append(self, **fields: Any) -> str:
        """Write a turn with these fields, wait until it is durable, return its id."""
        return self.submit(Turn(**fields)).result()

    def turn(self, id: str) -> Turn | None:
        """Return the turn of that id; None if there is none or it was erased."""
        with self._database.reader() as connection:
            found = turn_rows.select(connection, "id = ?", (id,))
        return found[0][1] if found else None

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

    def showing(self, conversation: str, text: str) -> list[str]:
        """Return the ids of turns of a conversation whose prompts hold a message of that text."""
        with self._database.reader() as connection:
            return showing(connection, clean(conversation), clean(text))

    def holding(self, words: Iterable[str], fits: Callable[[str], bool]) -> list[str]:
        """Return the ids of turns that hold a text that `fits`: one with one of the words."""
        with self._database.reader() as connection:
            return holding(connection, words, fits)

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

    def erase(self, id: str) -> None:
        """Forget what a turn said, for good; its place in the chain and its lessons stay.

        `learning.forgetting` forgets the lessons, too.
        """
        self._erase([self._number(id)])

    def expire(self, before: str, spared: Iterable[str] = ()) -> int:
        """Forget what turns from before a time (ISO 8601) said; return how many there were.

        Those whose ids are `spared` stay. A run that learns meanwhile goes on.
        """
        kept = frozenset(spared)
        with self._database.reader() as connection:
            rows = connection.execute(
                "SELECT number, id FROM turns WHERE time < ? AND salt IS NOT NULL ORDER BY number",
                (before,),
            ).fetchall()
        numbers = [number for number, id in rows if id not in kept]
        self._erase(numbers)
        return len(numbers)

    def search(self, text: str, most: int = 100, conversation: str = "") -> list[Hit]:
        """Return the last `most` messages in which a text occurs, whatever its case."""
        with self._database.reader() as connection:
            return search(connection, text, most, clean(conversation))

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

    def forget(
        self,
        ids: Iterable[str],
        events: Iterable[Event],
        many: frozenset[str],
        marks: Iterable[str] = (),
    ) -> None:
        """Erase turns for good, and make the lessons anew from what happened without them.

        All or nothing, also if the power fails; counted in the mark ERASURES. `many` as in
        `lessons.settle`; `marks` are forgotten, too. What the turns said is not written
        again where a later history shows it. Raises StateError if a turn is unknown.
        """
        numbers = [self._number(id) for id in ids]
        happened, names = list(events), list(marks)

        def work(connection: sqlite3.Connection) -> None:
            told: list[Spoken] = []
            for number in numbers:
                known = turn_rows.select(connection, "number = ?", (number,))
                told += [each for _, turn in known for each in said_in(turn)]
                _erase(connection, number)
            self.gaps.keep(connection, told)
            connection.executemany("DELETE FROM marks WHERE name = ?", [(name,) for name in names])
            replay(connection, happened, many)
            count = (ERASURES, _mark(connection, ERASURES) + 1)
            connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", count)

        self._database.write(work).result()
        self._database.empty()

    def sweep(self) -> None:
        """Leave nothing of what was erased in the log; raises StateError if somebody reads it."""
        self._database.empty()

    def holds(self, text: str) -> bool:
        """Say whether a text stands, whole or as a part, in what turns and opinions say."""
        with self._database.reader() as connection:
            return turn_rows.holds(connection, text)

    def give_feedback(self, owner: str, feedback: Feedback) -> "Future[str]":
        """Begin to keep an opinion about a turn of `owner`; the Future may raise StateError."""
        return self._database.write(
            lambda connection: feedback_table.put(
                connection,
                owner,
                dataclasses.replace(feedback, text=self._concealer.text(clean(feedback.text))),
            )
        )

    def feedback(self) -> list[Feedback]:
        """Return all opinions about turns, in the order of the turns."""
        with self._database.reader() as connection:
            return feedback_table.select(connection)

    def add_lesson(self, lesson: Lesson) -> str:
        """Keep a lesson, or merge it with the same one told before; return its hash."""
        return self._database.write(
            lambda connection: lesson_table.add(connection, self._concealer.lesson(lesson))
        ).result()

    def add_lessons(self, lessons: Sequence[Lesson], many: frozenset[str]) -> None:
        """Keep lessons in the order in which they were told; `many` as in `lessons.settle`."""
        if lessons:
            self._database.write(
                lambda connection: lesson_table.add_all(
                    connection, [self._concealer.lesson(each) for each in lessons], many
                )
            ).result()

    def decide(self, hash: str, state: str, many: frozenset[str]) -> None:
        """Move a lesson as the owner wants it, and remember when that was; raises StateError."""

        def work(connection: sqlite3.Connection) -> None:
            lesson_table.decide(connection, hash, state, many)
            before = [int(name.split()[1]) for name in _marks(connection, DECISION)]
            number, moves = max(before, default=0) + 1, _mark(connection, "moves")
            name = f"{DECISION}{number:06} {moves} {state} {hash}"
            connection.execute("INSERT INTO marks VALUES (?, ?)", (name, _last(connection)))

        self._database.write(work).result()

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
            return _marks(connection, prefix)

    def positions(self) -> dict[str, int]:
        """Map the root that the chain had after each turn to that turn's number."""
        with self._database.reader() as connection:
            rows = connection.execute("SELECT chain, number FROM turns")
            return {chain.hex(): number for chain, number in rows}

    def outline(self) -> list[Outline]:
        """List the turns that were not erased, in order, without their words."""
        with self._database.reader() as connection:
            rows = connection.execute(
                "SELECT number, id, conversation, time FROM turns "
                "WHERE salt IS NOT NULL ORDER BY number"
            )
            return list(map(Outline._make, rows))

    def set_private(self, conversation: str, owner: str, private: bool = True) -> None:
        """Remember whether a conversation of an owner is off the record from now on."""
        row = (clean(conversation), clean(owner))
        statement = (
            "INSERT OR IGNORE INTO private_conversations VALUES (?, ?)"
            if private
            else "DELETE FROM private_conversations WHERE conversation = ? AND owner = ?"
        )
        self._database.write(lambda connection: connection.execute(statement, row)).result()

    def is_private(self, conversation: str, owner: str) -> bool:
        """Say whether a conversation of an owner is off the record."""
        with self._database.reader() as connection:
            found = connection.execute(
                "SELECT 1 FROM private_conversations WHERE conversation = ? AND owner = ?",
                (clean(conversation), clean(owner)),
            ).fetchone()
        return found is not None

    def number(self, id: str) -> int:
        """Return the place of a turn in the chain, erased or not; 0 if there is no such turn."""
        with self._database.reader() as connection:
            row = connection.execute("SELECT number FROM turns WHERE id = ?", (id,)).fetchone()
        return 0 if row is None else int(row[0])

    def mark(self, name: str) -> int:
        """Return a number that was kept under `name`; 0 if there is none."""
        with self._database.reader() as connection:
            return _mark(connection, name)

    def set_mark(self, name: str, value: int) -> "Future[None]":
        """Begin to keep a number under `name`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))

        return self._database.write(work)

    def follow_move(
        self, number: int, undone: Iterable[str] = (), active: Iterable[str] = ()
    ) -> bool:
        """Let the lessons follow the move of HEAD with that number, once; False if they had.

        Moves are followed in order, so a number not above the last one was followed before.
        """

        def work(connection: sqlite3.Connection) -> bool:
            if number <= _mark(connection, "moves"):
                return False
            lesson_table.move(connection, undone, active)
            connection.execute("INSERT OR REPLACE INTO marks VALUES ('moves', ?)", (number,))
            moved = (f"{MOVE}{number}", _last(connection))
            connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", moved)
            return True

        return self._database.write(work).result()

    def close(self) -> None:
        """Finish all pending writes and close the file."""
        self._database.close()

    def _erase(self, numbers: Sequence[int]) -> None:
        """Erase turns, some at a time, so that answers are written in between."""
        for start in range(0, len(numbers), ERASED):

            def work(connection: sqlite3.Connection, some: Any = numbers[start:][:ERASED]) -> None:
                for number in some:
                    _erase(connection, number)

            self._database.write(work).result()
        if numbers:
            self._database.empty()  # the write-ahead log still holds the words

    def _number(self, id: str) -> int:
        with self._database.reader() as connection:
            row = connection.execute("SELECT number FROM turns WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise StateError(f'the ledger has no turn {id!r}; "homebox log" lists them')
        return int(row[0])


def _erase(connection: sqlite3.Connection, number: int) -> None:
    feedback_table.erase(connection, number)
    turn_rows.erase(connection, number)


def _marks(connection: sqlite3.Connection, prefix: str) -> dict[str, int]:
    rows = connection.execute(
        "SELECT name, value FROM marks WHERE substr(name, 1, ?) = ? ORDER BY name",
        (len(prefix), prefix),
    )
    return dict(rows.fetchall())


def _last(connection: sqlite3.Connection) -> int:
    """Return the number of the last turn; 0 if there is none."""
    return int(connection.execute("SELECT ifnull(max(number), 0) FROM turns").fetchone()[0])


def _mark(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])

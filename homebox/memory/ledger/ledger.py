"""The append-only log of every turn, from which everything learned is derived, to be written.

The one idea: each turn has a salted digest, and the digests form a chain, so that a changed, lost
or foreign turn is noticed, while content and salt can be erased without breaking the chain.
Invariant: an id that `append` returned is on the disk, exactly once.
"""

import dataclasses
import functools
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from homebox.memory import feedback as feedback_table
from homebox.memory import lessons as lesson_table
from homebox.memory import turn_rows
from homebox.memory.feedback import Feedback
from homebox.memory.forgotten import Gaps
from homebox.memory.history import Event
from homebox.memory.ledger import erasing
from homebox.memory.ledger import marks as mark_table
from homebox.memory.ledger.reading import LedgerReader
from homebox.memory.lessons import Lesson
from homebox.memory.secrets.concealment import Concealer
from homebox.memory.turns import Turn, as_written, clean

ERASED = 64  # turns that are erased at once


class Ledger(LedgerReader):
    """The turns and the lessons, to be read and written; safe for any number of threads."""

    def __init__(self, path: Path, read_only: bool = False, redact: bool = True) -> None:
        """Open or make the file; raises StateError if it is foreign, newer or unreadable.

        Without `redact`, secrets are written like all else.
        """
        super().__init__(path, read_only)
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

    def give_feedback(self, owner: str, feedback: Feedback) -> "Future[str]":
        """Begin to keep an opinion about a turn of `owner`; the Future may raise StateError."""
        return self._database.write(
            lambda connection: feedback_table.put(
                connection,
                owner,
                dataclasses.replace(feedback, text=self._concealer.text(clean(feedback.text))),
            )
        )

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
            mark_table.put_decision(connection, state, hash)

        self._database.write(work).result()

    def follow_move(
        self, number: int, undone: Iterable[str] = (), active: Iterable[str] = ()
    ) -> bool:
        """Let the lessons follow the move of HEAD with that number, once; False if they had.

        Moves are followed in order, so a number not above the last one was followed before.
        """

        def work(connection: sqlite3.Connection) -> bool:
            if number <= mark_table.get(connection, mark_table.MOVES):
                return False
            lesson_table.move(connection, undone, active)
            mark_table.put_move(connection, number)
            return True

        return self._database.write(work).result()

    def set_mark(self, name: str, value: int) -> "Future[None]":
        """Begin to keep a number under `name`."""
        return self._database.write(lambda connection: mark_table.put(connection, name, value))

    def set_private(self, conversation: str, owner: str, private: bool = True) -> None:
        """Remember whether a conversation of an owner is off the record from now on."""
        row = (clean(conversation), clean(owner))
        statement = (
            "INSERT OR IGNORE INTO private_conversations VALUES (?, ?)"
            if private
            else "DELETE FROM private_conversations WHERE conversation = ? AND owner = ?"
        )
        self._database.write(lambda connection: connection.execute(statement, row)).result()

    def erase(self, id: str) -> None:
        """Forget what a turn said, for good; its place in the chain and its lessons stay.

        `learning.forgetting` forgets the lessons, too.
        """
        self._erase([self._number(id)])

    def expire(self, before: str, spared: Iterable[str] = ()) -> int:
        """Forget what turns from before a time (ISO 8601) said; return how many there were.

        Those whose ids are `spared` stay. A run that learns meanwhile goes on.
        """
        with self._database.reader() as connection:
            numbers = erasing.older(connection, before, frozenset(spared))
        self._erase(numbers)
        return len(numbers)

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
        self._database.write(
            lambda connection: erasing.forget(
                connection, numbers, self.gaps, names, (happened, many)
            )
        ).result()
        self._database.empty()

    def sweep(self) -> None:
        """Leave nothing of what was erased in the log; raises StateError if somebody reads it."""
        self._database.empty()

    def _erase(self, numbers: Sequence[int]) -> None:
        """Erase turns, some at a time, so that answers are written in between."""
        for start in range(0, len(numbers), ERASED):
            some = numbers[start:][:ERASED]
            self._database.write(functools.partial(erasing.erase, numbers=some)).result()
        if numbers:
            self._database.empty()  # the write-ahead log still holds the words

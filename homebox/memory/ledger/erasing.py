"""What a ledger no longer says: the words of turns, alone or with the lessons that they taught.

Invariant: a turn loses its words and its salt, never its place in the chain.
"""

import sqlite3
from collections.abc import Collection, Iterable

from homebox.memory import feedback, turn_rows
from homebox.memory.forgotten import Gaps, Spoken, said_in
from homebox.memory.history import Event, replay
from homebox.memory.ledger import marks


def erase(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Erase turns, with what was thought of them."""
    for number in numbers:
        feedback.erase(connection, number)
        turn_rows.erase(connection, number)


def forget(
    connection: sqlite3.Connection,
    numbers: Iterable[int],
    gaps: Gaps,
    names: Iterable[str],
    history: tuple[Iterable[Event], frozenset[str]],
) -> None:
    """Erase turns and the marks of some names, and make the lessons anew from a `history`.

    There are gaps where the turns are shown again. The history is what `history.replay` takes.
    """
    told: list[Spoken] = []
    for number in numbers:
        known = turn_rows.select(connection, "number = ?", (number,))
        told += [each for _, turn in known for each in said_in(turn)]
        erase(connection, [number])
    gaps.keep(connection, told)
    connection.executemany("DELETE FROM marks WHERE name = ?", [(name,) for name in names])
    replay(connection, *history)
    marks.put(connection, marks.ERASURES, marks.get(connection, marks.ERASURES) + 1)


def older(connection: sqlite3.Connection, time: str, spared: Collection[str]) -> list[int]:
    """Return the numbers of the turns from before a time that have words, without the `spared`."""
    rows = connection.execute(
        "SELECT number, id FROM turns WHERE time < ? AND salt IS NOT NULL ORDER BY number", (time,)
    ).fetchall()
    return [number for number, id in rows if id not in spared]

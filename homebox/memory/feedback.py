"""What was thought of an answer: good, bad, or the text that should have come instead.

The one idea: a turn has one opinion at a time, the latest, beside the chain of turns, which says
what happened and never changes. Invariant: an opinion goes with its turn when that is erased.
"""

import sqlite3
from dataclasses import dataclass

from homebox.errors import StateError

RATINGS = ("good", "bad", "edited")


@dataclass(frozen=True)
class Feedback:
    """An opinion about a turn."""

    turn: str  # its id
    rating: str  # good | bad | edited
    text: str = ""  # what the answer should have been, or a comment
    time: str = ""  # ISO 8601 in UTC


def put(connection: sqlite3.Connection, owner: str, feedback: Feedback) -> str:
    """Keep an opinion in place of an earlier one; raises StateError if there is no such turn.

    A turn of another owner counts as not there.
    """
    if feedback.rating not in RATINGS:
        raise StateError(f"a rating is one of {', '.join(RATINGS)}, not {feedback.rating!r}")
    row = connection.execute(
        "SELECT number FROM turns WHERE id = ? AND owner = ? AND salt IS NOT NULL",
        (feedback.turn, owner),
    ).fetchone()
    if row is None:
        raise StateError(f"there is no turn {feedback.turn!r}")
    connection.execute(
        "INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?)",
        (row[0], feedback.rating, feedback.text, feedback.time),
    )
    return feedback.turn


def select(connection: sqlite3.Connection) -> list[Feedback]:
    """Return all opinions in the order of their turns."""
    rows = connection.execute(
        "SELECT id, rating, text, feedback.time FROM feedback "
        "JOIN turns ON turns.number = feedback.turn ORDER BY feedback.turn"
    )
    return [Feedback(*row) for row in rows]


def erase(connection: sqlite3.Connection, number: int) -> None:
    """Forget what was thought of the turn with that number."""
    connection.execute("DELETE FROM feedback WHERE turn = ?", (number,))

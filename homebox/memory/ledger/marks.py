"""Numbers that the ledger keeps under a name: how far something got, when something happened."""

import sqlite3

MOVES = "moves"  # how many moves of HEAD the lessons have followed
MOVE = "move "  # "move 3": the turn after which HEAD made its third move
# "decision 000001 3 deleted <hash>": the turn after which the owner decided first, behind move 3.
DECISION = "decision "
ERASURES = "erasures"  # how often something was forgotten


def get(connection: sqlite3.Connection, name: str) -> int:
    """Return the number under a name; 0 if there is none."""
    row = connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def put(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Keep a number under a name, in place of an earlier one."""
    connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))


def select(connection: sqlite3.Connection, prefix: str) -> dict[str, int]:
    """Return the numbers under all names with that prefix, by name, sorted."""
    rows = connection.execute(
        "SELECT name, value FROM marks WHERE substr(name, 1, ?) = ? ORDER BY name",
        (len(prefix), prefix),
    )
    return dict(rows.fetchall())


def put_move(connection: sqlite3.Connection, number: int) -> None:
    """Remember that the lessons followed the move with that number, and after which turn."""
    put(connection, MOVES, number)
    put(connection, f"{MOVE}{number}", _last_turn(connection))


def put_decision(connection: sqlite3.Connection, state: str, lesson: str) -> None:
    """Remember that the owner moved a lesson to a state, and after which turn and move."""
    before = [int(name.split()[1]) for name in select(connection, DECISION)]
    number, moves = max(before, default=0) + 1, get(connection, MOVES)
    name = f"{DECISION}{number:06} {moves} {state} {lesson}"
    connection.execute("INSERT INTO marks VALUES (?, ?)", (name, _last_turn(connection)))


def _last_turn(connection: sqlite3.Connection) -> int:
    """Return the number of the last turn; 0 if there is none."""
    return int(connection.execute("SELECT ifnull(max(number), 0) FROM turns").fetchone()[0])

"""The table of turns: rows, and the texts that they share.

The one idea: prompts repeat with every request of a conversation, so each text is kept once, and a
page of turns reads it once. Invariant: erasing a turn's words and salt leaves its digest and the
chain.
"""

import hashlib
import json
import secrets
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from homebox.errors import StateError
from homebox.memory.clients import CHAT
from homebox.memory.store import canonical_json
from homebox.memory.turns import Answered, Message, Turn

START = bytes(32)  # the chain before the first turn
_COLUMNS = (
    *("number", "salt", "digest", "chain", "id", "conversation", "time", "model", "adapter"),
    *("sampling", "finish_reason", "prompt_tokens", "completion_tokens", "offered", "token_ids"),
    *("kind", "owner", "parent"),
)
_FIELDS = _COLUMNS[4:]  # those that a turn has under the same name
_OFFERED = _COLUMNS.index("offered")
# What stands for columns that an older ledger, opened for reading only, does not have.
_LATER = {
    "details": "NULL",
    "kind": f"'{CHAT}'",
    "offered": "NULL",
    "owner": "''",
    "parent": "''",
    "token_ids": "NULL",
}
T = TypeVar("T")
M = TypeVar("M")  # what stands for a message
_VARIABLES = 900  # of one statement; SQLite's own limit was 999 for long
_UNUSED = " AND ".join(
    f"NOT EXISTS (SELECT 1 FROM {table} WHERE {column} = texts.number)"
    for table, column in (("messages", "text"), ("messages", "details"), ("turns", "offered"))
)


class Row(NamedTuple, Generic[M]):
    """A row of the table, with what stands for its messages."""

    number: int
    salt: bytes | None  # None if the turn was erased
    digest: bytes
    chain: bytes
    fields: dict[str, Any]  # of the turn, but for its messages
    new: list[M]
    prompt: list[M]


def insert(connection: sqlite3.Connection, turn: Turn) -> str:
    """Add a turn as the next link of the chain; raises StateError if its id was used before."""
    from homebox.memory.digests import digest_of  # what encodes takes long to import

    salt = secrets.token_bytes(16)
    digest = digest_of(turn, salt)
    chain = hashlib.sha256(head(connection) + digest).digest()
    sampling = canonical_json(turn.sampling).decode()
    offered = _text(connection, turn.offered) if turn.offered else None
    try:
        cursor = connection.execute(
            "INSERT INTO turns (id, conversation, time, model, adapter, sampling, finish_reason, "
            "prompt_tokens, completion_tokens, offered, token_ids, kind, owner, parent, "
            "salt, digest, chain) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(turn.id, turn.conversation, turn.time, turn.model, turn.adapter, sampling),
                *(turn.finish_reason, turn.prompt_tokens, turn.completion_tokens),
                *(offered, _packed(turn.token_ids), turn.kind, turn.owner, turn.parent),
                *(salt, digest, chain),
            ),
        )
    except sqlite3.IntegrityError as error:
        raise StateError(f"turn {turn.id} cannot be written a second time") from error
    for part, messages in (("prompt", turn.prompt), ("new", turn.messages)):
        for position, message in enumerate(messages):
            connection.execute(
                "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(cursor.lastrowid, part, position, message.role, message.provenance),
                    _text(connection, message.content),
                    _text(connection, message.details) if message.details else None,
                ),
            )
    return turn.id


def _text(connection: sqlite3.Connection, content: str) -> int:
    """Keep a text once and return its number."""
    name = hashlib.sha256(content.encode()).digest()
    row = connection.execute("SELECT number FROM texts WHERE hash = ?", (name,)).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO texts (hash, content) VALUES (?, ?) RETURNING number", (name, content)
        ).fetchone()
    return int(row[0])


def erase(connection: sqlite3.Connection, number: int) -> None:
    """Delete a turn's words, those texts that no other turn shares, and its salt."""
    held = connection.execute(
        "SELECT text FROM messages WHERE turn = ?1 UNION SELECT details FROM messages "
        "WHERE turn = ?1 UNION SELECT offered FROM turns WHERE number = ?1",
        (number,),
    ).fetchall()
    connection.execute("DELETE FROM messages WHERE turn = ?", (number,))
    connection.execute(
        "UPDATE turns SET salt = NULL, conversation = '', sampling = '{}', offered = NULL, "
        "token_ids = NULL, owner = '', parent = '' WHERE number = ?",
        (number,),
    )
    connection.executemany(
        f"DELETE FROM texts WHERE number = ? AND {_UNUSED}", [row for row in held if row[0]]
    )


def holds(connection: sqlite3.Connection, text: str) -> bool:
    """Say whether a text stands, whole or as a part, in a message or an opinion."""
    name = hashlib.sha256(text.encode()).digest()
    for wanted, value in (
        ("texts WHERE hash = ?", name),
        ("feedback WHERE text = ?", text),
        ("texts WHERE instr(content, ?)", text),
        ("feedback WHERE instr(text, ?)", text),
    ):
        if connection.execute(f"SELECT 1 FROM {wanted} LIMIT 1", (value,)).fetchone():
            return True
    return False


def head(connection: sqlite3.Connection) -> bytes:
    """Return the chain after the last turn."""
    row = connection.execute("SELECT chain FROM turns ORDER BY number DESC LIMIT 1").fetchone()
    return START if row is None else bytes(row[0])


def _columns(
    connection: sqlite3.Connection, table: str = "turns", names: Iterable[str] = _COLUMNS
) -> str:
    """Return the columns as SQL, with their defaults for those that the table does not have."""
    known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    return ", ".join(name if name in known else _LATER[name] for name in names)


def select(
    connection: sqlite3.Connection, condition: str, parameters: tuple[object, ...]
) -> list[tuple[int, Turn]]:
    """Return the numbers and turns that fit an SQL condition, erased ones left out."""
    return [
        (row.number, Turn(**row.fields, messages=tuple(row.new), prompt=tuple(row.prompt)))
        for row in read(connection, f"salt IS NOT NULL AND {condition}", parameters, Message)
    ]


def read(
    connection: sqlite3.Connection,
    condition: str,
    parameters: tuple[object, ...],
    make: Callable[[str, str, str, str], M],
) -> list[Row[M]]:
    """Return the rows that fit an SQL condition, erased ones with nothing in their fields.

    `make` makes a message of a role, content, provenance and details, of each kind once.
    """
    statement = f"SELECT {_columns(connection)} FROM turns WHERE {condition}"
    rows = connection.execute(statement, parameters).fetchall()
    parts = _messages(connection, [row[0] for row in rows])
    kinds = {part[2:] for part in parts}
    wanted = {number for kind in kinds for number in kind[2:] if number is not None}
    offered = {row[_OFFERED] for row in rows if row[_OFFERED] is not None}
    texts = _texts(connection, wanted | offered)
    made = {
        (role, provenance, text, details): make(
            role, texts.get(text, ""), provenance, texts.get(details, "")
        )
        for role, provenance, text, details in kinds
    }
    said: dict[int, tuple[list[M], list[M]]] = {row[0]: ([], []) for row in rows}
    for part in parts:
        said[part[0]][part[1]].append(made[part[2:]])
    return [
        Row(number, salt, digest, chain, _fields(more, texts), *said[number])
        for number, salt, digest, chain, *more in rows
    ]


def _fields(columns: list[Any], texts: dict[int, str]) -> dict[str, Any]:
    """Return columns as the turn has them, without its messages."""
    fields = dict(zip(_FIELDS, columns, strict=True))
    fields["sampling"] = json.loads(fields["sampling"])
    fields["offered"] = texts.get(fields["offered"], "")
    fields["token_ids"] = _unpacked(fields["id"], fields["token_ids"])
    return fields


def numbers(connection: sqlite3.Connection, ids: Iterable[str]) -> tuple[int, ...]:
    """Return the numbers of the turns of those ids, erased or not, in order."""
    found: list[int] = []
    for some in _groups(list(ids)):
        rows = connection.execute(
            f"SELECT number FROM turns WHERE id IN ({', '.join('?' * len(some))})", some
        )
        found += (number for (number,) in rows)
    return tuple(sorted(found))


def answers(connection: sqlite3.Connection, most: int) -> list[Answered]:
    """Return the last answers whose ids were kept, the oldest first."""
    rows = connection.execute(
        "SELECT number, id, owner, token_ids FROM turns WHERE token_ids IS NOT NULL "
        "ORDER BY number DESC LIMIT ?",
        (most,),
    ).fetchall()
    found = []
    for number, id, owner, ids in reversed(rows):
        row = connection.execute(
            "SELECT role, content, provenance, details FROM messages JOIN texts "
            "ON text = texts.number WHERE turn = ? AND part = 'new' ORDER BY position DESC LIMIT 1",
            (number,),
        ).fetchone()
        if row is not None:
            more = "" if row[3] is None else _read(connection, row[3])
            found.append(Answered(owner, _unpacked(id, ids), Message(row[0], row[1], row[2], more)))
    return found


def _messages(connection: sqlite3.Connection, turns: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return (turn, whether shown, role, provenance, text, details) of some turns' messages."""
    columns = _columns(connection, "messages", ("details",))
    found: list[tuple[Any, ...]] = []
    for some in _groups(turns):
        found += connection.execute(
            f"SELECT turn, part = 'prompt', role, provenance, text, {columns} FROM messages "
            f"WHERE turn IN ({', '.join('?' * len(some))}) ORDER BY turn, part, position",
            some,
        )
    return found


def _texts(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, str]:
    """Return the texts of those numbers that are there."""
    found: dict[int, str] = {}
    for some in _groups(sorted(numbers)):
        found.update(
            connection.execute(
                f"SELECT number, content FROM texts WHERE number IN ({', '.join('?' * len(some))})",
                some,
            )
        )
    return found


def _groups(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut values so that one statement can hold each part."""
    return (values[start:][:_VARIABLES] for start in range(0, len(values), _VARIABLES))


def _packed(ids: tuple[int, ...]) -> bytes | None:
    return struct.pack(f"<{len(ids)}i", *ids) if ids else None


def _unpacked(id: str, data: bytes | None) -> tuple[int, ...]:
    if not data:
        return ()
    if len(data) % 4:
        raise StateError(f"turn {id} of the ledger is damaged; restore it from a backup")
    return struct.unpack(f"<{len(data) // 4}i", data)


def _read(connection: sqlite3.Connection, number: int) -> str:
    row = connection.execute("SELECT content FROM texts WHERE number = ?", (number,)).fetchone()
    return "" if row is None else str(row[0])

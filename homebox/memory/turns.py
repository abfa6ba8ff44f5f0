"""The table of turns: rows, the texts that they share, and the chain of salted digests.

The one idea: a turn's digest covers everything that it says and a random salt, and the chain covers
all digests in order. Invariant: erasing a turn's words and salt leaves its digest and the chain.
"""

import dataclasses
import hashlib
import json
import re
import secrets
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from homebox.errors import StateError
from homebox.memory.clients import CHAT
from homebox.memory.provenance import PROVENANCES
from homebox.memory.store import canonical_json, encoded, is_name

START = bytes(32)  # the chain before the first turn
_ID = re.compile(r"turn_[0-9a-f]{24}")
_COLUMNS = (
    *("number", "id", "conversation", "time", "model", "adapter", "sampling", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "offered", "token_ids", "kind", "owner", "parent"),
    *("salt", "digest", "chain"),
)
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
_MOST_ID = 2**31 - 1
_VARIABLES = 900  # of one statement; SQLite's own limit was 999 for long
_UNUSED = " AND ".join(
    f"NOT EXISTS (SELECT 1 FROM {table} WHERE {column} = texts.number)"
    for table, column in (("messages", "text"), ("messages", "details"), ("turns", "offered"))
)


def new_turn_id() -> str:
    """Make an id before the turn is complete, for the header of a streamed response."""
    return f"turn_{secrets.token_hex(12)}"


def now() -> str:
    """Return the time as the ledger writes it: ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Message:
    """One message; the role says how the model saw it, the provenance whose words it holds."""

    role: str
    content: str
    provenance: str  # owner | assistant | tool | file | web | system
    details: str = ""  # a JSON object of its other fields: calls of tools, reasoning, ids

    def as_chat(self) -> dict[str, Any]:
        """Return the message as a chat format renders it."""
        more = json.loads(self.details) if self.details else {}
        known = {"role": self.role, "content": self.content, "provenance": self.provenance}
        return {**more, **known}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One request and its answer."""

    id: str = field(default_factory=new_turn_id)
    conversation: str
    time: str = field(default_factory=now)  # ISO 8601 in UTC
    model: str
    adapter: str  # weights hash or "base"
    sampling: dict[str, Any]
    messages: tuple[Message, ...]  # what this request added, the answer last
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    prompt: tuple[Message, ...] = field(default=())  # everything that the model was shown
    offered: str = ""  # a JSON object of what it was shown besides: tools, the template's variables
    token_ids: tuple[int, ...] = ()  # what the model generated, each below 2**31
    kind: str = CHAT  # what the request was for: chat, or what a client does on its own
    owner: str = ""  # a digest of the key that the request came with
    parent: str = ""  # the conversation that this one was begun from


class Answered(NamedTuple):
    """An answer: whose it was, the ids that it consists of, what it says."""

    owner: str
    token_ids: tuple[int, ...]
    message: Message


def insert(connection: sqlite3.Connection, turn: Turn) -> str:
    """Add a turn as the next link of the chain; raises StateError if its id was used before."""
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


def digest_of(turn: Turn, salt: bytes) -> bytes:
    """Return the digest of everything that a turn says, with its salt."""
    content: dict[str, Any] = {
        "adapter": turn.adapter,
        "completion_tokens": turn.completion_tokens,
        "conversation": turn.conversation,
        "finish_reason": turn.finish_reason,
        "id": turn.id,
        "messages": [_digested(item) for item in turn.messages],
        "model": turn.model,
        "prompt": [_digested(item) for item in turn.prompt],
        "prompt_tokens": turn.prompt_tokens,
        "sampling": turn.sampling,
        "time": turn.time,
    }
    # Only what is there, so that turns from before there was such a thing keep their digests.
    more = {"offered": turn.offered, "owner": turn.owner, "parent": turn.parent}
    content |= {name: value for name, value in more.items() if value}
    if turn.kind != CHAT:
        content["kind"] = turn.kind
    if turn.token_ids:
        content["token_ids"] = list(turn.token_ids)
    return hashlib.sha256(salt + encoded(content)).digest()


def _digested(message: Message) -> list[str]:
    """Return what a digest covers; turns from before there were details keep theirs."""
    known = [message.role, message.content, message.provenance]
    return [*known, message.details] if message.details else known


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
    rows = connection.execute(
        f"SELECT {_columns(connection)} FROM turns WHERE salt IS NOT NULL AND {condition}",
        parameters,
    ).fetchall()
    return [(row[0], turn) for row, turn in zip(rows, _turns(connection, rows), strict=True)]


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


def check(
    connection: sqlite3.Connection, number: int, chain: bytes, limit: int
) -> tuple[int, bytes, int]:
    """Recompute up to `limit` links after turn `number`, where the chain stood at `chain`.

    Returns the last number, the chain there and how many links were checked; raises StateError.
    """
    rows = connection.execute(
        f"SELECT {_columns(connection)} FROM turns WHERE number > ? ORDER BY number LIMIT ?",
        (number, limit),
    ).fetchall()
    for row, turn in zip(rows, _turns(connection, rows), strict=True):
        number, salt, digest = row[0], row[-3], row[-2]
        chain = hashlib.sha256(chain + digest).digest()
        wrong = salt is not None and digest_of(turn, salt) != digest
        if wrong or chain != row[-1]:
            # What was erased needs only its digest, which stands.
            erase = f', or erase the turn with "homebox log delete {row[1]}"'
            raise StateError(
                f"turn {row[1]} (row {number}) of the ledger is damaged (hash mismatch); restore "
                f"the ledger from a backup of the state{erase if chain == row[-1] else ''}"
            )
    return number, chain, len(rows)


def _turns(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> list[Turn]:
    """Return the turns of rows, reading each text once: prompts repeat with every request."""
    said: dict[int, dict[str, list[Message]]] = {row[0]: {"prompt": [], "new": []} for row in rows}
    parts = _messages(connection, list(said))
    wanted = {number for part in parts for number in part[4:] if number is not None}
    texts = _texts(connection, wanted.union(row[10] for row in rows if row[10] is not None))
    made: dict[tuple[Any, ...], Message] = {}
    for turn, part, *message in parts:
        same = tuple(message)
        if same not in made:
            role, provenance, text, details = same
            made[same] = Message(role, texts.get(text, ""), provenance, texts.get(details, ""))
        said[turn][part].append(made[same])
    return [_turn(row, **said[row[0]], offered=texts.get(row[10], "")) for row in rows]


def _messages(connection: sqlite3.Connection, turns: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return (turn, part, role, provenance, text, details) of the messages of some turns."""
    columns = _columns(connection, "messages", ("details",))
    found: list[tuple[Any, ...]] = []
    for some in _groups(turns):
        found += connection.execute(
            f"SELECT turn, part, role, provenance, text, {columns} FROM messages "
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


def _turn(row: tuple[Any, ...], prompt: list[Message], new: list[Message], offered: str) -> Turn:
    return Turn(
        id=row[1],
        conversation=row[2],
        time=row[3],
        model=row[4],
        adapter=row[5],
        sampling=json.loads(row[6]),
        messages=tuple(new),
        finish_reason=row[7],
        prompt_tokens=row[8],
        completion_tokens=row[9],
        prompt=tuple(prompt),
        offered=offered,
        token_ids=_unpacked(row[1], row[11]),
        kind=row[12],
        owner=row[13],
        parent=row[14],
    )


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


def as_written(turn: Turn) -> Turn:
    """Return a turn as UTF-8 and JSON can hold it; raises StateError for what cannot be written."""
    kept = dataclasses.replace(
        turn,
        conversation=clean(turn.conversation),
        model=clean(turn.model),
        sampling=json.loads(canonical_json(turn.sampling)),
        messages=tuple(cleaned(turn.messages)),
        prompt=tuple(cleaned(turn.prompt)),
        offered=clean(turn.offered),
        token_ids=tuple(map(int, turn.token_ids)),
        kind=clean(turn.kind),
        owner=clean(turn.owner),
        parent=clean(turn.parent),
    )
    validate(kept)
    return kept


def cleaned(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield the messages as UTF-8 can hold them; raises StateError for an unknown provenance."""
    for message in messages:
        if message.provenance not in PROVENANCES:
            raise StateError(f"a message cannot come from {message.provenance!r}")
        details = clean(message.details)
        yield Message(clean(message.role), clean(message.content), message.provenance, details)


def clean(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def validate(turn: Turn) -> None:
    """Refuse what the table must not hold; raises StateError."""
    if not _ID.fullmatch(turn.id):
        raise StateError(f"{turn.id!r} is no turn id; make one with new_turn_id()")
    if turn.adapter != "base" and not is_name(turn.adapter):
        raise StateError(f'a turn\'s adapter is "base" or a weights hash, not {turn.adapter!r}')
    if turn.prompt_tokens < 0 or turn.completion_tokens < 0:
        raise StateError("a turn cannot have a negative number of tokens")
    if not all(0 <= index <= _MOST_ID for index in turn.token_ids):
        raise StateError("a turn's token ids must be numbers from 0 to 2**31 - 1")
    if not turn.kind:
        raise StateError("a turn needs a kind")
    if not turn.messages:
        raise StateError("a turn without messages cannot be written")

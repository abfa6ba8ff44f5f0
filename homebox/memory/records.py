"""What the owner takes out of the ledger: whole turns with their links, digests of secrets.

Invariant: an export has a line for every link of the chain, erased ones included, with all that a
program needs to check the chain again and to have the turns back.
"""

import dataclasses
import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from homebox.errors import StateError
from homebox.memory import turn_rows
from homebox.memory.database import Database
from homebox.memory.secrets.finding import PLACEHOLDER
from homebox.memory.spans import spans_of
from homebox.memory.turn_rows import START
from homebox.memory.turns import Message, Turn

_PURPOSE = "secrets"
_SALT = 32


@dataclass(frozen=True)
class Link:
    """One link of the chain; the turn is None if it was erased."""

    number: int
    id: str
    salt: bytes | None
    digest: bytes
    chain: bytes
    turn: Turn | None


def salt_of(database: Database, read_only: bool) -> bytes:
    """Return the salt of the digests that stand for secrets, and draw it if there is none."""
    with database.reader() as connection:
        known = _salt(connection)
    if known or read_only:
        return known

    def work(connection: sqlite3.Connection) -> bytes:
        connection.execute(
            "INSERT OR IGNORE INTO salts VALUES (?, ?)", (_PURPOSE, secrets.token_bytes(_SALT))
        )
        return _salt(connection)

    return database.write(work).result()


def _salt(connection: sqlite3.Connection) -> bytes:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'salts'").fetchone():
        return b""  # an older ledger, opened for reading only
    row = connection.execute("SELECT salt FROM salts WHERE purpose = ?", (_PURPOSE,)).fetchone()
    return bytes(row[0]) if row else b""


def digests_in(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the digests of all secrets that were replaced in texts and opinions."""
    found: set[str] = set()
    for column, table in (("content", "texts"), ("text", "feedback"), ("sampling", "turns")):
        rows = connection.execute(f"SELECT {column} FROM {table} WHERE instr({column}, '[secret:')")
        for (text,) in rows:
            found.update(PLACEHOLDER.findall(text))
    return frozenset(found)


def links(connection: sqlite3.Connection, number: int, conversation: str, most: int) -> list[Link]:
    """Return up to `most` links after a number; of one conversation, or of all with erased ones."""
    rows = connection.execute(
        "SELECT number, id, salt, digest, chain FROM turns WHERE number > ?1 "
        "AND (?2 = '' OR conversation = ?2) ORDER BY number LIMIT ?3",
        (number, conversation, most),
    ).fetchall()
    if not rows:
        return []
    turns = dict(
        turn_rows.select(
            connection,
            "number > ?1 AND number <= ?2 AND (?3 = '' OR conversation = ?3) ORDER BY number",
            (number, rows[-1][0], conversation),
        )
    )
    return [
        Link(number, id, salt, digest, chain, turns.get(number))
        for number, id, salt, digest, chain in rows
    ]


def link_line(link: Link, feedback: dict[str, Any] | None = None) -> str:
    """Return a link as one line of JSON, without the line's end."""
    value: dict[str, Any] = {"id": link.id, "digest": link.digest.hex(), "chain": link.chain.hex()}
    if link.turn is None or link.salt is None:
        value["erased"] = True
    else:
        value |= {"salt": link.salt.hex(), **turn_value(link.turn)}
        if feedback:
            value["feedback"] = feedback
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def turn_value(turn: Turn) -> dict[str, Any]:
    """Return a turn as JSON, with whose words each piece of its messages holds."""
    value = dataclasses.asdict(turn)
    for name, messages in (("messages", turn.messages), ("prompt", turn.prompt)):
        for told, message in zip(value[name], messages, strict=True):
            told["spans"] = [list(span) for span in spans_of(message)]
    return value


def read_links(lines: Iterable[str]) -> Iterator[Link]:
    """Yield the links of an export; raises StateError for a line that is none."""
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            salt = bytes.fromhex(value["salt"]) if "salt" in value else None
            digest, chain = bytes.fromhex(value["digest"]), bytes.fromhex(value["chain"])
            turn = None if value.get("erased") else _turn(value)
            yield Link(number, str(value["id"]), salt, digest, chain, turn)
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"line {number} is no line of an export: {error!r}") from error


def check_links(found: Iterable[Link]) -> bytes:
    """Recompute the chain of a whole export and return its end; raises StateError."""
    from homebox.memory.digests import digest_of  # what encodes takes long to import

    chain = START
    for link in found:
        chain = hashlib.sha256(chain + link.digest).digest()
        wrong = False
        if link.turn is not None and link.salt is not None:
            wrong = digest_of(link.turn, link.salt) != link.digest
        if wrong or chain != link.chain:
            raise StateError(f"turn {link.id} of the export was changed (hash mismatch)")
    return chain


def _turn(value: dict[str, Any]) -> Turn:
    fields = {field.name: value[field.name] for field in dataclasses.fields(Turn)}
    for name in ("messages", "prompt"):
        fields[name] = tuple(
            Message(each["role"], each["content"], each["provenance"], each["details"])
            for each in fields[name]
        )
    return Turn(**{**fields, "token_ids": tuple(fields["token_ids"])})

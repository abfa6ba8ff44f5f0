"""What the owner looks up in the ledger: words, whole turns with their links, digests of secrets.

The one idea: words are searched for where they are, without an index, which would keep those that
were erased. Invariant: an export has a line for every link of the chain, erased ones included, with
all that a program needs to check the chain again and to have the turns back.
"""

import dataclasses
import hashlib
import json
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from homebox.errors import StateError
from homebox.memory import turns as turn_table
from homebox.memory.database import Database
from homebox.memory.secrets.finding import PLACEHOLDER
from homebox.memory.spans import spans_of
from homebox.memory.turns import START, Message, Turn

LATEST = 2_000  # turns that are looked through first
_WORDS = 64  # that are looked for at once
AROUND = 60  # characters before and after what was searched for
_PURPOSE = "secrets"
_SALT = 32


@dataclass(frozen=True)
class Hit:
    """A message in which a text occurs."""

    turn: str
    time: str
    conversation: str
    role: str
    text: str  # what stands around it


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


def search(
    connection: sqlite3.Connection, text: str, most: int, conversation: str = ""
) -> list[Hit]:
    """Return the last `most` messages that hold a text, the oldest first; letters of any case."""
    needle = text.encode("utf-8", "replace").decode().casefold()
    if not needle or most < 1:
        return []
    if needle.isascii():
        # An ASCII letter may also come from another one, but those are signs such as the Kelvin's.
        pattern = re.sub(r"([%_\\])", r"\\\1", needle)
        condition, value = "{} LIKE ?1 ESCAPE '\\'", f"%{pattern}%"
    else:
        connection.create_function("folded", 1, str.casefold, deterministic=True)
        # Folding makes nothing else of ASCII letters, so most texts need no look.
        longer = "length(CAST({} AS BLOB)) > length({})"
        condition, value = f"CASE WHEN {longer} THEN instr(folded({{}}), ?1) END", needle
    rows = _nearby(connection, condition, value, most, conversation)
    if len(rows) < most and not conversation:
        rows = _anywhere(connection, condition, value, most)
    return [
        Hit(id, time, talk, role, _around(needle, content, details or ""))
        for id, time, talk, role, content, details in reversed(rows)
    ]


def _nearby(
    connection: sqlite3.Connection, condition: str, value: str, most: int, conversation: str
) -> list[tuple[str, str, str, str, str, str | None]]:
    """Look through one conversation, or else through the latest turns: that finds usual words."""
    latest = f"turns.number > (SELECT max(number) FROM turns) - {LATEST}"
    said, more = (condition.replace("{}", f"{table}.content") for table in ("said", "more"))
    return connection.execute(
        "SELECT id, time, conversation, role, said.content, more.content FROM turns "
        "JOIN messages ON messages.turn = turns.number AND part = 'new' "
        "JOIN texts AS said ON said.number = text LEFT JOIN texts AS more ON more.number = details "
        f"WHERE {'conversation = ?2' if conversation else latest} AND ({said} OR {more}) "
        "ORDER BY turns.number DESC, position DESC LIMIT ?3",
        (value, conversation, most),
    ).fetchall()


def _anywhere(
    connection: sqlite3.Connection, condition: str, value: str, most: int
) -> list[tuple[str, str, str, str, str, str | None]]:
    """Look through all texts, each once, then for the messages that have those that fit."""
    return connection.execute(
        "WITH found AS MATERIALIZED (SELECT number FROM texts WHERE "
        f"{condition.replace('{}', 'content')}), "
        "places AS (SELECT turn, position FROM messages JOIN found "
        "ON text = found.number WHERE part = 'new' UNION SELECT turn, position FROM messages "
        "JOIN found ON details = found.number WHERE part = 'new' "
        "ORDER BY turn DESC, position DESC LIMIT ?2) "
        "SELECT id, time, conversation, role, content, "
        "(SELECT content FROM texts WHERE number = details) FROM places "
        "JOIN turns ON turns.number = places.turn JOIN messages ON messages.turn = places.turn "
        "AND part = 'new' AND messages.position = places.position "
        "JOIN texts ON texts.number = messages.text "
        "ORDER BY places.turn DESC, places.position DESC",
        (value, most),
    ).fetchall()


def showing(connection: sqlite3.Connection, conversation: str, text: str) -> list[str]:
    """Return the ids of turns of a conversation whose prompts hold a message of that text."""
    rows = connection.execute(
        "SELECT DISTINCT id FROM texts JOIN messages ON text = texts.number AND part = 'prompt' "
        "JOIN turns ON turns.number = turn WHERE hash = ? AND conversation = ?",
        (hashlib.sha256(text.encode()).digest(), conversation),
    )
    return [id for (id,) in rows]


def holding(
    connection: sqlite3.Connection, words: Iterable[str], fits: Callable[[str], bool]
) -> list[str]:
    """Return the ids of turns with a text that `fits`; it holds one of the words, casefolded.

    Each text is looked at once, however many turns show it.
    """
    connection.create_function("fits", 1, fits, deterministic=True)
    wanted = sorted(set(words))
    likely, values = "1", []
    if len(wanted) <= _WORDS and all(word.isascii() for word in wanted):
        # Folding may make ASCII letters of others, so what has others is looked at, too.
        others = "length(CAST(content AS BLOB)) > length(content)"
        likely = " OR ".join([*("content LIKE ?" for _ in wanted), others])
        values = [f"%{word}%" for word in wanted]
    rows = connection.execute(
        f"WITH found AS MATERIALIZED (SELECT number FROM texts WHERE ({likely}) AND fits(content)) "
        "SELECT DISTINCT id FROM found JOIN messages ON text = found.number "
        "JOIN turns ON turns.number = turn",
        values,
    )
    return [id for (id,) in rows]


def _around(needle: str, *texts: str) -> str:
    """Return what stands around the first occurrence in one of the texts."""
    for text in texts:
        match = re.search(re.escape(needle), text, re.IGNORECASE)
        place = match.start() if match else text.casefold().find(needle)
        if place >= 0:
            start, end = max(0, place - AROUND), place + len(needle) + AROUND
            before, after = "..." if start else "", "..." if end < len(text) else ""
            return f"{before}{text[start:end]}{after}"
    return texts[0][: 2 * AROUND]


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
        turn_table.select(
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
    chain = START
    for link in found:
        chain = hashlib.sha256(chain + link.digest).digest()
        wrong = False
        if link.turn is not None and link.salt is not None:
            wrong = turn_table.digest_of(link.turn, link.salt) != link.digest
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

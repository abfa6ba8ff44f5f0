"""Ledgers of earlier schemas: opened, brought up to date, kept as they were, their digests valid.

The files are made here, statement by statement, as an earlier homebox made them.
"""

import contextlib
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import StateError
from homebox.memory.ledger import Ledger
from homebox.memory.migrations import APPLICATION_ID, STEPS
from homebox.memory.searching import _ZEROS
from homebox.memory.store import canonical_json
from tests.unit.memory.kit import say

SALT = b"0123456789abcdef"
ID = "turn_" + "ab" * 12
WORDS = (("user", "My dog is Rex.", "owner"), ("assistant", "Good.", "assistant"))
OFFERED = '{"tools":[]}'


def old_ledger(path: Path, version: int) -> str:
    """Make a ledger of that schema with one turn; returns its chain."""
    content: dict[str, Any] = {
        "adapter": "base",
        "completion_tokens": 2,
        "conversation": "c1",
        "finish_reason": "stop",
        "id": ID,
        "messages": [list(words) for words in WORDS],
        "model": "homebox",
        "prompt": [],
        "prompt_tokens": 3,
        "sampling": {},
        "time": "2026-01-02T03:04:05.678Z",
    }
    if version >= 2:
        content["offered"] = OFFERED
    digest = hashlib.sha256(SALT + canonical_json(content)).digest()
    chain = hashlib.sha256(bytes(32) + digest).digest()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for step in STEPS[:version]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute(
            "INSERT INTO turns (id, conversation, time, model, adapter, sampling, finish_reason, "
            "prompt_tokens, completion_tokens, salt, digest, chain) "
            "VALUES (?, 'c1', '2026-01-02T03:04:05.678Z', 'homebox', 'base', '{}', 'stop', 3, 2, "
            "?, ?, ?)",
            (ID, SALT, digest, chain),
        )
        for place, (role, text, provenance) in enumerate(WORDS):
            number = add_text(connection, text)
            connection.execute(
                "INSERT INTO messages (turn, part, position, role, provenance, text) "
                "VALUES (1, 'new', ?, ?, ?, ?)",
                (place, role, provenance, number),
            )
        if version >= 2:
            connection.execute("UPDATE turns SET offered = ?", (add_text(connection, OFFERED),))
    return chain.hex()


def add_text(connection: sqlite3.Connection, text: str) -> int:
    name = hashlib.sha256(text.encode()).digest()
    made = connection.execute("INSERT INTO texts (hash, content) VALUES (?, ?)", (name, text))
    assert made.lastrowid is not None
    return made.lastrowid


def version_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_an_old_ledger_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ledger.db"
    chain = old_ledger(path, version)
    ledger = Ledger(path)
    turn = ledger.turn(ID)
    assert turn is not None
    assert [(m.role, m.content, m.provenance) for m in turn.messages] == list(WORDS)
    assert turn.offered == (OFFERED if version >= 2 else "")
    assert (turn.token_ids, turn.kind, turn.owner, turn.parent) == ((), "chat", "", "")
    assert (ledger.root(), ledger.verify()) == (chain, 1)
    say(ledger, "x", token_ids=[1, 2**31 - 1], kind="title", owner="me", parent="c0")
    assert ledger.verify() == 2
    ledger.close()
    # What was there before is kept, and can be opened by whoever made it.
    kept = path.with_name(f"ledger.db.v{version}")
    assert (version_of(path), version_of(kept)) == (len(STEPS), version)
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_a_step_that_fails_leaves_the_old_ledger(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    old_ledger(path, version)
    broken = (*STEPS[:-1], (*STEPS[-1], "ALTER TABLE nowhere ADD COLUMN x"))
    with monkeypatch.context() as patched:
        patched.setattr("homebox.memory.database.STEPS", broken)
        with pytest.raises(StateError, match="nowhere"):
            Ledger(path)
    assert version_of(path) == version
    ledger = Ledger(path)  # control: without the broken statement the same file is brought over
    assert ledger.verify() == 1
    ledger.close()


def test_a_newer_ledger_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    for read_only in (False, True):
        with pytest.raises(StateError, match="newer homebox"):
            Ledger(path, read_only)
    assert version_of(path) == len(STEPS) + 1
    assert not list(tmp_path.glob("*.v*"))


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_an_old_ledger_is_read_without_changing_it(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ledger.db"
    chain = old_ledger(path, version)
    before = path.read_bytes()
    ledger = Ledger(path, read_only=True)
    (turn,) = ledger.turns()
    assert [message.content for message in turn.messages] == [text for _, text, _ in WORDS]
    assert (ledger.root(), ledger.verify(), ledger.lessons()) == (chain, 1, [])
    ledger.close()
    assert (version_of(path), path.read_bytes()) == (version, before)


def test_what_is_asked_for_often_is_found_by_an_index(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    old_ledger(path, len(STEPS) - 1)
    questions = {
        "SELECT * FROM lessons WHERE subject IN ('a', 'b') AND state IN ('new', 'active')": (
            "SEARCH lessons USING INDEX lessons_by_subject (subject=? AND state=?)"
        ),
        _ZEROS[1:-1]: "SCAN texts USING INDEX texts_with_zeros",
    }

    def plan(question: str) -> str:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return str(connection.execute(f"EXPLAIN QUERY PLAN {question}").fetchone()[3])

    assert not any(plan(question) == answer for question, answer in questions.items())  # control
    Ledger(path).close()
    assert {question: plan(question) for question in questions} == questions


def test_generated_ids_come_back_and_are_erased(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    ids = [0x41424344] * 64  # "DCBA" in a file
    name = say(ledger, "x", token_ids=ids, owner="4711-OWNER", parent="4711-PARENT")
    turn = ledger.turn(name)
    assert turn is not None
    assert (turn.token_ids, turn.owner, turn.parent) == (tuple(ids), "4711-OWNER", "4711-PARENT")
    assert ledger.answers(5) == [("4711-OWNER", tuple(ids), turn.messages[-1])]
    assert ledger.answers(0) == []

    def written() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    assert b"DCBADCBA" in written() and b"4711-OWNER" in written()  # control
    ledger.erase(name)
    for words in (b"DCBADCBA", b"4711-OWNER", b"4711-PARENT"):
        assert words not in written()
    assert (ledger.verify(), ledger.answers(5)) == (1, [])
    ledger.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE turns SET token_ids = NULL",
        "UPDATE turns SET token_ids = x'02000000'",
        "UPDATE turns SET token_ids = x'0200'",
        "UPDATE turns SET kind = 'chat'",
        "UPDATE turns SET owner = 'other'",
        "UPDATE turns SET parent = ''",
    ],
)
def test_verify_notices_what_was_changed(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    say(ledger, "x", token_ids=[1], kind="title", owner="me", parent="c0")
    assert ledger.verify() == 1  # control: the unchanged ledger passes
    ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    with pytest.raises(StateError, match="damaged"):
        Ledger(path, read_only=True).verify()


@pytest.mark.parametrize("ids", [[-1], [2**31], [1, 2**40]])
def test_ids_that_are_none_are_refused(tmp_path: Path, ids: list[int]) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    with pytest.raises(StateError, match="token ids"):
        say(ledger, "x", token_ids=ids)
    assert ledger.count() == 0
    ledger.close()

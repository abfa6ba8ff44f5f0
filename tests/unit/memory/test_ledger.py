"""The ledger: durable turns, a chain that tells, erasure, lessons, migrations."""

import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homebox.errors import StateError
from homebox.memory import database
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson
from homebox.memory.migrations import APPLICATION_ID, STEPS
from homebox.memory.provenance import PROVENANCES, may_teach, provenance_of
from homebox.memory.turns import Message, Turn, new_turn_id
from tests.unit.memory.kit import MANY, lesson, say


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def sql(path: Path, statement: str, *parameters: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, parameters).fetchall()


def test_a_turn_comes_back_as_it_was(ledger: Ledger, tmp_path: Path) -> None:
    prompt = (Message("system", "Be brief.", "system"), Message("user", "Hi äß 🐟\0", "owner"))
    name = ledger.append(
        conversation="c",
        model="homebox",
        adapter="a" * 64,
        sampling={"temperature": 0.7, "stop": ["x"], "seed": None},
        messages=[*prompt[1:], Message("assistant", "Hello.", "assistant")],
        prompt=prompt,
        finish_reason="stop",
        prompt_tokens=7,
        completion_tokens=2,
        time="2026-01-02T03:04:05.678Z",
    )
    turn = ledger.turn(name)
    assert turn is not None
    assert (turn.id, turn.conversation, turn.model, turn.adapter) == (
        name,
        "c",
        "homebox",
        "a" * 64,
    )
    assert turn.sampling == {"temperature": 0.7, "stop": ["x"], "seed": None}
    assert turn.messages == (prompt[1], Message("assistant", "Hello.", "assistant"))
    assert turn.prompt == prompt
    assert (turn.finish_reason, turn.prompt_tokens, turn.completion_tokens) == ("stop", 7, 2)
    assert turn.time == "2026-01-02T03:04:05.678Z"
    assert list(ledger.turns()) == [turn]
    assert list(Ledger(tmp_path / "ledger.db", read_only=True).turns()) == [turn]
    assert ledger.turn(new_turn_id()) is None


def test_turns_come_in_order_and_since_a_turn(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homebox.memory.ledger.reading.PAGE", 3)
    names = [say(ledger, str(number)) for number in range(10)]
    for start in range(10):
        assert [turn.id for turn in ledger.turns(names[start])] == names[start + 1 :]
    assert [turn.id for turn in ledger.turns()] == names
    assert ledger.count() == ledger.verify() == 10
    with pytest.raises(StateError, match="no turn"):
        list(ledger.turns(new_turn_id()))


def test_the_id_can_be_chosen_before_and_used_once(ledger: Ledger) -> None:
    name = new_turn_id()
    assert say(ledger, "a", id=name) == name
    with pytest.raises(StateError, match="second time"):
        say(ledger, "b", id=name)
    assert ledger.count() == 1
    say(ledger, "c")
    assert ledger.verify() == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "1"},
        {"id": "turn_../../etc/passwd"},
        {"adapter": "homebox"},
        {"messages": ()},
        {"messages": (Message("user", "x", "somebody"),)},
        {"prompt_tokens": -1},
    ],
)
def test_what_is_no_turn_is_refused(ledger: Ledger, fields: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        say(ledger, "a", **fields)
    with pytest.raises(ValueError, match="JSON"):
        say(ledger, "a", sampling={"temperature": float("nan")})
    assert ledger.count() == 0


def test_text_that_utf8_cannot_hold_is_replaced(ledger: Ledger) -> None:
    name = say(ledger, "broken \ud800 emoji")
    turn = ledger.turn(name)
    assert turn is not None and turn.messages[0].content == "broken ? emoji"
    assert ledger.verify() == 1


def test_many_threads_lose_nothing(ledger: Ledger) -> None:
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.extend(say(ledger, str(n)) for n in range(20)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turn.id for turn in ledger.turns()) == sorted(names)
    assert ledger.verify() == len(set(names)) == 160


def test_a_refused_turn_does_not_harm_its_group(ledger: Ledger) -> None:
    taken = say(ledger, "first")
    block = threading.Event()
    held = ledger._database.write(lambda _: block.wait(10))
    plain = {
        "conversation": "c",
        "model": "m",
        "adapter": "base",
        "sampling": {},
        "messages": [Message("user", "x", "owner")],
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 1,
    }
    ids = [taken if n == 5 else new_turn_id() for n in range(10)]
    futures = [ledger.submit(Turn(**plain, id=id)) for id in ids]
    block.set()
    held.result()
    assert [future.exception() is None for future in futures] == [n != 5 for n in range(10)]
    assert ledger.verify() == 10


def test_equal_prompts_are_kept_once(ledger: Ledger, tmp_path: Path) -> None:
    system = Message("system", "x" * 10_000, "system")
    for number in range(20):
        say(ledger, str(number), prompt=(system, Message("user", str(number), "owner")))
    assert sql(
        tmp_path / "ledger.db", "SELECT count(*) FROM texts WHERE length(content) > 5000"
    ) == [(1,)]


def test_the_root_depends_on_every_turn_and_on_their_order(ledger: Ledger) -> None:
    roots = [ledger.root()]
    for number in range(5):
        say(ledger, str(number))
        roots.append(ledger.root())
    assert len(set(roots)) == 6
    assert all(len(root) == 64 for root in roots)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE texts SET content = 'My dog is called Max.' WHERE content LIKE '%Rex%'",
        "UPDATE turns SET model = 'other' WHERE number = 2",
        "UPDATE turns SET adapter = 'base', prompt_tokens = 4 WHERE number = 1",
        "UPDATE messages SET provenance = 'owner' WHERE turn = 3",
        "UPDATE messages SET position = 2 - position WHERE turn = 3 AND part = 'new'",
        "UPDATE turns SET salt = x'00' WHERE number = 2",
        "UPDATE turns SET digest = zeroblob(32), salt = NULL WHERE number = 2",
        "UPDATE turns SET chain = zeroblob(32) WHERE number = 3",
        "DELETE FROM messages WHERE turn = 2 AND part = 'new'",
        "DELETE FROM turns WHERE number = 2",
        "UPDATE turns SET number = 10 WHERE number = 1",
    ],
)
def test_verify_notices_every_change(tmp_path: Path, statement: str) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    for text in ("My dog is called Rex.", "I live in Ulm.", "Hello."):
        say(ledger, text)
    assert ledger.verify() == 3  # control: the unchanged ledger passes
    ledger.close()
    sql(tmp_path / "ledger.db", statement)
    with pytest.raises(StateError, match="damaged"):
        Ledger(tmp_path / "ledger.db", read_only=True).verify()


def test_erasing_removes_the_words_and_keeps_the_chain(ledger: Ledger, tmp_path: Path) -> None:
    shared = "You are a helpful box."
    prompt = (Message("system", shared, "system"),)
    secret = say(ledger, "The code is 4711-XYZZY.", prompt=prompt, conversation="conv-4711")
    kept = say(ledger, "Hello.", prompt=prompt)
    root = ledger.root()
    assert b"4711-XYZZY" in all_bytes(tmp_path)  # control: it was there
    ledger.erase(secret)
    assert ledger.root() == root
    assert ledger.verify() == ledger.count() == 2
    assert ledger.turn(secret) is None
    assert [turn.id for turn in ledger.turns()] == [kept]
    assert next(ledger.turns()).prompt == prompt
    assert next(ledger.turns(secret)).id == kept
    assert b"4711" not in all_bytes(tmp_path)
    with pytest.raises(StateError, match="no turn"):
        ledger.erase(new_turn_id())


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_lessons_are_named_by_content(ledger: Ledger) -> None:
    rex = lesson("Rex")
    assert rex.hash == dataclasses.replace(rex, sources=(), state="active", time="x").hash
    assert len({rex.hash, lesson("Max").hash, lesson("Rex", kind="preference").hash}) == 3
    assert ledger.add_lesson(rex) == rex.hash
    assert ledger.lessons() == [rex]
    assert ledger.find_lessons(rex.hash[:6]) == [rex]
    assert ledger.find_lessons("zz") == []


def value_states(ledger: Ledger) -> dict[str, str]:
    return {item.value: item.state for item in ledger.lessons()}


def test_the_newest_wins_and_reading_again_changes_nothing(ledger: Ledger) -> None:
    told: list[Lesson] = [lesson("Rex", sources=("t1",), time="1")]
    told.append(lesson("Max", sources=("t2",), supersedes=told[0].hash))
    told.append(lesson("Rex", sources=("t3",), supersedes=told[1].hash))
    expected = [
        {"Rex": "new"},
        {"Rex": "superseded", "Max": "new"},
        {"Rex": "new", "Max": "superseded"},
    ]
    for item, states in zip(told, expected):
        ledger.add_lesson(item)
        assert value_states(ledger) == states
    rex = ledger.find_lessons(told[0].hash)[0]
    assert (rex.sources, rex.time) == (("t1", "t3"), "1")
    for item in told:
        ledger.add_lesson(item)
        assert value_states(ledger) == expected[-1]


def test_only_the_owner_revives_a_lesson(ledger: Ledger) -> None:
    name = ledger.add_lesson(lesson("Rex", sources=("t1",)))
    for state in ("undone", "deleted", "superseded", "quarantined"):
        ledger.decide(name, state, MANY)
        ledger.add_lesson(lesson("Rex", sources=("t1",)))
        assert value_states(ledger) == {"Rex": state}
        ledger.add_lesson(lesson("Rex", sources=(f"said again after {state}",)))
        assert value_states(ledger) == {"Rex": "new"}
    # What a web page says neither revives nor demotes what the owner said.
    ledger.add_lesson(lesson("Rex", sources=("page",), state="quarantined"))
    assert value_states(ledger) == {"Rex": "new"}
    ledger.decide(name, "undone", MANY)
    ledger.add_lesson(lesson("Rex", sources=("page 2",), state="quarantined"))
    assert value_states(ledger) == {"Rex": "undone"}


def test_a_quarantined_lesson_supersedes_only_when_approved(ledger: Ledger) -> None:
    rex = ledger.add_lesson(lesson("Rex"))
    max_ = ledger.add_lesson(lesson("Max", state="quarantined", supersedes=rex))
    assert value_states(ledger) == {"Rex": "new", "Max": "quarantined"}
    ledger.decide(max_, "new", MANY)
    assert value_states(ledger) == {"Rex": "superseded", "Max": "new"}


def test_lessons_are_filtered_by_state(ledger: Ledger) -> None:
    names = [ledger.add_lesson(lesson(value)) for value in "abc"]
    ledger.decide(names[1], "active", MANY)
    assert [item.value for item in ledger.lessons("new")] == ["a", "c"]
    assert [item.value for item in ledger.lessons(("new", "active"))] == ["a", "b", "c"]
    assert ledger.lessons("deleted") == ledger.lessons(()) == []
    for name, state in (("0" * 64, "new"), (names[0], "happy")):
        with pytest.raises(StateError):
            ledger.decide(name, state, MANY)
    with pytest.raises(StateError, match="cannot be"):
        ledger.add_lesson(lesson("x", kind="rumour"))


def test_moves_are_followed_once_and_in_order(ledger: Ledger) -> None:
    name = ledger.add_lesson(lesson("Rex"))
    assert ledger.follow_move(1, active=(name,))
    assert ledger.follow_move(2, undone=(name,))
    assert not ledger.follow_move(1, active=(name,))
    assert value_states(ledger) == {"Rex": "undone"}
    assert ledger.mark("moves") == 2


def test_provenance_of_roles() -> None:
    assert {
        provenance_of(role) for role in ("user", "assistant", "tool", "system", "developer")
    } < {*PROVENANCES}
    assert [
        role for role in ("user", "tool", "system", "strange") if may_teach(provenance_of(role))
    ] == ["user"]


def test_a_new_file_has_schema_owner_and_safe_settings(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert sql(path, "PRAGMA user_version") == [(len(STEPS),)]
    assert sql(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert sql(path, "PRAGMA journal_mode") == [("wal",)]
    assert (
        ledger._database.write(
            lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]
        ).result()
        == 2
    )
    assert {item.name for item in tmp_path.iterdir()} >= {"ledger.db"}
    assert {item.stat().st_mode & 0o777 for item in tmp_path.iterdir()} == {0o600}


def test_a_newer_schema_and_foreign_files_are_refused_untouched(tmp_path: Path) -> None:
    newer, foreign, noise = (tmp_path / name for name in ("newer.db", "foreign.db", "noise.db"))
    Ledger(newer).close()
    sql(newer, f"PRAGMA user_version = {len(STEPS) + 1}")
    sql(foreign, "CREATE TABLE bookmarks (url TEXT)")
    noise.write_bytes(b"certainly no database" * 1000)
    for path, message in (
        (newer, "newer homebox"),
        (foreign, "not homebox's"),
        (noise, "noise.db"),
    ):
        before = path.read_bytes()
        for read_only in (False, True):
            with pytest.raises(StateError, match=message):
                Ledger(path, read_only)
        assert path.read_bytes() == before
    with pytest.raises(StateError, match="missing"):
        Ledger(tmp_path / "absent.db", read_only=True)


def test_a_migration_keeps_the_old_file_and_is_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    name = say(ledger, "Hello.")
    ledger.close()
    broken = ("ALTER TABLE turns ADD COLUMN mood TEXT", "ALTER TABLE absent ADD COLUMN x TEXT")
    monkeypatch.setattr(database, "STEPS", (*STEPS, broken))
    with pytest.raises(StateError, match="no such table"):
        Ledger(path)
    assert sql(path, "PRAGMA user_version") == [(len(STEPS),)]
    assert sql(path, "SELECT count(*) FROM pragma_table_info('turns') WHERE name = 'mood'") == [
        (0,)
    ]
    monkeypatch.setattr(database, "STEPS", (*STEPS, broken[:1]))
    ledger = Ledger(path)
    assert ledger.turn(name) is not None
    ledger.close()
    assert sql(path, "PRAGMA user_version") == [(len(STEPS) + 1,)]
    old = tmp_path / f"ledger.db.v{len(STEPS)}"
    assert sql(old, "PRAGMA user_version") == [(len(STEPS),)]
    assert sql(old, "SELECT id FROM turns") == [(name,)]
    assert old.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_reported_and_later_turns_are_kept(ledger: Ledger) -> None:
    say(ledger, "before")
    pages = ledger._database.write(
        lambda connection: connection.execute("PRAGMA page_count").fetchone()[0]
    ).result()
    limit(ledger, pages + 1)
    with pytest.raises(StateError, match="full"):
        say(ledger, "x" * 100_000)
    limit(ledger, 1_000_000)
    say(ledger, "after")
    assert [turn.messages[0].content for turn in ledger.turns()] == ["before", "after"]
    assert ledger.verify() == 2


def limit(ledger: Ledger, pages: int) -> None:
    ledger._database.write(
        lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    ).result()


def test_a_closed_or_read_only_ledger_refuses_writes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.close()
    ledger.close()
    for closed in (ledger, Ledger(tmp_path / "ledger.db", read_only=True)):
        with pytest.raises(StateError, match="closed or opened for reading"):
            say(closed, "x")
        assert closed.count() == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(), st.sampled_from(PROVENANCES)), min_size=1, max_size=4))
def test_any_text_survives(ledger: Ledger, parts: list[tuple[str, str]]) -> None:
    messages = tuple(Message("user", text, provenance) for text, provenance in parts)
    turn = ledger.turn(say(ledger, "", messages=messages))
    clean = tuple(
        Message("user", item.content.encode("utf-8", "replace").decode(), item.provenance)
        for item in messages
    )
    assert turn is not None and turn.messages == clean

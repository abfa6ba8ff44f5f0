"""Looking up, exporting, deleting and letting go of turns; the chain tells what was changed."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from homebox.errors import StateError
from homebox.memory.ledger import Ledger
from homebox.memory.records import check_links, link_line, read_links
from homebox.memory.retention import expire
from homebox.memory.turns import Message
from tests.unit.memory.kit import MANY, files, lesson, say


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def change(path: Path, statement: str, *parameters: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, parameters)


def test_words_are_found_whatever_their_case(ledger: Ledger) -> None:
    first = say(ledger, "My Aunt Käthe likes 100 % cocoa_nibs.", conversation="a")
    second = say(ledger, "And my uncle?", answer="He likes COCOA, too.", conversation="b")
    call = {"function": {"name": "f", "arguments": '{"q": "walnut"}'}}
    details = json.dumps({"tool_calls": [call]})
    third = say(ledger, "", messages=(Message("assistant", "", "assistant", details),))
    assert [hit.turn for hit in ledger.search("cocoa")] == [first, second]
    assert [hit.role for hit in ledger.search("cocoa")] == ["user", "assistant"]
    assert [hit.turn for hit in ledger.search("cocoa", most=1)] == [second]
    assert [hit.turn for hit in ledger.search("cocoa", conversation="b")] == [second]
    assert [hit.turn for hit in ledger.search("KÄTHE")] == [first]
    assert "walnut" in ledger.search("Walnut")[0].text
    assert [hit.turn for hit in ledger.search("walnut")] == [third]
    assert [hit.turn for hit in ledger.search("100 %")] == [first]
    for nothing in ("100%", "cocoa.nibs", "cocoaXnibs", "%", ""):
        assert not ledger.search(nothing) or nothing == "%"
    ledger.erase(first)
    assert [hit.turn for hit in ledger.search("cocoa")] == [second]


def test_an_export_is_complete_and_tells_what_was_changed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homebox.memory.ledger.PAGE", 2)
    prompt = (Message("system", "Be brief.", "system"),)
    names = [
        say(ledger, f"Hello ä {n} \u2028", prompt=prompt, token_ids=[n], conversation=f"c{n % 2}")
        for n in range(5)
    ]
    ledger.erase(names[1])
    lines = [link_line(link) for link in ledger.links()]
    assert all("\n" not in line for line in lines)
    back = list(read_links(lines))
    assert [link.turn for link in back if link.turn] == list(ledger.turns())
    assert [link.turn is None for link in back] == [False, True, False, False, False]
    assert check_links(back).hex() == ledger.root()
    for number in (0, 1):
        changed = [*lines]
        changed[number] = lines[number].replace("Hello", "Hallo").replace('"erased":true', '"x":1')
        with pytest.raises(StateError):
            check_links(read_links(changed))
    with pytest.raises(StateError, match="turn"):
        check_links(read_links(lines[1:]))
    with pytest.raises(StateError, match="line 1 "):
        list(read_links(["no export"]))
    some = [link for link in ledger.links("c0") if link.turn]
    assert [link.id for link in some] == [names[0], names[2], names[4]]


def test_a_conversation_is_erased_and_the_chain_stays(ledger: Ledger, tmp_path: Path) -> None:
    gone = [say(ledger, f"walnut {n}", conversation="ses_1") for n in range(70)]
    kept = say(ledger, "hazelnut", conversation="ses_2")
    (tmp_path / "ledger.db.v3").write_bytes(b"walnut")  # what a migration kept
    root = ledger.root()
    assert b"walnut" in b"".join(files(tmp_path).values())
    for name in gone:
        ledger.erase(name)
    everything = b"".join(files(tmp_path).values())
    assert b"walnut" not in everything
    assert b"hazelnut" in everything
    assert (ledger.verify(), ledger.root()) == (71, root)
    ledger.erase(kept)
    with pytest.raises(StateError, match="no turn"):
        ledger.erase("turn_none")


def test_old_turns_lose_their_words_unless_a_lesson_needs_them(
    ledger: Ledger, tmp_path: Path
) -> None:
    days = ("2026-01-01", "2026-02-01", "2026-03-01")
    times = [f"{day}T12:00:00.000Z" for day in days]
    old, source, young = [say(ledger, f"walnut {n}", time=time) for n, time in enumerate(times)]
    name = ledger.add_lesson(lesson("Rex", sources=(source,)))
    now = datetime(2026, 3, 2, tzinfo=UTC)
    assert expire(ledger, 0, now) == 0
    assert expire(ledger, 365, now) == 0
    assert expire(ledger, 7, now) == 1
    assert [turn.id for turn in ledger.turns()] == [source, young]
    assert b"walnut 0" not in b"".join(files(tmp_path).values())
    ledger.decide(name, "deleted", MANY)
    assert expire(ledger, 7, now) == 1
    assert [turn.id for turn in ledger.turns()] == [young]
    assert expire(ledger, 1, datetime(2026, 3, 2, 12, 0, 0, 1000, tzinfo=UTC)) == 1
    assert ledger.verify() == 3
    assert ledger.turn(old) is None


def test_the_first_wrong_turn_is_named(ledger: Ledger, tmp_path: Path) -> None:
    names = [say(ledger, f"Hello {n}.") for n in range(6)]
    assert ledger.verify(known=True) == 6
    say(ledger, "One more.")
    assert ledger.verify(known=True) == 7
    for number in (5, 3):
        statement = "UPDATE texts SET content = 'x' WHERE content = ?"
        change(tmp_path / "ledger.db", statement, f"Hello {number}.")
        for known in (True, False):
            with pytest.raises(StateError, match=names[number]):
                ledger.verify(known)


def test_what_is_known_is_not_checked_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homebox.memory import turns

    checked: list[int] = []
    check = turns.check

    def counted(connection: sqlite3.Connection, number: int, chain: bytes, limit: int) -> object:
        found = check(connection, number, chain, limit)
        checked.append(found[2])
        return found

    monkeypatch.setattr(turns, "check", counted)
    for _ in range(3):
        say(ledger, "Hello.")
        ledger.verify(known=True)
    assert checked == [1, 1, 1]
    ledger.verify()
    assert checked == [1, 1, 1, 3]


def test_a_missing_turn_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    names = [say(ledger, f"Hello {n}.") for n in range(4)]
    path = tmp_path / "ledger.db"
    change(path, "DELETE FROM messages WHERE turn = 2")
    change(path, "DELETE FROM turns WHERE number = 2")
    with pytest.raises(StateError, match=names[2]):
        ledger.verify(known=True)

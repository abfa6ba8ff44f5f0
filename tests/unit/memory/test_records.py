"""Looking up, exporting, deleting and letting go of turns; the chain tells what was changed."""

import contextlib
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.errors import StateError
from homebox.memory.digests import digest_of, said
from homebox.memory.ledger import Ledger
from homebox.memory.records import check_links, link_line, read_links
from homebox.memory.retention import expire
from homebox.memory.searching import LATEST
from homebox.memory.store import canonical_json
from homebox.memory.turns import Message, Turn
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


def compare_search(said: list[str], sought: str) -> None:
    """Compare a search with folding each message in Python."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Ledger(Path(folder) / "ledger.db")) as ledger,
    ):
        names = {say(ledger, text, answer=""): text for text in said}
        for near in (LATEST, 0):  # found among the last turns, and in all
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("homebox.memory.searching.LATEST", near)
                found = [hit.turn for hit in ledger.search(sought)]
            held = [name for name, text in names.items() if sought.casefold() in text.casefold()]
            assert found == held


@pytest.mark.parametrize(
    ("said", "sought"),
    [
        (["s", "ß"], "s"),
        (["sß", "ẞS", "ß", "Sss"], "sss"),
        (["Straße", "Stras", "Strand"], "stras"),
        (["ßtrand", "STRAND", "trand"], "strand"),
        (["Der Spaß", "Spatz"], "spas"),
    ],
)
def test_a_search_for_sharp_letters(said: list[str], sought: str) -> None:
    compare_search(said, sought)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_search_finds_what_folding_finds(data: st.DataObject) -> None:
    """The letters are those whose case is not plain."""
    letters = st.text("\0aetrzscg ßẞäÄéÉÅøσΣςИи日%_\\'", min_size=1, max_size=12)
    whole = data.draw(st.lists(letters, min_size=1, max_size=8))
    said = [data.draw(st.sampled_from([text, text.upper(), text.lower()])) for text in whole]
    part = data.draw(st.sampled_from(whole))
    start = data.draw(st.integers(0, len(part) - 1))
    sought = data.draw(st.sampled_from([part[start:], part[: start + 1], data.draw(letters)]))
    sought = data.draw(st.sampled_from([sought, sought.upper(), sought.lower()]))
    compare_search(said, sought)


@pytest.mark.parametrize(
    ("said", "sought"),
    [
        ("Im Café Zürich.", "CAFÉ ZÜR"),
        ("GRÖSSER als 100 %_ Müller", "größer ALS 100 %_ mü"),
        ("die Straße", "STRASSE"),
        ("die STRASSE", "straße"),
        ("Привет, мир", "ПРИВЕТ, м"),
    ],
)
def test_letters_that_are_written_in_several_ways_are_found(
    ledger: Ledger, said: str, sought: str
) -> None:
    name = say(ledger, said)
    say(ledger, said.replace(said[-2], "#"))
    say(ledger, "Nothing of the kind: Cafx Zxrich, grx_er, Strxe.")
    assert name in [hit.turn for hit in ledger.search(sought)]


@pytest.mark.parametrize("sought", ["HIDDEN", "zürich", "strasse", "straße", "first \0 h"])
def test_what_stands_behind_a_zero_is_found(ledger: Ledger, sought: str) -> None:
    name = say(ledger, "first \0 hidden in Zürich, BAHNHOFSTRASSE", answer="")
    say(ledger, "first \0", answer="")
    say(ledger, "nothing of the kind", answer="")
    assert [hit.turn for hit in ledger.search(sought)] == [name]


def test_a_text_longer_than_any_pattern_is_found(ledger: Ledger) -> None:
    long = "ab%_ " * 15_000
    name = say(ledger, f"so {long}!")
    say(ledger, f"so {long[1:]}!")
    assert [hit.turn for hit in ledger.search(f"SO {long}!")] == [name]


def test_an_export_is_complete_and_tells_what_was_changed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homebox.memory.ledger.reading.PAGE", 2)
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


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=6), min_size=10, max_size=10),
    st.dictionaries(st.sampled_from(["messages", "prompt", "seed"]), st.lists(st.floats(0, 1))),
    st.lists(st.integers(0, 2**31 - 1), max_size=4),
)
def test_a_digest_is_that_of_canonical_json(
    texts: list[str], sampling: dict[str, list[float]], ids: list[int]
) -> None:
    """Put together from pieces or encoded at once, with names of fields in the words or not."""
    new = Message("user", '"prompt":[' + texts[0], "owner", texts[1])
    shown = Message(texts[2], '"messages":[]' + texts[3], "system")
    always: dict[str, Any] = {
        "id": texts[4],
        "conversation": '","messages":[' + texts[5],
        "model": texts[6],
        "adapter": "base",
        "finish_reason": "stop",
        "sampling": sampling,
        "time": texts[7],
        "completion_tokens": 1,
        "prompt_tokens": 2,
    }
    more = {"kind": texts[8] or "chat", "owner": texts[9], "offered": texts[0]}
    turn = Turn(**always, **more, token_ids=tuple(ids), messages=(new, new), prompt=(shown,))
    content = always | {name: text for name, text in more.items() if text not in ("", "chat")}
    content |= {"token_ids": ids} if ids else {}
    for name, messages in (("messages", turn.messages), ("prompt", turn.prompt)):
        content[name] = [
            [each.role, each.content, each.provenance, *filter(None, [each.details])]
            for each in messages
        ]
    salt = b"salt"
    assert digest_of(turn, salt) == hashlib.sha256(salt + canonical_json(content)).digest()


def test_every_letter_is_encoded_as_canonical_json_does() -> None:
    letters = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert said("user", letters, "owner", "x") == canonical_json(["user", letters, "owner", "x"])


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
    from homebox.memory import chain

    checked: list[int] = []
    check = chain.check

    def counted(connection: sqlite3.Connection, number: int, link: bytes, limit: int) -> object:
        found = check(connection, number, link, limit)
        checked.append(found[2])
        return found

    monkeypatch.setattr(chain, "check", counted)
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

"""`homebox log`: search, show, export and delete, with a daemon and without."""

import io
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from homebox import cli, daemon
from homebox.daemon import Box, running
from homebox.learning.lessons.live import live_lessons, rules_of
from homebox.memory.records import check_links, read_links
from homebox.memory.state import open_state
from homebox.memory.turns import Message
from tests.api import fake_learner
from tests.api.test_daemon import config_for
from tests.unit.memory.kit import files, say


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def told(state: Path) -> list[str]:
    """Three turns of two conversations, one with a file among the owner's words."""
    read = 'Called the Read tool with the following input: {"filePath":"/x"}'
    pieces = [read, "<path>/x</path>\n<type>file\nwalnuts\n", "What is this?"]
    parts = json.dumps({"parts": [len(piece) for piece in pieces]})
    mixed = Message("user", "".join(pieces), "owner", parts)
    answer = Message("assistant", "A list.", "assistant")
    with open_state(state) as opened:
        return [
            say(opened.ledger, "My dog\x1b[2J is called Rex.", conversation="ses_1"),
            say(opened.ledger, "Buy WALNUTS.", conversation="ses_1"),
            say(
                opened.ledger,
                "",
                messages=(mixed, answer),
                prompt=(mixed,),
                conversation="ses_2",
            ),
        ]


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str], state: Path) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["log", "--state", str(state), *arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def box(
    state: Path, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Box]:
    parts = fake_learner.parts()
    monkeypatch.setattr(daemon, "real_parts", lambda: parts)
    with running(config_for(state)) as opened:
        yield opened


def test_search_and_show(log: Any, told: list[str]) -> None:
    hits = json.loads(log("search", "walnuts", "--json")[1])
    assert [hit["turn"] for hit in hits] == told[1:]
    only = json.loads(log("search", "walnuts", "--conversation", "ses_1", "--json")[1])
    assert [hit["turn"] for hit in only] == [told[1]]
    assert told[1] in log("search", "walnuts")[1]
    assert log("search", "peanuts")[:2] == (0, "")
    assert "\x1b" not in log("search", "dog")[1] + log("show", told[0])[1] + log()[1]
    shown = log("show", told[2])[1]
    assert "user [file]: <path>/x</path>" in shown
    assert "user [owner]: What is this?" in shown
    assert "conversation ses_2" in shown
    value = json.loads(log(told[2], "--json")[1])
    assert [span[2] for span in value["messages"][0]["spans"]] == ["file", "file", "owner"]
    assert log("show", "turn_none")[0] == 2


def test_export_is_read_back(log: Any, told: list[str], state: Path) -> None:
    code, out, _ = log("export")
    assert code == 0
    with open_state(state, read_only=True) as opened:
        assert check_links(read_links(out.splitlines())).hex() == opened.ledger.root()
        assert [link.turn for link in read_links(out.splitlines())] == list(opened.ledger.turns())
    some = log("export", "--conversation", "ses_1", "--format", "jsonl")[1].splitlines()
    assert [json.loads(line)["id"] for line in some] == told[:2]
    code, out, err = log("export", "--conversation", "ses_none")
    assert (code, out) == (2, "") and "'ses_none'" in err and "homebox log" in err


def test_delete_asks_a_person(
    log: Any, told: list[str], monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, _, err = log("delete", told[0])
    assert code == 2
    assert "--yes" in err
    for answer, expected in (("\n", 2), ("n\n", 2), ("yes\n", 0)):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        assert log("delete", told[0])[0] == expected
    done = json.loads(log("delete", "ses_1", "--yes", "--json")[1])
    assert (done["deleted"], done["lessons"]) == ([told[1]], [])
    assert log("delete", "ses_1", "--yes")[0] == 2
    assert b"Rex" not in b"".join(files(state).values())
    assert [turn["id"] for turn in json.loads(log("--json")[1])] == [told[2]]


def test_what_is_deleted_is_forgotten_with_the_lessons_that_only_it_told(
    log: Any, told: list[str], state: Path
) -> None:
    with open_state(state) as opened:
        say(opened.ledger, "I live in Oslo.", conversation="ses_3")
        live_lessons(opened.ledger).catch_up()
        before = {lesson.value for lesson in opened.ledger.lessons()}
        opened.ledger.erase(told[2])  # control: words alone leave what they told
        assert {lesson.value for lesson in opened.ledger.lessons()} == before
    assert before >= {"Oslo"}
    out = log("delete", "ses_3", "--yes")[1]
    assert "erased 1 turn" in out and "forgotten: " in out
    with open_state(state, read_only=True) as opened:
        assert {lesson.value for lesson in opened.ledger.lessons()} == before - {"Oslo"}


def test_what_the_owners_rules_found_stays_when_something_else_is_deleted(
    log: Any, told: list[str], state: Path
) -> None:
    (state / "rules").mkdir()
    (state / "rules" / "a.toml").write_text(
        '[[rule]]\nsubject = "allotment"\npattern = ["my plot is [number] {v}"]\n'
        'example = ["My plot is number 12."]\n'
    )
    with open_state(state) as opened:
        say(opened.ledger, "My plot is number 7.", conversation="ses_3")
        live_lessons(opened.ledger, rules_of(state)).catch_up()
        before = [(each.subject, each.value) for each in opened.ledger.lessons()]
    assert ("allotment", "7") in before
    assert log("delete", told[2], "--yes")[0] == 0
    with open_state(state, read_only=True) as opened:
        assert [(each.subject, each.value) for each in opened.ledger.lessons()] == before


def test_delete_with_a_daemon(log: Any, told: list[str], box: Box, state: Path) -> None:
    home = say(box.daemon.state.ledger, "I live in Oslo.", conversation="ses_1")
    done = json.loads(log("delete", "ses_1", "--yes", "--json")[1])
    assert done["deleted"] == sorted([*told[:2], home])
    assert [lesson["value"] for lesson in done["lessons"]] == ["Oslo"]
    assert box.daemon.state.ledger.lessons() == []
    assert log("delete", "nothing", "--yes")[0] == 2
    assert b"Rex" not in b"".join(files(state).values())
    assert box.daemon.state.ledger.verify() == 4


@pytest.mark.parametrize(
    "words", [["search"], ["search", " "], ["show"], ["export", "x"], ["delete"], ["a", "b"]]
)
def test_wrong_words_are_usage_errors(log: Any, told: list[str], words: list[str]) -> None:
    code, out, err = log(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_verify_tells_the_chains_end_and_names_a_turn_that_was_changed(
    log: Any, told: list[str], state: Path
) -> None:
    with open_state(state) as opened:
        root = opened.ledger.root()
    assert log("verify") == (0, f"3 turns are as they were written; the chain ends in {root}\n", "")
    assert json.loads(log("verify", "--json")[1]) == {"turns": 3, "root": root}
    with closing(sqlite3.connect(state / "ledger.db")) as other, other:
        other.execute("UPDATE texts SET content = 'Sell it.' WHERE content = 'Buy WALNUTS.'")
    code, _, error = log("verify")
    assert code == 5 and f"turn {told[1]} (row 2) of the ledger is damaged" in error
    assert f'"homebox log delete {told[1]}"' in error
    # What it says helps: only the changed words go.
    assert log("delete", told[1], "--yes")[0] == 0
    code, said, _ = log("verify")
    assert code == 0 and root in said


def test_verify_checks_a_file_that_was_exported(
    log: Any, told: list[str], state: Path, tmp_path: Path
) -> None:
    out, root = log("export")[1], json.loads(log("verify", "--json")[1])["root"]
    path = tmp_path / "export.jsonl"
    path.write_text(out)
    assert json.loads(log("verify", str(path), "--json")[1]) == {"turns": 3, "root": root}
    path.write_text(out.replace("WALNUTS", "HAZELNUTS"))
    code, _, error = log("verify", str(path))
    assert code == 5 and told[1] in error
    path.write_bytes(b"\xff\xfe")
    assert log("verify", str(path))[0] == log("verify", str(tmp_path / "none"))[0] == 2


def test_the_latest_turns_are_listed(log: Any, told: list[str]) -> None:
    assert [each["id"] for each in json.loads(log("-n", "2", "--json")[1])] == told[1:]
    assert [each["id"] for each in json.loads(log("--since", told[0], "--json")[1])] == told[1:]
    assert json.loads(log("-n", str(2**70), "--json")[1])[0]["id"] == told[0]
    assert json.loads(log("-n", "0", "--json")[1]) == []

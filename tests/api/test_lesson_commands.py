"""`homebox lessons`, `remember` and `forget`, with and without a daemon."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox import cli, daemon
from homebox.daemon import running
from homebox.memory.state import open_state
from tests.api import fake_learner
from tests.api.test_daemon import config_for

Run = Any


@pytest.fixture(autouse=True)
def fake_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "real_parts", fake_learner.parts)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(params=["alone", "with a daemon"])
def homebox(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], state: Path
) -> Iterator[Run]:
    """Run a command on a state, which a daemon has in one half of the tests."""

    def run(*arguments: str, code: int = 0) -> Any:
        command, *rest = arguments
        got = cli.main([command, "--state", str(state), *rest])
        out, err = capsys.readouterr()
        assert got == code, err
        if code:
            return err
        return json.loads(out) if "--json" in arguments else out

    if request.param == "alone":
        open_state(state).close()
        yield run
        return
    with running(config_for(state), fake_learner.parts()):
        yield run


def told(homebox: Run) -> dict[str, str]:
    return {item["value"]: item["state"] for item in homebox("lessons", "--json")}


def test_remember_keeps_a_fact_and_says_how_to_undo_it(homebox: Run) -> None:
    out = homebox("remember", "My dog is called Rex.")
    assert "remembered: dog's name = Rex" in out
    undo = out.rpartition("undo: homebox ")[2].split()
    assert told(homebox) == {"Rex": "new"}
    assert "cannot be undone" in homebox(*undo)
    assert told(homebox) == {}


def test_remember_as_json(homebox: Run) -> None:
    found = homebox("remember", "--json", "I", "live", "in", "Oslo.")
    (lesson,) = found["lessons"]
    assert (lesson["subject"], lesson["value"], lesson["origin"]) == ("home", "Oslo", "owner")
    assert lesson["sources"] == [found["turn"]]


@pytest.mark.parametrize(
    ("text", "subject", "value"),
    [
        ("the bins are in the yard", "bins", "in the yard"),
        ("locker code name = blue door", "locker code name", "blue door"),
        ("that I have a dog called Rex", "dog's name", "Rex"),
        ("always water the ferns on Sundays", "note", "always water the ferns on Sundays"),
    ],
)
def test_what_no_rule_reads_is_kept_as_what_it_is(
    homebox: Run, text: str, subject: str, value: str
) -> None:
    (lesson,) = homebox("remember", "--json", text)["lessons"]
    assert (lesson["subject"], lesson["value"]) == (subject, value)


def test_a_list_without_any_says_whether_there_are_others(homebox: Run) -> None:
    assert homebox("lessons").startswith("no lessons; ")
    assert homebox("lessons", "--only", "active").startswith("no lessons; ")
    homebox("remember", "I live in Oslo.")
    out = homebox("lessons", "--only", "active", "--kind", "fact")
    assert out.startswith("no active fact lessons; ") and "lists the 1 lesson that" in out
    assert homebox("lessons", "--kind", "preference").startswith("no preference lessons; ")


def test_a_note_says_that_the_weights_do_not_learn_it(homebox: Run) -> None:
    assert "not learned by the weights" in homebox("remember", "water the ferns on Sundays")


@pytest.mark.parametrize("text", ["", "  ", "my password is hunter2", "x" * 3000])
def test_what_is_not_kept_is_refused_and_leaves_nothing(
    homebox: Run, state: Path, text: str
) -> None:
    homebox("remember", text, code=2)
    with open_state(state, read_only=True) as opened:
        assert opened.ledger.count() == 0


def test_show_says_where_a_lesson_comes_from(homebox: Run) -> None:
    homebox("remember", "My dog is called Rex.")
    (lesson,) = homebox("lessons", "list", "--json")
    out = homebox("lessons", "show", lesson["hash"][:8])
    assert "dog's name" in out and "/remember My dog is called Rex." in out
    shown = homebox("lessons", "show", lesson["hash"][:8], "--json")
    assert shown["hash"] == lesson["hash"] and list(shown["said"]) == lesson["sources"]


def test_reject_and_approve(homebox: Run) -> None:
    homebox("remember", "My dog is called Rex.")
    (lesson,) = homebox("lessons", "--json")
    out = homebox("lessons", "reject", lesson["hash"][:8])
    assert "is deleted now" in out and "undo: homebox lessons approve" in out
    assert told(homebox) == {"Rex": "deleted"}
    assert homebox("lessons", "--only", "new", "--json") == []
    changed = homebox("lessons", "approve", lesson["hash"][:8], "--json")
    assert changed["state"] == "new"
    homebox("remember", "My dog is called Max.")
    homebox("lessons", "approve", lesson["hash"][:8])
    assert told(homebox) == {"Rex": "new", "Max": "superseded"}


def test_edit_gives_a_topic_another_value(homebox: Run) -> None:
    homebox("remember", "My dog is called Rex.")
    (lesson,) = homebox("lessons", "--json")
    found = homebox("lessons", "edit", lesson["hash"][:8], "Max", "the", "Great", "--json")
    assert found["instead_of"]["value"] == "Rex"
    assert told(homebox) == {"Rex": "superseded", "Max the Great": "new"}
    homebox("remember", "I like maps.")
    liking = next(item for item in homebox("lessons", "--json") if item["subject"] == "liking")
    homebox("lessons", "edit", liking["hash"][:8], "old maps")
    assert told(homebox)["maps"] == "deleted"


@pytest.mark.parametrize("value", ["", "  ", "Max = Moritz", "x" * 201, "my password is hunter2"])
def test_what_is_no_value_of_a_topic_changes_nothing(homebox: Run, value: str) -> None:
    homebox("remember", "My dog is called Rex.")
    (lesson,) = homebox("lessons", "--json")
    err = homebox("lessons", "edit", lesson["hash"][:8], value, code=2)
    assert "dog's name" in err or "say what" in err or "secret" in err
    assert homebox("lessons", "--json") == [lesson]
    note = homebox("remember", "water the ferns on Sundays", "--json")["lessons"][0]
    homebox("lessons", "edit", note["hash"][:8], "water = the ferns on Mondays")
    assert told(homebox)["the ferns on Mondays"] == "new"


def test_an_edit_is_undone_by_what_it_says(homebox: Run) -> None:
    for text, value in (("I like maps.", "old maps"), ("My dog is called Rex.", "Max")):
        homebox("remember", text)
        before = told(homebox)
        lesson = homebox("lessons", "--json")[-1]
        out = homebox("lessons", "edit", lesson["hash"][:8], value)
        assert told(homebox)[value] == "new" and told(homebox) != before
        for undo in out.rpartition("undo: ")[2].strip().split(" && "):
            homebox(*undo.split()[1:])
        assert told(homebox) == before


def test_a_decision_says_what_comes_of_it(homebox: Run) -> None:
    homebox("remember", "My dog is called Rex.")
    name = homebox("lessons", "--json")[0]["hash"][:12]
    out = homebox("lessons", "reject", name)
    assert "leaves it out" in out and f'"homebox forget {name}"' in out
    assert "next learning run teaches it" in homebox("lessons", "approve", name)


def test_a_long_ledger_is_read_with_a_bar(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_state(state).close()
    cli.main(["remember", "--state", str(state), "My dog is called Rex."])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cli.main(["remember", "--state", str(state), "I live in Oslo."])
    drawn = capsys.readouterr().err
    assert "] read: 1 turns" in drawn and drawn.endswith("\r\x1b[K")


def test_forget_brings_back_what_was_before(homebox: Run) -> None:
    homebox("remember", "My dog is called Rex.")
    second = homebox("remember", "My dog is called Max.", "--json")
    would = homebox("forget", second["turn"], "--dry-run", "--json")
    assert [item["value"] for item in would["lessons"]] == ["Max"]
    assert told(homebox) == {"Rex": "superseded", "Max": "new"}
    done = homebox("forget", second["turn"][:20], "--json")
    assert [item["value"] for item in done["restored"]] == ["Rex"]
    assert (done["weights"], done["served"]) == ([], False)
    assert told(homebox) == {"Rex": "new"}
    homebox("remember", "My dog is called Max.")
    out = homebox("forget", homebox("lessons", "--only", "new", "--json")[0]["hash"][:10])
    assert "forgotten: dog's name = Max" in out and "holds again: dog's name = Rex" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("lessons", "show"),
        ("lessons", "show", "abc"),
        ("lessons", "show", "ffffffff"),
        ("lessons", "approve", "zzzz"),
        ("lessons", "edit", "ffff"),
        ("lessons", "edit", "ffff", "x"),
        ("lessons", "list", "ffff"),
        ("forget", "ffffffff"),
        ("forget", ""),
        ("forget", "turn_000000"),
    ],
)
def test_mistakes_are_told_with_what_to_do(homebox: Run, arguments: tuple[str, ...]) -> None:
    err = homebox(*arguments, code=2)
    assert err.startswith("homebox: ") and "Traceback" not in err and "homebox" in err[9:]


def test_words_that_a_terminal_would_obey_are_spelled_out(homebox: Run) -> None:
    homebox("remember", "the sign = \x1b[31mred")
    assert "\x1b" not in homebox("lessons") and "\x1b" not in homebox("remember", "a b = \x1bc")

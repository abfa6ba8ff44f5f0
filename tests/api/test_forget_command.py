"""`homebox forget --everywhere` and lists of lessons, as a person at a terminal meets them."""

import json
from pathlib import Path

import pytest

from homebox.cli import main
from homebox.learning.reading.topics import MANY
from homebox.memory.lessons import Lesson
from homebox.memory.manifest import short
from homebox.memory.state import open_state
from tests.api.box import promote
from tests.left_words import files_with

WORD = "Brimbolska"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path / "cache"))
    open_state(tmp_path / "state").close()
    return tmp_path / "state"


def test_everywhere_asks_and_takes_kept_prompts_along(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = root.parent / "cache" / "prefixes" / "one.prefix"
    kept.parent.mkdir(parents=True)
    kept.write_text(WORD)
    state = ["--state", str(root)]
    assert main(["remember", f"My dog is called {WORD}.", *state]) == 0
    with open_state(root) as opened:
        (lesson,) = opened.ledger.lessons()
    capsys.readouterr()
    assert main(["forget", lesson.hash[:8], "--everywhere", *state]) == 2
    assert "--yes" in capsys.readouterr().err
    assert files_with(WORD, root.parent)
    assert main(["forget", lesson.hash[:8], "--everywhere", "--dry-run", *state]) == 0
    assert "would erase 1 turn" in capsys.readouterr().out
    assert main(["forget", lesson.hash[:8], "--everywhere", "--yes", *state]) == 0
    assert "erased 1 turn" in capsys.readouterr().out
    assert files_with(WORD, root.parent) == []
    assert main(["forget", *state]) == 2
    assert "--everywhere" in capsys.readouterr().err
    assert main(["forget", "--everywhere", "--yes", "--json", *state]) == 0
    assert json.loads(capsys.readouterr().out)["let_go"]["objects"] == 0


def test_what_is_forgotten_is_named_shortly(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(root)]
    assert main(["remember", f"My dog is called {WORD}.", *state]) == 0
    with open_state(root) as opened:
        (lesson,) = opened.ledger.lessons()
    capsys.readouterr()
    assert main(["forget", lesson.hash[:8], *state]) == 0
    assert f"erased 1 turn (lesson {short(lesson.hash)})" in capsys.readouterr().out


def test_the_history_says_of_weights_that_are_gone_that_they_are(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(root)]
    assert main(["history", "--json", *state]) == 0
    base = json.loads(capsys.readouterr().out)["base"]
    assert main(["remember", f"My dog is called {WORD}.", *state]) == 0
    with open_state(root) as opened:
        (lesson,) = opened.ledger.lessons()
        promote(opened, base, 1)
        knowing = promote(opened, base, 2, (lesson.hash,))
    assert main(["forget", lesson.hash[:8], "--everywhere", "--yes", *state]) == 0
    capsys.readouterr()
    assert main(["history", *state]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "gone, as they knew" in line] == [knowing[:12]]
    assert main(["history", "--json", *state]) == 0
    assert json.loads(capsys.readouterr().out)["gone"] == [knowing]
    assert main(["status", *state]) == 0
    assert "it knew what was forgotten, and is gone" in capsys.readouterr().out


def test_a_list_names_what_won_and_stays_short(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_state(root) as opened:
        told = [
            Lesson("fact", f"thing {n}", f"Thing {n} is {n}", str(n), time="2026-01-01")
            for n in range(300)
        ]
        first = Lesson("fact", "dog's name", "My dog is Rex", "Rex", time="2026-01-01")
        later = Lesson(
            *("fact", "dog's name", "My dog is Max", "Max"),
            supersedes=first.hash,
            time="2026-01-02",
        )
        opened.ledger.add_lessons([first, *told, later], MANY)
    state = ["--state", str(root)]
    assert main(["lessons", *state]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101 and "202 older ones" in lines[-1]
    assert main(["lessons", "--only", "superseded", *state]) == 0
    assert f"superseded by {later.hash[:12]}" in capsys.readouterr().out
    assert main(["lessons", "show", first.hash[:8], *state]) == 0
    assert f"{later.hash[:12]}: My dog is Max (said 2026-01-02)" in capsys.readouterr().out
    assert main(["lessons", "show", later.hash[:8], *state]) == 0
    assert f"{first.hash[:12]}: My dog is Rex" in capsys.readouterr().out
    assert main(["lessons", "--json", *state]) == 0
    every = json.loads(capsys.readouterr().out)
    assert len(every) == 302
    assert every[0]["gave_way_to"] == later.hash
    assert main(["lessons", "-n", "5", "--json", *state]) == 0
    assert [each["subject"] for each in json.loads(capsys.readouterr().out)][-1] == "dog's name"

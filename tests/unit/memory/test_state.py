"""The state directory: made once, recognised, locked, refused when foreign."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from homebox.errors import StateError
from homebox.memory.state import init_state, open_state
from tests.unit.memory.kit import BASE, files, promote, say


def test_missing_and_empty_directories_are_initialised(tmp_path: Path) -> None:
    for path in (tmp_path / "a/b/state", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir(0o755)
            (path / "lost+found").mkdir()
        with open_state(path) as state:
            assert len(state.id) == 64
            assert path.stat().st_mode & 0o777 == 0o700
            assert (path / "homebox.id").stat().st_mode & 0o777 == 0o600
            first = state.id
        with open_state(path) as state:
            assert state.id == first
        assert not init_state(path)


def test_everything_in_it_is_private(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        promote(state, "one")
        say(state.ledger, "Hello.")
        modes = {
            path.relative_to(state.path): oct(path.stat().st_mode & 0o777)
            for path in state.path.rglob("*")
        }
        assert {mode for path, mode in modes.items() if (state.path / path).is_dir()} == {"0o700"}
        assert {mode for path, mode in modes.items() if (state.path / path).is_file()} == {"0o600"}


def test_a_configured_directory_must_have_been_made_on_purpose(tmp_path: Path) -> None:
    path = tmp_path / "raid"
    for _ in range(2):
        with pytest.raises(StateError, match=r'homebox\.id is missing.*"homebox init'):
            open_state(path, configured=True)
        path.mkdir(exist_ok=True)  # as an unmounted disk leaves its mount point
    assert list(path.iterdir()) == []
    assert init_state(path)
    with open_state(path, configured=True) as state:
        assert state.lineage.head(BASE) == "base"


def test_foreign_directories_are_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    mode = tmp_path.stat().st_mode
    with pytest.raises(StateError, match=r"thesis\.txt"):
        open_state(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.txt"]
    assert tmp_path.stat().st_mode == mode
    with pytest.raises(StateError, match="is a file"):
        open_state(tmp_path / "thesis.txt")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    with pytest.raises(StateError, match="link to nothing"):
        open_state(tmp_path / "link")


@pytest.mark.parametrize("lost", ["homebox.id", "refs/HEAD", "ledger.db"])
def test_a_box_with_a_lost_part_is_not_taken_for_a_new_one(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "state"
    with open_state(path) as state:
        promote(state, "one")
        say(state.ledger, "Hello.")
    content = (path / lost).read_bytes()
    (path / lost).unlink()
    with pytest.raises(StateError):
        open_state(path)
    (path / lost).write_bytes(b"")
    with pytest.raises(StateError):
        open_state(path)
    # Control: with the part put back the box is the old one.
    (path / lost).write_bytes(content)
    with open_state(path) as state:
        assert (state.ledger.count(), state.lineage.head(BASE) != "base") == (1, True)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 65])
def test_a_damaged_identity_is_refused(tmp_path: Path, content: bytes) -> None:
    open_state(tmp_path / "state").close()
    (tmp_path / "state/homebox.id").write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        open_state(tmp_path / "state")


def test_a_second_writer_gets_one_line_that_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "state"
    program = (
        "import sys, pathlib\nfrom homebox.errors import StateError\n"
        "from homebox.memory.state import open_state\n"
        "try:\n    open_state(pathlib.Path(sys.argv[1]))\n"
        "except StateError as error:\n    print(error); sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with open_state(path):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 5, done.stderr
        assert len(done.stdout.splitlines()) == 1
        assert f"in use by process {os.getpid()}" in done.stdout
    # Control: with the first one gone the same program gets in.
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_reading_works_beside_a_writer_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(StateError, match=r"homebox\.id is missing"):
        open_state(path, read_only=True)
    assert not path.exists()
    with open_state(path) as state:
        weights = promote(state, "one")
        name = say(state.ledger, "Hello.")
        with open_state(path, read_only=True) as reader:
            assert reader.lineage.head(BASE) == weights
            assert [turn.id for turn in reader.ledger.turns()] == [name]
    before = files(path)
    with open_state(path, read_only=True) as reader:
        assert [turn.id for turn in reader.ledger.turns()] == [name]
        assert len(reader.lineage.history(BASE)) == 1
    assert files(path) == before


def test_leftovers_of_crashed_writers_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with open_state(path) as state:
        promote(state, "one")
    folder = next((path / "objects").iterdir())
    leftovers = [path / "homebox.id.1.0.tmp", path / "refs/HEAD.1.0.tmp", folder / "x.1.0.tmp"]
    for item in leftovers:
        item.write_bytes(b"half")
    open_state(path).close()
    assert [item for item in leftovers if item.exists()] == []

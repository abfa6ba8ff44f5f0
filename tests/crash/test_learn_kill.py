"""A learning run that is killed in any phase ends with the hash of one that was not."""

import shutil
from pathlib import Path

import pytest

from tests.crash.kill_learner import End, campaign, learn, prepare, story

TRAINING = ("--die-at", "train", "--after", "9")
PHASES = [
    ("--die-at", "select"),
    ("--die-at", "verify"),
    ("--die-at", "prepare"),
    TRAINING,
    ("--die-at", "gate", "--after", "5"),
    ("--die-at", "promote"),
]
KILLS = 60


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learn") / "prepared"
    prepare(path)
    return path


@pytest.fixture(scope="module")
def whole(prepared: Path) -> End:
    """A run that nobody killed."""
    folder = prepared.parent / "whole"
    shutil.copytree(prepared, folder)
    return learn(folder)


def test_killed_in_every_phase_it_ends_with_the_same_hash(
    prepared: Path, whole: End, tmp_path: Path
) -> None:
    assert len(whole.served) == 64
    tally = story(prepared, tmp_path / "state", whole.served, PHASES)
    assert tally.problems == []
    assert (tally.kills, tally.ended) == (len(PHASES), 1)
    assert set(tally.stages) == {options[1] for options in PHASES}


def test_killed_while_it_writes_head_is_old_or_new(
    prepared: Path, whole: End, tmp_path: Path
) -> None:
    """The files of a run: checkpoints first, then objects, the entry and HEAD."""
    # One run, killed in the middle of a later and later file of those that are still to be written.
    tally = story(
        prepared, tmp_path / "state", whole.served, [("--die-writing", str(n)) for n in (1, 4, 9)]
    )
    assert tally.problems == [] and tally.kills == 3


def test_control_a_run_that_forgets_what_it_saw_is_noticed(
    prepared: Path, whole: End, tmp_path: Path
) -> None:
    """It goes on from its checkpoint, but not with the state that it had."""
    tally = story(prepared, tmp_path / "state", whole.served, [TRAINING], ("--forget",))
    assert any("ended with" in problem for problem in tally.problems)


@pytest.mark.whole
def test_killed_at_any_moment_it_ends_with_the_same_hash(tmp_path: Path) -> None:
    tally = campaign(tmp_path, KILLS)
    assert tally.problems == []
    assert tally.kills == KILLS and tally.ended > 1

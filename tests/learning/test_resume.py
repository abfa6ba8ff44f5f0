"""A run that was killed ends with the hash of one that was not; a full disk stops nothing."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import DivergedError
from homebox.learning.lessons.deciding import forgotten
from homebox.learning.training import course, resume, train
from homebox.learning.training.course import Course
from homebox.learning.training.resume import FOLDER, Keeper, Kept, forget_runs, pieces, read
from homebox.memory import durable
from homebox.memory.state import State, open_state
from homebox.memory.turns import Message
from tests.learning.training_process import RECIPE, STEPS, examples, hash_of, trained

ROOT = Path(__file__).parents[2]


def process(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.learning.training_process", str(folder)]
    return subprocess.run(
        [*command, *map(str, options)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def result(run: subprocess.CompletedProcess[str]) -> list[str]:
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_a_run_killed_anywhere_ends_with_the_same_hash(tmp_path: Path) -> None:
    final = result(process(tmp_path / "whole"))[2]
    folder = tmp_path / "killed"
    # One run, killed again and again, each time further on: in the middle of a step, while it asks
    # the teacher, learns opinions or writes its file.
    for step, after in ((0, 1), (1, 40), (3, 3), (7, 9)):
        killed = process(folder, "--die-at", step, "--after", after, "--threads", 1 + step % 2)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(folder.glob("*.run"))) == 1
    ended = result(process(folder, "--threads", 2))
    assert ended[2] == final
    assert int(ended[0]) >= 6  # it went on, and did not begin anew
    assert result(process(folder))[2] == final  # what is over is not trained again


def test_without_the_moments_of_the_optimiser_it_is_another_run(tmp_path: Path) -> None:
    whole = result(process(tmp_path / "whole"))
    killed = process(tmp_path / "killed", "--die-at", STEPS // 2)
    assert killed.returncode == -signal.SIGKILL
    assert result(process(tmp_path / "killed", "--forget"))[2] != whole[2]


def test_a_dev_set_ends_a_run_and_the_recipe_says_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "write_examples", examples)
    built = ended(trained(None, dev=True))
    assert 2 * STEPS / 3 <= built.recipe.stop < STEPS
    again = ended(trained(None, recipe=built.recipe))
    assert hash_of(again.tensors) == hash_of(built.tensors) and again.recipe == built.recipe
    full = ended(trained(None))
    assert full.recipe.stop == 0 and hash_of(full.tensors) != hash_of(built.tensors)


def test_a_run_that_was_closed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "write_examples", examples)
    wanted = hash_of(ended(trained(None, dev=True)).tensors)
    done = 0
    for _ in range(30):
        steps: Any = trained(tmp_path, dev=True)
        try:
            for progress in steps:
                if progress.stage == "train" and progress.done > done:
                    done = progress.done
                    break
            steps.close()
        except StopIteration:
            break
        if done >= 6:
            break
    assert done >= 6
    assert hash_of(ended(trained(tmp_path, dev=True)).tensors) == wanted
    forget_runs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_the_checkpoint_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "write_examples", examples)
    monkeypatch.setattr(resume, "EVERY", 0.0)
    wanted = hash_of(ended(trained(None)).tensors)

    def full(path: Path, data: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "_write_new", full)
    said = []
    steps: Any = trained(tmp_path)
    while True:
        try:
            said.append(next(steps).text)
        except StopIteration as done:
            assert hash_of(done.value.tensors) == wanted
            break
    assert any("No space left" in text and "no checkpoint" in text for text in said)
    assert list(tmp_path.glob("*")) == []


def test_a_damaged_checkpoint_is_none(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, {"what": 1})
    kept = Kept({"values": np.arange(4, dtype=np.float32)}, Course(3, [1.0, 2.0]))
    keeper.save(kept)
    (path,) = tmp_path.iterdir()
    found = keeper.load()
    assert found is not None and found.course == kept.course
    assert found.state["values"].tolist() == [0, 1, 2, 3]
    assert Keeper(tmp_path, {"what": 2}).load() is None
    data = b"".join(pieces(kept))
    for at in (0, 40, len(data) - 1):
        with pytest.raises(ValueError, match="hash"):
            read(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    path.write_bytes(data[:-5])
    assert keeper.load() is None
    path.write_bytes(b"")
    assert keeper.load() is None


def ended(steps: Any) -> train.Built:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            built: train.Built = done.value
            return built


def test_a_loss_that_rises_far_above_its_start_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "write_examples", examples)
    with pytest.raises(DivergedError, match="not a number after"):
        ended(trained(None, recipe=replace(RECIPE, rate=3.0)))
    high = replace(RECIPE, rate=0.2)  # learns nothing, but its loss began nearly as high
    assert ended(trained(None, recipe=high)).recipe == high
    monkeypatch.setattr(course, "FAR", 0.8)
    with pytest.raises(DivergedError, match="rose from"):
        ended(trained(None, recipe=high))


def test_forgetting_takes_interrupted_runs_along(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        tell(state, "My dog is called Quark.")
        keeper = Keeper(state.path / FOLDER, {"what": 1})
        keeper.save(Kept({"values": np.zeros(4, np.float32)}, Course(3, [1.0])))
        (state.path / FOLDER / "left.1.2.tmp").write_bytes(b"half a file")
        assert keeper.load() is not None
        forgotten(state.ledger, state.lineage, "c")
        assert list((state.path / FOLDER).iterdir()) == []


def tell(state: State, text: str) -> None:
    state.ledger.append(
        conversation="c",
        model="tiny",
        adapter="base",
        sampling={},
        messages=[Message("user", text, "owner")],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )

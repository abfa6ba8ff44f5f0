"""What happens to a run when the ledger was changed, the disk is full, or something is forgotten.

Each has its control: the same run without the trouble promotes.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from homebox import learner
from homebox.errors import DiskFullError, StateError
from homebox.learning import pauses
from homebox.learning.lessons.deciding import decide, forgotten
from homebox.learning.lessons.live import live_lessons
from homebox.learning.training import resume
from homebox.memory import durable
from homebox.memory.lessons import ALIVE
from homebox.memory.state import State, open_state
from tests.learning.fake_model import FakeModel
from tests.learning.test_learner import OWNER, fakes, learn, state, steps_of, tell  # noqa: F401

BASE = FakeModel.base_hash


@pytest.mark.parametrize("changed", ["", "Quark", "Zwolle"])
def test_a_changed_ledger_is_not_learned_from(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
) -> None:
    tell(state, *OWNER)
    state.ledger.verify()  # what was found right once is looked at again
    with sqlite3.connect(state.path / "ledger.db") as other:
        number, told = other.execute(
            "SELECT turn, content FROM messages JOIN texts ON text = texts.number "
            "WHERE instr(content, ?) ORDER BY turn",
            (changed,),
        ).fetchone()
        if changed:
            other.execute(
                "UPDATE texts SET content = replace(content, ?, 'Evil') WHERE content = ?",
                (changed, told),
            )
    other.close()
    if not changed:
        assert learn(state, FakeModel(), monkeypatch)[0].promoted
        return
    (wrong,) = [turn.id for turn in state.ledger.outline() if turn.number == number]
    with pytest.raises(StateError, match=rf"turn {wrong} \(row {number}\) of the ledger is damag"):
        learn(state, FakeModel(), monkeypatch)
    assert state.lineage.head(BASE) == "base"
    assert state.lineage.reflog() == state.ledger.lessons() == []


def full_after(monkeypatch: pytest.MonkeyPatch, count: int, fits: Callable[[Path], bool]) -> None:
    """Let the disk be full from that write on, of the files that fit."""
    write, done = durable._write_new, [0]

    def refuse(path: Path, data: Iterable[bytes]) -> None:
        if fits(path):
            done[0] += 1
            if done[0] > count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(durable, "_write_new", refuse)


def test_a_full_disk_leaves_what_is_served_and_says_so(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell(state, *OWNER)
    inside = state.store.root
    for count in range(20):
        with monkeypatch.context() as patch:
            patch.setattr(pauses, "WAITS", ())
            full_after(patch, count, lambda path: path.is_relative_to(inside))
            report, _ = learn(state, FakeModel(), patch)
            if not report.promoted:
                assert "No space left" in report.reason and "free space" in report.reason
                assert state.lineage.head(BASE) == "base"
                assert not any(line["done"] for line in state.lineage.reflog())
                assert {lesson.state for lesson in state.ledger.lessons()} == {"new"}
                continue
        break
    assert report.promoted and count >= 2  # control: as soon as there is room, it is served
    assert state.lineage.verify(report.weights).hash == report.weights


def test_a_run_waits_for_space_and_goes_on_when_there_is_some(
    state: State,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_state(tmp_path / "other") as other:
        tell(other, *OWNER)
        wanted = learn(other, FakeModel(), monkeypatch)[0].weights
    tell(state, *OWNER)
    monkeypatch.setattr(pauses, "WAITS", (0.05, 0.05, 0.05))
    monkeypatch.setattr(pauses, "TURN", 0.005)
    write = durable._write_new
    room: list[str] = []

    def refuse(path: Path, data: Iterable[bytes]) -> None:
        if path.is_relative_to(state.store.root) and not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(durable, "_write_new", refuse)
    steps = steps_of(state, FakeModel(), monkeypatch)
    said: list[str] = []
    while True:
        try:
            progress = next(steps)
        except StopIteration as over:
            report = over.value
            break
        if progress.stage == "pause":
            assert state.lineage.head(BASE) == "base"
            said.append(progress.text)
            if len(said) > 3:
                room.append("enough")
    assert report.promoted and report.weights == wanted
    assert any("waiting for space on the disk" in text for text in said)
    assert "No space left" in report.data["pauses"][0]
    assert not list((state.path / resume.FOLDER).iterdir())


def test_a_full_disk_is_told_from_a_broken_one(tmp_path: Path) -> None:
    for number, kind in ((errno.ENOSPC, DiskFullError), (errno.EIO, StateError)):
        with pytest.raises(StateError) as caught, durable.explained("write", tmp_path):
            raise OSError(number, os.strerror(number))
        assert type(caught.value) is kind


def test_a_checkpoint_that_cannot_be_written_is_told_and_learning_goes_on(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell(state, *OWNER)
    monkeypatch.setattr(resume, "EVERY", 0.0)
    full_after(monkeypatch, 0, lambda path: resume.SUFFIX in path.name)
    report, seen = learn(state, FakeModel(), monkeypatch)
    assert any("no checkpoint: cannot write" in progress.text for progress in seen)
    assert any("No space left" in progress.text for progress in seen)
    assert report.promoted and state.lineage.head(BASE) == report.weights
    assert list((state.path / resume.FOLDER).iterdir()) == []


def forget_dog(state: State) -> None:  # noqa: F811
    (dog,) = [item for item in state.ledger.lessons(ALIVE) if item.value == "Quark"]
    forgotten(state.ledger, state.lineage, dog.hash)


def reject_dog(state: State) -> None:  # noqa: F811
    (dog,) = [item for item in state.ledger.lessons(ALIVE) if item.value == "Quark"]
    decide(state.ledger, "reject", dog.hash)


def say_more(state: State) -> None:  # noqa: F811
    tell(state, "My cat is called Fenwick.", "My dog is called Max.", conversation="d")
    live_lessons(state.ledger).catch_up()


def meanwhile(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    act: Callable[[State], None],
) -> Any:
    """Learn, and do something else when the run is at a stage; returns its report."""
    steps = steps_of(state, FakeModel(), monkeypatch)
    done = False
    while True:
        try:
            progress = next(steps)
        except StopIteration as over:
            assert done
            return over.value
        if not done and progress.stage == stage:
            act(state)
            done = True


@pytest.mark.parametrize("act", [forget_dog, reject_dog])
@pytest.mark.parametrize("stage", ["prepare", "train", "gate", "promote"])
def test_what_is_forgotten_during_a_run_is_not_served_by_it(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    act: Callable[[State], None],
) -> None:
    tell(state, *OWNER)
    live_lessons(state.ledger).catch_up()
    report = meanwhile(state, monkeypatch, stage, act)
    assert not report.promoted
    assert report.reason == learner.FORGOTTEN
    assert "run again" in report.lines[0]
    assert state.lineage.head(BASE) == "base" and state.lineage.reflog() == []
    again, _ = learn(state, FakeModel(), monkeypatch)
    assert again.promoted
    (entry,) = state.lineage.history(BASE)
    assert len(entry.lessons) == len(OWNER) - 1


@pytest.mark.parametrize("stage", ["prepare", "train", "gate", "promote"])
def test_what_is_told_during_a_run_waits_for_the_next(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    """Control: neither more turns nor more lessons keep a run from being served."""
    tell(state, *OWNER)
    report = meanwhile(state, monkeypatch, stage, say_more)
    assert report.promoted
    assert len(state.lineage.history(BASE)[-1].lessons) == len(OWNER)


@pytest.mark.parametrize("act", [forget_dog, reject_dog])
def test_without_the_look_back_it_would_be_served(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[State], None],
) -> None:
    """Control: nothing else keeps weights from being served that know what is gone."""
    tell(state, *OWNER)
    monkeypatch.setattr(learner, "taken_back", lambda *_: False)
    monkeypatch.setattr(learner, "ERASURES", "nothing")
    assert meanwhile(state, monkeypatch, "gate", act).promoted


def test_what_is_forgotten_while_turns_are_read_does_not_come_back(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell(state, *OWNER)
    live_lessons(state.ledger).catch_up()
    read = learner.read_signals

    def forgetting(*given: Any) -> Any:
        signals = yield from read(*given)
        forget_dog(state)
        return signals

    monkeypatch.setattr(learner, "read_signals", forgetting)
    report, _ = learn(state, FakeModel(), monkeypatch)
    assert (report.promoted, report.reason) == (False, learner.FORGOTTEN)
    assert "Quark" not in {lesson.value for lesson in state.ledger.lessons()}

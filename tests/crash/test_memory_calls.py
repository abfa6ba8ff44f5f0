"""Killed or refused at any system call, the state opens on the old or the new, never a mixture."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import HomeboxError
from homebox.memory.lineage import Lineage
from homebox.memory.state import State, open_state
from tests.crash import calls
from tests.unit.memory import kit

OLD = b"an old object"


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time of real syncs, which matter to power cuts only."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def prepare(folder: Path, scenario: str) -> None:
    """Make the state that the operation starts from."""
    (folder / "prepared").mkdir(parents=True)
    if scenario == "init":
        return
    with open_state(folder / "prepared" / "state") as state:
        state.store.put(OLD)
        rex = state.ledger.add_lesson(kit.lesson("Rex"))
        if scenario == "put":
            return
        kit.promote(state, "one", rex)
        tom = state.ledger.add_lesson(kit.lesson("Tom"))
        if scenario == "rollback":
            kit.promote(state, "two", rex, tom)


def check_init(state: State) -> bool:
    assert state.lineage.head(kit.BASE) == "base"
    assert state.ledger.verify() == 0
    return True


def check_put(state: State) -> bool:
    new = next((name for name in state.store.find("") if state.store.get(name) != OLD), None)
    assert new is None or state.store.get(new) == calls.NEW_OBJECT
    assert state.store.get(state.store.put(calls.NEW_OBJECT)) == calls.NEW_OBJECT
    assert len(state.store.find("")) == 2
    return new is not None


def check_move(state: State, old: dict[str, str], new: dict[str, str], checkpoints: int) -> bool:
    """Compare HEAD, lessons and history with what stood before and after; True if it is after."""
    head = state.lineage.head(kit.BASE)
    served = state.lineage.checkpoints(kit.BASE)
    moved = len([line for line in state.lineage.reflog() if line["done"]]) != checkpoints
    assert kit.states(state) == (new if moved else old)
    if head != "base":
        state.lineage.verify(head)
        assert head in served
        assert kit.states(state) == {"Rex": "active", "Tom": ("new", "active")[served.index(head)]}
    assert {item.weights for item in state.lineage.history(kit.BASE)} == set(served)
    return moved


def check_promote(state: State) -> bool:
    before, after = {"Rex": "active", "Tom": "new"}, {"Rex": "active", "Tom": "active"}
    moved = check_move(state, before, after, checkpoints=1)
    if not moved:
        kit.promote(state, "two", *(item.hash for item in state.ledger.lessons()))
    assert check_move(state, before, after, checkpoints=1)
    return moved


def check_rollback(state: State) -> bool:
    before, after = {"Rex": "active", "Tom": "active"}, {"Rex": "undone", "Tom": "undone"}
    moved = check_move(state, before, after, checkpoints=2)
    assert (state.lineage.head(kit.BASE) == "base") == moved
    state.lineage.rollback(kit.BASE, "base", "again")
    assert check_move(state, before, after, checkpoints=2)
    return moved


def check_keep(state: State) -> bool:
    assert check_move(state, {"Rex": "active", "Tom": "new"}, {}, checkpoints=1) is False
    kept = [entry.weights for entry in state.lineage.imports(kit.BASE)]
    for weights in kept:
        state.lineage.verify(weights)
    state.lineage.keep(kit.entry(state, kit.checkpoint(state, "imported")))
    assert len(state.lineage.imports(kit.BASE)) == 1
    return bool(kept)


CHECKS: dict[str, Callable[[State], bool]] = {
    "init": check_init,
    "put": check_put,
    "promote": check_promote,
    "rollback": check_rollback,
    "keep": check_keep,
}


def broken_after(folder: Path, scenario: str, lines: list[dict[str, Any]]) -> list[str]:
    """Open and check every copy; return what is wrong, in words."""
    wrong, outcomes = [], []
    for line in lines:
        path = folder / str(line["number"]) / "state"
        try:
            with open_state(path) as state:
                outcomes.append(CHECKS[scenario](state))
            assert list(path.rglob("*.tmp")) == []
        except (HomeboxError, AssertionError) as error:
            wrong.append(f"cut at {line['number']} ({line['call']}): {error}")
    if not wrong:
        assert outcomes[-1], "the run that was not cut must have done its work"
        if lines[0]["status"] == -9:
            assert outcomes == sorted(outcomes), "once done, it must not be undone by a later cut"
        elif scenario in ("promote", "rollback"):
            assert outcomes == [line["status"] == 0 for line in lines], "refused means unchanged"
    return wrong


@pytest.mark.parametrize("scenario", list(CHECKS))
@pytest.mark.parametrize("mode", ["kill", "error"])
def test_cut_at_every_call(tmp_path: Path, scenario: str, mode: str) -> None:
    prepare(tmp_path, scenario)
    lines = calls.cut_everywhere(scenario, mode, tmp_path)
    cuts, whole = lines[:-1], lines[-1]
    assert (whole["call"], whole["status"]) == ("", 0)
    assert len(cuts) >= {"init": 30, "put": 10, "promote": 40, "rollback": 12, "keep": 30}[scenario]
    assert {line["call"] for line in cuts} >= {"open", "write", "fsync", "rename"}
    if mode == "kill":
        assert {line["status"] for line in cuts} == {-9}
    else:
        # Refused, or harmless: an error may be survived (a stale file), never left unexplained.
        assert {line["status"] for line in cuts} <= {0, 5}
        assert [line["status"] for line in cuts].count(5) > len(cuts) / 2
    assert broken_after(tmp_path, scenario, lines) == []


@pytest.mark.parametrize(
    ("scenario", "protection_off"),
    [
        ("put", "in place"),
        ("promote", "in place"),
        ("rollback", "in place"),
        ("promote", "head first"),
        ("rollback", "head first"),
    ],
)
def test_control_without_the_protection_the_check_fails(
    tmp_path: Path, scenario: str, protection_off: str
) -> None:
    prepare(tmp_path, scenario)
    lines = calls.cut_everywhere(scenario, "kill", tmp_path, protection_off)
    assert broken_after(tmp_path, scenario, lines) != []


def test_control_without_settling_the_lessons_lag_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, "rollback")
    lines = calls.cut_everywhere("rollback", "kill", tmp_path)
    monkeypatch.setattr(Lineage, "settle", lambda _: None)
    assert broken_after(tmp_path, "rollback", lines) != []

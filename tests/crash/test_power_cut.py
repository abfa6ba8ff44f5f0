"""A power cut loses nothing acknowledged and leaves no mixture; without any one sync it would."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from homebox.errors import HomeboxError
from homebox.memory import durable
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import LineageEntry, Manifest
from homebox.memory.store import Store
from tests.crash.power import Call, Disk, Recorder, lay_out
from tests.unit.memory.kit import BASE, files

DRAWS = 12  # states that are drawn for a cut after each call


class NoLedger:
    """The lessons' side of a move, which SQLite keeps and these tests leave out."""

    def mark(self, _: str) -> int:
        return 0

    def follow_move(self, number: int, undone: object, active: object) -> bool:
        return True


@dataclass(frozen=True)
class Box:
    store: Store
    lineage: Lineage


def box(root: Path) -> Box:
    store = Store(root / "objects")
    return Box(store, Lineage(root, store, NoLedger()))  # type: ignore[arg-type]


def candidate(root: Path, text: str) -> None:
    """Put all objects of a checkpoint and promote it."""
    opened = box(root)
    tensors = {"q.A": opened.store.put(f"{text} A".encode() * 20)}
    weights = Manifest(BASE, tensors, opened.store.put(f"job {text}".encode())).save(opened.store)
    report = opened.store.put(b"report " + text.encode())
    parent = opened.lineage.head(BASE)
    opened.lineage.promote(LineageEntry(weights, parent, BASE, BASE, report, "", text))


def nothing(root: Path) -> None:
    (root / "objects").mkdir()
    Lineage.initialise(root)


def served(root: Path) -> str:
    """Name what is served, by its reason; every mixture raises."""
    opened = box(root)
    head = opened.lineage.head(BASE)
    if head != "base":
        opened.lineage.verify(head)
    moves = [line["new"] for line in opened.lineage.reflog() if line["done"]]
    assert head == (moves[-1] if moves else "base")
    history = {item.weights: item.reason for item in opened.lineage.history(BASE)}
    return history[head] if head != "base" else "base"


def served_of_two(root: Path) -> str:
    """Like `served`, where two promotions were acknowledged before."""
    assert [item.reason for item in box(root).lineage.history(BASE)] == ["1", "2"]
    return served(root)


def put_again(root: Path) -> None:
    """Put an object that an earlier, killed put left visible but not durable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "sync_directory", lambda _: None)
        Store(root / "objects").put(b"twice")
    Store(root / "objects").put(b"twice")


def kept(root: Path) -> str:
    """Name what the store holds of the object put twice; damaged bytes raise when acknowledged."""
    store = Store(root / "objects")
    names = store.find("")
    return "new" if [store.get(name) for name in names] == [b"twice"] else "old"


@dataclass(frozen=True)
class Scenario:
    before: tuple[Callable[[Path], None], ...]
    operation: Callable[[Path], object]
    look: Callable[[Path], str]
    old: str
    new: str


SCENARIOS = {
    "first promote": Scenario((nothing,), lambda r: candidate(r, "1"), served, "base", "1"),
    "promote": Scenario(
        (nothing, lambda r: candidate(r, "1")), lambda r: candidate(r, "2"), served, "1", "2"
    ),
    "rollback": Scenario(
        (nothing, lambda r: candidate(r, "1"), lambda r: candidate(r, "2")),
        lambda r: box(r).lineage.rollback(BASE, "previous", ""),
        served_of_two,
        "2",
        "1",
    ),
    "put again": Scenario((nothing,), put_again, kept, "old", "new"),
}


def record(scenario: Scenario, root: Path) -> tuple[dict[str, bytes], list[Call]]:
    """Return the files before the operation, and the calls that it made."""
    root.mkdir()
    for step in scenario.before:
        step(root)
    folders = {f"{path.relative_to(root)}/": b"" for path in root.rglob("*") if path.is_dir()}
    before = {**folders, **files(root)}
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(root, patch)
        scenario.operation(root)
    return before, recorder.calls


def first_fault(
    scenario: Scenario, before: dict[str, bytes], calls: list[Call], work: Path
) -> str | None:
    """Cut the power after every call, look at states that could be left, and say what is wrong."""
    dice = random.Random(3)
    disk = Disk(before)
    laid: dict[str, bytes] = {}
    for number in range(len(calls) + 1):
        acknowledged = number == len(calls)
        for _ in range(DRAWS * (10 if acknowledged else 1)):
            found = disk.cut(dice)
            lay_out(found, laid, work)
            laid = found
            try:
                seen = scenario.look(work)
            except (HomeboxError, AssertionError, KeyError) as error:
                if scenario.look is kept and not acknowledged:
                    continue  # bytes that nobody was promised may be damaged
                return f"after call {number}: {error!r}"
            if acknowledged and seen != scenario.new:
                return f"acknowledged, but {seen} is found"
            if seen not in (scenario.old, scenario.new):
                return f"after call {number}: {seen} is found"
        if not acknowledged:
            disk.play(calls[number])
    return None


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[dict[str, bytes], list[Call]]]:
    folder = tmp_path_factory.mktemp("power")
    return {name: record(item, folder / name) for name, item in SCENARIOS.items()}


Recorded = dict[str, tuple[dict[str, bytes], list[Call]]]


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_power_cut_after_any_call(recorded: Recorded, name: str, tmp_path: Path) -> None:
    before, calls = recorded[name]
    assert len(calls) >= 7
    assert first_fault(SCENARIOS[name], before, calls, tmp_path / "cut") is None


SYNCS = [
    ("first promote", "_write_new < replace_file"),
    ("first promote", "append_line < move"),
    ("first promote", "sync_directory < append_line"),
    ("first promote", "sync_directory < replace_file"),
    ("first promote", "sync_directory < make_directory"),
    ("promote", "_write_new < replace_file"),
    ("promote", "append_line < move"),
    ("promote", "sync_directory < replace_file"),
    ("rollback", "_write_new < replace_file"),
    ("rollback", "append_line < move"),
    ("rollback", "sync_directory < replace_file"),
    ("put again", "sync_directory < put"),
]


@pytest.mark.parametrize(("name", "site"), SYNCS)
def test_control_without_a_sync_something_is_lost(
    recorded: Recorded, name: str, site: str, tmp_path: Path
) -> None:
    before, calls = recorded[name]
    without = [call for call in calls if not (call.kind.startswith("sync") and call.site == site)]
    assert len(without) < len(calls)
    assert first_fault(SCENARIOS[name], before, without, tmp_path / "cut") is not None


def test_every_kind_of_sync_has_its_control(recorded: Recorded) -> None:
    sites = {
        call.site
        for _, calls in recorded.values()
        for call in calls
        if call.kind.startswith("sync")
    }
    assert sites == {site for _, site in SYNCS}

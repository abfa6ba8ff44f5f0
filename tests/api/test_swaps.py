"""What a swap costs whoever is answered meanwhile is measured and shown beside the report."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox.cli import main
from homebox.config import load_config
from homebox.daemon import Box, Parts, running
from homebox.errors import DamagedObjectError
from homebox.learning.exam import limits
from homebox.learning.gate.page import lines_of, page_of
from homebox.memory.manifest import LineageEntry
from homebox.memory.state import open_state
from homebox.memory.store import canonical_json
from homebox.memory.swaps import note_swap, swaps_to
from homebox.model.architectures.config_file import parse_config
from tests.api.fake_learner import Progress, Report, read, save
from tests.api.fake_model import FakeModel, Piece

CONFIG = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
REPORT = {"checks": [], "passed": True, "not_asked": {"G11": "no daemon"}, "format": 2}


class Telling(FakeModel):
    """A model of known size; with `breaks`, answers that run while weights change fail."""

    breaks = False

    def __init__(self) -> None:
        super().__init__()
        self.config = parse_config(CONFIG)
        self.before: set[int] = set()  # sequences that began before the swap

    def step(self, sequences: Any) -> Any:
        if not self.breaks or not self.adapters.loaded:
            self.before |= {id(each) for each in sequences}
            return super().step(sequences)
        outcomes: list[Piece | Exception | None] = []
        for each in sequences:
            broken = id(each) in self.before
            outcomes.append(RuntimeError("its adapter went") if broken else each.step())
        return outcomes


def learn(model, ledger, store, lineage, settings, dry_run=False):  # type: ignore[no-untyped-def]
    yield Progress("train", 0, 1, "step")
    head = lineage.head(model.base_hash)
    seed = len(lineage.history(model.base_hash)) + 1
    weights = save(store, model.base_hash, seed)
    lineage.promote(
        LineageEntry(
            weights=weights,
            parent=head,
            base=model.base_hash,
            ledger_root=ledger.root(),
            report=store.put(canonical_json(REPORT)),
            time="2026-01-01T00:00:00.000Z",
            reason="learned",
        )
    )
    return Report(True, weights, head, ["learned"])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Telling:
    monkeypatch.setitem(limits.SWAP, "tiny", 60_000.0)  # a loaded machine is no reason to fail
    return Telling()


@pytest.fixture
def box(tmp_path: Path, model: Telling) -> Iterator[Box]:
    settings: dict[str, Any] = {
        "paths.state": str(tmp_path / "state"),
        "server.port": 0,
        "server.require_token": False,
    }
    with running(load_config(None, settings, {}), Parts(lambda _: model, learn, read)) as box:
        yield box


def hold(box: Box, statuses: list[Any]) -> threading.Thread:
    """Begin an answer that lasts until the model lets it go."""

    def ask() -> None:
        body = {"model": "homebox", "messages": [{"role": "user", "content": "hold"}]}
        with httpx.Client(base_url=box.url, trust_env=False, timeout=30) as http:
            statuses.append(http.post("/v1/chat/completions", json=body).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    while sum(box.daemon.engine.load) == 0:
        os.sched_yield()
    return thread


def kept(box: Box, weights: str) -> list[dict[str, Any]]:
    return swaps_to(box.daemon.state.path, base(box), weights)


def base(box: Box) -> str:
    return str(box.daemon.status()["base"])


def test_answers_that_run_at_a_swap_are_followed_to_their_end(box: Box, model: Telling) -> None:
    statuses: list[Any] = []
    thread = hold(box, statuses)
    report = box.learn()
    swap = report.data["swap"]
    # Nobody can know yet that none fails.
    assert (swap["name"], swap["answers"], swap["passed"]) == ("G11", 1, None)
    assert kept(box, report.weights) == []
    model.release.set()
    thread.join()
    (figures,) = kept(box, report.weights)
    assert statuses == [200]
    assert (figures["answers"], figures["failed"]) == (1, 0)
    assert figures["pause_ms"] > 0 and figures["passed"] is True


def test_an_answer_that_breaks_over_a_swap_is_counted(box: Box, model: Telling) -> None:
    """Control: weights that go while they are used are noticed."""
    model.breaks = True
    statuses: list[Any] = []
    thread = hold(box, statuses)
    report = box.learn()
    model.release.set()
    thread.join()
    (figures,) = kept(box, report.weights)
    assert statuses == [500]
    assert (figures["answers"], figures["failed"], figures["passed"]) == (1, 1, False)
    shown = "\n".join(lines_of({**REPORT, "swap": figures}, "t"))
    assert "FAIL G11        answers that failed over it, of 1: 1, must be 0" in shown


def test_every_swap_is_measured_and_a_start_is_none(box: Box) -> None:
    first, second = box.learn(), box.learn()
    assert first.data["swap"]["answers"] == 0
    assert first.data["swap"]["passed"] is True
    box.rollback("previous", "test")
    assert [len(kept(box, each.weights)) for each in (first, second)] == [2, 1]
    assert box.daemon.status()["weights"] == first.weights


def test_the_report_shows_the_swap_and_stays_the_same_object(
    box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = box.learn().weights
    (entry,) = box.daemon.state.lineage.history(base(box))
    assert json.loads(box.daemon.state.store.get(entry.report)) == REPORT
    common = ["--state", str(tmp_path / "state")]
    assert main(["report", *common]) == 0
    shown = capsys.readouterr().out
    assert "G11        pause of the swap, ms" in shown
    assert "answers that failed over it, of 0: 0, must be 0" in shown
    assert "no daemon" not in shown
    assert main(["report", weights[:12], "--json", *common]) == 0
    assert json.loads(capsys.readouterr().out)["swap"]["name"] == "G11"
    page = tmp_path / "page.html"
    assert main(["report", "--html", str(page), *common]) == 0
    assert "pause of the swap" in page.read_text()


def test_weights_that_no_daemon_swapped_to_say_why() -> None:
    assert "no daemon" in "\n".join(lines_of(REPORT, "t"))
    assert "no daemon" in page_of(REPORT, "t")


def test_figures_that_cannot_be_kept_or_read_stop_nobody(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        one, other = "a" * 64, "b" * 64
        assert note_swap(state.path, one, other, {"pause_ms": 1.0})
        path = state.path / "refs" / "swaps"
        path.write_bytes(b"{broken\n[]\n" + path.read_bytes())
        assert [each["pause_ms"] for each in swaps_to(state.path, one, other)] == [1.0]
        assert swaps_to(state.path, other, one) == []
        path.unlink()
        path.mkdir()
        assert not note_swap(state.path, one, other, {})
        assert swaps_to(state.path, one, other) == []


@dataclass(frozen=True)
class Ready:
    stage: str = "promote"
    done: int = 0
    total: int = 1
    text: str = "serving the new weights"
    ready: str = ""


class Learner:
    """Says which weights it is about to serve, and serves them if it `goes_on`."""

    def __init__(self) -> None:
        self.goes_on = True
        self.heads: list[tuple[str, str]] = []  # when what was read
        self.broken = False

    def run(self, model, ledger, store, lineage, settings, dry_run=False):  # type: ignore[no-untyped-def]
        self.lineage, self.base = lineage, model.base_hash
        seed = len(lineage.history(model.base_hash)) + 1
        yield Ready(ready=save(store, model.base_hash, seed))
        if not self.goes_on:
            head = lineage.head(model.base_hash)
            return Report(False, head, head, ["nothing was learned"])
        return (yield from learn(model, ledger, store, lineage, settings))

    def read(self, store: Any, weights: str) -> Any:
        if self.broken:
            raise DamagedObjectError("object 0123 is damaged")
        self.heads.append((weights, self.lineage.head(self.base)))
        return read(store, weights)


@pytest.fixture
def placed(tmp_path: Path, model: Telling) -> Iterator[tuple[Box, Learner]]:
    learner = Learner()
    settings: dict[str, Any] = {
        "paths.state": str(tmp_path / "state"),
        "server.port": 0,
        "server.require_token": False,
    }
    parts = Parts(lambda _: model, learner.run, learner.read)
    with running(load_config(None, settings, {}), parts) as box:
        yield box, learner


def test_weights_are_read_and_placed_before_head_moves(
    placed: tuple[Box, Learner], model: Telling
) -> None:
    box, learner = placed
    first = box.learn()
    assert learner.heads == [(first.weights, "base")]
    assert model.adapters.placed == [*model.adapters.loaded] == [first.weights]
    assert box.daemon.status()["weights"] == first.weights
    assert first.data["swap"]["passed"] is True
    second = box.learn()
    assert learner.heads[1:] == [(second.weights, first.weights)]
    assert model.adapters.threads == {"homebox-engine"}
    # A rollback finds what is still there, and one that goes back again, too.
    box.rollback("previous", "test")
    box.rollback(second.weights, "test")
    assert len(learner.heads) == 2


def test_weights_that_are_not_served_after_all_leave_memory(
    placed: tuple[Box, Learner], model: Telling
) -> None:
    box, learner = placed
    learner.goes_on = False
    assert not box.learn().promoted
    assert (len(model.adapters.placed), model.adapters.loaded) == (1, {})
    assert box.daemon.status()["weights"] == "base"
    learner.goes_on, learner.broken = True, True
    with pytest.raises(DamagedObjectError):
        box.learn()
    assert box.daemon.state.lineage.head(base(box)) == "base"
    learner.broken = False
    assert box.learn().promoted

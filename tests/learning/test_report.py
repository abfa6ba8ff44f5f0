import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from homebox.cli import main
from homebox.errors import UnknownWeightsError
from homebox.learning.exam.limits import AMOUNTS
from homebox.learning.exam.writing import RECALL
from homebox.learning.examples import toy_world
from homebox.learning.gate.page import lines_of, page_of
from homebox.learning.report import Report
from homebox.learning.training import train
from homebox.memory.state import open_state
from homebox.memory.store import canonical_json
from homebox.model.training.trainer import StepResult
from tests.learning.fake_model import FakeModel, FakeTrainer, fake_opinions
from tests.learning.kit import OWNER
from tests.learning.test_learner import fails, learn, tell

BASE = "b" * 64


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTrainer.made, FakeTrainer.loss = [], 0.5
    monkeypatch.setattr(train, "trainer_for", FakeTrainer)
    monkeypatch.setattr(train, "opinions_of", fake_opinions)
    monkeypatch.setattr(toy_world, "REPLAY", 30)
    monkeypatch.setattr(toy_world, "UNTOLD", 30)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    with open_state(tmp_path / "state") as state:
        tell(state, *OWNER)
        return learn(state, FakeModel(), monkeypatch)[0]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_kept_report_names_what_is_known_and_has_no_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    for number, texts in enumerate((OWNER, tuple(reversed(OWNER)))):
        with open_state(tmp_path / str(number)) as state:
            tell(state, *texts)
            learn(state, FakeModel(), monkeypatch)
            (entry,) = state.lineage.history(BASE)
            kept.append(entry.report)
            report = json.loads(state.store.get(entry.report))
            lessons = {lesson.hash for lesson in state.ledger.lessons("active")}
    assert kept[0] == kept[1]
    assert set(report["known"]) == lessons
    assert "seconds" not in report
    assert [point[0] for point in report["course"]][:3] == [1, 2, 3]
    each = -(-AMOUNTS["tiny"].least // len(OWNER))
    assert report["by_topic"]["dog's name"]["recall"] == {"asked": each, "right": each}


def test_what_is_not_recalled_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_state(tmp_path / "state") as state:
        tell(state, *OWNER)
        report, _ = learn(state, FakeModel(fails(RECALL)), monkeypatch)
        assert report.data["known"] == []
        assert json.loads(state.store.get(report.data["report"]))["passed"] is False


def test_the_page_shows_all_and_loads_and_runs_nothing(report: Report) -> None:
    text = page_of({**report.data, "lost": ["<script>alert(1)</script>"]}, "<b>weights</b>")
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert names.isdisjoint({"script", "img", "link", "iframe", "b"})
    assert "svg" in names and "polyline" in names
    attributes = {name for _, found in page.tags for name in found}
    assert attributes.isdisjoint({"src", "href", "onload", "onclick"})
    for check in report.data["checks"]:
        assert check["title"] in page.words
    for name, why in report.data["not_asked"].items():
        assert name in page.words and why in page.words
    assert "dog's name" in page.words


def test_the_report_says_what_was_taught_and_how_to_undo_it() -> None:
    topic = {"recall": {"right": 3, "asked": 3}}
    report = {
        "passed": True,
        "topics": {"new": ["home", "job"], "old": ["pet"]},
        "by_topic": {"home": topic, "job": topic, "pet": {}},
        "lost": ["job"],
        "counts": {"refused": {"secret": 2, "speaks of a web address": 1}},
        "undo": "homebox rollback base",
    }
    summary = (
        "taught 2 new and 1 earlier topics; of 2 that were asked for it recalls 1; "
        "refused 3 (2 secret, 1 speaks of a web address)"
    )
    assert lines_of(report, "t")[2:4] == [summary, "undo: homebox rollback base"]
    words = Page(page_of(report, "t")).words
    assert summary in words and "undo: homebox rollback base" in words


def test_a_slow_swap_is_no_fault_of_the_weights_and_each_check_has_one_name() -> None:
    check = {"name": "chat", "title": "recall after talk", "figure": 1.0, "limit": 0.6}
    check |= {"least": True, "count": 6, "passed": True}
    swap = {"pause_ms": 53.0, "limit_ms": 50, "answers": 0, "failed": 0}
    report = {"checks": [check, {**check, "name": "G1"}], "passed": True, "swap": swap}
    page = Page(page_of(report, "t"))
    assert "chat recall" not in page.words and "G1 recall after talk" in page.words
    assert "(G11), the weights are right" in page.words
    report["swap"] = {**swap, "pause_ms": 12.0}
    assert "the weights are right" not in Page(page_of(report, "t")).words


def test_a_page_of_an_empty_or_broken_exam_can_be_made() -> None:
    check = {"name": "G6", "title": "x", "figure": None, "limit": 0.1, "least": False, "count": 1}
    check |= {"passed": False, "strict": False}
    assert "refused by the gate" in page_of({"checks": [check]}, "t")
    assert "no number" in "\n".join(lines_of({"checks": [check]}, "t"))
    assert page_of({}, "t")


def test_the_command_shows_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from homebox.commands import report as command

    monkeypatch.setattr(command, "base_hash", lambda config: BASE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with open_state(tmp_path / "state") as state:
        tell(state, *OWNER)
        weights = learn(state, FakeModel(), monkeypatch)[0].weights
        refused = state.store.put(canonical_json({"checks": [], "passed": False, "format": 2}))
    common = ["--state", str(tmp_path / "state")]
    assert main(["report", *common]) == 0
    shown = capsys.readouterr().out
    assert weights[:12] in shown and "G1" in shown and "not asked" in shown
    assert main(["report", weights[:8], "--json", *common]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    page = tmp_path / "page.html"
    assert main(["report", "--html", str(page), *common]) == 0
    assert "</html>" in page.read_text() and "undo: homebox rollback base" in page.read_text()
    capsys.readouterr()
    assert main(["report", "--html", str(page), "--json", *common]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(page)}
    assert main(["report", refused[:10], *common]) == 0
    assert "refused" in capsys.readouterr().out
    assert main(["report", "base", *common]) == UnknownWeightsError.exit_code
    assert main(["report", "abcdef", *common]) == UnknownWeightsError.exit_code


def test_a_loss_that_is_no_number_is_reported_with_its_course(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: FakeTrainer, batch: object, rate: float) -> object:
        self.rates.append(rate)
        self.anchors.append(0.0)
        loss = 0.5 if len(self.rates) < 3 else math.nan
        return StepResult(loss, 0.01, 1.0)

    monkeypatch.setattr(FakeTrainer, "step", step)
    with open_state(tmp_path / "state") as state:
        tell(state, *OWNER)
        report, _ = learn(state, FakeModel(), monkeypatch)
    assert not report.promoted
    assert "not a number" in report.reason
    assert [point[0] for point in report.data["course"]] == [1, 2]
    assert report.data["checks"][0]["passed"] is False
    # It was tried again with half the rate.
    first, second = FakeTrainer.made
    assert second.rates[0] == pytest.approx(first.rates[0] / 2)


def test_the_verdict_comes_first_and_what_failed_above_what_passed() -> None:
    good = {"name": "G6", "title": "divergence", "figure": 0.01, "limit": 0.1, "least": False}
    good |= {"count": 3, "passed": True}
    bad = {**good, "name": "G1", "title": "lessons recalled", "figure": 0.3, "limit": 0.9}
    bad |= {"least": True, "passed": False}
    lines = lines_of({"checks": [good, bad], "passed": False}, "a run")
    assert lines[0] == "a run"
    assert lines[1].startswith("refused by the gate: it was never served, because of 1 of 2 checks")
    assert "lessons recalled" in lines[1]
    assert lines[2].startswith("FAIL G1") and lines[3].startswith("ok   G6")
    assert lines_of({"checks": [good], "passed": True}, "t")[1] == "passed the gate: 1 checks"


def test_a_page_lists_lost_topics_first_and_not_thousands() -> None:
    found = {"new": True, "recall": {"right": 3, "asked": 3}}
    topics = {f"topic {number:04}": found for number in range(2000)}
    text = page_of({"by_topic": topics, "lost": ["topic 1999"]}, "t")
    assert text.index("topic 1999") < text.index("topic 0000")
    assert "and 1500 more" in text and "not recalled" in text
    assert len(text) < 80_000

"""Pages of real programs: valid, complete, with every launch, its code and its edges."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.graph.tensor import Tensor
from homebox.engine.inspection import debug
from homebox.engine.inspection.graph_html import page
from homebox.engine.inspection.profiled_run import ProfiledRun
from homebox.engine.inspection.roof import Roof
from homebox.engine.runtime import watching
from homebox.engine.runtime.capture import Program, Spec, capture

ROOF = Roof(1, 40.0, 250.0, 500.0, 1000.0)
VOID = {"meta", "input", "link", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and collects boxes, ids and the data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.boxes: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.data = ""
        self.title = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"] or "")
        self.sources += [given[name] or "" for name in ("src", "href") if name in given]
        if given.get("class") == "box":
            self.boxes.append(given)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "title":
            self.title += data
        elif self.open and self.open[-1] == "script" and self.ids[-1] == "data":
            self.data += data if not self.data else ""


def layers(x: Tensor) -> Tensor:
    for i in range(4):
        weight = Tensor.from_numpy(np.full((32, 32), 0.01 * (i + 1), np.float32), frozen=True)
        x = x + (x * (x * x).mean(-1, keepdim=True)).softmax().linear(weight)
        x = x.contiguous()
    return x


def recorded(name: str) -> tuple[Program, ProfiledRun]:
    program = capture(layers, {"x": Spec((3, 32))}, name=name)
    with debug.recording() as runs:
        program(x=np.ones((3, 32), np.float32))
    (run,) = runs
    return program, run


def test_every_launch_is_there_with_its_code_and_edges() -> None:
    program, run = recorded("layers")
    text = page(run, ROOF)
    found = Page(text)
    count = len(program.kernels)
    assert count > 8
    assert [box["data-n"] for box in found.boxes] == [str(i) for i in range(count)]
    assert len(set(found.ids)) == len(found.ids)
    assert found.sources == [], "the page must not load anything"
    data = json.loads(found.data)
    assert len(data["launches"]) == count
    for i, launch in enumerate(data["launches"]):
        assert f"@{launch['kernel']}(" in data["sources"][launch["kernel"]]
        assert launch["us"] > 0
        assert all(i in data["launches"][j]["to"] and j < i for j in launch["from"])
    assert any(launch["from"] for launch in data["launches"])
    assert "block 1 of" in text


def test_names_of_programs_are_text() -> None:
    name = '</title><script>alert("1")</script> & <b>'
    found = Page(page(recorded(name)[1], ROOF))
    assert name in found.title


def test_the_environment_asks_for_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(layers, {"x": Spec((3, 32))}, name="some layers")
    x = np.ones((3, 32), np.float32)
    program(x=x)
    assert not watching.profiling()
    monkeypatch.setenv("GRAPH", str(tmp_path / "pages"))
    (result,) = program(x=x)
    Page((tmp_path / "pages" / "some-layers.html").read_text())
    monkeypatch.setenv("GRAPH", "0")
    np.testing.assert_array_equal(program(x=x)[0], result)


def test_debug_prints_the_share_of_the_roof(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = capture(layers, {"x": Spec((3, 32))}, name="some layers")
    monkeypatch.setenv("DEBUG", "2")
    program(x=np.ones((3, 32), np.float32))
    lines = capsys.readouterr().err.splitlines()
    assert f"some layers: {len(program.kernels)} launches" in lines[0] or any(
        "in" in line and "launches" in line for line in lines
    )
    assert sum("% of roof" in line for line in lines) > 2

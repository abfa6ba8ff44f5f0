"""`homebox bench` and `homebox graph` on a small model, which has no tokenizer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from homebox.benchmarks.suite import METRICS, SHAPES
from tests.unit.model_files import write_model

LONG = {"max_position_embeddings": 4096, "head_dim": 16, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "small"
    write_model(folder, LONG)
    (folder / "tokenizer.model").unlink()  # none is needed
    return folder


def homebox(model: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOMEBOX_CACHE_DIR": str(model.parent / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "homebox", *words, "--model", str(model)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == status, done.stderr
    return done


def test_every_metric_is_a_line_of_json(model: Path) -> None:
    done = homebox(model, "bench", "--json", "--type", "q8", "--threads", "1", "--budget", "0.01")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    wanted: list[tuple[str, Any]] = [(m, None) for m in METRICS if not m.startswith("lora")]
    wanted += [(name, shape) for shape in SHAPES for name in ("lora_step", "lora_peak_rss")]
    assert [(row["metric"], row["shape"]) for row in rows] == wanted
    for row in rows:
        assert row["value"] > 0
        assert (row["engine"], row["model"], row["type"], row["threads"]) == (
            "homebox",
            "small",
            "q8",
            1,
        )
        if row["unit"] == "tok/s":
            assert row["percent_of_roof"] > 0
            assert row["bound"] in ("memory", "compute")
    by_name = {row["metric"]: row for row in rows}
    assert by_name["prefill_512"]["arithmetic"] == "int8"
    assert by_name["lora_step"]["arithmetic"] == "bf16"
    assert 20 < by_name["peak_rss"]["value"] < 2000
    assert "serve load_to_first_token" in done.stderr, "progress goes to stderr"


def test_text_for_people_and_only_what_is_asked_for(model: Path) -> None:
    words = ("--type", "f32", "--threads", "1", "--budget", "0.01", "--only", "decode_x4")
    (line,) = homebox(model, "bench", *words).stdout.splitlines()
    assert line.startswith("decode_x4 ")
    assert "tok/s" in line and "%" in line


def test_unknown_metrics_are_refused(model: Path) -> None:
    done = homebox(model, "bench", "--only", "decode", status=2)
    assert "no metric is called decode" in done.stderr


@pytest.mark.parametrize("program", ["decode", "train"])
def test_a_page_is_drawn(model: Path, program: str) -> None:
    out = model.parent / f"{program} page.html"
    words = ("--program", program, "--shape", "1x32", "--type", "f32", "-o", str(out))
    found = json.loads(homebox(model, "graph", *words, "--json").stdout)
    assert found["page"] == str(out)
    assert out.read_text().count('class="box"') == found["launches"] > 10

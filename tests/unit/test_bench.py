"""`homebox bench` and `homebox graph` on a small model, which has no tokenizer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from homebox.benchmarks import child
from homebox.benchmarks.suite import SERVING
from homebox.errors import DeviceError
from tests.parity import reference
from tests.parity.cases import BY_NAME
from tests.parity.weights import write_directory
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
    words = ("--type", "q8", "--threads", "1", "--budget", "0.01", "--only", ",".join(SERVING))
    done = homebox(model, "bench", "--json", *words)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert tuple(row["metric"] for row in rows) == SERVING
    for row in rows:
        assert row["value"] > 0
        named = (row["engine"], row["model"], row["type"], row["threads"], row["shape"])
        assert named == ("homebox", "small", "q8", 1, None)
        if row["unit"] == "tok/s":
            assert row["percent_of_roof"] > 0
            assert row["bound"] in ("memory", "compute")
    by_name = {row["metric"]: row for row in rows}
    assert by_name["prefill_512"]["arithmetic"] == "int8"
    assert 20 < by_name["peak_rss"]["value"] < 2000
    assert "serve load_to_first_token" in done.stderr, "progress goes to stderr"


def test_training_is_measured_in_its_shape(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(model.parent / "cache"))
    words = ["--only", "lora_step,lora_peak_rss", "--budget", "0.01", "--shape", "2x16"]
    child.main(["train", "--model", str(model), "--type", "q8", *words])
    step, memory = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (step["metric"], step["shape"], step["unit"]) == ("lora_step", "2x16", "tok/s")
    assert step["work"]["kind"] == "bf16"
    assert step["value"] == 32 / step["sample"]["seconds"]
    assert (memory["metric"], memory["unit"]) == ("lora_peak_rss", "MiB")


def test_text_for_people_and_only_what_is_asked_for(model: Path) -> None:
    words = ("--type", "f32", "--threads", "1", "--budget", "0.01", "--only", "decode_x4")
    (line,) = homebox(model, "bench", *words).stdout.splitlines()
    assert line.startswith("decode_x4 ")
    assert "tok/s" in line and "%" in line


def test_a_cold_start_begins_with_empty_caches(model: Path) -> None:
    words = ("--type", "q4", "--threads", "1", "--only", "cold_import,cold_start", "--json")
    rows = [json.loads(line) for line in homebox(model, "bench", *words).stdout.splitlines()]
    packing, first = (row["value"] for row in rows)
    assert [row["metric"] for row in rows] == ["cold_import", "cold_start"]
    assert 0 < packing < first


def test_a_device_that_cannot_be_used_is_an_error_before_anything_is_measured(model: Path) -> None:
    done = homebox(model, "bench", "--device", "cl:99", status=DeviceError("").exit_code)
    assert "there is no OpenCL device" in done.stderr or "pyopencl" in done.stderr
    assert done.stdout == ""
    several = homebox(model, "bench", "--device", "cpu,cl:0", status=2)
    assert "only one device" in several.stderr


def test_unknown_metrics_are_refused(model: Path) -> None:
    done = homebox(model, "bench", "--only", "decode", status=2)
    assert "no metric is called decode" in done.stderr


@pytest.mark.whole
def test_gguf_files_and_mixtures_are_measured_and_drawn(shared: Path, tmp_path: Path) -> None:
    """A file of another kind, and experts of which a token takes some."""
    file = tmp_path / "small.gguf"
    file.write_bytes((shared / "data/gguf/stories260K-Q8_0.gguf").read_bytes())
    case = BY_NAME["qwen3_moe-mixed"]
    write_directory(tmp_path / "mixed", case, reference.read(case).tensors)
    words = ("--threads", "1", "--budget", "0.01", "--only", "decode_ctx0", "--json")
    for path, name in ((file, "small.gguf"), (tmp_path / "mixed", "mixed")):
        out = tmp_path / "page.html"
        drawn = json.loads(homebox(path, "graph", "-o", str(out), "--json").stdout)
        assert drawn["launches"] > 10
        rows = [json.loads(line) for line in homebox(path, "bench", *words).stdout.splitlines()]
        for row in rows:
            assert (row["model"], row["type"]) == (name, "f32")
            assert row["value"] > 0
        # The other model has fewer positions than the steps that are timed.
        assert len(rows) == (path is file)


@pytest.mark.parametrize("program", ["decode", "train"])
def test_a_page_is_drawn(model: Path, program: str) -> None:
    out = model.parent / f"{program} page.html"
    words = ("--program", program, "--shape", "1x32", "--type", "f32", "-o", str(out))
    found = json.loads(homebox(model, "graph", *words, "--json").stdout)
    assert found["page"] == str(out)
    assert out.read_text().count('class="box"') == found["launches"] > 10

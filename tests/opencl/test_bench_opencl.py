"""Benchmarks and graphs of a device: what is measured there ran there."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from homebox.benchmarks import child
from homebox.benchmarks.profile import profiled
from tests.unit.model_files import write_model

if TYPE_CHECKING:
    from homebox.engine.opencl.backend import OpenClDevice


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "small"
    write_model(folder, {"max_position_embeddings": 4096, "num_hidden_layers": 1})
    return folder


def test_a_device_is_measured_with_its_own_memory(
    cl_device: "OpenClDevice",
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(model.parent / "cache"))
    before = child.taken_mib(cl_device)
    words = ["--only", "lora_step,lora_device_memory", "--budget", "0.01", "--shape", "1x16"]
    words += ["--model", str(model), "--type", "f32", "--device", cl_device.name]
    child.main(["train", *words])
    step, memory = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert step["metric"] == "lora_step" and step["value"] > 0
    assert (memory["metric"], memory["unit"]) == ("lora_device_memory", "MiB")
    assert memory["value"] > before


def test_a_profiled_run_has_the_times_and_the_code_of_the_device(
    cl_device: "OpenClDevice", model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(model.parent / "cache"))
    run = profiled(model, "f32", "decode", device=cl_device)
    assert len(run.nanoseconds) == len(run.kernels) and run.nanoseconds.sum() > 0
    assert "__kernel" in run.source(run.kernels[0][1])

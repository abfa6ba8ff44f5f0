"""Figures of a card: what is judged, the table, the markers, models of a shape; no device runs."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import gpu, gpu_check, gpu_models, gpu_table
from bench.gpu_table import BEGIN, END, Card, Figure
from homebox.engine.opencl.platform import Found
from homebox.errors import HomeboxError
from homebox.model.loading.loader import load_weights

CARD = Card("NVIDIA GeForce RTX 4090", "555.1", "NVIDIA CUDA", "2026-01-02", "0.1", 900.0)
DECODE = Figure("small", "q8", "decode_ctx0", 100.0, 120.0, gbs=630.0, tflops=1.0)
PROMPT = Figure("small", "bf16", "prefill_512", 1000.0, 1100.0, gbs=1.0, tflops=9.0, peer=1000.0)
TORCH = "PyTorch was left out."


def row(metric: str, seconds: float, form: str = "q8") -> dict[str, Any]:
    return {
        "model": "small",
        "type": form,
        "metric": metric,
        "tokens": 32,
        "seconds": seconds,
        "device_seconds": seconds / 2,
        "moved": 32e9,
        "operations": 64e12,
    }


def test_medians_of_rounds_beside_pytorch_of_the_same_model() -> None:
    rows = [row("lora_step", seconds) for seconds in (2.0, 1.0, 9.0)] + [row("decode_ctx0", 4.0)]
    peers = [{"model": "small", "metric": "lora_step", "value": v} for v in (8.0, 9.0, 1.0)]
    peers.append({"model": "large", "metric": "decode_ctx0", "value": 1.0})
    step, decode = gpu_table.figures(rows, peers)
    assert (step.rate, step.device_rate, step.gbs, step.tflops) == (16.0, 32.0, 16.0, 32.0)
    assert (step.peer, step.ratio) == (8.0, 2.0)
    assert (decode.rate, decode.peer, decode.ratio) == (8.0, None, None)


def test_decoding_is_judged_by_the_bandwidth_of_copying() -> None:
    (line,) = gpu_table.judged([DECODE], CARD)
    assert line == (
        "small q8, decode, 8 tokens of context: 630.0 GB/s, 70 % of what copying reaches, "
        "wanted 70 %: reached"
    )
    (line,) = gpu_table.judged([replace(DECODE, gbs=620.0)], CARD)
    assert line.endswith("MISSED")
    # PyTorch's speed does not make up for it.
    (line,) = gpu_table.judged([replace(DECODE, gbs=620.0, peer=1.0)], CARD)
    assert line.endswith("MISSED")


@pytest.mark.parametrize(
    ("title", "peer", "verdict"),
    [
        ("NVIDIA GeForce RTX 4090", 1000.0, "reached"),
        ("NVIDIA GeForce RTX 4090", 1010.0, "MISSED"),
        ("gfx1100", 1990.0, "MISSED"),
        ("NVIDIA H200", 1990.0, "reached"),
        ("NVIDIA H100 80GB HBM3", 2010.0, "MISSED"),
        ("NVIDIA GH200 480GB", 1990.0, "reached"),
    ],
)
def test_prompts_are_judged_by_pytorch(title: str, peer: float, verdict: str) -> None:
    (line,) = gpu_table.judged([replace(PROMPT, peer=peer)], replace(CARD, title=title))
    assert line.endswith(verdict)


def test_without_pytorch_nothing_is_claimed() -> None:
    (line,) = gpu_table.judged([replace(PROMPT, peer=None)], CARD)
    assert line.endswith("not judged, because there is no figure of PyTorch")


def test_the_table_names_card_driver_and_date() -> None:
    lines = gpu_table.table([DECODE, PROMPT], CARD, TORCH)
    assert lines[0] == "### NVIDIA GeForce RTX 4090"
    text = "\n".join(lines)
    assert "2026-01-02, driver 555.1 (NVIDIA CUDA)" in text
    assert "900 GB/s" in text and TORCH in text
    assert "run for correctness" not in text
    head, _, *cells = (line for line in lines if line.startswith("|"))
    assert {line.count("|") for line in (head, *cells)} == {11}
    assert "| small | decode, 8 tokens of context | q8 | 100 | 120 | 630.0 | 70 % |" in text
    assert "| small | prompt of 512 | bf16 | 1,000 | 1,100 |  |  | 9.00 | 1,000 | 1.00 |" in text


def test_a_table_of_a_processor_says_so() -> None:
    text = "\n".join(gpu_table.table([DECODE], replace(CARD, gpu=False), TORCH))
    assert "OpenCL on a processor: a run for correctness" in text
    assert "wanted" not in text
    assert "wanted 70 %" in "\n".join(gpu_table.table([DECODE], CARD, TORCH))


def test_a_section_replaces_only_that_card(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n\nNone was measured.\n\n{END}\n\nafter\n")
    first = gpu_table.table([DECODE], CARD, TORCH)
    other = gpu_table.table([DECODE], replace(CARD, title="gfx1100"), TORCH)
    again = gpu_table.table([PROMPT], replace(CARD, date="2026-03-04"), TORCH)
    for section in (first, other, again):
        gpu_table.write(page, section)
    text = page.read_text()
    assert text.startswith(f"before\n\n{BEGIN}\n\n### NVIDIA")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "None was measured" not in text
    assert text.count("### ") == 2 and text.count("### gfx1100\n") == 1
    assert "2026-03-04" in text and text.count("2026-01-02") == 1
    gpu_table.write(page, again)
    assert page.read_text() == text


@pytest.mark.parametrize("text", ["nothing", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}", BEGIN])
def test_a_page_without_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(HomeboxError, match="needs a line"):
        gpu_table.write(page, ["### x"])
    assert page.read_text() == text


def test_the_documents_page_has_the_markers(repository: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text((repository / "docs" / "performance.md").read_text())
    gpu_table.write(page, gpu_table.table([DECODE], CARD, TORCH))
    assert "### NVIDIA GeForce RTX 4090" in page.read_text()


# -- what is measured on --------------------------------------------------------------------------

INTEL = Found("cl:0", "EPYC", "cpu", "Intel(R) OpenCL")
BAD = Found("", "Old card", "gpu", "Clover", refusal="no OpenCL 1.2")


def test_a_processor_is_no_gpu_unless_asked_for() -> None:
    gpu_card = Found("cl:1", "gfx1100", "gpu", "AMD")
    for asked in (None, "cl:0"):
        with pytest.raises(HomeboxError, match=r"no GPU.*Old card: no OpenCL 1\.2.*--cpu-runtime"):
            gpu.chosen([INTEL, BAD], asked, cpu_runtime=False)
    assert gpu.chosen([INTEL, BAD], None, cpu_runtime=True) is INTEL
    assert gpu.chosen([INTEL, gpu_card], None, cpu_runtime=False) is gpu_card
    with pytest.raises(HomeboxError, match="no OpenCL device cl:7"):
        gpu.chosen([INTEL], "cl:7", cpu_runtime=True)
    with pytest.raises(HomeboxError, match="usable are: none"):
        gpu.chosen([BAD], None, cpu_runtime=True)


def test_figures_of_a_processor_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--cpu-runtime", "--write", "docs/performance.md"])
    assert "measures no GPU" in capsys.readouterr().err


def test_nothing_is_timed_if_a_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"what": "tiny, greedy ids", "difference": 2, "allowed": 0, "remark": "", "ok": False}

    def rounds(*_: object) -> None:
        raise AssertionError("timed all the same")

    monkeypatch.setattr(gpu, "found", lambda: [INTEL])
    monkeypatch.setattr(gpu, "rounds", rounds)
    monkeypatch.setattr(gpu_models, "made", lambda *given: dict.fromkeys(given[1], tmp_path))
    script = f"print({json.dumps(wrong)!r}); raise SystemExit(1)"
    monkeypatch.setattr(gpu, "CHECK", ("-c", script))
    assert gpu.main(["--cpu-runtime", "--quick", "--models", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "tiny, greedy ids: 2, allowed 0 (): WRONG" in said
    assert "nothing is timed" in said


def test_a_peer_that_cannot_run_is_named_and_left_out(tmp_path: Path) -> None:
    assert gpu.torch_there(None, "cuda")[1].endswith("--torch-python names no interpreter.")
    version, text = gpu.torch_there(sys.executable, "cuda")
    assert version is None and "left out" in text
    version, text = gpu.torch_there(str(tmp_path / "python"), "cuda")
    assert version is None and "left out" in text


def test_turns_go_on_when_one_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "either.py"
    script.write_text(
        "import json, sys\n"
        f"row = {row('lora_step', 2.0)!r}\n"
        "print('a line that is no JSON')\n"
        "if 'train' in sys.argv and 'q4' in sys.argv: sys.exit('no memory')\n"
        "ours = '--type' in sys.argv\n"
        "row = row | {'type': sys.argv[sys.argv.index('--type') + 1]} if ours else "
        "dict(metric='lora_step', value=4.0)\n"
        "print(json.dumps(row))\n"
    )
    ours = [sys.executable, str(script)]
    monkeypatch.setattr(gpu, "OURS", tuple(ours[1:]))
    monkeypatch.setattr(gpu, "TORCH", script)
    args = gpu._parsed(["--types", "q8,q4", "--rounds", "2", "--torch-python", sys.executable])
    rows, peers, missing = gpu.rounds("cl:0", {"large": tmp_path}, args, "2.9")
    assert missing == {"large q4 train"}
    assert [each["type"] for each in rows] == ["q8", "q8", "q4"] * 2
    first, second = gpu_table.figures(rows, peers)
    assert (first.model, first.type, first.rate, first.ratio) == ("large", "q8", 16.0, 4.0)
    assert (second.type, second.ratio) == ("q4", 4.0)


def test_what_is_not_finite_is_no_right_answer() -> None:
    nan = np.array([1.0, np.nan], np.float32)
    found = gpu_check.relative(np.ones(2, np.float32), nan)
    assert not gpu_check.Checked("x", found, 1.0).ok
    assert gpu_check.relative(np.array([4.0, 1.0]), np.array([4.0, 2.0])) == 0.25

    assert np.isnan(gpu_check.max_of(float("nan"), 1.0))

    def broken() -> gpu_check.Answer:
        raise ValueError("driver")

    checked = gpu_check.tried("x", broken)
    assert not checked.ok and checked.remark == "ValueError: driver"


# -- models ---------------------------------------------------------------------------------------


def test_a_model_of_a_shape_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path / "cache"))
    (directory,) = gpu_models.made(tmp_path / "models", ["quick"], ("q8",)).values()
    weights = load_weights(directory)
    weights.check()
    assert weights.config.qk_norm and weights.config.hidden_size == 256
    q, gate = (weights[f"layers.1.{name}"] for name in ("q", "gate"))
    assert abs(float(q.std()) - 0.02) < 1e-3
    assert not np.array_equal(q.ravel()[:64], gate.ravel()[:64])
    assert (weights["norm"] == 1).all()
    before = (directory / "model.safetensors").stat().st_mtime_ns
    gpu_models.made(tmp_path / "models", ["quick"], ("q8",))
    assert (directory / "model.safetensors").stat().st_mtime_ns == before
    (directory / "config.json").unlink()  # as if writing had broken off
    gpu_models.made(tmp_path / "models", ["quick"], ("q8",))
    assert (directory / "model.safetensors").stat().st_mtime_ns > before


def test_a_disk_without_room_is_said_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path / "cache"))

    class Usage:
        free = 11 << 30

    monkeypatch.setattr(gpu_models.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(HomeboxError, match=r"11\.8 GB free, and .* needed for Qwen3-4B"):
        gpu_models.made(tmp_path, ["Qwen3-4B"], ("bf16", "q8", "q4"))
    assert not (tmp_path / "Qwen3-4B").exists()


def test_shapes_are_those_of_their_names() -> None:
    from homebox.model.architectures.config_file import parse_config

    sizes = {n: parse_config(gpu_models.settings(n)).parameters for n in ("Qwen3-0.6B", "Qwen3-4B")}
    assert round(sizes["Qwen3-0.6B"] / 1e6) == 596
    assert round(sizes["Qwen3-4B"] / 1e6) == 4022

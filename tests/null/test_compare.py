"""The comparison with peers: what is run, what is kept, and what the ratios are; no peer runs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import compare
from bench.targets import TARGETS, Figure, Key, Target, judged

PEER = """
import json, sys
if "--fail" in sys.argv: sys.exit("no such library")
name = "lora_step" if "lora" in sys.argv[0] else "decode_ctx0"
shape = "1x512" if name == "lora_step" else None
print("a line that is no JSON")
print(json.dumps(dict(metric=name, value=50.0, unit="tok/s", shape=shape, engine="x", model="y")))
"""


def figures(**values: float) -> dict[Key, Figure]:
    """Return figures of one metric by engine."""
    return {
        Key(name, "m", "q8", "decode_ctx0"): Figure(value, "tok/s", 1)
        for name, value in values.items()
    }


def test_ratios_and_verdicts() -> None:
    target = Target("m", "decode_ctx0", "q8", 2.0, ("llama",))
    for ours, verdict in ((200.0, "reached"), (180.0, "missed"), (160.0, "MISSED")):
        (line,) = judged(target, figures(homebox=ours, llama=100.0))
        assert line.startswith(f"m decode_ctx0 q8: {ours / 100:.2f} x, wanted 2.00: {verdict} (")
    assert judged(target, figures(llama=1.0)) == []
    (line,) = judged(target, figures(homebox=1.0))
    assert "no figure of llama" in line


def test_seconds_and_memory_are_better_when_less() -> None:
    target = Target("m", "peak_rss", "q8", 1 / 1.1, ("llama",))
    found = {
        Key(name, "m", "q8", "peak_rss"): Figure(value, "MiB", 1)
        for name, value in (("homebox", 105.0), ("llama", 100.0))
    }
    assert "0.95 x, wanted 0.91: reached" in judged(target, found)[0]


def test_the_best_peer_of_any_type_counts_for_prefill() -> None:
    target = Target("m", "p", "", 2.0, ("llama", "torch"), same=False)
    values = {
        ("homebox", "q8"): 300.0,
        ("homebox", "q4"): 400.0,
        ("llama", "q8"): 100.0,
        ("torch", "bf16-compile"): 250.0,
    }
    found = {Key(e, "m", v, "p"): Figure(x, "tok/s", 1) for (e, v), x in values.items()}
    (line,) = judged(target, found)
    assert line.startswith("m p q4: 1.60 x, wanted 2.00: MISSED (400.00 tok/s, torch bf16-compile")


def test_shares_of_the_roof_are_targets_too() -> None:
    target = Target("m", "p", "q8", 88.0)
    (line,) = judged(target, {Key("homebox", "m", "q8", "p"): Figure(1.0, "tok/s", 1, 90.0)})
    assert "90.00 % of roof, wanted 88.00: reached" in line


def test_medians_over_rounds() -> None:
    rows: list[dict[str, Any]] = [
        {"engine": "e", "model": "m", "variant": "v", "metric": "x", "value": v, "unit": "s"}
        for v in (1.0, 9.0, 2.0)
    ]
    assert compare.medians(rows) == {Key("e", "m", "v", "x"): Figure(2.0, "s", 3)}


def test_every_target_has_its_jobs() -> None:
    args = arguments(Path("/models"), Path("/peers"))
    for model in ("smol135", "qwen06"):
        jobs = compare.jobs_of(model, args)
        names = {(job.engine, job.variant, job.group) for job in jobs}
        for target in (t for t in TARGETS if t.model == model):
            group = "train" if target.metric.startswith("lora") else "serve"
            for engine in ("homebox", *target.peers):
                fitting = [n for n in names if n[0] == engine and n[2] == group]
                assert any(target.variant in ("", n[1]) or not target.same for n in fitting), target


def arguments(models: Path, peers: Path) -> Any:
    class Arguments:
        threads, budget, torch, groups = 2, 1.0, "bf16,bf16-compile", "serve,train"
        shapes, rounds = "smol135", 2

    found: Any = Arguments()
    found.models, found.peers = models, peers
    return found


def test_peers_run_in_turns_and_a_missing_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_PY", sys.executable)
    monkeypatch.setenv("LLAMA_PY", str(tmp_path / "nowhere"))
    for name in ("bench_torch.py", "bench_lora_torch.py", "bench_llamacpp.py"):
        (tmp_path / name).write_text(PEER)
    args = arguments(tmp_path, tmp_path)
    only_peers = [job for job in compare.jobs_of("smol135", args) if job.engine != "homebox"]
    monkeypatch.setattr(compare, "jobs_of", lambda model, args: only_peers)
    rows = list(compare.measured(args))
    said = capsys.readouterr().out
    assert {row["engine"] for row in rows} == {"torch", "torch+peft"}
    assert [row["round"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert all(row["model"] == "smol135" for row in rows)
    assert said.count("set TORCH_PY and LLAMA_PY") == 3, "once for each, not in each round"


def test_the_reason_of_a_failure_is_told(tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    job = compare.Job("e", "m", "v", "serve", (sys.executable, str(script), "--fail"))
    assert compare.run(job) == ([], "exit code 1: no such library")


def test_what_was_measured_can_be_printed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    shared = {"model": "smol135", "variant": "q8", "metric": "decode_ctx0", "unit": "tok/s"}
    rows = [{**shared, "engine": "homebox", "value": 320.0, "percent_of_roof": 91.0}]
    rows += [{**shared, "engine": "llama.cpp", "value": 100.0}]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare.main(["--out", str(out), "--rounds", "0"]) == 0
    said = capsys.readouterr().out
    assert "smol135 decode_ctx0 q8: 3.20 x, wanted 1.60: reached" in said
    assert "91.0 % of roof" in said

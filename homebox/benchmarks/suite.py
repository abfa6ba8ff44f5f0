"""Runs the groups of metrics one after the other and judges each by the machine's roof.

The roof is probed before and after each group, because a virtual machine's share of the memory
changes within minutes; the higher one of the two counts. Invariant: this process loads no model, so
nothing of it is in anybody's memory figures.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.benchmarks.measure import Sample
from homebox.benchmarks.work import Measured, Work
from homebox.engine.roof import Roof, probe
from homebox.errors import HomeboxError, UsageError

SERVING = (
    "load_to_first_token",
    "prefill_512",
    "decode_ctx0",
    "decode_ctx2000",
    "decode_x4",
    "peak_rss",
)
TRAINING = ("lora_step", "lora_peak_rss")
METRICS = (*SERVING, *TRAINING)
SHAPES = ("1x512", "4x256")
LIMIT = 570.0  # seconds for everything
DIGITS = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure: a model directory, a weight type, threads and metrics."""

    model: Path
    type: str
    threads: int
    only: tuple[str, ...] = METRICS
    shapes: tuple[str, ...] = SHAPES
    budget: float = 8.0  # seconds for each metric, beside loading and compiling


def check_metrics(text: str) -> tuple[str, ...]:
    """Return the metrics of a comma-separated list, in their usual order."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in METRICS]
    if unknown or not asked:
        raise UsageError(
            f"no metric is called {', '.join(unknown) or 'nothing'}; "
            f"choose from {', '.join(METRICS)}"
        )
    return tuple(name for name in METRICS if name in asked)


def run(plan: Plan, say: Say) -> Iterator[dict[str, Any]]:
    """Measure and yield one row for each metric; `say` is told what is being done."""
    end = time.monotonic() + LIMIT
    serving = [name for name in plan.only if name in SERVING]
    training = [name for name in plan.only if name in TRAINING]
    if serving:
        if "load_to_first_token" in serving:
            say("first start, which packs the weights and compiles")
            began = time.monotonic()
            list(_group(plan, "start", ["load_to_first_token"], end, ()))
            say(f"first start took {time.monotonic() - began:.1f} s")
        yield from _judged(plan, "serve", serving, end, say)
    for shape in plan.shapes if training else ():
        yield from _judged(plan, "train", training, end, say, "--shape", shape)


def _judged(
    plan: Plan, group: str, names: Sequence[str], end: float, say: Say, *extra: str
) -> Iterator[dict[str, Any]]:
    """Run one group between two probes of the roof."""
    say(" ".join([group, *extra[1:], *names]))
    before = probe(plan.threads)
    found = [each for each in _group(plan, group, names, end, extra) if each.metric in names]
    roof = before.best(probe(plan.threads))
    for each in found:
        yield row_of(plan, each, roof)
    missing = [name for name in names if name not in {each.metric for each in found}]
    if missing:
        say(f"not measured: {', '.join(missing)}; the model's context is too short")


def _group(
    plan: Plan, group: str, names: Sequence[str], end: float, extra: Sequence[str]
) -> Iterator[Measured]:
    """Run a child and yield what it measured."""
    command = [sys.executable, "-m", "homebox.benchmarks.child", group]
    command += ["--model", str(plan.model), "--type", plan.type, "--only", ",".join(names)]
    command += ["--budget", str(plan.budget), *extra]
    environment = {**os.environ, "HOMEBOX_THREADS": str(plan.threads)}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            check=False,
            timeout=max(end - time.monotonic(), 1.0),
        )
    except subprocess.TimeoutExpired as error:
        raise HomeboxError(
            f"the benchmark of {plan.model} ({group}) took longer than {LIMIT:.0f} s in all; "
            "ask for fewer metrics with --only"
        ) from error
    if done.returncode:
        raise HomeboxError(
            f"the benchmark of {plan.model} ({group}) broke off with exit code {done.returncode}; "
            "its own words stand above"
        )
    for line in done.stdout.splitlines():
        yield decoded(json.loads(line))


def decoded(fields: dict[str, Any]) -> Measured:
    """Return a metric from the JSON that a child printed."""
    work, sample = fields["work"], fields["sample"]
    return Measured(
        fields["metric"],
        fields["value"],
        fields["unit"],
        fields["shape"],
        Work(**work) if work else None,
        Sample(**sample) if sample else None,
    )


def row_of(plan: Plan, each: Measured, roof: Roof) -> dict[str, Any]:
    """Return a metric with what it means on this machine, as JSON's keys and values."""
    row: dict[str, Any] = {
        "metric": each.metric,
        "value": round(each.value, DIGITS),
        "unit": each.unit,
        "shape": each.shape,
        "engine": "homebox",
        "model": plan.model.name,
        "type": plan.type,
        "threads": plan.threads,
    }
    if each.sample is not None:
        best = each.value * each.sample.seconds / each.sample.best
        row |= {
            "best": round(best, DIGITS),
            "n": each.sample.count,
            "others": round(each.sample.others, 2),
        }
    if each.work is not None:
        percent, bound = each.work.share(each.value, roof)
        row |= {
            "gbs": round(each.work.moved * each.value / 1e9, 2),
            "gflops": round(each.work.operations * each.value / 1e9, 1),
            "percent_of_roof": round(percent, 1),
            "bound": bound,
            "arithmetic": each.work.kind,
            "roof_gbs": round(roof.read_gbs, 2),
            "roof_gflops": round(roof.compute(each.work.kind), 1),
        }
    return row


def line_of(row: dict[str, Any]) -> str:
    """Return a metric as one line for people."""
    name = " ".join(filter(None, [row["metric"], row["shape"]]))
    text = f"{name:24} {row['value']:10.2f} {row['unit']:6}"
    if "bound" not in row:
        return text
    achieved = (
        f"{row['gbs']:8.1f} GB/s of {row['roof_gbs']:.1f}"
        if row["bound"] == "memory"
        else f"{row['gflops']:8.1f} GFLOP/s of {row['roof_gflops']:.0f}, {row['arithmetic']}"
    )
    others = f"  disturbed: {row['others']}" if row["others"] >= 0.3 else ""
    return f"{text} {achieved} = {row['percent_of_roof']:.1f} %{others}"

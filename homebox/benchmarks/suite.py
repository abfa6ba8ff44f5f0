"""Runs the groups of metrics one after the other and judges each by the machine's roof.

The roof is probed before and after each group, because a virtual machine's share of the memory
changes within minutes: the higher of the two counts. What arithmetic reaches does not change, so
the best probe of all counts. A device has a roof of its own, which is measured once. Invariant:
this process loads no model, so nothing of it is in anybody's memory figures.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from homebox.benchmarks.measure import PATIENCE, Sample, wait_for_calm
from homebox.benchmarks.work import Measured, Work
from homebox.engine.graph.device import HOST
from homebox.engine.inspection.roof import Roof, probe
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
USUAL = (*SERVING, *TRAINING)
COLD = ("cold_import", "cold_start")  # only if asked for: they compile everything anew
METRICS = (*USUAL, *COLD)
# On a device with memory of its own, that is what counts.
OF_DEVICES = {"peak_rss": "device_memory", "lora_peak_rss": "lora_device_memory"}
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
    only: tuple[str, ...] = USUAL
    shapes: tuple[str, ...] = SHAPES
    budget: float = 8.0  # seconds for each metric, beside loading and compiling
    device: str = HOST.name  # one device
    card: str = ""  # what the device calls itself
    roof: Roof | None = None  # the device's; None: the CPU's is probed


def metrics_on(device: str, names: tuple[str, ...] = METRICS) -> tuple[str, ...]:
    """Return the metrics of a device: of memory, only those of the memory that it uses."""
    if device == HOST.name:
        return names
    return tuple(OF_DEVICES.get(name, name) for name in names)


def check_metrics(text: str, device: str = HOST.name) -> tuple[str, ...]:
    """Return the metrics of a comma-separated list, in their usual order."""
    known = metrics_on(device)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise UsageError(
            f"no metric is called {', '.join(unknown) or 'nothing'} on {device}; "
            f"choose from {', '.join(known)}"
        )
    return tuple(name for name in known if name in asked)


def run(plan: Plan, say: Say) -> Iterator[dict[str, Any]]:
    """Measure and yield one row for each metric; `say` is told what is being done."""
    roofs = Roofs(plan.threads, min(plan.budget, PATIENCE), plan.roof)
    end = time.monotonic() + LIMIT
    cold = [name for name in plan.only if name in COLD]
    serving = [name for name in plan.only if name in metrics_on(plan.device, SERVING)]
    training = [name for name in plan.only if name in metrics_on(plan.device, TRAINING)]
    if cold:
        with tempfile.TemporaryDirectory() as folder:
            caches = {"HOMEBOX_CACHE_DIR": folder}
            yield from _judged(plan, _Group("start", tuple(cold), (), caches), end, roofs, say)
    if "load_to_first_token" in serving:
        say("start, so that caches are warm: packing and compiling, where it was not done before")
        list(_children(plan, _Group("start", COLD), end))
    if serving:
        yield from _judged(plan, _Group("serve", tuple(serving)), end, roofs, say)
    for shape in plan.shapes if training else ():
        group = _Group("train", tuple(training), ("--shape", shape))
        yield from _judged(plan, group, end, roofs, say)


class Roofs:
    """Probes of the machine's roof over the time of a benchmark; `fixed` is that of a device."""

    def __init__(self, threads: int, patience: float = PATIENCE, fixed: Roof | None = None) -> None:
        self._threads, self._patience, self._fixed = threads, patience, fixed
        self._best: Roof | None = None

    def probe(self) -> Roof:
        """Return the roof now: memory as it is, arithmetic as it was at best."""
        wait_for_calm(self._patience)
        if self._fixed is not None:
            return self._fixed
        found = probe(self._threads)
        self._best = found if self._best is None else self._best.best(found)
        return replace(self._best, read_gbs=found.read_gbs)


@dataclass(frozen=True)
class _Group:
    """Metrics that one child measures, its further arguments and changes of its environment."""

    name: str
    metrics: tuple[str, ...]
    extra: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def _judged(
    plan: Plan, group: _Group, end: float, roofs: Roofs, say: Say
) -> Iterator[dict[str, Any]]:
    """Run one group between two probes of the roof."""
    say(" ".join([group.name, *group.extra[1:], *group.metrics]))
    before = roofs.probe()
    found = [each for each in _children(plan, group, end) if each.metric in group.metrics]
    roof = before.best(roofs.probe())
    for each in found:
        yield row_of(plan, each, roof)
    missing = [name for name in group.metrics if name not in {each.metric for each in found}]
    if missing:
        say(f"not measured: {', '.join(missing)}; the model's context is too short")


def _children(plan: Plan, group: _Group, end: float) -> Iterator[Measured]:
    """Run a group's child and yield what it measured."""
    command = [sys.executable, "-m", "homebox.benchmarks.child", group.name]
    command += ["--model", str(plan.model), "--type", plan.type]
    command += ["--only", ",".join(group.metrics), "--budget", str(plan.budget), *group.extra]
    command += ["--device", plan.device]
    environment = {**os.environ, "HOMEBOX_THREADS": str(plan.threads), **group.environment}
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
            f"the benchmark of {plan.model} ({group.name}) took longer than {LIMIT:.0f} s in all; "
            "ask for fewer metrics with --only"
        ) from error
    if done.returncode:
        raise HomeboxError(
            f"the benchmark of {plan.model} ({group.name}) broke off with exit code "
            f"{done.returncode}; its own words stand above"
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
        "device": plan.device,
    }
    if plan.card:
        row["card"] = plan.card
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

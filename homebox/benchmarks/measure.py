"""Times short runs on a machine that others use too, and keeps those that were least disturbed.

The one idea: the system's own counters say how many processors others kept busy during a run, so a
disturbed run is known without comparing speeds. Invariant: runs are chosen by how disturbed they
were, never by how fast they were.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

QUIET = 0.2  # processors that others may keep busy during a run that counts
_CALM = 0.3  # the same before a run; the shorter look is less exact
_LOOK = 0.1  # seconds
PATIENCE = 1.0  # seconds to wait for others before each run
_COUNTERS = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run: its seconds, and the processors that others kept busy meanwhile."""

    seconds: float
    others: float


@dataclass(frozen=True, slots=True)
class Sample:
    """The runs that count: median and best in seconds, how many, the worst disturbance of them."""

    seconds: float
    best: float
    count: int
    others: float


def busy_seconds() -> float:
    """Return the seconds that all processors together have been busy or stolen so far."""
    try:
        fields = _COUNTERS.read_text("ascii").split("\n", 1)[0].split()[1:9]
    except OSError:  # a system without such counters: every run counts as quiet
        return 0.0
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object]) -> Run:
    """Run `work` once."""
    busy, own, began = busy_seconds(), time.process_time(), time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    others = busy_seconds() - busy - (time.process_time() - own)
    return Run(seconds, max(0.0, others / max(seconds, 1e-9)))


def wait_for_calm(patience: float = PATIENCE) -> None:
    """Wait until others leave the processors alone, or until patience ends."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end and timed(lambda: time.sleep(_LOOK)).others >= _CALM:
        pass


def measure(work: Callable[[], object], wanted: int = 5, budget: float = 8.0) -> Sample:
    """Run `work` until `wanted` runs were quiet or `budget` seconds are over.

    At least `wanted` runs are made, whatever they take.
    """
    runs: list[Run] = []
    end = time.perf_counter() + budget
    while len(runs) < wanted or (
        sum(run.others < QUIET for run in runs) < wanted and time.perf_counter() < end
    ):
        if (left := end - time.perf_counter()) > 0:
            wait_for_calm(min(left, PATIENCE))
        runs.append(timed(work))
    return chosen(runs, wanted)


def chosen(runs: list[Run], wanted: int) -> Sample:
    """Return the sample of the `wanted` least disturbed runs."""
    kept = sorted(runs, key=lambda run: run.others)[:wanted]
    seconds = [run.seconds for run in kept]
    return Sample(
        statistics.median(seconds), min(seconds), len(kept), max(run.others for run in kept)
    )

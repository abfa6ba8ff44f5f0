"""Times homebox on a device: `python -m bench.gpu_ours serve|train`, one JSON line a metric.

Each in a process of its own. `seconds` are those of the wall, with the result read back as serving
reads it; `device_seconds` those of all kernels by the device's own events.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from homebox.benchmarks import work
from homebox.benchmarks.subject import Subject, Trainee, random_ids
from homebox.engine.graph.device import Device
from homebox.engine.inspection.debug import recording
from homebox.engine.runtime.devices import device_named

PROMPT, DEEP, BEGIN, STEPS = 512, 2000, 8, 32
CONTEXT = DEEP + STEPS + 64
LEAST = 7  # runs that count
PROFILED = 3  # runs of which the fastest counts

Row = dict[str, Any]


def main() -> None:
    """Measure one group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=["serve", "train"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--type", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--shape", default="2x256", help="of a training batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each metric")
    args = parser.parse_args()
    device = device_named(args.device)
    if args.group == "serve":
        found = serve(args.model, args.type, device, args.seconds)
    else:
        found = train(args.model, args.type, device, args.shape, args.seconds)
    for row in found:
        print(json.dumps({"model": args.model.name, "type": args.type} | row), flush=True)


def serve(model: Path, form: str, device: Device, seconds: float) -> Iterator[Row]:
    """Measure a prompt, and decoding at two depths."""
    subject = Subject(model, form, CONTEXT, 1, device)
    ids = random_ids(subject.config, DEEP)
    does = work.prefill(subject.config, subject.form, subject.kind, PROMPT)
    yield row("prefill_512", PROMPT, does, lambda: subject.prefill(ids[:PROMPT]), seconds)
    for at in (BEGIN, DEEP):
        subject.prefill(ids[:at])
        last = ids[:1]

        def burst(at: int = at, last: Any = last) -> None:
            for position in range(at, at + STEPS):
                last = subject.decode(last, [position])

        seen = at + STEPS / 2
        does = work.decode(subject.config, subject.form, subject.kind, 1, seen, subject.cache_bytes)
        yield row(f"decode_ctx{0 if at == BEGIN else at}", STEPS, does, burst, seconds)


def train(model: Path, form: str, device: Device, shape: str, seconds: float) -> Iterator[Row]:
    """Measure steps of training."""
    rows, length = map(int, shape.split("x"))
    trainee = Trainee(model, form, rows, length, device)
    does = work.lora_step(trainee.config, trainee.form, trainee.kind, rows, length)
    yield row("lora_step", rows * length, does, trainee.step, seconds)


def row(
    metric: str, tokens: int, does: work.Work, run: Callable[[], object], seconds: float
) -> Row:
    """Time runs of so many tokens, of which each takes the work `does`."""
    return {
        "metric": metric,
        "tokens": tokens,
        "seconds": timed(run, seconds),
        "device_seconds": by_events(run),
        "moved": does.moved * tokens,
        "operations": does.operations * tokens,
        "arithmetic": does.kind,
    }


def timed(run: Callable[[], object], seconds: float) -> float:
    """Return the median time of a run, after some that bring the clock up."""
    _repeated(run, seconds / 4, 3)
    return statistics.median(_repeated(run, seconds, LEAST))


def _repeated(run: Callable[[], object], seconds: float, least: int) -> list[float]:
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


def by_events(run: Callable[[], object]) -> float:
    """Return the seconds of all kernels of a run, the fastest of some."""
    found = []
    for _ in range(PROFILED):
        with recording() as runs:
            run()
        found.append(sum(int(each.nanoseconds.sum()) for each in runs) / 1e9)
    return min(found)


if __name__ == "__main__":
    main()

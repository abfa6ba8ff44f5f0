"""Measures one group of metrics in a process of its own: `python -m homebox.benchmarks.child`.

A fresh process, because loading and memory are metrics: what another group left behind must not
count. Prints one JSON line for each metric as it is known; the parent adds the machine's roof.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from homebox.benchmarks import work
from homebox.benchmarks.measure import measure
from homebox.benchmarks.subject import Ids, Subject, Trainee, open_packed, random_ids
from homebox.engine.graph.device import HOST, Device
from homebox.engine.runtime.devices import device_named
from homebox.errors import DeviceError

PROMPT = 512
DEEP = 2000
BEGIN = 8  # tokens before the first decoded one
STEPS = 128  # decoded tokens before a sequence begins again
SEQUENCES = 4
CONTEXT = DEEP + STEPS + 64
FIRST = 16  # tokens of the prompt whose first answer is waited for
_STATUS = Path("/proc/self/status")
_BURST = 0.15  # seconds: shorter runs are too short for the system's counters


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=["start", "serve", "train"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--type", required=True)
    parser.add_argument("--only", required=True, help="comma-separated names")
    parser.add_argument("--budget", type=float, required=True, help="seconds for each metric")
    parser.add_argument("--shape", default="1x512", help="of a training batch")
    parser.add_argument("--device", default=HOST.name, help="one device")
    args = parser.parse_args(arguments)
    wanted = frozenset(args.only.split(","))
    if args.group == "start":
        found = start(args.model, args.type, args.device)
    elif args.group == "train":
        found = train(args.model, args.type, args.shape, wanted, args.budget, args.device)
    else:
        found = serve(args.model, args.type, wanted, args.budget, args.device)
    for each in found:
        print(json.dumps(asdict(each)), flush=True)


def peak_mib() -> float:
    """Return the most memory that this program ever had resident, in MiB.

    Not getrusage's figure, which begins with that of the process that started this one.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text("ascii"), re.MULTILINE)
    if found is None:
        raise DeviceError(f"{_STATUS} does not say how much memory was used")
    return int(found[1]) / 1024


def taken_mib(device: Device) -> float:
    """Return the memory that this program has of a device, in MiB: weights, caches, programs.

    Programs keep what they took, so at the end this is the most there ever was.
    """
    used: int | None = getattr(device, "used_bytes", None)
    if used is None:
        raise DeviceError(f"{device.name} does not say how much of its memory is taken")
    return used / (1 << 20)


def start(directory: Path, form: str, device: str = HOST.name) -> Iterator[work.Measured]:
    """Yield how long packing took, and the way to the first token, from caches as they are."""
    began = time.perf_counter()
    open_packed(directory, form)
    yield work.Measured("cold_import", time.perf_counter() - began, "s")
    subject = Subject(directory, form, CONTEXT, SEQUENCES, device_named(device))
    subject.prefill(random_ids(subject.config, FIRST))
    yield work.Measured("cold_start", time.perf_counter() - began, "s")


def serve(
    directory: Path, form: str, wanted: frozenset[str], budget: float, device: str = HOST.name
) -> Iterator[work.Measured]:
    """Yield the metrics of serving; for figures of memory all of them are run at least once."""
    everything = bool({"peak_rss", "device_memory"} & wanted)
    began = time.perf_counter()
    place = device_named(device)
    subject = Subject(directory, form, CONTEXT, SEQUENCES, place)
    prompt = random_ids(subject.config, DEEP)
    subject.prefill(prompt[:FIRST])
    yield work.Measured("load_to_first_token", time.perf_counter() - began, "s")
    name = f"prefill_{PROMPT}"
    if name in wanted or everything:
        ids = prompt[:PROMPT]
        subject.prefill(ids)
    if name in wanted:
        sample = measure(lambda: subject.prefill(ids), 5, budget)
        does = work.prefill(subject.config, subject.form, subject.kind, PROMPT)
        yield work.rate(name, sample, PROMPT, does)
    for name, count, at in (
        ("decode_ctx0", 1, BEGIN),
        (f"decode_ctx{DEEP}", 1, DEEP),
        (f"decode_x{SEQUENCES}", SEQUENCES, BEGIN),
    ):
        if name in wanted or everything:
            yield from _decode(subject, name, prompt, count, at, budget if name in wanted else 0)
    if "peak_rss" in wanted:
        yield work.Measured("peak_rss", peak_mib(), "MiB")
    if "device_memory" in wanted:
        yield work.Measured("device_memory", taken_mib(place), "MiB")


def _decode(
    subject: Subject, name: str, prompt: Ids, count: int, at: int, budget: float
) -> Iterator[work.Measured]:
    """Decode from position `at` on, in bursts; without a budget only once."""
    if at + STEPS > subject.config.max_positions:
        return
    for slot in range(count):
        subject.prefill(prompt[slot : slot + at], slot)
    steps = _Steps(subject, count, at)
    steps.run(1)
    began = time.perf_counter()
    steps.run(4)
    if not budget:
        return
    each = (time.perf_counter() - began) / 4
    burst = next((n for n in (16, 32, 64) if n * each >= _BURST), STEPS)
    sample = measure(lambda: steps.run(burst), max(5, STEPS // burst), budget)
    seen = at + STEPS / 2
    does = work.decode(subject.config, subject.form, subject.kind, count, seen, subject.cache_bytes)
    yield work.rate(name, sample, burst * count, does)


class _Steps:
    """Decodes greedily, and begins again at `at` after STEPS tokens."""

    def __init__(self, subject: Subject, count: int, at: int) -> None:
        self._subject, self._count, self._at = subject, count, at
        self._first = random_ids(subject.config, count, 2)
        self._ids, self._done = self._first, 0

    def run(self, steps: int) -> None:
        """Decode so many tokens of each sequence."""
        if self._done + steps > STEPS:
            self._ids, self._done = self._first, 0
        for _ in range(steps):
            position = self._at + self._done
            self._ids = self._subject.decode(self._ids, [position] * self._count)
            self._done += 1


def train(
    directory: Path,
    form: str,
    shape: str,
    wanted: frozenset[str],
    budget: float,
    device: str = HOST.name,
) -> Iterator[work.Measured]:
    """Yield the speed of a training step, and the most memory it took."""
    rows, length = map(int, shape.split("x"))
    place = device_named(device)
    trainee = Trainee(directory, form, rows, length, place)
    trainee.step()
    if "lora_step" in wanted:
        sample = measure(trainee.step, 3, budget)
        does = work.lora_step(trainee.config, trainee.form, trainee.kind, rows, length)
        yield work.rate("lora_step", sample, rows * length, does, shape)
    if "lora_peak_rss" in wanted:
        yield work.Measured("lora_peak_rss", peak_mib(), "MiB", shape)
    if "lora_device_memory" in wanted:
        yield work.Measured("lora_device_memory", taken_mib(place), "MiB", shape)


if __name__ == "__main__":
    main()

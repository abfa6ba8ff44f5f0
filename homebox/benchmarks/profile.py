"""Runs one of a model's programs with the time of every launch: what `homebox graph` draws."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from homebox.benchmarks.subject import Subject, Trainee, random_ids
from homebox.engine.graph.device import HOST, Device
from homebox.engine.inspection.debug import recording
from homebox.engine.inspection.profiled_run import ProfiledRun

PROGRAMS = ("decode", "chunk", "train")
RUNS = 5  # after one that is cold
PAST = 64  # tokens before a decoded one


def profiled(
    directory: Path, form: str, program: str, shape: str = "1x128", device: Device = HOST
) -> ProfiledRun:
    """Return the fastest of some runs of a program: "decode", "chunk" (of a prompt) or "train".

    `shape` is that of a training batch, rows x length. Of several programs that one step runs, it
    is the one that takes longest.
    """
    if program == "train":
        step = _training(directory, form, shape, device)
    else:
        step = _serving(directory, form, program, device)
    step()
    with recording() as runs:
        for _ in range(RUNS):
            step()
    fastest: dict[str, ProfiledRun] = {}
    for run in runs:
        if run.name not in fastest or run.nanoseconds.sum() < fastest[run.name].nanoseconds.sum():
            fastest[run.name] = run
    return max(fastest.values(), key=lambda run: int(run.nanoseconds.sum()))


def _training(directory: Path, form: str, shape: str, device: Device) -> Callable[[], object]:
    rows, length = map(int, shape.split("x"))
    return Trainee(directory, form, rows, length, device).step


def _serving(directory: Path, form: str, program: str, device: Device) -> Callable[[], object]:
    subject = Subject(directory, form, 1024, 1, device)
    if program == "chunk":
        prompt = random_ids(subject.config, subject.transformer.prefill_chunk)
        return lambda: subject.prefill(prompt)
    past = random_ids(subject.config, PAST)
    subject.prefill(past)
    first = np.zeros(1, np.int32)
    return lambda: subject.decode(first, [PAST])

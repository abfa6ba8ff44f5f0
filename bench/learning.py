"""`python -m bench.learning`: how long one learning run takes, and what memory it needs.

The one idea: a made-up owner tells so many facts, then the real learner runs as it does at night:
select, examples, training, exam. A model of random weights recalls nothing, so its gate refuses
and would train once more; a run is over here when the first candidate has its verdict. Invariant:
memory is that of this process, from when the model has answered some questions on.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.owner.box import Box, ask_all, new_box
from bench.owner.people import Owner, owner
from bench.owner.sizes import tell_quickly
from homebox import learner
from homebox.config import Config
from homebox.learning.examples import speaks_toy_language
from homebox.learning.report import Report
from homebox.model import Model, load
from homebox.model.adapters import BASE

LESSONS, SEED, CONTEXT = 30, 7, 4096
MEBIBYTE = 2**20
WARM = tuple(
    f"Tell me {n} things about the sea, each in a sentence of its own." for n in range(2, 14)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one run and print its figures; 0 if there was a verdict."""
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description=__doc__)
    parser.add_argument("--model", default="tiny", help='model directory, GGUF file, or "tiny"')
    parser.add_argument("--lessons", type=int, default=LESSONS)
    parser.add_argument("--context", type=int, default=CONTEXT, help="positions of the model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--parts", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    model = load(options.model, context=options.context)
    one = owner_with(options.lessons, options.seed, styled=not speaks_toy_language(model))
    given = {"steps": options.steps, "parts": options.parts}
    with new_box(model, settings_with({k: v for k, v in given.items() if v})) as box:
        tell_quickly(box, one)
        # As many at once as an exam asks, so that the memory of their answers is there.
        ask_all(model, [[{"role": "user", "content": text}] for text in WARM], BASE)
        figures = measured(box)
    figures |= {"model": model.name, "parameters": parameters(model)}
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join(lines(figures)))
    return 0 if figures["verdict"] else 1


def owner_with(lessons: int, seed: int, styled: bool) -> Owner:
    """Make up an owner with so many lessons: the preferences that every owner has, the rest facts.

    There is one fact at least.
    """
    one = owner(seed, 1, lessons, False, styled=styled)
    facts = lessons - len(one.preferences) - len(one.manners)
    return owner(seed, 1, max(1, facts), False, styled=styled)


def settings_with(learning: dict[str, Any]) -> Config:
    """Return the settings as they are, but for some of [learning]."""
    settings = Config()
    return dataclasses.replace(
        settings, learning=dataclasses.replace(settings.learning, **learning)
    )


def measured(box: Box) -> dict[str, Any]:
    """Run the learner until its first candidate has a verdict; seconds and memory by stage."""
    served = resident("VmRSS")
    forget_peak()
    begun = last = time.monotonic()
    stages: dict[str, float] = {}
    peaks: dict[str, int] = {}
    steps, verdict, stage = 0, "", "select"
    state = box.state
    run = learner.run(box.model, state.ledger, state.store, state.lineage, box.settings)
    try:
        while True:
            progress = next(run)
            now = time.monotonic()
            stages[stage] = stages.get(stage, 0.0) + now - last
            peaks[stage] = max(peaks.get(stage, 0), resident("VmHWM") - served)
            if stage != progress.stage:
                forget_peak()
            last, stage = now, progress.stage
            if stage == "retry":
                verdict = progress.text
                break
            if stage == "train":
                steps = progress.total
                if progress.done and sys.stderr.isatty():
                    print(f"\rstep {progress.done} of {steps}", end="", file=sys.stderr)
    except StopIteration as over:
        report: Report = over.value
        verdict = report.lines[0] if report.lines else report.reason
    finally:
        run.close()
    total = time.monotonic() - begun
    stages[stage] = stages.get(stage, 0.0) + time.monotonic() - last
    peaks[stage] = max(peaks.get(stage, 0), resident("VmHWM") - served)
    return {
        "seconds": round(total, 1),
        "stages": {name: round(seconds, 1) for name, seconds in stages.items()},
        "steps": steps,
        "served_mib": round(served / MEBIBYTE),
        "extra_mib": round(max(peaks.values()) / MEBIBYTE),
        "extra_mib_by_stage": {name: round(most / MEBIBYTE) for name, most in peaks.items()},
        "verdict": verdict,
    }


def forget_peak() -> None:
    """Let the most memory of this process count from here."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident(name: str) -> int:
    """Return a figure of this process' memory in bytes: VmRSS, now, or VmHWM, the most."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"this system does not tell {name}")


def parameters(model: Model) -> int:
    """Count the numbers of a model."""
    return sum(math.prod(shape) for shape in model.config.weight_shapes().values())


def lines(figures: dict[str, Any]) -> list[str]:
    """Say the figures to a person."""
    stages = ", ".join(f"{name} {seconds:g} s" for name, seconds in figures["stages"].items())
    extra, served = figures["extra_mib"], figures["served_mib"]
    ratio = f"{extra / served:.2f} times"
    return [
        f"{figures['model']}, {figures['parameters'] / 1e6:.3g} million parameters",
        f"{figures['seconds']:g} s, {figures['steps']} steps: {stages}",
        f"memory: {served} MiB served, {extra} MiB more while learning ({ratio})",
        ", ".join(f"{name} {mib} MiB" for name, mib in figures["extra_mib_by_stage"].items()),
        figures["verdict"],
    ]


if __name__ == "__main__":
    sys.exit(main())

"""Lets people look inside: what DEBUG=1..4 print.

1 one line per program; 2 time, GB/s and GFLOP/s per kernel; 3 schedules and how often rules fired;
4 generated source.
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from homebox.engine.rules import hoisting, simplify

if TYPE_CHECKING:
    from homebox.engine.capture import Program

LONGEST = 40  # kernels that DEBUG=2 lists


def level() -> int:
    """Return the DEBUG level from the environment."""
    text = os.environ.get("DEBUG", "0")
    return int(text) if text.isdecimal() else 0


def digest(text: str) -> str:
    """Return a short name for a kernel's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def say(text: str) -> None:
    """Print a line where it does not mix with a program's own output."""
    print(text, file=sys.stderr)


def show_program(program: "Program") -> None:
    """Print what a program was compiled to."""
    if level() < 1:
        return
    unique = len({name for _, _, name in program.kernels})
    say(
        f"program {program.name}: {len(program.kernels)} launches, {unique} kernels, "
        f"{program.arena.nbytes / 1e6:.1f} MB of temporaries"
    )
    if level() >= 3:
        for i, (region, low, name) in enumerate(program.kernels):
            say(f"  {i:4d} {name[:9]} {region.root!r} {low.schedule} {low.units}")
        say(f"  rules: {dict((simplify.fired + hoisting.fired).most_common())}")


@dataclass(slots=True)
class _Times:
    """What launches of one kernel came to."""

    nanoseconds: int = 0
    launches: int = 0
    flops: int = 0
    moved: int = 0  # bytes of all buffers, each counted once per launch


def show_times(program: "Program", nanoseconds: np.ndarray) -> None:
    """Print where a run's time went, kernels of equal code together, the longest first.

    Work and bytes are those of the largest sizes that run-time integers can have.
    """
    total: dict[str, _Times] = {}
    for (region, low, name), ns in zip(program.kernels, nanoseconds, strict=True):
        kind = " contract" if region.core is not None else ""
        title = f"{name[:9]} {region.root.op.name}{list(region.root.shape)}{kind}"
        row = total.setdefault(title, _Times())
        row.nanoseconds += int(ns)
        row.launches += 1
        row.flops += 2 * low.units.most() * low.work if kind else 0
        row.moved += sum(p.count * p.dtype.size for p in low.kernel.params)
    everything = max(sum(row.nanoseconds for row in total.values()), 1)
    say(f"{program.name}: {everything / 1e3:.0f} us in {len(program.kernels)} launches")
    for title, row in sorted(total.items(), key=lambda item: -item[1].nanoseconds)[:LONGEST]:
        ns = max(row.nanoseconds, 1)
        say(
            f"  {ns / 1e3:9.1f} us {100 * ns / everything:5.1f} % {row.launches:4d}x "
            f"{row.flops / ns:7.1f} GFLOP/s {row.moved / ns:6.1f} GB/s  {title}"
        )


def show_sources(texts: dict[str, str]) -> None:
    """Print the kernels' code."""
    if level() >= 4:
        for text in texts.values():
            say(text)

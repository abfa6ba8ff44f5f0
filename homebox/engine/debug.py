"""Lets people look inside: what DEBUG=1..4 print.

1 one line per program; 2 time, GB/s and GFLOP/s per kernel; 3 schedules and how often rules fired;
4 generated source.
"""

import hashlib
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from homebox.engine.capture import Program


def level() -> int:
    """Return the DEBUG level from the environment."""
    text = os.environ.get("DEBUG", "0")
    return int(text) if text.isdecimal() else 0


def digest(text: str) -> str:
    """Return a short name for a kernel's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def show_program(program: "Program") -> None:
    if level() < 1:
        return
    unique = len({name for _, _, name in program.kernels})
    say(
        f"program {program.name}: {len(program.kernels)} launches, {unique} kernels, "
        f"{program.arena.nbytes / 1e6:.1f} MB of temporaries"
    )
    if level() >= 3:
        from homebox.engine.rules import hoisting, simplify

        for i, (region, low, name) in enumerate(program.kernels):
            say(f"  {i:4d} {name[:9]} {region.root!r} {low.schedule} {low.units}")
        say(f"  rules: {dict((simplify.fired + hoisting.fired).most_common())}")


def show_times(program: "Program", nanoseconds: np.ndarray) -> None:
    """Print where a run's time went, kernels of equal code together, the longest first."""
    total: dict[str, list[float]] = {}
    for (region, low, name), ns in zip(program.kernels, nanoseconds, strict=True):
        is_contract = region.core is not None
        work = low.units.most() * low.work
        moved = sum(p.count * p.dtype.size for p in low.kernel.params)
        row = total.setdefault(
            f"{name[:9]} {region.root.op.name}{list(region.root.shape)}"
            f"{' contract' if is_contract else ''}",
            [0.0, 0, 0, 0],
        )
        for i, part in enumerate((float(ns), 1, work * 2 if is_contract else 0, moved)):
            row[i] += part
    everything = sum(row[0] for row in total.values())
    say(f"{program.name}: {everything / 1e3:.0f} us in {len(program.kernels)} launches")
    for name, (ns, count, flops, moved) in sorted(total.items(), key=lambda x: -x[1][0])[:40]:
        say(
            f"  {ns / 1e3:9.1f} us {100 * ns / max(everything, 1):5.1f} % {count:4d}x "
            f"{flops / max(ns, 1):7.1f} GFLOP/s {moved / max(ns, 1):6.1f} GB/s  {name}"
        )


def show_sources(texts: dict[str, str]) -> None:
    if level() >= 4:
        for text in texts.values():
            say(text)

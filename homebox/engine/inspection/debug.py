"""Lets people look inside: what DEBUG=1..4 print, and the pages that GRAPH writes.

1 one line per program; 2 time and share of the roof per kernel; 3 schedules and how often rules
fired; 4 generated source. GRAPH=1 writes one HTML page per program into the working directory,
GRAPH=DIR into another. Whoever wants times of runs takes them from `recording`.
"""

import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from homebox.engine.graph.ops import MOVEMENT, Node, Op, is_name, size_max
from homebox.engine.graph.rules import hoisting, simplify
from homebox.engine.inspection.demand import Demand, demand, largest
from homebox.engine.inspection.roof import Roof
from homebox.engine.simt.target import Low

if TYPE_CHECKING:
    from homebox.engine.fusion.draft import Region
    from homebox.engine.runtime.capture import Program

LONGEST = 40  # kernels that DEBUG=2 lists
_PAGES = 2  # runs after which GRAPH stops writing a program's page: the first one is cold


def level() -> int:
    """Return the DEBUG level from the environment."""
    text = os.environ.get("DEBUG", "0")
    return int(text) if text.isdecimal() else 0


def graph_folder() -> Path | None:
    """Return where GRAPH wants pages, or None."""
    text = os.environ.get("GRAPH", "")
    if text in ("", "0"):
        return None
    return Path() if text == "1" else Path(text)


def say(text: str) -> None:
    """Print a line where it does not mix with a program's own output."""
    print(text, file=sys.stderr)


Kernels = Sequence[tuple["Region", Low, str]]  # one a launch, with the name of its code


@dataclass(frozen=True)
class ProfiledRun:
    """One run of a program: its run-time integers and the nanoseconds of each launch."""

    name: str
    kernels: Kernels
    realised: frozenset[Node]
    arena: int  # bytes of temporaries
    values: Mapping[str, int]
    nanoseconds: np.ndarray  # (launches,) int64
    demands: Sequence[Demand]  # of each launch
    source: Callable[[Low], str]  # returns the text that a kernel was compiled from


_recorders: list[list[ProfiledRun]] = []
_pages: "weakref.WeakKeyDictionary[Program, int]" = weakref.WeakKeyDictionary()


@contextmanager
def recording() -> Iterator[list[ProfiledRun]]:
    """Profile every run of a program inside the block and collect them."""
    runs: list[ProfiledRun] = []
    _recorders.append(runs)
    try:
        yield runs
    finally:
        _recorders.remove(runs)


def profiling() -> bool:
    """Say whether somebody wants the times of launches."""
    return bool(_recorders) or level() >= 2 or graph_folder() is not None


def show_run(program: "Program", values: Mapping[str, int], nanoseconds: np.ndarray) -> None:
    """Give a profiled run to those who want it."""
    realised = frozenset(n for region in program.regions for n in region.written)
    kernels = program.kernels
    # Now, because they depend on what the inputs hold.
    demands = [demand(region, realised, values) for region, _, _ in kernels]
    size = program.arena.nbytes
    backend, syms = program.backend, program.syms
    run = ProfiledRun(
        name=program.name,
        kernels=kernels,
        realised=realised,
        arena=size,
        values=dict(values),
        nanoseconds=nanoseconds,
        demands=demands,
        source=lambda low: backend.named(low, syms)[1],
    )
    for runs in _recorders:
        runs.append(run)
    if level() >= 2:
        for line in table(run, _top(program)):
            say(line)
    folder = graph_folder()
    if folder is not None and _pages.get(program, 0) < _PAGES:
        from homebox.engine.inspection.graph_html import page

        _pages[program] = _pages.get(program, 0) + 1
        path = folder / f"{program.name.replace(' ', '-').replace('/', '-')}.html"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(page(run, _top(program)), encoding="utf-8")
        say(f"program {program.name}: {path}")


def _top(program: "Program") -> Roof:
    """Return the roof of the device that a program runs on."""
    from homebox.engine.inspection.roof_opencl import top_of

    return top_of(program.backend.device)


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
            say(f"  {i:4d} {name[:9]} {region.root!r} {low.schedule} {low.most_groups()}")
        say(f"  rules: {dict((simplify.fired + hoisting.fired).most_common())}")


def title_of(region: "Region", low: Low, name: str) -> str:
    """Return a line that names a kernel: hash, what it does and of which shape, its schedule.

    A product is named by its axes, the summed one last, by the format of its weights and by how
    many share the kernel.
    """
    kind = type(low.schedule).__name__.removesuffix("Schedule").lower()
    root = f"{region.root.op.name.lower()} {_sizes(largest(region))} {region.root.dtype} {kind}"
    if region.core is None:
        return f"{name[:9]} {root}"
    product = region.core.src[0]
    sizes = _sizes(tuple(size_max(d) for d in product.shape if d != 1))
    formats = [n.arg.name for n in map(_below, product.src) if n.op is Op.UNPACK]
    times = f" {1 + len(region.others)} together" if region.others else ""
    return f"{name[:9]} product {sizes} {'*'.join(formats) or 'f32'}{times}, {root}"


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _below(n: Node) -> Node:
    while n.op in MOVEMENT or is_name(n):
        n = n.src[0]
    return n


@dataclass(slots=True)
class _Times:
    """What launches of one kernel came to."""

    nanoseconds: int = 0
    launches: int = 0
    demands: list[Demand] = field(default_factory=list)

    def add(self, nanoseconds: int, wanted: Demand) -> None:
        self.nanoseconds += nanoseconds
        self.launches += 1
        self.demands.append(wanted)

    def rates(self, top: Roof) -> str:
        """Return GB/s, GFLOP/s and the share of the nearer roof."""
        ns = max(self.nanoseconds, 1)
        moved = sum(d.moved for d in self.demands)
        operations = sum(d.operations for d in self.demands)
        share = 100e9 * sum(d.least_seconds(top) for d in self.demands) / ns
        return f"{moved / ns:7.1f} GB/s {operations / ns:8.1f} GFLOP/s {share:5.1f} % of roof"


def table(run: ProfiledRun, top: Roof) -> list[str]:
    """Return where a run's time went, kernels of equal code together, the longest first."""
    total: dict[str, _Times] = {}
    whole = _Times()
    for (region, low, name), ns, wanted in zip(
        run.kernels, run.nanoseconds, run.demands, strict=True
    ):
        total.setdefault(title_of(region, low, name), _Times()).add(int(ns), wanted)
        whole.add(int(ns), wanted)
    everything = max(whole.nanoseconds, 1)
    lines = [
        f"{run.name}: {everything / 1e3:.0f} us in {whole.launches} launches, {whole.rates(top)}"
    ]
    ordered = sorted(total.items(), key=lambda item: -item[1].nanoseconds)
    for title, row in ordered[:LONGEST]:
        lines.append(
            f"  {row.nanoseconds / 1e3:9.1f} us {100 * row.nanoseconds / everything:5.1f} % "
            f"{row.launches:4d}x {row.rates(top)}  {title}"
        )
    if len(ordered) > LONGEST:
        rest = sum(row.nanoseconds for _, row in ordered[LONGEST:])
        lines.append(f"  {rest / 1e3:9.1f} us in {len(ordered) - LONGEST} more kernels")
    return lines


def show_sources(texts: dict[str, str]) -> None:
    """Print the kernels' code."""
    if level() >= 4:
        for text in texts.values():
            say(text)

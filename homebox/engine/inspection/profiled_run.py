"""One run of a program with the time of every launch: as data, and as the lines of a table.

Invariant: kernels, times and demands stand in the order of the launches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from homebox.engine.fusion.draft import Region
from homebox.engine.graph.ops import MOVEMENT, Node, Op, is_name, size_max
from homebox.engine.inspection.demand import Demand, demand, largest
from homebox.engine.inspection.roof import Roof
from homebox.engine.runtime.watching import Seen
from homebox.engine.simt.target import Low

LONGEST = 40  # kernels that a table lists

Kernels = Sequence[tuple[Region, Low, str]]  # one a launch, with the name of its code


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


def profiled_run(program: Seen, values: Mapping[str, int], nanoseconds: np.ndarray) -> ProfiledRun:
    """Return what a run came to, whose launches took (launches,) `nanoseconds`."""
    realised = frozenset(n for region in program.regions for n in region.written)
    kernels = program.kernels
    backend, syms = program.backend, program.syms
    return ProfiledRun(
        name=program.name,
        kernels=kernels,
        realised=realised,
        arena=program.arena.nbytes,
        values=dict(values),
        nanoseconds=nanoseconds,
        # Now, because they depend on what the inputs hold.
        demands=[demand(region, realised, values) for region, _, _ in kernels],
        source=lambda low: backend.named(low, syms)[1],
    )


def title_of(region: Region, low: Low, name: str) -> str:
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

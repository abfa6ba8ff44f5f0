"""How a region is tiled, as plain data, and how many independent work units that makes.

Choices depend on shapes only, never on the machine's load, and they do not change bits: tiles cut
outputs, never the order of a sum. The sum over k runs in segments of fixed length, each from zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homebox.engine.codegen.cpu import vector_of
from homebox.engine.codegen.linear import Kernel
from homebox.engine.graph.formats import Format
from homebox.engine.graph.ops import Dim, Node, Sym, size_max

SEGMENT = 1024  # length along k of one partial sum, in elements


@dataclass(frozen=True, slots=True)
class Units:
    """Number of work units: fixed * product of ceil(sym / by)."""

    fixed: int
    dynamic: tuple[tuple[Sym, int], ...] = ()

    def count(self, values: Mapping[str, int]) -> int:
        """Return the number for a run; `values` gives each run-time size by name."""
        total = self.fixed
        for sym, by in self.dynamic:
            total *= -(-values[sym.name] // by)
        return total

    def most(self) -> int:
        """Return the largest number that a run can have."""
        total = self.fixed
        for sym, by in self.dynamic:
            total *= -(-sym.hi // by)
        return total


@dataclass(frozen=True, slots=True)
class ContractSchedule:
    """A register tile of `rows` x `panels` * 16 outputs; a unit is `tiles` such tiles down."""

    rows: int
    panels: int
    tiles: int
    unroll: int


@dataclass(frozen=True, slots=True)
class PackedSchedule:
    """Register tiles of `rows` x `panels` over packed weights.

    A unit is `tiles` tiles down and `wide` panels across. With `scratch` the unit's panels are
    decoded into memory first.
    """

    rows: int
    panels: int
    tiles: int
    wide: int
    scratch: bool
    streams: bool = False  # one tile holds all rows: the weight is read once, at memory's speed


@dataclass(frozen=True, slots=True)
class MapSchedule:
    """Elementwise and row kernels: 16 lanes along `vector` (None = scalars), `block` to a unit."""

    vector: int | None
    block: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """A kernel, the node behind each of its parameters, and how much work there is."""

    kernel: Kernel
    memory: tuple[Node, ...]
    units: Units
    schedule: ContractSchedule | PackedSchedule | MapSchedule
    work: int  # multiply-adds or elements per unit, roughly

    def groups(self, values: Mapping[str, int]) -> tuple[int, ...]:
        """Return the number of units of a run."""
        return (self.units.count(values),)

    def most_groups(self) -> tuple[int, ...]:
        """Return the largest number of units."""
        return (self.units.most(),)


def units_of(sizes: Sequence[Dim]) -> Units:
    """Return one unit for each place along some axes."""
    fixed, dynamic = 1, []
    for size in sizes:
        if isinstance(size, Sym):
            dynamic.append((size, 1))
        else:
            fixed *= size
    return Units(fixed, tuple(dynamic))


ROWS = {"avx512": {1: 12, 2: 12, 3: 8, 4: 6}, "avx2": {1: 6}, "generic": {1: 4}}


def contract_schedule(level: str, m: Dim, n: Dim) -> ContractSchedule:
    """Choose the register tile for an m x n output on a CPU of this level."""
    blocks = -(-size_max(n) // 16)
    if m == 1 and level == "avx512":
        panels = next(p for p in (4, 3, 2, 1) if blocks % p == 0)
        return ContractSchedule(1, panels, 1, 4)
    table = ROWS[level]
    panels = next((p for p in (3, 4, 2, 1) if p in table and blocks % p == 0), 1)
    rows = table[panels]
    if isinstance(m, Sym):
        rows = min(rows, 4)
    elif m % rows:  # a tile that divides m evenly saves the ragged edge
        better = [r for r in range(rows, rows // 2, -1) if m % r == 0]
        rows = better[0] if better else min(rows, m)
    return ContractSchedule(rows, panels, max(1, 96 // rows), 4)


FEW = 8  # rows that are computed in one tile, streaming the weight once
TALL = 256  # rows of a unit at most, about
DIRECT = {"avx512": (6, 2), "avx2": (3, 1), "generic": (2, 1)}  # int8 and bf16 straight from panels
SCRATCH = {"avx512": (8, 2), "avx2": (6, 1), "generic": (4, 1)}


def packed_schedule(
    level: str,
    arithmetic: str,
    form: Format,
    transposed: bool,
    m: int,
    blocks: int,
    products: int,
    packs: bool,
) -> PackedSchedule:
    """Choose tiles for m rows and `blocks` panels; `packs` wants an even number of panels."""
    vector = vector_of(level)
    if m <= FEW and not transposed:
        narrow_weights = arithmetic == "bf16" and form.name != "bf16"
        panels = 2 if packs else 1
        if not narrow_weights:
            return PackedSchedule(m, panels, 1, panels, False, True)
    direct = not transposed and (
        arithmetic == "int8" or (arithmetic, form.name) in (("bf16", "bf16"), ("f32", "f32"))
    )
    if direct or products > 1:
        rows, panels = SCRATCH[vector] if arithmetic != "int8" else DIRECT[vector]
        if packs and panels == 1:
            rows, panels = max(rows // 2, 1), 2
        wide = max(panels, 2 if packs else 1)
        while blocks % wide or wide % panels:
            panels = max(panels // 2, 1)
            wide = max(panels, 2 if packs else 1)
        rows = min(rows, m)
        return PackedSchedule(rows, panels, _tiles(m, rows), wide, False)
    rows, panels = SCRATCH[vector]
    wide = next(w for w in (4, 3, 2, 1) if blocks % w == 0)
    panels = max(p for p in range(1, panels + 1) if wide % p == 0)
    rows = min(rows, m)
    return PackedSchedule(rows, panels, _tiles(m, rows), wide, True)


def _tiles(m: int, rows: int) -> int:
    """Return how many tiles of `rows` a unit is tall, so that m is cut into equal units."""
    units = -(-m // TALL)
    return -(-m // (units * rows))

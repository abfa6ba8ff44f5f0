"""What a region is lowered for, and what the lowering for work-items returns, as plain data.

A CPU runs explicit lanes; a SIMT device runs work-groups of scalar work-items with barriers. The
choices below follow from shapes and the target alone and never touch the order of a sum, so both
kinds of target give the same bits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homebox.engine.codegen.linear import Kernel
from homebox.engine.fusion.schedule import SEGMENT, Lowered
from homebox.engine.graph.ops import Dim, Node, Sym, size_max
from homebox.engine.kernels.loops import LANES
from homebox.errors import EngineError

BUSY = 64  # groups that keep a device busy
SHORT_ROW = 256  # a longer row is summed by a whole group


# half: arithmetic in f16; subgroup: values pass between the work-items of a sub-group; dot4: fast
# products of four bytes; mma_*: matrix units for these types.
UNITS = ("half", "subgroup", "dot4", "mma_f16", "mma_bf16", "mma_s8")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Explicit lanes for a CPU of this level (avx512, avx2, generic)."""

    level: str


@dataclass(frozen=True, slots=True)
class Simt:
    """Work-groups of scalar work-items that share local memory."""

    group: int = 256  # work-items per group at most; a power of two, at least 16
    sub_group: int = 32  # work-items that run in step; rows share a group only up to this many
    local_memory: int = 32768  # bytes per group
    units: frozenset[str] = frozenset()  # of UNITS: what the device was probed to do
    team: int = 32  # work-items that hold a tile of the matrix units together

    def __post_init__(self) -> None:
        for name, size in (("work-group", self.group), ("sub-group", self.sub_group)):
            if size & (size - 1) or size < 1:
                raise EngineError(f"a {name} of {size} work-items is no power of two")
        if not self.units <= set(UNITS):
            raise EngineError(f"unknown units {sorted(self.units - set(UNITS))}; there are {UNITS}")
        if self.group < LANES:
            raise EngineError(f"work-groups of {self.group} are too small; {LANES} are needed")


Target = Cpu | Simt


@dataclass(frozen=True, slots=True)
class Span:
    """Work-groups along one axis of the grid: the product of `sizes`, `by` to a group."""

    sizes: tuple[Dim, ...]
    by: int = 1

    def count(self, values: Mapping[str, int]) -> int:
        """Return the number of groups; `values` gives each run-time size by name."""
        total = 1
        for size in self.sizes:
            total *= values[size.name] if isinstance(size, Sym) else size
        return -(-total // self.by)


@dataclass(frozen=True, slots=True)
class Flat:
    """One work-item per output element, or for `each` that lie side by side."""

    group: int
    each: int = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """`rows` rows per group, `width` work-items per row: sixteen, or a whole group.

    `longest` is the length of what a whole group sums.
    """

    rows: int
    width: int = LANES
    longest: int = 0


@dataclass(frozen=True, slots=True)
class Tile:
    """`down` x `across` work-items, each with `rows` x `columns` outputs; `depth` steps staged."""

    down: int
    across: int
    rows: int
    columns: int
    depth: int

    @property
    def height(self) -> int:
        """Rows of the output per group."""
        return self.down * self.rows

    @property
    def width(self) -> int:
        """Columns of the output per group."""
        return self.across * self.columns


@dataclass(frozen=True, slots=True)
class Columns:
    """`width` outputs a group, each summed by `splits` work-items that share its segments of k."""

    width: int
    splits: int


@dataclass(frozen=True, slots=True)
class Packing:
    """Blocks of a8, eight work-items each; `by_rows` if a row's sums are shared by its group."""

    group: int
    by_rows: bool


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of `rows` (query, head) pairs a group, `blocks` of 64 keys at a time.

    A work-item holds the scores of so many rows x keys, and the sums of rows x channels.
    """

    group: int
    rows: int
    blocks: int
    scores: tuple[int, int]
    values: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stream:
    """A packed weight read once: `panels` panels of 16 outputs a group, each by `slices` quads.

    A quad is four neighbouring work-items with four outputs each. `split` says for each product how
    many slices share out its k; 0 if each output is summed in order by one work-item.
    """

    panels: int
    slices: int
    split: tuple[int, ...]

    @property
    def group(self) -> int:
        """Work-items of a group."""
        return 4 * self.panels * self.slices


@dataclass(frozen=True, slots=True)
class Fragments:
    """`down` x `across` teams of the matrix units, each with `rows` x `columns` tiles of 16 x 16.

    `depth` lines of 32 bytes along k are staged at once.
    """

    team: int
    down: int
    across: int
    rows: int
    columns: int
    depth: int

    @property
    def group(self) -> int:
        """Work-items of a group."""
        return self.team * self.down * self.across

    @property
    def height(self) -> int:
        """Rows of the output per group."""
        return 16 * self.down * self.rows

    @property
    def width(self) -> int:
        """Columns of the output per group."""
        return 16 * self.across * self.columns


@dataclass(frozen=True, slots=True)
class LoweredSimt:
    """A kernel, the node behind each of its parameters, and the grid of work-groups it runs on."""

    kernel: Kernel
    memory: tuple[Node, ...]
    grid: tuple[Span, ...]
    schedule: Flat | Rows | Tile | Columns | Packing | Stream | Attention | Fragments

    def groups(self, values: Mapping[str, int]) -> tuple[int, ...]:
        """Return the number of work-groups along each axis; no launch is needed if one is 0."""
        return tuple(span.count(values) for span in self.grid)

    def most_groups(self) -> tuple[int, ...]:
        """Return the largest number of work-groups along each axis."""
        return tuple(-(-most(span.sizes) // span.by) for span in self.grid)


Low = Lowered | LoweredSimt


def most(sizes: Sequence[Dim]) -> int:
    """Return the largest product that sizes can have."""
    return math.prod(size_max(size) for size in sizes)


def flat_schedule(target: Simt, sizes: Sequence[Dim], summed: bool = False) -> Flat:
    """Use whole groups, or the smallest that hold all elements.

    Elements that are long sums (`summed`) are dealt out to more groups while there are few.
    """
    width, count = target.group, most(sizes)
    while width > LANES and width // 2 >= count:
        width //= 2
    while summed and width > max(LANES, target.sub_group) and count < BUSY * width:
        width //= 2
    return Flat(width)


def rows_schedule(target: Simt, rows: Sequence[Dim], length: int = 0) -> Rows:
    """Give a row whose sums have a `length` above 256 a group of its own.

    Others share a group as far as one sub-group reaches and there are rows.
    """
    if length > SHORT_ROW and target.group > LANES:
        width = target.group
        while width > 2 * LANES and 4 * width > length:
            width //= 2
        return Rows(1, width, length)
    count = max(1, min(target.sub_group, target.group) // LANES)
    while count > 1 and count // 2 >= most(rows):
        count //= 2
    return Rows(count)


def columns_schedule(target: Simt, n: Dim, k: Dim, whole: bool) -> Columns:
    """Share out the segments of k among work-items; not at all if k is not one axis (`whole`)."""
    segments = -(-size_max(k) // SEGMENT)
    splits, width = 1, target.group
    while width > LANES and width // 2 >= size_max(n):
        width //= 2
    while not whole and splits * 2 <= segments:
        narrower = width // 2 if splits * 2 * width > target.group else width
        if narrower < LANES or 4 * segments * narrower > target.local_memory:
            break
        splits, width = splits * 2, narrower
    return Columns(width, splits)

"""How attention is cut for work-groups: rows, blocks of keys, and what each work-item holds.

The rows of a group are (query, head) pairs that share a kv head, so that one read of keys and
values serves them all. Scores are dealt out by rows and keys, sums by rows and channels; nobody
shares one output's sum. Invariant: these choices follow from shapes and the target and do not
change bits.
"""

from dataclasses import dataclass

from homebox.engine.fusion.attend import Attend
from homebox.engine.fusion.attend_reads import BLOCK, PANEL
from homebox.engine.graph.ops import Node
from homebox.engine.kernels.loops import LANES
from homebox.engine.simt.target import Attention, Simt
from homebox.errors import EngineError

TALLEST = 32  # rows of a group
FEW = 8  # rows up to which memory is what a group waits for: several blocks at a time
MANY_GROUPS = 256  # from which a device has several at a time
PAD = 4  # float32 after each row in local memory: rows begin in different banks
WIDEST = 8  # numbers that a work-item reads at once


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of one attention: see `Attend`."""

    batch: int
    heads: int
    groups: int
    length: int  # queries of a sequence
    dim: int
    blocks: int  # of 64 keys
    splits: int
    parts: bool
    sinks: bool

    @property
    def wide(self) -> int:
        """Channels rounded up to whole panels."""
        return -(-self.dim // PANEL) * PANEL

    @property
    def rows(self) -> int:
        """All rows that share a kv head."""
        return self.length * self.groups


def sizes_of(root: Node) -> Sizes:
    """Return the sizes of an ATTEND node."""
    batch, heads, groups, length, dim = (d for d in root.src[0].shape if isinstance(d, int))
    keys = root.src[1].shape[2]
    assert isinstance(keys, int)
    arg: Attend = root.arg
    sinks = "sinks" in arg.options
    return Sizes(batch, heads, groups, length, dim, keys // BLOCK, arg.splits, arg.parts, sinks)


def attention_schedule(target: Simt, s: Sizes) -> Attention:
    """Choose the cut. Raises EngineError if local memory holds not even one row."""
    rows = min(TALLEST, _power_above(s.rows))
    blocks = _power_below(min(4 if rows <= FEW else 1, s.blocks))
    while local_bytes(rows, blocks, s) > target.local_memory:
        if rows == 1 and blocks == 1:
            raise EngineError(
                f"attention with heads of {s.dim} channels does not fit into "
                f"{target.local_memory} bytes of local memory"
            )
        rows, blocks = (rows, blocks // 2) if blocks > 1 else (rows // 2, 1)
    scores = rows * blocks * BLOCK
    each = 4
    if rows > FEW:  # fewer scores to a work-item while there are few groups to hide its waiting
        tiles = -(-s.rows // rows) * s.batch * s.heads
        each = 16 if tiles >= MANY_GROUPS else 8
    group = max(LANES, min(target.group, max(4 * LANES, scores // each)))
    while group < target.group and rows * s.wide > 32 * group:
        group *= 2
    down, across = _square(max(1, scores // group), rows, WIDEST)
    return Attention(group, rows, blocks, (down, across), _sums(group, rows, s))


def _square(count: int, rows: int, widest: int) -> tuple[int, int]:
    """Return about `count` outputs as rows x columns, rather more rows than columns."""
    down = 1
    while down < rows and down * down < count:
        down *= 2
    across = 1
    while across < widest and down * across < count:
        across *= 2
    return down, across


def _sums(group: int, rows: int, s: Sizes) -> tuple[int, int]:
    """Return the rows and channels of a work-item, so that one round of them holds all sums."""
    widest = 1
    while widest < PANEL and s.dim % (2 * widest) == 0:
        widest *= 2
    down, across = _square(-(-rows * s.wide // group), rows, min(widest, WIDEST))
    while (rows // down) * (s.wide // across) > group:
        if down < rows:
            down *= 2
        elif across < widest:
            across *= 2
        else:
            raise EngineError(f"groups of {group} work-items are too small for {s.dim} channels")
    return down, across


def local_bytes(rows: int, blocks: int, s: Sizes) -> int:
    """Return the local memory of a group in bytes: queries, scores, tops and a row's numbers."""
    each = s.wide + PAD + blocks * BLOCK + PAD + blocks * LANES + blocks + 6 + s.sinks
    return 4 * rows * each


def _power_above(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _power_below(count: int) -> int:
    return 1 << (count.bit_length() - 1)

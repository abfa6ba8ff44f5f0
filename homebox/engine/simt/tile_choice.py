"""Which tile a product gets: chosen from its shape and the target's sizes alone.

A work-item reads rows + columns words of local memory for rows x columns multiply-adds, and a
group reads height + width numbers of memory for height x width of them. A multiprocessor does 128
multiply-adds a cycle, reads 32 words of local memory and about 4 words of the cache behind it. So
the arithmetic runs at full speed

    from local memory   if (rows + columns) / (rows * columns) <= 32 / 128: from 8 x 8 on
    from the cache      if (height + width) / (height * width) <= 4 / 128: from 64 x 64 on

and slower by what is missing. Each number costs about four operations on its way into local memory.
It also takes about 256 work-items a multiprocessor to keep its units busy, and about 600 cycles
until what is read from memory arrives, once for each slice: so few outputs want deep slices.
Against that stand the groups: with few outputs, small tiles use more multiprocessors. The estimate
of all this, in units of one multiply-add for each output and step, decides. Sums take at most 64
registers: one for each output and contraction, two where segments are added up, one more for whole
numbers; with a work-item's share of the next slice they are at most 80.
"""

from homebox.engine.graph.ops import Dim, size_max
from homebox.engine.kernels.loops import LANES
from homebox.engine.simt.target import Simt, Tile
from homebox.engine.simt.tile_loop import VECTOR
from homebox.errors import EngineError

MICRO = ((8, 8), (8, 4), (4, 8), (4, 4), (1, 4))  # outputs of a work-item: rows, columns
SUMS = 64  # registers for them
REGISTERS = 80  # for sums and the next slice
DEPTHS = (64, 32, 16)  # steps along k that are staged at once; two slices divide SEGMENT
SHALLOW = (8, 4)  # where local memory is scarce
PROCESSORS = (64, 96, 128, 170)  # of cards from the middle to the largest; all count alike
LEAST = 64  # work-items of a group, if the target has so many: the widest sub-groups are full
HIDING = 256  # work-items of a multiprocessor that hide latency
LOCAL_WORDS = 32 / 128  # that can be read for each multiply-add
CACHE_WORDS = 4 / 128
LATENCY = 600 * 128  # multiply-adds of a multiprocessor while it waits for memory
STAGING = 4  # operations for each number of a slice: addresses, decoding, storing


def tile_schedule(
    target: Simt,
    m: Dim,
    n: Dim,
    k: Dim,
    sums: int = 1,
    lines: int = 0,
    deepest: int = 64,
    outer: int = 1,
) -> Tile:
    """Choose the tile of an m x n output, summed over k, with `sums` numbers for each output.

    There are `outer` such outputs side by side. Local memory holds two slices of `depth` lines, or
    `lines` in all if these are more. No slice is deeper than `deepest` or, beyond 16, than k asks
    for.
    Raises EngineError if none fits into the target's local memory.
    """
    best: tuple[float, int, Tile] | None = None
    wanted = [d for d in DEPTHS if d == DEPTHS[-1] or (d <= deepest and d < 2 * size_max(k))]
    for depths in (wanted, *([d] for d in SHALLOW)):
        for tile in (t for depth in depths for t in _tiles(target, depth)):
            if local_bytes(tile, lines) > target.local_memory or not _fits(tile, sums):
                continue
            cost = estimate(tile, size_max(m), size_max(n), outer), -tile.height * tile.width, tile
            if best is None or cost[:2] < best[:2]:
                best = cost
        if best is not None:
            return best[2]
    raise EngineError(
        f"no tile of a product fits into {target.local_memory} bytes of local memory; it needs 1024"
    )


def local_bytes(tile: Tile, lines: int = 0) -> int:
    """Return the local memory of a tile, with at least so many lines of words."""
    return 4 * max(2 * tile.depth, lines) * (tile.height + tile.width)


def _fits(tile: Tile, sums: int) -> bool:
    """Whether a work-item has registers for its sums and its share of a slice."""
    each = tile.rows * tile.columns * sums
    share = (tile.height + tile.width) * tile.depth / (tile.across * tile.down)
    if each > SUMS and tile.rows * tile.columns > 16:
        return False
    return each + share <= REGISTERS or tile.depth <= DEPTHS[-1]


def _tiles(target: Simt, depth: int) -> list[Tile]:
    """Return all tiles of whole panels that groups of this target can compute."""
    found = []
    group = target.group
    while group >= min(LEAST, target.group):
        down = 1
        while down <= group:
            across = group // down
            for rows, columns in MICRO:
                if across * columns % LANES == 0 and down * rows % VECTOR == 0:
                    found.append(Tile(down, across, rows, columns, depth))
            down *= 2
        group //= 2
    return found


def estimate(tile: Tile, m: int, n: int, outer: int = 1) -> float:
    """Return about how long a tile takes for `outer` times m x n outputs, per step along k."""
    groups = max(1, outer * -(-m // tile.height) * -(-n // tile.width))  # a size may be 0
    local = LOCAL_WORDS / ((tile.rows + tile.columns) / (tile.rows * tile.columns))
    cache = CACHE_WORDS / ((tile.height + tile.width) / (tile.height * tile.width))
    work = tile.height * tile.width + STAGING * (tile.height + tile.width)
    cost = 0.0
    for processors in PROCESSORS:
        each = -(-groups // processors)  # groups that one of them computes, side by side
        hidden = tile.across * tile.down * each / HIDING
        cost += each * work / min(1.0, local, cache, hidden)
    return cost / len(PROCESSORS) + LATENCY / tile.depth

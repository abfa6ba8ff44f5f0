"""Which tile a product on matrix units gets: chosen from its shape and the target's sizes alone.

A team that holds rows x columns fragments reads rows + columns of them from local memory for each
line of k; a group reads height + width lines from memory. The estimate is that of `tile_choice`
with the units' speed in the place of the multiply-add's: from local memory they run at full speed
if (rows + columns) / (rows * columns) <= 1, from the cache from 128 x 128 on.
"""

from homebox.engine.simt.target import Fragments, Simt

SIDE = 16  # rows and columns of a fragment
LINE = 32  # bytes along k in a line of a fragment
GAP = 16  # bytes between the lines of local memory, against bank conflicts
SUMS = 64  # registers for sums
PROCESSORS = (64, 96, 128, 170)  # of cards from the middle to the largest; all count alike
HIDING = 256  # work-items of a multiprocessor that hide latency
LOCAL = 1.0  # fragments read for each product
CACHE = 1 / 64  # lines read for each output and line of k
SHAPES = ((2, 4), (4, 2), (2, 2), (1, 4), (1, 2), (2, 1), (1, 1))  # fragments of a team


def stride_words(depth: int) -> int:
    """Return the words from line to line of local memory: an odd multiple of 4."""
    return (depth * LINE + GAP) // 4


def half_words(tile: Fragments) -> int:
    """Return the words of one half of local memory: lines of both factors, and their scales."""
    return (tile.height + tile.width) * (stride_words(tile.depth) + tile.depth)


def local_words(tile: Fragments, products: int) -> int:
    """Return the words of local memory: both halves, or a fragment of each team and product."""
    return max(2 * half_words(tile), tile.down * tile.across * products * SIDE * SIDE)


def fragments_schedule(
    target: Simt, m: int, n: int, sums: int, depth: int, scaled: bool
) -> Fragments | None:
    """Choose the tile of an m x n output; None if none fits into local memory and registers.

    `sums` numbers are kept for each output. `depth` is how many lines along k may be staged at
    once; `scaled`: whether each line's sums are scaled on their own, which takes as many registers.
    """
    best: tuple[float, int, Fragments] | None = None
    for lines in range(depth, 0, -1):
        for tile in _tiles(target, lines):
            held = tile.rows * tile.columns * sums * (SIDE * SIDE // tile.team)
            if held * (lines if scaled else 1) > SUMS and tile.rows * tile.columns > 1:
                continue
            if 4 * local_words(tile, sums) > target.local_memory:
                continue
            cost = estimate(tile, m, n), -tile.depth, tile
            if best is None or cost[:2] < best[:2]:
                best = cost
    return None if best is None else best[2]


def _tiles(target: Simt, depth: int) -> list[Fragments]:
    found = []
    teams = target.group // target.team
    while teams >= 1:
        down = 1
        while down <= teams:
            for rows, columns in SHAPES:
                found.append(Fragments(target.team, down, teams // down, rows, columns, depth))
            down *= 2
        teams //= 2
    return found


def estimate(tile: Fragments, m: int, n: int) -> float:
    """Return about how long a tile takes for m x n outputs, per line along k."""
    groups = -(-m // tile.height) * -(-n // tile.width)
    work = tile.height * tile.width * (1.0 if tile.depth > 1 else 1.25)  # a barrier for each slice
    local = LOCAL / ((tile.rows + tile.columns) / (tile.rows * tile.columns))
    cache = CACHE / ((tile.height + tile.width) / (tile.height * tile.width))
    cost = 0.0
    for processors in PROCESSORS:
        each = -(-groups // processors)  # groups that one of them computes, side by side
        hidden = tile.group * each / HIDING
        cost += each * work / min(1.0, local, cache, hidden)
    return cost / len(PROCESSORS)

"""What follows a tiled product: the elementwise rest of its region, and the write.

`finish` computes one output of the region's root from the contractions' sums at a row and column;
`finish_tile` does it for all that a work-item holds. Sums beyond the edge are never written.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from homebox.engine.codegen.linear import Value
from homebox.engine.graph.ops import Dim, Node, Op, size_max
from homebox.engine.graph.symbolic import ZERO, flatten, of
from homebox.engine.kernels.contract_kernels import ContractLowering, forward
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Tile
from homebox.engine.simt.tile_loop import VECTOR, Registers, columns_of, lane, rows_of


def finish(
    kernel: ContractLowering,
    s: SimtEmitter,
    place: tuple[Value, Value],
    given: Mapping[Node, Value],
    masks: Iterable[Value | None],
) -> None:
    """Compute the root at `place` = (row, column) from sums, and write it where all masks hold."""
    n = kernel.counters.loop(size_max(kernel.shape[kernel.axes.n]))
    m = kernel.counters.loop(size_max(kernel.m_size))
    s.env[m], s.env[n] = place
    index = [of(x) if i in kernel.outer else ZERO for i, x in enumerate(kernel.each)]
    for i, part in kernel._split(of(m), kernel.m_inner).items():
        index[i] = part
    index[kernel.axes.n] = of(n)
    at = tuple(index)
    for each in kernel.chain:
        at = forward(each, at)
    s.begin(dict(given))
    root = kernel.root
    is_store = root.op is Op.STORE
    target, source = (root.src[0], root.src[1]) if is_store else (root,) * 2
    with ExitStack() as guard:
        for mask in masks:
            if mask is not None:
                guard.enter_context(s.b.when(mask))
        with s.moving(n):
            value = s.value(source, at)
            if is_store and root.arg == "add":
                value = s.b.alu("add", s.load(target, at, ()), value)
        s.store(target, flatten(at, target.shape), value, None)


def inside(s: SimtEmitter, place: Value, size: Dim, reach: int) -> Value | None:
    """Return whether a row or column exists; None if tiles of `reach` divide the axis."""
    if isinstance(size, int) and size % reach == 0:
        return None
    return s.b.alu("lt", place, s.extent(size))


def finish_tile(
    kernel: ContractLowering,
    s: SimtEmitter,
    tile: Tile,
    corner: tuple[Value, Value],
    sums: Mapping[Node, Registers],
) -> None:
    """Finish all outputs of a work-item; `corner` is (row, column) where the tile begins."""
    b, (top, left) = s.b, corner
    width = kernel.shape[kernel.axes.n]
    values = {core: [[b.get(x) for x in row] for row in rows] for core, rows in sums.items()}
    for r in range(tile.rows):
        row = b.add(top, rows_of(s, tile, r))
        for c in range(tile.columns):
            column = b.add(left, columns_of(s, tile, c))
            given = {
                core: lane(s, rows[r][c // VECTOR], c % VECTOR) for core, rows in values.items()
            }
            masks = (
                inside(s, row, kernel.m_size, tile.height),
                inside(s, column, width, tile.width),
            )
            finish(kernel, s, (row, column), given, masks)

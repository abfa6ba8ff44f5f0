"""Small operands that a kernel computes for itself, once per thread, into memory of its own.

In decode, what a matrix is multiplied with is a few rows: a norm, a rounding to int8, a sum of
partial results. A launch of its own would cost more than computing it again on every thread.
"""

from homebox.engine.codegen.linear import Value
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Conditions, holds
from homebox.engine.graph.ops import Node, Op, numel_max, size_max
from homebox.engine.graph.symbolic import Index, flatten, of
from homebox.engine.kernels.loops import LANES, Emitter
from homebox.engine.kernels.pack_kernels import emit_row


def emit_residents(e: Emitter, nodes: tuple[Node, ...]) -> None:
    """Compute nodes into the thread's memory at its first call; they are read from there.

    A node may be computed from those before it.
    """
    if not nodes:
        return
    b = e.b
    places = [b.emit("keep", n.dtype, 1, (), numel_max(n.shape)) for n in nodes]
    floor = e.floor
    with b.when(b.emit("first", dt.boolean)):
        e.floor = b.depth
        for each, place in zip(nodes, places, strict=True):
            if each.op is Op.PACK:
                _packed_rows(e, each, place)
            else:
                _rows(e, each, place)
            e.pointers[each] = place
            e.realised |= {each}
    e.floor = floor


def _packed_rows(e: Emitter, n: Node, place: Value) -> None:
    b = e.b
    row = e.counters.loop(size_max(n.shape[0]))
    with b.loop(b.int(0), b.int(row.size)) as i:
        e.env[row] = i
        start = b.mul(i, b.int(size_max(n.shape[1])))
        emit_row(e, n.src[0], of(row), place, start)


def _rows(e: Emitter, n: Node, place: Value) -> None:
    """Compute a float node in steps of 16 lanes along its last axis."""
    b = e.b
    *front, width = (size_max(d) for d in n.shape)
    outer = [e.counters.loop(size) for size in front]
    group, lane = e.counters.loop(-(-width // LANES)), e.counters.loop(LANES)
    column = of(group) * LANES + of(lane)
    index = (*(of(x) for x in outer), column)
    edge: Conditions = tuple(c for c in ((column, width),) if not holds(c))

    def nest(left: list[int]) -> None:
        if left:
            axis = left[0]
            with b.loop(b.int(0), b.int(front[axis])) as i:
                e.env[outer[axis]] = i
                nest(left[1:])
            return
        with b.loop(b.int(0), b.int(group.size)) as i, e.lanes(lane):
            e.env[group] = i
            value = b.splat(e.value(n, index, edge), LANES)
            base = e.integer(_unlaned(flatten(index, n.shape), of(lane)))
            b.store(place, base, value, e.mask(edge))

    nest(list(range(len(front))))


def _unlaned(flat: Index, lane: Index) -> Index:
    return flat + lane * -1

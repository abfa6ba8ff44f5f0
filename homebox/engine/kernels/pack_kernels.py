"""Kernels of PACK: rows of float32 numbers -> int8 blocks with scales (format a8).

A unit is one row. Each block of 32 is read as two times 16 lanes; its scale follows from the
largest magnitude, and its sum is kept beside it, because products with unsigned weights need it.
Invariant: the bytes are those of `formats.pack`.
"""

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.schedule import Lowered, MapSchedule, units_of
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BLOCK
from homebox.engine.graph.indexing import Conditions, Counters, holds
from homebox.engine.graph.ops import Node, Sym, size_max
from homebox.engine.graph.symbolic import Index, of
from homebox.engine.kernels.loops import LANES, Emitter

ROUND = 12582912.0  # 1.5 * 2^23: adding and subtracting it rounds to a whole number, ties to even


def lower_pack(root: Node, realised: frozenset[Node], syms: list[Sym]) -> Lowered:
    """Return the kernel of a PACK node for a CPU."""
    counters = Counters()
    e = Emitter(realised, counters, syms)
    e.written.add(root)
    b = e.b
    target = e.pointer(root, written=True)
    row = counters.loop(size_max(root.shape[0]))
    lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
    with b.loop(lo, hi) as unit:
        e.env[row] = unit
        start = b.mul(unit, b.int(size_max(root.shape[1])))
        emit_row(e, root.src[0], of(row), target, start)
    work = size_max(root.src[0].shape[1])
    units = units_of(root.shape[:1])
    return Lowered(b.kernel(), tuple(e.memory), units, MapSchedule(1, 0), work)


def emit_row(e: Emitter, source: Node, row: Index, target: Value, start: Value) -> None:
    """Write row `row` of source (m, k) as a8 bytes from byte `start` of `target` (u8) on."""
    b, k = e.b, size_max(source.shape[1])
    blocks = -(-k // BLOCK)
    block, lane = e.counters.loop(blocks), e.counters.loop(LANES)
    with b.loop(b.int(0), b.int(blocks)) as i:
        e.env[block] = i
        halves = []
        for half in (0, LANES):
            column = of(block) * BLOCK + of(lane) + half
            inside: Conditions = ((column, k),)
            edge = tuple(c for c in inside if not holds(c))
            with e.lanes(lane):
                value = b.splat(e.value(source, (row, column), edge), LANES)
                mask = e.mask(edge)
            zero = b.const(0.0, dt.f32, LANES)
            halves.append(value if mask is None else b.alu("where", mask, value, zero))
        write_block(e, halves, target, b.add(start, b.mul(i, b.int(8 + BLOCK))))


def write_block(e: Emitter, halves: list[Value], target: Value, at: Value) -> None:
    """Write 2 x 16 float32 as one block from byte `at` of `target` (u8) on."""
    b = e.b
    zero, rounder = b.const(0.0, dt.f32, LANES), b.const(ROUND, dt.f32, LANES)
    sizes = [b.alu("max", h, b.alu("sub", zero, h)) for h in halves]
    top = b.emit("tree", dt.f32, 1, (b.alu("max", *sizes),), "max")
    some = b.alu("lt", b.const(0.0, dt.f32), top)
    inverse = b.alu("div", b.const(127.0, dt.f32), top)
    inverse = b.alu("where", some, inverse, b.const(0.0, dt.f32))
    numbers = []
    for half in halves:
        scaled = b.alu("mul", half, b.splat(inverse, LANES))
        whole = b.alu("sub", b.alu("add", scaled, rounder), rounder)
        numbers.append(b.cast(whole, dt.i32))
    total = b.emit("tree", dt.i32, 1, (b.alu("add", *numbers),), "add")
    word = b.emit("idiv", dt.i64, 1, (at, b.int(4)))
    scale = b.alu("mul", top, b.const(1 / 127, dt.f32))
    b.store(b.view(target, dt.f32), word, scale)
    b.store(b.view(target, dt.i32), b.add(word, b.int(1)), total)
    bytes_ = b.view(target, dt.i8)
    for place, number in zip((8, 8 + LANES), numbers, strict=True):
        b.store(bytes_, b.add(at, b.int(place)), b.cast(number, dt.i8))

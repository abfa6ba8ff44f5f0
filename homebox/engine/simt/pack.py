"""PACK for work-groups: rows of float32 numbers -> int8 blocks with scales (format a8).

Eight work-items share a block of 32: each computes four numbers side by side and writes them as one
word. The largest magnitude and the sum of a block are exact in any order. If the row's expression
holds sums over the row, a group does one row after the other, else blocks are dealt out freely.
Invariant: the bytes are those of `formats.pack`.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.fusion.draft import Region
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BLOCK
from homebox.engine.graph.indexing import Counters, accesses, holds
from homebox.engine.graph.ops import Node, Sym, size_max
from homebox.engine.graph.symbolic import ZERO, of
from homebox.engine.kernels.loops import LANES
from homebox.engine.kernels.pack_kernels import ROUND
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import BUSY, LoweredSimt, Packing, Simt, Span

EACH = 4  # numbers of a work-item
NARROW = 64  # work-items of a group of few; a single row is dealt out to more processors
ITEMS = BLOCK // EACH  # work-items of a block
WORDS = (8 + BLOCK) // 4  # of a block


def lower_pack(
    region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
) -> LoweredSimt:
    """Return the kernel of a PACK node, and of one number for each row if the region has some."""
    return _Lowering(region, realised, syms, target).lower()


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where a group packs what its work-items hold: one number each, 32 neighbours a block."""

    s: SimtEmitter
    pointer: Value  # of the PACK
    scratch: Value  # local memory for twice `room` words
    room: int


@dataclass(frozen=True, slots=True)
class Item:
    """A work-item's number, 0 if it has none, and its place in the matrix.

    `at` is its place in local memory, where blocks begin at multiples of 32.
    """

    value: Value
    row: Value
    column: Value
    inside: Value | None
    at: Value


def write_blocks(o: Blocks, items: list[Item], width: int) -> None:
    """Write the blocks of all work-items' numbers, in rows of `width` bytes.

    Reached by the whole group, which reads local memory no more; each item is one for every
    work-item. The numbers are those of a PACK of its own.
    """
    s, b = o.s, o.s.b
    tops, totals = b.view(o.scratch, dt.f32), o.scratch
    zero = b.const(0.0, dt.f32)
    s.barrier()
    for item in items:
        size = b.alu("max", item.value, b.alu("sub", zero, item.value))
        b.store(tops, item.at, size)
    s.barrier()
    made = []
    for item in items:
        first = b.mul(s.divide(item.at, b.int(BLOCK))[0], b.int(BLOCK))
        top = _all_of(b, tops, first, "max")
        number = rounded(b, item.value, inverse_of(b, top))
        b.store(totals, b.add(item.at, b.int(o.room)), number)
        made.append((first, top, number))
    s.barrier()
    for item, (first, top, number) in zip(items, made, strict=True):
        with ExitStack() as nest:
            if item.inside is not None:
                nest.enter_context(b.when(item.inside))
            block, place = s.divide(item.column, b.int(BLOCK))
            start = b.add(b.mul(item.row, b.int(width)), b.mul(block, b.int(4 * WORDS)))
            byte = b.add(b.add(start, b.int(8)), place)
            b.store(b.view(o.pointer, dt.i8), byte, b.cast(number, dt.i8))
            with b.when(b.alu("lt", place, b.int(1))):
                word = b.add(b.mul(item.row, b.int(width // 4)), b.mul(block, b.int(WORDS)))
                scale = b.alu("mul", top, b.const(1 / 127, dt.f32))
                b.store(b.view(o.pointer, dt.f32), word, scale)
                total = _all_of(b, totals, b.add(first, b.int(o.room)), "add")
                b.store(b.view(o.pointer, dt.i32), b.add(word, b.int(1)), total)


def _all_of(b: Builder, memory: Value, first: Value, how: str) -> Value:
    """Return what 32 numbers of local memory amount to; exact in any order."""
    parts = [b.load(memory, b.add(first, b.int(i)), 4, aligned=True) for i in range(0, BLOCK, 4)]
    while len(parts) > 1:
        parts = [b.alu(how, parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
    return b.emit("tree", memory.dtype, 1, (parts[0],), how)


def inverse_of(b: Builder, top: Value) -> Value:
    """Return what a block with this largest magnitude is multiplied by."""
    inverse = b.alu("div", b.const(127.0, dt.f32), top)
    zero = b.const(0.0, dt.f32)
    return b.alu("where", b.alu("lt", zero, top), inverse, zero)


def rounded(b: Builder, value: Value, inverse: Value) -> Value:
    """Return a number of a block, i32 from -127 to 127."""
    rounder = b.const(ROUND, dt.f32)
    scaled = b.alu("mul", value, inverse)
    return b.cast(b.alu("sub", b.alu("add", scaled, rounder), rounder), dt.i32)


class _Lowering:
    """The lowering of one PACK node."""

    def __init__(
        self, region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
    ) -> None:
        root, self.also = region.root, region.also
        self.root, self.source = root, root.src[0]
        self.counters = Counters()
        self.s = SimtEmitter(realised, self.counters, syms)
        self.s.written.update(region.written)
        self.width = size_max(self.source.shape[1])
        self.chunks = -(-self.width // BLOCK) * ITEMS  # of four numbers
        self.row = self.counters.loop(size_max(root.shape[0]))
        self.chunk = self.counters.loop(self.chunks)
        index = (of(self.row), of(self.chunk) * EACH)
        reads = accesses(self.source, index, realised, self.counters)
        for each in self.also:
            reads += accesses(each, (index[0], ZERO), realised, self.counters)
        # Sums of a row are shared by its group; a work-item has those of its own columns.
        shared = [r for r in reads if r.inline and not any(i.depends(self.chunk) for i in r.index)]
        self.summed = bool(self.also) or (self.source not in realised and bool(shared))
        lengths = [size_max(r.node.src[0].shape[-1]) for r in shared]
        self.longest = max(lengths, default=0)
        self.group = LANES
        while self.group < target.group and self.group < self.chunks:
            self.group *= 2
        rows = size_max(root.shape[0])
        while not self.summed and self.group > NARROW and BUSY * self.group > rows * self.chunks:
            self.group //= 2
        self.target = target

    def lower(self) -> LoweredSimt:
        """Return the kernel."""
        s, b = self.s, self.s.b
        self.pointer = s.pointer(self.root, written=True)
        self.item = s.local()
        self.tops, self.totals = s.shared(dt.f32, self.group), s.shared(dt.i32, self.group)
        parts = -(-self.chunks // self.group)
        if self.summed:
            s.env[self.row] = s.group()
            s.share_group(self.group, self.longest, self.target.local_memory // 2)
            for each in self.also:
                value = s.value(each, (of(self.row), ZERO))
                with b.when(b.alu("lt", self.item, b.int(1))):
                    s.store(each, of(self.row), value, None)
            with b.loop(b.int(0), b.int(parts)) as part:
                self._part(part, parts)
            grid = Span((self.root.shape[0],))
        else:
            s.env[self.row], part = s.divide(s.group(), b.int(parts))
            self._part(part, parts)
            grid = Span((self.root.shape[0], parts))
        schedule = Packing(self.group, self.summed)
        return LoweredSimt(b.kernel((self.group,)), tuple(s.memory), (grid,), schedule)

    def _part(self, part: Value, parts: int) -> None:
        """Pack as many blocks of the row as the group holds at once."""
        s, b = self.s, self.s.b
        number = b.add(b.mul(part, b.int(self.group)), self.item)
        inside: Value | None = None
        if parts * self.group != self.chunks:
            inside = b.alu("lt", number, b.int(self.chunks))
            number = b.emit("min", dt.i64, 1, (number, b.int(self.chunks - 1)))
        s.env[self.chunk] = number
        with s.moving(self.chunk):
            values = [self._value(i) for i in range(EACH)]
        zero = b.const(0.0, dt.f32)
        sizes = [b.alu("max", v, b.alu("sub", zero, v)) for v in values]
        pairs = [b.alu("max", sizes[i], sizes[i + 1]) for i in (0, 2)]
        b.store(self.tops, self.item, b.alu("max", *pairs))
        s.barrier()
        top = self._eight(self.tops, "max")
        inverse = inverse_of(b, top)
        numbers = [rounded(b, value, inverse) for value in values]
        halves = [b.alu("add", numbers[i], numbers[i + 1]) for i in (0, 2)]
        b.store(self.totals, self.item, b.alu("add", *halves))
        s.barrier()
        with ExitStack() as nest:
            if inside is not None:
                nest.enter_context(b.when(inside))
            self._write(number, top, numbers)

    def _value(self, place: int) -> Value:
        """Return one of a work-item's four numbers; 0 beyond the row's end."""
        s, b = self.s, self.s.b
        column = of(self.chunk) * EACH + place
        edge = tuple(c for c in ((column, self.width),) if not holds(c))
        value = s.value(self.source, (of(self.row), column), edge)
        mask = s.mask(edge)
        return value if mask is None else b.alu("where", mask, value, b.const(0.0, dt.f32))

    def _eight(self, memory: Value, how: str) -> Value:
        """Return what the eight numbers of this block amount to."""
        s, b = self.s, self.s.b
        first = b.mul(s.divide(self.item, b.int(ITEMS))[0], b.int(ITEMS))
        both = [b.load(memory, b.add(first, b.int(i)), 4, aligned=True) for i in (0, 4)]
        return b.emit("tree", memory.dtype, 1, (b.alu(how, *both),), how)

    def _write(self, number: Value, top: Value, numbers: list[Value]) -> None:
        """Write a work-item's word; the first of eight writes scale and sum too."""
        s, b = self.s, self.s.b
        block, place = s.divide(number, b.int(ITEMS))
        start = b.mul(s.env[self.row], b.int(size_max(self.root.shape[1]) // 4))
        start = b.add(start, b.mul(block, b.int(WORDS)))
        words = b.view(self.pointer, dt.i32)
        word = b.alu("and", numbers[0], b.const(255, dt.i32))
        for i in range(1, EACH):
            byte = b.alu("and", numbers[i], b.const(255, dt.i32))
            word = b.alu("or", word, b.alu("shl", byte, b.const(8 * i, dt.i32)))
        b.store(words, b.add(b.add(start, b.int(2)), place), word)
        with b.when(b.alu("lt", place, b.int(1))):
            scale = b.alu("mul", top, b.const(1 / 127, dt.f32))
            b.store(b.view(self.pointer, dt.f32), start, scale)
            b.store(words, b.add(start, b.int(1)), self._eight(self.totals, "add"))

"""PACK for work-groups: rows of float32 numbers -> int8 blocks with scales (format a8).

Eight work-items share a block of 32: each computes four numbers side by side and writes them as one
word. The largest magnitude and the sum of a block are exact in any order. If the row's expression
holds sums over the row, a group does one row after the other, else blocks are dealt out freely.
Invariant: the bytes are those of `formats.pack`.
"""

from contextlib import ExitStack

from homebox.engine.codegen.linear import Value
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BLOCK
from homebox.engine.graph.indexing import Counters, accesses, holds
from homebox.engine.graph.ops import Node, Sym, size_max
from homebox.engine.graph.symbolic import of
from homebox.engine.kernels.loops import LANES
from homebox.engine.kernels.pack_kernels import ROUND
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import LoweredSimt, Packing, Simt, Span

EACH = 4  # numbers of a work-item
ITEMS = BLOCK // EACH  # work-items of a block
WORDS = (8 + BLOCK) // 4  # of a block


def lower_pack(root: Node, realised: frozenset[Node], syms: list[Sym], target: Simt) -> LoweredSimt:
    """Return the kernel of a PACK node."""
    return _Lowering(root, realised, syms, target).lower()


class _Lowering:
    """The lowering of one PACK node."""

    def __init__(
        self, root: Node, realised: frozenset[Node], syms: list[Sym], target: Simt
    ) -> None:
        self.root, self.source = root, root.src[0]
        self.counters = Counters()
        self.s = SimtEmitter(realised, self.counters, syms)
        self.s.written.add(root)
        self.width = size_max(self.source.shape[1])
        self.chunks = -(-self.width // BLOCK) * ITEMS  # of four numbers
        self.row = self.counters.loop(size_max(root.shape[0]))
        self.chunk = self.counters.loop(self.chunks)
        index = (of(self.row), of(self.chunk) * EACH)
        reads = accesses(self.source, index, realised, self.counters)
        self.summed = self.source not in realised and any(r.inline for r in reads)
        lengths = [size_max(r.node.src[0].shape[-1]) for r in reads if r.inline]
        self.longest = max(lengths, default=0)
        self.group = LANES
        while self.group < target.group and self.group < self.chunks:
            self.group *= 2
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
        zero, rounder = b.const(0.0, dt.f32), b.const(ROUND, dt.f32)
        sizes = [b.alu("max", v, b.alu("sub", zero, v)) for v in values]
        pairs = [b.alu("max", sizes[i], sizes[i + 1]) for i in (0, 2)]
        b.store(self.tops, self.item, b.alu("max", *pairs))
        s.barrier()
        top = self._eight(self.tops, "max")
        inverse = b.alu("div", b.const(127.0, dt.f32), top)
        inverse = b.alu("where", b.alu("lt", zero, top), inverse, zero)
        numbers = []
        for value in values:
            scaled = b.alu("mul", value, inverse)
            numbers.append(b.cast(b.alu("sub", b.alu("add", scaled, rounder), rounder), dt.i32))
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

"""Attention for work-groups: one pass over the keys with a running maximum (online softmax).

A group is (sequence, kv head, some rows[, split of the keys]); rows are queries times the query
heads that share the kv head. The work-items share out rows, keys and channels (`attend_blocks`).
Invariant: the bits are the CPU kernel's: each score is summed along channels in order, each output
along positions in order within a split, splits in order; a key that no row sees is not read.
"""

from contextlib import ExitStack

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.attend_reads import BLOCK
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import accesses, holds
from homebox.engine.graph.ops import Node, Sym
from homebox.engine.graph.symbolic import Index, flatten, of
from homebox.engine.graph.tensor import LOG2_E
from homebox.engine.kernels.attend_scores import share_of, share_with_sink, whole_power
from homebox.engine.kernels.attend_tiles import FLOOR
from homebox.engine.kernels.loops import LANES
from homebox.engine.simt.attend_blocks import FOUR, Blocks
from homebox.engine.simt.target import LoweredSimt, Simt, Span


def lower_attend(
    root: Node, realised: frozenset[Node], syms: list[Sym], target: Simt
) -> LoweredSimt:
    """Return the kernel of an ATTEND node. Raises EngineError if local memory is too small."""
    return _Lowering(root, realised, syms, target).lower()


class _Lowering(Blocks):
    """The lowering of one ATTEND node; `lower` is its only entrance."""

    def lower(self) -> LoweredSimt:
        """Return the kernel."""
        s, b, sizes = self.s, self.s.b, self.sizes
        tiles = -(-sizes.rows // self.schedule.rows)
        splits = sizes.splits if sizes.parts else 1
        number, split = s.divide(s.group(), b.int(splits))
        number, head = s.divide(number, b.int(sizes.heads))
        tile, batch = s.divide(number, b.int(sizes.batch))
        for w in (self.keys.w, self.values.w):
            s.env[w.head], s.env[w.batch] = head, batch
        # The last queries see most: they begin first.
        tile = b.alu("sub", b.int(tiles - 1), tile)
        self.first_row = b.mul(tile, b.int(self.schedule.rows))
        begin, end = self._bounds()
        if sizes.parts:
            begin, end = self._clipped(begin, end, split)
        self._queries(b.alu("lt", begin, end))
        if sizes.parts or sizes.splits == 1:
            self.reset()
            self.run(begin, end)
            self._meet()
            if sizes.parts:
                self._write_parts(split, b.alu("lt", begin, end))
            else:
                self._write(self.sums)
        else:
            self._splits(begin, end)
        grid = (Span((tiles * sizes.batch * sizes.heads * splits,)),)
        kernel = b.kernel((self.schedule.group,))
        return LoweredSimt(kernel, tuple(s.memory), grid, self.schedule)

    # -- what the rows see, and the rows --------------------------------------------------------

    def _bounds(self) -> tuple[Value, Value]:
        """Write the bounds of all rows; return the range of blocks that they see."""
        s, b, rows = self.s, self.s.b, self.schedule.rows
        zero, far = b.const(0, dt.i32), b.const(self.sizes.blocks * BLOCK, dt.i32)
        with b.loop(self.item, b.int(rows), self.schedule.group) as row:
            at, inside = self.row(row, self.row_counters())
            upper, lower = b.const(self.arg.keys, dt.i32), zero
            if "upper" in self.options:
                upper = b.emit("min", dt.i32, 1, (upper, s.value(self.options["upper"], at)))
            if "lower" in self.options:
                lower = b.emit("max", dt.i32, 1, (zero, s.value(self.options["lower"], at)))
            upper = b.alu("where", inside, upper, zero)
            some = b.alu("lt", lower, upper)
            b.store(self.upper, row, upper)
            b.store(self.lowest, row, lower)
            b.store(self.reach, row, b.alu("where", some, upper, zero))
            b.store(self.depth, row, b.alu("where", some, b.alu("sub", far, lower), zero))
        s.barrier()
        self.last = b.cast(self._most(self.reach), dt.i64)
        end = s.divide(b.add(self.last, b.int(BLOCK - 1)), b.int(BLOCK))[0]
        if "lower" not in self.options:
            return b.int(0), end
        least = b.alu("sub", far, self._most(self.depth))
        return s.divide(b.cast(least, dt.i64), b.int(BLOCK))[0], end

    def _most(self, memory: Value) -> Value:
        """Return the largest of a number of each row."""
        b, rows = self.s.b, self.schedule.rows
        lanes = min(FOUR, rows)
        found = [b.load(memory, b.int(i), lanes, aligned=lanes > 1) for i in range(0, rows, lanes)]
        while len(found) > 1:
            half = len(found) // 2
            found = [b.alu("max", found[i], found[i + half]) for i in range(half)]
        return found[0] if lanes == 1 else b.emit("tree", dt.i32, 1, (found[0],), "max")

    def _clipped(self, begin: Value, end: Value, split: Value) -> tuple[Value, Value]:
        """Return the part of a range of blocks that lies in a split."""
        b = self.s.b
        size = b.int(self.arg.split // BLOCK)
        first = b.mul(split, size)
        begin = b.emit("max", dt.i64, 1, (begin, first))
        return begin, b.emit("min", dt.i64, 1, (end, b.add(first, size)))

    def _queries(self, some: Value) -> None:
        """Write the queries of all rows times log2 e, if the group sees some key."""
        counters = self.row_counters()
        channel = self.counters.loop(self.sizes.wide)
        w = self.keys.w
        at = (of(w.batch), of(w.head), of(counters[1]), of(counters[0]), of(channel))
        query, realised = self.root.src[0], self.s.realised
        reads = accesses(query, at, realised, self.counters)
        if query not in realised and any(r.inline for r in reads):
            self._queries_by_rows(some)
            return
        b, wide = self.s.b, self.sizes.wide
        last = b.alu("where", some, b.int(self.schedule.rows * wide), b.int(0))
        with b.loop(self.item, last, self.schedule.group) as place:
            row, column = self.s.divide(place, b.int(wide))
            self.s.env[channel] = column
            index, _ = self.row(row, counters)
            self._query(row, column, index, of(channel))
        self.s.barrier()

    def _queries_by_rows(self, some: Value) -> None:
        """Do the same with sixteen work-items to a row, which share the sums along it."""
        s, b, rows = self.s, self.s.b, self.schedule.rows
        lines = self.schedule.group // LANES
        line, lane = s.share_rows(lines)
        counters, panel = self.row_counters(), self.counters.loop(self.sizes.wide // LANES)
        inside = self.counters.loop(LANES)
        s.env[inside] = lane
        last = b.alu("where", some, b.int(rows), b.int(0))
        with b.loop(b.int(0), last, lines) as first:
            row = b.add(first, line)
            index, _ = self.row(row, counters)
            s.begin({})
            with b.loop(b.int(0), b.int(panel.size)) as i, s.moving(inside):
                s.env[panel] = i
                column = b.add(b.mul(i, b.int(LANES)), lane)
                with ExitStack() as nest:
                    if rows < lines:
                        nest.enter_context(b.when(b.alu("lt", row, b.int(rows))))
                    self._query(row, column, index, of(panel) * LANES + of(inside))
        s.barrier()

    def _query(self, row: Value, column: Value, index: tuple[Index, ...], channel: Index) -> None:
        s, b = self.s, self.s.b
        edge = tuple(c for c in ((channel, self.sizes.dim),) if not holds(c))
        value = s.value(self.root.src[0], (*index, channel), edge)
        value = b.alu("mul", value, b.const(LOG2_E, dt.f32))
        mask = s.mask(edge)
        if mask is not None:
            value = b.alu("where", mask, value, b.const(0.0, dt.f32))
        b.store(self.q, b.add(b.mul(row, b.int(self.q_row)), column), value)

    # -- splits ---------------------------------------------------------------------------------

    def _splits(self, begin: Value, end: Value) -> None:
        """Work on all splits and join their sums as the graph does that R4 leaves behind."""
        b, size = self.s.b, self.arg.split // BLOCK
        passes = range(len(self.exponents))
        tops = [b.reg(b.const(FLOOR, dt.f32)) for _ in passes]
        totals = [b.reg(b.const(0.0, dt.f32)) for _ in passes]
        joined = [b.reg(b.const(0.0, dt.f32, t.lanes)) for t in self.sums]
        first = self.s.divide(begin, b.int(size))[0]
        last = self.s.divide(b.add(end, b.int(size - 1)), b.int(size))[0]
        with b.loop(first, last) as split:
            self.reset()
            self.run(*self._clipped(begin, end, split))
            self._meet()
            for i, row, lane in self.each_row():
                self._join(i, row, lane, split, (tops[i], totals[i]))
            self.s.barrier()
            count, row, _ = self.share()
            with self.some(count):
                for r, (out, part) in enumerate(zip(joined, self.sums, strict=True)):
                    at, lanes = b.add(row, b.int(r)), out.lanes
                    before = b.splat(b.load(self.before, at), lanes)
                    here = b.splat(b.load(self.here, at), lanes)
                    old = b.alu("mul", b.get(out), before)
                    b.set(out, b.alu("fma", b.get(part), here, old))
        for total, whole in zip(self.totals, totals, strict=True):
            b.set(total, b.get(whole))
        if self.sizes.sinks:
            for exponent, top in zip(self.exponents, tops, strict=True):
                b.set(exponent, b.get(top))
        self._meet()
        self._write(joined)

    def _join(
        self, number: int, row: Value, lane: Value, split: Value, whole: tuple[Value, Value]
    ) -> None:
        """Add a split's total to its lane of the row's, and write how the sums are scaled."""
        b, (top, total) = self.s.b, whole
        mine, old = b.get(self.exponents[number]), b.get(top)
        new = b.alu("max", mine, old)
        b.set(top, new)
        here = whole_power(b, b.alu("sub", mine, new))
        before = whole_power(b, b.alu("sub", old, new))
        with b.when(b.alu("lt", lane, b.int(1))):
            b.store(self.here, row, here)
            b.store(self.before, row, before)
        kept = b.alu("mul", b.get(total), before)
        more = b.alu("add", kept, b.alu("mul", self._row_total(row), here))
        turn = b.alu("eq", lane, self.s.divide(split, b.int(LANES))[1])
        b.set(total, b.alu("where", turn, more, kept))

    # -- results --------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Write the sixteen partial totals of each row to local memory, and its exponent."""
        b = self.s.b
        for i, row, lane in self.each_row():
            b.store(self.tops, b.add(b.mul(row, b.int(LANES)), lane), b.get(self.totals[i]))
            if self.sizes.sinks:
                with b.when(b.alu("lt", lane, b.int(1))):
                    b.store(self.peaks, row, b.get(self.exponents[i]))
        self.s.barrier()

    def _row_total(self, row: Value) -> Value:
        """Return the sum of a row's weights."""
        b = self.s.b
        at = b.mul(row, b.int(LANES))
        four = [b.load(self.tops, b.add(at, b.int(i)), FOUR, aligned=True) for i in (0, 4, 8, 12)]
        eight = [b.alu("add", four[0], four[2]), b.alu("add", four[1], four[3])]
        return b.emit("tree", dt.f32, 1, (b.alu("add", *eight),), "add")

    def _write(self, sums: list[Value]) -> None:
        """Divide each row by its total and write it."""
        s, b = self.s, self.s.b
        with b.loop(self.item, b.int(self.schedule.rows), self.schedule.group) as row:
            b.store(self.here, row, self._share(row, self._row_total(row)))
        s.barrier()
        count, row, channel = self.share()
        with self.some(count):
            for r, total in enumerate(sums):
                at = b.add(row, b.int(r))
                share = b.splat(b.load(self.here, at), total.lanes)
                self._write_row(at, channel, b.alu("mul", b.get(total), share), None)

    def _share(self, row: Value, total: Value) -> Value:
        """Return what the sums of a row are multiplied with."""
        s, b = self.s, self.s.b
        if self.sizes.sinks:
            at, _ = self.row(row, self.row_counters())
            sink = s.value(self.options["sinks"], at)
            return share_with_sink(b, sink, b.load(self.peaks, row), total)
        return share_of(b, total)

    def _write_parts(self, split: Value, some: Value) -> None:
        """Write a split's sums, exponents and totals as they are; of an empty one only the last."""
        b, sizes = self.s.b, self.sizes
        for i, row, lane in self.each_row():
            at, inside = self.row(row, self.row_counters())
            first = b.alu("and", inside, b.alu("lt", lane, b.int(1)))
            with b.when(first):
                place = flatten(self._place(at, Index(0)), self.root.shape)
                start = b.add(self.s.integer(place), split)
                exponent = b.add(start, b.int(sizes.splits * sizes.dim))
                b.store(self.target, exponent, b.get(self.exponents[i]))
                total = b.add(start, b.int(sizes.splits * (sizes.dim + 1)))
                b.store(self.target, total, self._row_total(row))
        count, row, channel = self.share()
        with self.some(count), b.when(some):
            for r, value in enumerate(self.sums):
                self._write_row(b.add(row, b.int(r)), channel, b.get(value), split)

    def _place(self, at: tuple[Index, ...], last: Index) -> tuple[Index, ...]:
        """Return the index of an output (B, T, H, G, ..) of a row (B, H, G, T)."""
        batch, head, shared, query = at
        return (batch, query, head, shared, last)

    def _write_row(self, row: Value, channel: Value, value: Value, split: Value | None) -> None:
        """Write some channels of a row, of a split if there is one."""
        s, b, dim = self.s, self.s.b, self.sizes.dim
        at, inside = self.row(row, self.row_counters())
        column = self.counters.loop(self.sizes.wide)
        s.env[column] = channel
        last = of(column)
        if split is not None:
            part = self.counters.loop(self.sizes.splits)
            s.env[part] = split
            last = last + of(part) * dim
        flat = flatten(self._place(at, last), self.root.shape)
        lanes = value.lanes
        even = flat.const % lanes == 0 and all(a == column or c % lanes == 0 for a, c in flat.terms)
        if self.sizes.wide > dim:
            inside = b.alu("and", inside, b.alu("lt", channel, b.int(dim)))
        with b.when(inside):
            b.store(self.target, s.integer(flat), value, aligned=even and lanes > 1)

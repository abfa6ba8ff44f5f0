"""Kernels of attention: one pass over the keys with a running maximum (online softmax).

A work unit is (sequence, kv head, block of queries[, split of the keys]); its rows are the queries
of the block times the query heads that share the kv head. For each block of 64 keys that some row
sees, tiles of rows compute scores, weights and weighted values in registers (`attend_tiles`).
Invariant: each score is summed along channels in order, each output along positions in order within
a split, splits in order; keys that a row does not see add nothing. So a row has the same bits in
any batch, at any place of any chunk.
"""

from collections.abc import Callable

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.attend_reads import BLOCK, PANEL
from homebox.engine.fusion.schedule import ContractSchedule, Lowered, Units
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Conditions, holds
from homebox.engine.graph.ops import Node, Sym
from homebox.engine.graph.symbolic import ZERO, flatten, of
from homebox.engine.graph.tensor import LOG2_E
from homebox.engine.kernels.attend_scores import share_of, share_with_sink, whole_power
from homebox.engine.kernels.attend_tiles import FEW_TILES, FLOOR, PANELS, UNROLL, Tiles
from homebox.engine.kernels.loops import LANES


def lower_attend(root: Node, realised: frozenset[Node], syms: list[Sym], vector: str) -> Lowered:
    """Return the kernel of an ATTEND node for a CPU with these registers (`cpu.VECTORS`)."""
    return _Lowering(root, realised, syms, vector).lower()


class _Lowering(Tiles):
    """The lowering of one ATTEND node; `lower` is its only entrance."""

    last: Value  # the block behind the last one that a row of the unit sees

    def lower(self) -> Lowered:
        """Return the kernel."""
        e, b, s = self.e, self.e.b, self.s
        splits = self.arg.splits if self.arg.parts else 1
        lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
        with b.loop(lo, hi) as unit:
            rest, places = unit, []
            for size in (splits, s.query_blocks, s.heads, s.batch):
                places.append(b.emit("mod", dt.i64, 1, (rest, b.int(size))))
                rest = b.emit("idiv", dt.i64, 1, (rest, b.int(size)))
            split, query_block, head, batch = places
            for w in (self.keys.w, self.values.w):
                e.env[w.head], e.env[w.batch] = head, batch
            self.first_query = b.mul(query_block, b.int(s.queries))
            self._unit(split)
        keys = min(self.arg.split, self.arg.keys) if self.arg.parts else self.arg.keys
        work = 2 * s.queries * s.groups * s.dim * keys
        schedule = ContractSchedule(s.rows, PANELS, s.tiles, UNROLL)
        units = Units(s.batch * s.heads * s.query_blocks * splits)
        return Lowered(b.kernel(), tuple(e.memory), units, schedule, work)

    def _unit(self, split: Value) -> None:
        b, arg = self.e.b, self.arg
        begin, self.last = self._bounds()
        end = self.last
        if arg.parts:
            begin, end = self._clipped(begin, end, b.mul(split, b.int(self.arg.split // BLOCK)))
            empty = b.alu("xor", b.alu("lt", begin, end), b.const(True, dt.boolean))
            with b.when(empty):  # most of a short past's splits: they cost next to nothing
                self._write_parts(split, empty=True)
            with b.when(b.alu("lt", begin, end)):
                self._queries()
                self._reset()
                self._blocks(begin, end)
                self._write_parts(split, empty=False)
            return
        self._queries()
        if arg.splits == 1:
            self._reset()
            self._blocks(begin, end)
            self._write(self.sums, self._row_total, self.exponent)
        else:
            self._splits(begin, end)
            self._write(self.joined, self._joined_total, self.top)

    # -- queries --------------------------------------------------------------------------------

    def _bounds(self) -> tuple[Value, Value]:
        """Compute the bounds of all rows; return the range of blocks that they see."""
        e, b, s = self.e, self.e.b, self.s
        zero, far = b.const(0, dt.i32), b.const(s.blocks * BLOCK, dt.i32)
        most, least = b.reg(zero), b.reg(far)
        with b.loop(b.int(0), b.int(s.queries)) as i, b.loop(b.int(0), b.int(s.groups)) as g:
            inside, row = self.stand_at(i, g), self.row(i, g)
            upper, lowest = b.const(self.arg.keys, dt.i32), zero
            if "upper" in self.options:
                value = e.value(self.options["upper"], self.at())
                upper = b.emit("min", dt.i32, 1, (upper, value))
            if "lower" in self.options:
                value = e.value(self.options["lower"], self.at())
                lowest = b.emit("max", dt.i32, 1, (zero, value))
            upper = b.alu("where", inside, upper, zero)
            b.store(self.upper, row, upper)
            b.store(self.lowest, row, lowest)
            some = b.emit("lt", dt.boolean, 1, (lowest, upper))
            upper, lowest = b.alu("where", some, upper, zero), b.alu("where", some, lowest, far)
            b.set(most, b.emit("max", dt.i32, 1, (b.get(most), upper)))
            b.set(least, b.emit("min", dt.i32, 1, (b.get(least), lowest)))
        with b.loop(b.int(s.queries * s.groups), b.int(s.tall)) as row:
            b.store(self.upper, row, zero)
            b.store(self.lowest, row, zero)
        after = b.add(b.cast(b.get(most), dt.i64), b.int(BLOCK - 1))
        end = b.emit("idiv", dt.i64, 1, (after, b.int(BLOCK)))
        return b.emit("idiv", dt.i64, 1, (b.cast(b.get(least), dt.i64), b.int(BLOCK))), end

    def _queries(self) -> None:
        """Compute the queries of all rows."""
        b, s = self.e.b, self.s
        with b.loop(b.int(0), b.int(s.queries)) as i, b.loop(b.int(0), b.int(s.groups)) as g:
            self.stand_at(i, g)
            self._query(self.row(i, g))
        with b.loop(b.int(s.queries * s.groups), b.int(s.tall)) as row:
            self.fill(self.q, row, s.wide)

    def _query(self, row: Value) -> None:
        """Compute the query of the row at which the counters stand, times log2 e."""
        e, b, s = self.e, self.e.b, self.s
        panel = self.counters.loop(s.wide // PANEL)
        channel = of(panel) * PANEL + of(self.lane)
        edge: Conditions = ((channel, s.dim),)
        edge = tuple(c for c in edge if not holds(c))
        with b.loop(b.int(0), b.int(s.wide // PANEL)) as i, e.lanes(self.lane):
            e.env[panel] = i
            value = b.splat(e.value(self.root.src[0], (*self.at(), channel), edge), LANES)
            value = b.alu("mul", value, b.const(LOG2_E, dt.f32, LANES))
            mask = e.mask(edge)
            if mask is not None:
                value = b.alu("where", mask, value, b.const(0.0, dt.f32, LANES))
            at = b.add(b.mul(row, b.int(s.wide)), b.mul(i, b.int(PANEL)))
            b.store(self.q, at, value)

    # -- keys -----------------------------------------------------------------------------------

    def _reset(self) -> None:
        """Start sums from nothing."""
        b, s = self.e.b, self.s
        with b.loop(b.int(0), b.int(s.tall)) as row:
            b.store(self.exponent, row, b.const(FLOOR, dt.f32))
            self.fill(self.total, row, LANES)
            self.fill(self.sums, row, s.wide)

    def _clipped(self, begin: Value, end: Value, first: Value) -> tuple[Value, Value]:
        """Return the part of a range of blocks that lies in the split which begins with `first`."""
        b = self.e.b
        last = b.add(first, b.int(self.arg.split // BLOCK))
        begin = b.emit("max", dt.i64, 1, (begin, first))
        return begin, b.emit("min", dt.i64, 1, (end, last))

    def _blocks(self, begin: Value, end: Value) -> None:
        e, b, s = self.e, self.e.b, self.s
        with b.loop(begin, end) as block:
            for operand in (self.keys, self.values):
                if s.tiles <= FEW_TILES:  # else memory is not what it waits for
                    after = b.add(block, b.int(1))
                    last = b.alu("sub", self.last, b.int(1))
                    e.env[operand.w.block] = b.emit("min", dt.i64, 1, (after, last))
                    operand.look_ahead()
                    e.begin({})  # what was computed for the next block does not hold for this one
                e.env[operand.w.block] = block
                operand.begin()
            start = b.mul(block, b.int(BLOCK))
            if s.tiles == 1:
                self.tile(b.int(0), start)
                return
            with b.loop(b.int(0), b.int(s.tiles)) as tile:
                self.tile(b.mul(tile, b.int(s.rows)), start)

    # -- splits ---------------------------------------------------------------------------------

    def _splits(self, begin: Value, end: Value) -> None:
        """Work on all splits and join their sums as the graph does that R4 leaves behind."""
        b, s = self.e.b, self.s
        size = b.int(self.arg.split // BLOCK)
        with b.loop(b.int(0), b.int(s.tall)) as row:
            b.store(self.top, row, b.const(FLOOR, dt.f32))
            self.fill(self.joined, row, s.wide)
            self.fill(self.exponents, row, self.columns, FLOOR)
            self.fill(self.totals, row, self.columns)
        first = b.emit("idiv", dt.i64, 1, (begin, size))
        last = b.emit("idiv", dt.i64, 1, (b.add(end, b.int(self.arg.split // BLOCK - 1)), size))
        with b.loop(first, last) as split:
            self._reset()
            self._blocks(*self._clipped(begin, end, b.mul(split, size)))
            with b.loop(b.int(0), b.int(s.tall)) as row:
                self._join(row, split)

    def _join(self, row: Value, split: Value) -> None:
        b, s = self.e.b, self.s
        mine, top = b.load(self.exponent, row), b.load(self.top, row)
        new = b.alu("max", mine, top)
        b.store(self.top, row, new)
        here = b.splat(whole_power(b, b.alu("sub", mine, new)), LANES)
        before = b.splat(whole_power(b, b.alu("sub", top, new)), LANES)
        with b.loop(b.int(0), b.int(s.wide), LANES) as i:
            at = b.add(b.mul(row, b.int(s.wide)), i)
            old = b.alu("mul", b.load(self.joined, at, LANES), before)
            b.store(self.joined, at, b.alu("fma", b.load(self.sums, at, LANES), here, old))
        at = b.add(b.mul(row, b.int(self.columns)), split)
        b.store(self.exponents, at, mine)
        b.store(self.totals, at, self._row_total(row))

    # -- results --------------------------------------------------------------------------------

    def _row_total(self, row: Value) -> Value:
        """Return the sum of a row's weights."""
        b = self.e.b
        lanes = b.load(self.total, b.mul(row, b.int(LANES)), LANES)
        return b.emit("tree", dt.f32, 1, (lanes,), "add")

    def _joined_total(self, row: Value) -> Value:
        """Return the sum of a row's weights over all splits."""
        b = self.e.b
        top = b.splat(b.load(self.top, row), LANES)
        total = b.reg(b.const(0.0, dt.f32, LANES))
        with b.loop(b.int(0), b.int(self.columns), LANES) as i:
            at = b.add(b.mul(row, b.int(self.columns)), i)
            scale = whole_power(b, b.alu("sub", b.load(self.exponents, at, LANES), top))
            part = b.alu("mul", b.load(self.totals, at, LANES), scale)
            b.set(total, b.alu("add", b.get(total), part))
        return b.emit("tree", dt.f32, 1, (b.get(total),), "add")

    def _write(self, sums: Value, total_of: Callable[[Value], Value], exponents: Value) -> None:
        """Divide each row by its total, which counts in 2 to an exponent, and write it."""
        b = self.e.b
        queries, groups = b.int(self.s.queries), b.int(self.s.groups)
        with b.loop(b.int(0), queries) as i, b.loop(b.int(0), groups) as g:
            inside, row = self.stand_at(i, g), self.row(i, g)
            with b.when(inside):
                share = self._share(total_of(row), exponents, row)
                self._write_row(sums, row, self._place(), b.splat(share, LANES))

    def _share(self, total: Value, exponents: Value, row: Value) -> Value:
        """Return what the sums of the row are multiplied with at which the counters stand."""
        e, b = self.e, self.e.b
        if "sinks" in self.options:
            exponent = b.load(exponents, row)
            return share_with_sink(b, e.value(self.options["sinks"], self.at()), exponent, total)
        return share_of(b, total)

    def _place(self) -> Value:
        """Return where the output of the row begins at which the counters stand."""
        batch, head, shared, query = self.at()
        return self.e.integer(flatten((batch, query, head, shared, ZERO), self.root.shape))

    def _write_row(self, sums: Value, row: Value, place: Value, share: Value | None) -> None:
        b, s = self.e.b, self.s
        for i in range(s.wide // PANEL):
            at = b.add(b.mul(row, b.int(s.wide)), b.int(i * PANEL))
            value = b.load(sums, at, LANES)
            if share is not None:
                value = b.alu("mul", value, share)
            left = s.dim - i * PANEL
            mask = None
            if left < PANEL:
                mask = b.alu("lt", b.lane(LANES), b.const(left, dt.i32, LANES))
            b.store(self.target, b.add(place, b.int(i * PANEL)), value, mask)

    def _write_parts(self, split: Value, empty: bool) -> None:
        """Write a split's sums, exponents and totals as they are; of an empty one only the last."""
        b, s, splits = self.e.b, self.s, self.arg.splits
        with b.loop(b.int(0), b.int(s.queries)) as i, b.loop(b.int(0), b.int(s.groups)) as g:
            inside, row = self.stand_at(i, g), self.row(i, g)
            with b.when(inside):
                place = self._place()
                exponent, total = b.const(FLOOR, dt.f32), b.const(0.0, dt.f32)
                if not empty:
                    exponent, total = b.load(self.exponent, row), self._row_total(row)
                    at = b.add(place, b.mul(split, b.int(s.dim)))
                    self._write_row(self.sums, row, at, None)
                at = b.add(b.add(place, split), b.int(splits * s.dim))
                b.store(self.target, at, exponent)
                b.store(self.target, b.add(at, b.int(splits)), total)

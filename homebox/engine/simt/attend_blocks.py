"""What a work-group of attention does with some blocks of 64 keys, between barriers.

Scores first: a work-item holds a few rows and keys and walks along the channels. Then sixteen
work-items a row find the running maximum and turn scores into weights. Then values: a work-item
holds a few rows and channels and walks along the positions. Scores and weights pass through local
memory, sums stay in registers.
Invariant: the additions are those of the CPU's kernel, in its order: scores along channels, sums
along positions, a row's total in sixteen lanes. Rescaling is by powers of two, hence exact.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.attend import Attend
from homebox.engine.fusion.attend_reads import BLOCK, PANEL, Read, Walk, key_read, value_read, walk
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Conditions, Counters, holds
from homebox.engine.graph.ops import Node, Sym, memory_of
from homebox.engine.graph.symbolic import Index, Loop, of
from homebox.engine.kernels.attend_scores import capped, power_below, whole_power
from homebox.engine.kernels.attend_tiles import FLOOR, NEVER
from homebox.engine.kernels.loops import LANES
from homebox.engine.kernels.polynomials import ROUND
from homebox.engine.simt.attend_shape import PAD, attention_schedule, sizes_of
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Simt

FOUR = 4  # numbers of local memory that are read at once
AHEAD = 64  # bytes of keys or values that a work-item of few rows has under way at once
MOST_READS = 32
BUSY = 8  # sums of a work-item from which arithmetic hides the reads
PANELS = BLOCK // PANEL

Row = tuple[Index, Index, Index, Index]  # (B, H, G, T) of a row


class Reader:
    """Keys or values as a work-item reads them: some numbers side by side, step by step."""

    def __init__(self, s: SimtEmitter, read: Read, w: Walk, wide: int) -> None:
        self.s, self.read, self.w, self.wide = s, read, w, wide
        self.pointer = s.b.view(s.pointer(read.base), read.dtype)
        self.step = read.flat.coefficient(w.step)
        self.aligned = _even(read.flat, w.lane, wide)
        self.scale = read.scale
        if self.scale is not None:
            self.scale_pointer = s.b.view(s.pointer(self.scale.base), dt.f32)

    def begin(self, block: Value, panel: Value, lane: Value) -> None:
        """Go to a block, and to a place of its panels; the first group and step."""
        w, env = self.w, self.s.env
        env[w.block], env[w.panel], env[w.lane] = block, panel, lane
        env[w.group] = env[w.step] = self.s.b.int(0)
        self.s.begin({})  # nothing that was read for another block holds
        self.start = self._start(self.read)
        self.valid = self.s.mask(self.read.conditions)
        if self.scale is not None:
            self.scale_start = self._start(self.scale)

    def _start(self, read: Read) -> Value:
        place, valid = self.s.integer(read.flat), self.s.mask(read.conditions)
        # What does not exist must not be read; the numbers read instead are not used.
        return place if valid is None else self.s.b.alu("where", valid, place, self.s.b.int(0))

    def group(self, group: Value) -> Value:
        """Return how far a group of channels is from the first one."""
        return self.s.b.mul(group, self.s.b.int(self.read.flat.coefficient(self.w.group)))

    def load(self, offset: Value, far: int = 0) -> Value:
        """Return the numbers at an offset as float32; a fixed distance comes last.

        So it can be a part of the instruction's address.
        """
        b = self.s.b
        at = b.add(b.add(self.start, offset), b.int(far))
        return b.cast(b.load(self.pointer, at, self.wide, aligned=self.aligned), dt.f32)

    def scales(self, offset: Value, count: int) -> Value:
        """Return scales that lie side by side at an offset from the first one."""
        b, scale = self.s.b, self.scale
        assert scale is not None
        aligned = _even(scale.flat, None, count) and count == FOUR
        return b.load(self.scale_pointer, b.add(self.scale_start, offset), count, aligned=aligned)


def _even(flat: Index, lane: Loop | None, wide: int) -> bool:
    """Whether a place is a multiple of `wide` if the lane is."""
    return flat.const % wide == 0 and all(a == lane or c % wide == 0 for a, c in flat.terms)


class Blocks:
    """The state of a group; `run` works on a range of blocks."""

    first_row: Value  # of the group; set before anything is computed
    last: Value  # the position behind the last one that a row of the group sees

    def __init__(self, root: Node, realised: frozenset[Node], syms: list[Sym], t: Simt) -> None:
        self.root = root
        arg: Attend = root.arg
        self.arg, self.sizes = arg, sizes_of(root)
        self.schedule = attention_schedule(t, self.sizes)
        self.counters = Counters()
        self.s = SimtEmitter(realised, self.counters, syms)
        self.s.written.add(memory_of(root))
        self.options = dict(zip(arg.options, root.src[3:], strict=True))
        keys, values = (walk(n, self.counters, n is root.src[1]) for n in root.src[1:3])
        assert keys is not None and values is not None
        key, value = key_read(root.src[1], keys), value_read(root.src[2], values)
        assert key is not None and value is not None
        self.target = self.s.pointer(root, written=True)
        self.keys = Reader(self.s, key, keys, self.schedule.scores[1])
        self.values = Reader(self.s, value, values, self.schedule.values[1])
        self.item = self.s.local()
        self._memory()
        self._registers()

    def _memory(self) -> None:
        """Reserve local memory: see `local_bytes`."""
        rows, blocks, shared = self.schedule.rows, self.schedule.blocks, self.s.shared
        self.q_row, self.score_row = self.sizes.wide + PAD, blocks * BLOCK + PAD
        self.q = shared(dt.f32, rows * self.q_row)
        self.scores = shared(dt.f32, rows * self.score_row)
        self.tops = shared(dt.f32, rows * blocks * LANES)  # [row][block][lane]
        self.factors = shared(dt.f32, rows * blocks)  # of the sums, for each block
        self.before, self.here = shared(dt.f32, rows), shared(dt.f32, rows)
        self.upper, self.lowest = shared(dt.i32, rows), shared(dt.i32, rows)
        self.reach, self.depth = shared(dt.i32, rows), shared(dt.i32, rows)
        if self.sizes.sinks:
            self.peaks = shared(dt.f32, rows)  # the exponents in which sums count at the end

    def _registers(self) -> None:
        """Reserve what stays in registers: sums, and the numbers of rows."""
        b, (down, across) = self.s.b, self.schedule.values
        zero = b.const(0.0, dt.f32)
        self.sums = [b.reg(b.const(0.0, dt.f32, across)) for _ in range(down)]
        passes = -(-self.schedule.rows * LANES // self.schedule.group)
        self.exponents = [b.reg(zero) for _ in range(passes)]
        self.totals = [b.reg(zero) for _ in range(passes)]

    # -- who does what --------------------------------------------------------------------------

    def row(self, number: Value, counters: tuple[Loop, Loop]) -> tuple[Row, Value]:
        """Point counters at a row of the group; return its index and whether it exists."""
        s, b = self.s, self.s.b
        place = b.add(self.first_row, number)
        inside = b.alu("lt", place, b.int(self.sizes.rows))
        place = b.emit("min", dt.i64, 1, (place, b.int(self.sizes.rows - 1)))
        query, shared = s.divide(place, b.int(self.sizes.groups))
        s.env[counters[0]], s.env[counters[1]] = query, shared
        w = self.keys.w
        return (of(w.batch), of(w.head), of(counters[1]), of(counters[0])), inside

    def row_counters(self) -> tuple[Loop, Loop]:
        """Return new counters of a row's query and head."""
        return self.counters.loop(self.sizes.length), self.counters.loop(self.sizes.groups)

    def each_row(self) -> Iterator[tuple[int, Value, Value]]:
        """Yield (pass, row, lane): sixteen work-items to a row, all rows in some passes."""
        b, group, rows = self.s.b, self.schedule.group, self.schedule.rows
        line, lane = self.s.divide(self.item, b.int(LANES))
        for i in range(len(self.exponents)):
            with ExitStack() as nest:
                if rows * LANES < group:
                    nest.enter_context(b.when(b.alu("lt", self.item, b.int(rows * LANES))))
                yield i, b.add(line, b.int(i * (group // LANES))), lane

    @contextmanager
    def some(self, count: int) -> Iterator[None]:
        """Do something on the first `count` work-items only."""
        with ExitStack() as nest:
            if count < self.schedule.group:
                nest.enter_context(
                    self.s.b.when(self.s.b.alu("lt", self.item, self.s.b.int(count)))
                )
            yield

    def share(self) -> tuple[int, Value, Value]:
        """Return how many work-items hold sums, and this one's first row and channel."""
        b, (down, across) = self.s.b, self.schedule.values
        columns = self.sizes.wide // across
        line, column = self.s.divide(self.item, b.int(columns))
        count = self.schedule.rows // down * columns
        return count, b.mul(line, b.int(down)), b.mul(column, b.int(across))

    # -- the run over keys ----------------------------------------------------------------------

    def reset(self) -> None:
        """Start sums from nothing."""
        b = self.s.b
        for total in (*self.sums, *self.totals):
            b.set(total, b.const(0.0, dt.f32, total.lanes))
        for exponent in self.exponents:
            b.set(exponent, b.const(FLOOR, dt.f32))

    def run(self, begin: Value, end: Value) -> None:
        """Add the blocks from `begin` to `end` - 1 to the sums."""
        b, s = self.s.b, self.s
        with b.loop(begin, end, self.schedule.blocks) as first:
            self._scores(first, end)
            s.barrier()
            for _, row, lane in self.each_row():
                self._mask(first, row, lane)
            s.barrier()
            for i, row, lane in self.each_row():
                self._weights(i, row, lane)
            s.barrier()
            count, row, channel = self.share()
            with self.some(count):
                self._accumulate(first, end, row, channel)
            s.barrier()

    # -- scores ---------------------------------------------------------------------------------

    def _scores(self, first: Value, end: Value) -> None:
        """Write the scores of all rows and of the keys of some blocks."""
        b, (down, across) = self.s.b, self.schedule.scores
        columns = self.schedule.blocks * BLOCK // across
        tasks = columns * self.schedule.rows // down

        def task(number: Value) -> None:
            line, column = self.s.divide(number, b.int(columns))
            row, key = b.mul(line, b.int(down)), b.mul(column, b.int(across))
            block, inside = self.s.divide(key, b.int(BLOCK))
            block = b.add(first, block)
            totals = [b.reg(b.const(0.0, dt.f32, across)) for _ in range(down)]
            with ExitStack() as nest:
                if self.schedule.blocks > 1:
                    nest.enter_context(b.when(b.alu("lt", block, end)))
                self.keys.begin(block, *self.s.divide(inside, b.int(PANEL)))
                self._channels(row, totals)
            for r, total in enumerate(totals):
                at = b.add(b.mul(b.add(row, b.int(r)), b.int(self.score_row)), key)
                b.store(self.scores, at, b.get(total), aligned=across <= FOUR)

        if tasks > self.schedule.group:
            with b.loop(self.item, b.int(tasks), self.schedule.group) as number:
                task(number)
        else:
            with self.some(tasks):
                task(self.item)

    def _channels(self, row: Value, totals: list[Value]) -> None:
        """Multiply rows with keys over all channels."""
        b, k = self.s.b, self.keys
        q_at = b.mul(row, b.int(self.q_row))
        if k.scale is None:
            self._products(totals, q_at, b.int(0), self.sizes.dim)
        else:
            width = k.w.width
            with b.loop(b.int(0), b.int(self.sizes.dim // width)) as group:
                parts = [b.reg(b.const(0.0, dt.f32, t.lanes)) for t in totals]
                at = b.add(q_at, b.mul(group, b.int(width)))
                self._products(parts, at, k.group(group), width)
                far = b.mul(group, b.int(k.scale.flat.coefficient(k.w.group)))
                scale = k.scales(far, totals[0].lanes)
                for total, part in zip(totals, parts, strict=True):
                    b.set(total, b.alu("fma", b.get(part), scale, b.get(total)))
        if k.valid is not None:
            for total in totals:
                none = b.const(0.0, dt.f32, total.lanes)
                b.set(total, b.alu("where", k.valid, b.get(total), none))

    def _products(self, totals: list[Value], q_at: Value, k_at: Value, count: int) -> None:
        """Add q times k over `count` channels: the first hot loop."""
        b, k = self.s.b, self.keys

        def step(d: Value, steps: int) -> None:
            offset = b.add(k_at, b.mul(d, b.int(k.step)))
            loaded = [k.load(offset, u * k.step) for u in range(steps)]
            rows = [b.add(b.add(q_at, d), b.int(r * self.q_row)) for r in range(len(totals))]
            for at in range(0, steps, FOUR):
                some = loaded[at : at + FOUR]
                for r, total in enumerate(totals):
                    place = b.add(rows[r], b.int(at))
                    for factor, key in zip(
                        self._four(self.q, place, len(some), total.lanes), some, strict=True
                    ):
                        b.set(total, b.alu("fma", factor, key, b.get(total)))

        turn = min(self._turn(k, len(totals) * totals[0].lanes), max(FOUR, count // FOUR * FOUR))
        whole = count // turn * turn
        with b.loop(b.int(0), b.int(whole), turn) as d:
            step(d, turn)
        if whole < count:
            with b.loop(b.int(whole), b.int(count)) as d:
                step(d, 1)

    def _four(self, memory: Value, at: Value, steps: int, lanes: int) -> list[Value]:
        """Return 4 numbers (or 1) that lie side by side in local memory, each in all lanes."""
        b = self.s.b
        if steps == 1:
            return [b.splat(b.load(memory, at), lanes)]
        return self._split(b.load(memory, at, FOUR, aligned=True), lanes)

    def _split(self, four: Value, lanes: int) -> list[Value]:
        b = self.s.b
        return [b.emit("shuffle", dt.f32, lanes, (four, four), (i,) * lanes) for i in range(FOUR)]

    def _turn(self, reader: Reader, held: int) -> int:
        """Return how many steps are read before they are used, if `held` sums use each."""
        if held > BUSY:
            return 2 * FOUR
        reads = AHEAD // (reader.wide * reader.read.dtype.size)
        return max(2 * FOUR, min(MOST_READS, reads))

    # -- weights --------------------------------------------------------------------------------

    def _mask(self, first: Value, row: Value, lane: Value) -> None:
        """Mask a row's scores, four of each block to a work-item, and write their maximum."""
        b, blocks = self.s.b, self.schedule.blocks
        for j in range(blocks):
            tops: list[Value] = []
            for i in range(PANELS):
                key = b.add(lane, b.int(j * BLOCK + i * PANEL))
                at = b.add(b.mul(row, b.int(self.score_row)), key)
                seen = self._seen(first, row, lane, j, i)
                never = b.const(NEVER, dt.f32)
                score = capped(b, b.load(self.scores, at), self.arg.cap)
                masked = b.alu("where", seen, score, never)
                b.store(self.scores, at, masked)
                tops.append(masked)
            pairs = [b.alu("max", tops[i], tops[i + 1]) for i in range(0, PANELS, 2)]
            place = b.add(b.mul(b.add(b.mul(row, b.int(blocks)), b.int(j)), b.int(LANES)), lane)
            b.store(self.tops, place, b.alu("max", *pairs))

    def _seen(self, first: Value, row: Value, lane: Value, j: int, panel: int) -> Value:
        """Return whether a row sees a key."""
        s, b = self.s, self.s.b
        start = b.add(b.mul(first, b.int(BLOCK)), b.int(j * BLOCK + panel * PANEL))
        place = b.cast(b.add(start, lane), dt.i32)
        seen = b.alu("lt", place, b.load(self.upper, row))
        if "lower" in self.options:
            early = b.alu("lt", place, b.load(self.lowest, row))
            seen = b.alu("and", seen, b.alu("xor", early, b.const(True, dt.boolean)))
        if "mask" in self.options:
            at, _ = self.row(row, self.row_counters())
            block, inside = self.counters.loop(self.sizes.blocks), self.counters.loop(LANES)
            s.env[block], s.env[inside] = first, lane
            key = of(block) * BLOCK + of(inside) + (j * BLOCK + panel * PANEL)
            inside_all: Conditions = ((key, self.arg.keys),)
            edge = tuple(c for c in inside_all if not holds(c))
            seen = b.alu("and", seen, s.value(self.options["mask"], (*at, key), edge))
        return seen

    def _weights(self, number: int, row: Value, lane: Value) -> None:
        """Turn a row's scores into weights below the running maximum, block by block."""
        b, blocks = self.s.b, self.schedule.blocks
        exponent, total = self.exponents[number], self.totals[number]
        rounder = b.const(ROUND, dt.f32)
        for j in range(blocks):
            place = b.add(b.mul(row, b.int(blocks)), b.int(j))
            top = self._top(b.mul(place, b.int(LANES)))
            whole = b.alu("sub", b.alu("add", top, rounder), rounder)
            old = b.get(exponent)
            new = b.alu("max", whole, old)
            b.set(exponent, new)
            factor = whole_power(b, b.alu("sub", old, new))
            with b.when(b.alu("lt", lane, b.int(1))):
                b.store(self.factors, place, factor)
            shift = b.bitcast(b.alu("add", new, rounder), dt.i32)
            weights = []
            for i in range(PANELS):
                key = b.add(lane, b.int(j * BLOCK + i * PANEL))
                at = b.add(b.mul(row, b.int(self.score_row)), key)
                weight = power_below(b, b.load(self.scores, at), shift)
                b.store(self.scores, at, weight)
                weights.append(weight)
            halves = [b.alu("add", weights[i], weights[i + 1]) for i in range(0, PANELS, 2)]
            b.set(total, b.alu("fma", b.get(total), factor, b.alu("add", *halves)))

    def _top(self, at: Value) -> Value:
        """Return the largest of sixteen numbers."""
        b = self.s.b
        four = [b.load(self.tops, b.add(at, b.int(i)), FOUR, aligned=True) for i in (0, 4, 8, 12)]
        most = b.alu("max", b.alu("max", four[0], four[1]), b.alu("max", four[2], four[3]))
        return b.emit("tree", dt.f32, 1, (most,), "max")

    # -- values ---------------------------------------------------------------------------------

    def _accumulate(self, first: Value, end: Value, row: Value, channel: Value) -> None:
        """Scale the sums and add weights times values, block by block."""
        b, blocks = self.s.b, self.schedule.blocks
        if blocks == 1:
            self._block(first, b.int(0), row, channel)
            return
        left = b.alu("sub", end, first)
        here = b.emit("min", dt.i64, 1, (b.int(blocks), left))
        with b.loop(b.int(0), here) as j:
            self._block(b.add(first, j), j, row, channel)

    def _block(self, block: Value, j: Value, row: Value, channel: Value) -> None:
        b, v, blocks = self.s.b, self.values, self.schedule.blocks
        group, inside = self.s.divide(channel, b.int(v.w.width))
        v.begin(block, *self.s.divide(inside, b.int(PANEL)))
        for r, total in enumerate(self.sums):
            place = b.add(b.mul(b.add(row, b.int(r)), b.int(blocks)), j)
            factor = b.splat(b.load(self.factors, place), total.lanes)
            b.set(total, b.alu("mul", b.get(total), factor))
        # As many positions as some row sees: what lies behind was perhaps never written.
        left = b.alu("sub", self.last, b.mul(block, b.int(BLOCK)))
        count = b.emit("min", dt.i64, 1, (b.int(BLOCK), left))
        self._positions(row, b.mul(j, b.int(BLOCK)), group, count)

    def _positions(self, row: Value, start: Value, group: Value, count: Value) -> None:
        """Add weights times values over some positions of a block: the second hot loop."""
        b, v = self.s.b, self.values
        w_at = b.add(b.mul(row, b.int(self.score_row)), start)
        v_at = v.group(group)
        scale_at = b.int(0)
        if v.scale is not None:
            scale_at = b.mul(group, b.int(v.scale.flat.coefficient(v.w.group)))

        def step(p: Value, steps: int, limit: Value | None) -> None:
            offset = b.add(v_at, b.mul(p, b.int(v.step)))
            if limit is None:
                loaded = [v.load(offset, u * v.step) for u in range(steps)]
            else:
                places = (
                    b.emit("min", dt.i64, 1, (b.add(p, b.int(u)), limit)) for u in range(steps)
                )
                loaded = [v.load(b.add(v_at, b.mul(place, b.int(v.step)))) for place in places]
            rows = [b.add(b.add(w_at, p), b.int(r * self.score_row)) for r in range(len(self.sums))]
            for at in range(0, steps, FOUR):
                first = b.add(p, b.int(at))
                scale = self._scale(b.add(scale_at, first), first, limit)
                for r, total in enumerate(self.sums):
                    weight = self._weight(b.add(rows[r], b.int(at)), scale)
                    for factor, value in zip(
                        self._split(weight, total.lanes), loaded[at : at + FOUR], strict=True
                    ):
                        b.set(total, b.alu("fma", factor, value, b.get(total)))

        turn = self._turn(v, len(self.sums) * self.sums[0].lanes)
        whole = b.mul(self.s.divide(count, b.int(turn))[0], b.int(turn))
        with b.loop(b.int(0), whole, turn) as p:
            step(p, turn, None)
        # Behind the last position weights are 0, but what lies there was perhaps never written.
        with b.when(b.alu("lt", whole, count)):
            step(whole, turn, b.alu("sub", count, b.int(1)))

    def _scale(self, at: Value, first: Value, limit: Value | None) -> Value | None:
        """Return the scales of four positions, 0 for those behind the limit."""
        b = self.s.b
        if self.values.scale is None:
            return None
        scale = self.values.scales(at, FOUR)
        if limit is None:
            return scale
        start = b.splat(b.cast(first, dt.i32), FOUR)
        place = b.alu("add", start, b.lane(FOUR))
        behind = b.alu("lt", b.splat(b.cast(limit, dt.i32), FOUR), place)
        return b.alu("where", behind, b.const(0.0, dt.f32, FOUR), scale)

    def _weight(self, at: Value, scale: Value | None) -> Value:
        """Return four weights of a row, times the values' scales."""
        b = self.s.b
        weight = b.load(self.scores, at, FOUR, aligned=True)
        if self.values.valid is not None:
            none = b.const(0.0, dt.f32, FOUR)
            weight = b.emit("where", dt.f32, FOUR, (self.values.valid, weight, none))
        return weight if scale is None else b.alu("mul", weight, scale)

"""What attention does with a block of 64 keys for a tile of rows: the two hot loops.

Scores are products of queries, which lie in the thread's memory, and keys; weights are powers of 2
below a running maximum; sums are products of weights and values. All state of a unit is in memory
of its own, a row after the other, and this is the only place that updates it.
Invariant: every rescaling is by a power of two, hence exact; what a row does not see adds nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.attend import Attend
from homebox.engine.fusion.attend_reads import (
    BLOCK,
    GROUP,
    PANEL,
    Read,
    Walk,
    key_read,
    value_read,
    walk,
)
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.indexing import Counters, holds
from homebox.engine.graph.ops import Node, Sym, memory_of
from homebox.engine.graph.symbolic import ZERO, Index, of, replace
from homebox.engine.kernels.attend_scores import capped, power_below, whole_power
from homebox.engine.kernels.loops import LANES, Emitter
from homebox.engine.kernels.polynomials import ROUND

FLOOR = -2097152.0  # exponent of a row that has seen nothing; scores below 2^it count as nothing
NEVER = float("-inf")
TALL = 48  # rows of a unit, about
TILE_ROWS = 6
REGISTERS = {"avx512": 24, "avx2": 6, "generic": 4}  # sums of 16 lanes that a tile may hold
PANELS = BLOCK // PANEL
UNROLL = 4
LINE = 64  # bytes
FEW_TILES = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one attention: see `Attend`; `queries` of a unit, `rows` of a tile."""

    batch: int
    heads: int
    groups: int
    length: int  # queries of a sequence
    dim: int
    blocks: int  # of 64 keys
    queries: int
    rows: int
    tiles: int

    @property
    def wide(self) -> int:
        """Channels rounded up to whole panels."""
        return -(-self.dim // PANEL) * PANEL

    @property
    def tall(self) -> int:
        """Rows of a unit, rounded up to whole tiles."""
        return self.rows * self.tiles

    @property
    def query_blocks(self) -> int:
        """Units along the queries."""
        return -(-self.length // self.queries)


def shape_of(root: Node, vector: str) -> Shape:
    """Choose the tiles for an ATTEND node; they do not change bits."""
    batch, heads, groups, length, dim = (d for d in root.src[0].shape if isinstance(d, int))
    keys = root.src[1].shape[2]
    assert isinstance(keys, int)
    blocks = -(-length // max(1, TALL // groups))
    queries = -(-length // blocks)
    most = min(TILE_ROWS, REGISTERS[vector])
    tiles = -(-queries * groups // most)
    rows = -(-queries * groups // tiles)
    return Shape(batch, heads, groups, length, dim, keys // BLOCK, queries, rows, tiles)


class Operand:
    """Keys or values as the kernel reads them: where they begin, and how far things are apart."""

    def __init__(self, e: Emitter, read: Read, w: Walk) -> None:
        self.e, self.read, self.w = e, read, w
        self.pointer = e.b.view(e.pointer(read.base), read.dtype)
        self.step = read.flat.coefficient(w.step)
        self.scale = read.scale
        self.next: Value | None = None

    def begin(self) -> None:
        """Find the block at which the counters stand."""
        self.start = self._start(self.read)
        self.valid = self.e.mask(self.read.conditions)
        if self.scale is not None:
            self.scale_pointer = self.e.b.view(self.e.pointer(self.scale.base), dt.f32)
            self.scale_start = self._start(self.scale)

    def look_ahead(self) -> None:
        """Find the block at which the counters stand, to be fetched but not read yet."""
        self.next = self._start(self.read)

    def fetch(self, offset: Value, panels: int) -> None:
        """Fetch what `UNROLL` steps will read of the next block, from an offset in it."""
        b, size = self.e.b, self.read.dtype.size
        if self.next is None or self.step != panels * PANEL:
            return  # it does not lie in one piece
        for i in range(0, UNROLL * self.step, LINE // size):
            b.prefetch(self.pointer, b.add(self.next, b.add(offset, b.int(i))))

    def _start(self, read: Read) -> Value:
        flat = read.flat
        for counter in self.w.inner:
            flat = replace(flat, counter, ZERO)
        place, valid = self.e.integer(flat), self.e.mask(read.conditions)
        # What does not exist must not be read; the numbers read instead are not used.
        return place if valid is None else self.e.b.alu("where", valid, place, self.e.b.int(0))

    def panel(self, i: int) -> int:
        """Return how far panel i is from the first one."""
        flat, size = self.read.flat, self.w.panel.size
        return flat.coefficient(self.w.group) * (i // size) + flat.coefficient(self.w.panel) * (
            i % size
        )

    def load(self, offset: Value) -> Value:
        """Return 16 numbers as float32, at an offset in the block."""
        b = self.e.b
        return b.cast(b.load(self.pointer, b.add(self.start, offset), LANES), dt.f32)

    def group(self, group: Value) -> Value:
        """Return how far a group of channels is from the first one."""
        return self.e.b.mul(group, self.e.b.int(self.read.flat.coefficient(self.w.group)))

    def scales(self, group: Value, i: int) -> Value:
        """Return a group's scales of the 16 positions of panel i of the block."""
        b, scale = self.e.b, self.scale
        assert scale is not None
        far = scale.flat.coefficient(self.w.panel) * i
        if self.w.step.size == BLOCK:  # of values: positions are the steps
            far = scale.flat.coefficient(self.w.step) * PANEL * i
        at = b.mul(group, b.int(scale.flat.coefficient(self.w.group)))
        return b.load(self.scale_pointer, b.add(self.scale_start, b.add(at, b.int(far))), LANES)


class Tiles:
    """The state of a unit, and what a block of keys does to it; `tile` is the entrance."""

    first_query: Value  # of the unit; set before anything is computed

    def __init__(self, root: Node, realised: frozenset[Node], syms: list[Sym], vector: str) -> None:
        self.root = root
        arg: Attend = root.arg
        self.arg, self.s = arg, shape_of(root, vector)
        self.registers = REGISTERS[vector]
        self.counters = Counters()
        self.e = Emitter(realised, self.counters, syms)
        self.e.written.add(memory_of(root))
        self.options = dict(zip(arg.options, root.src[3:], strict=True))
        keys, values = (walk(n, self.counters, n is root.src[1]) for n in root.src[1:3])
        assert keys is not None and values is not None
        key, value = key_read(root.src[1], keys), value_read(root.src[2], values)
        assert key is not None and value is not None
        self.target = self.e.pointer(root, written=True)
        self.keys = Operand(self.e, key, keys)
        self.values = Operand(self.e, value, values)
        self.query = self.counters.loop(self.s.length)
        self.shared = self.counters.loop(self.s.groups)
        self.lane = self.counters.loop(LANES)
        self._stacks()

    def _stacks(self) -> None:
        """Reserve the unit's private memory."""
        s = self.s
        self.q, self.sums = self._stack(s.tall * s.wide), self._stack(s.tall * s.wide)
        self.weights = self._stack(s.rows * BLOCK)
        if self.values.scale is not None:
            self.scaled = self._stack(s.rows * BLOCK)
        self.exponent, self.total = self._stack(s.tall), self._stack(s.tall * LANES)
        self.upper, self.lowest = self._stack(s.tall, dt.i32), self._stack(s.tall, dt.i32)
        if self.arg.splits > 1 and not self.arg.parts:
            self.columns = -(-self.arg.splits // LANES) * LANES
            self.joined, self.top = self._stack(s.tall * s.wide), self._stack(s.tall)
            self.exponents = self._stack(s.tall * self.columns)
            self.totals = self._stack(s.tall * self.columns)

    def _stack(self, count: int, kind: DType = dt.f32) -> Value:
        return self.e.b.emit("stack", kind, 1, (), count)

    # -- rows -----------------------------------------------------------------------------------

    def row(self, query: Value, shared: Value) -> Value:
        """Return the number of a row in the unit."""
        return self.e.b.add(self.e.b.mul(query, self.e.b.int(self.s.groups)), shared)

    def stand_at(self, query: Value, shared: Value) -> Value:
        """Point the counters at a row of the unit; return whether it exists."""
        e, b = self.e, self.e.b
        place = b.add(self.first_query, query)
        inside = b.emit("lt", dt.boolean, 1, (place, b.int(self.s.length)))
        e.env[self.query] = b.emit("min", dt.i64, 1, (place, b.int(self.s.length - 1)))
        e.env[self.shared] = shared
        e.begin({})  # nothing that was computed for another row holds
        return inside

    def at(self) -> tuple[Index, ...]:
        """Return the index (B, H, G, T) of the row at which the counters stand."""
        w = self.keys.w
        return of(w.batch), of(w.head), of(self.shared), of(self.query)

    def fill(self, memory: Value, row: Value, count: int, value: float = 0.0) -> None:
        """Set a row of `count` numbers, a multiple of 16."""
        b = self.e.b
        number = b.const(value, dt.f32, LANES)
        with b.loop(b.int(0), b.int(count), LANES) as i:
            b.store(memory, b.add(b.mul(row, b.int(count)), i), number)

    # -- scores ---------------------------------------------------------------------------------

    def tile(self, row: Value, start: Value) -> None:
        """Work on one block of keys, from position `start` on, for a tile of rows."""
        b = self.e.b
        upper = b.load(self.upper, row)
        for r in range(1, self.s.rows):
            other = b.load(self.upper, b.add(row, b.int(r)))
            upper = b.emit("max", dt.i32, 1, (upper, other))
        left = b.alu("sub", b.cast(upper, dt.i64), start)
        with b.when(b.alu("lt", b.int(0), left)):
            scores = self._scores(row)
            factors = self._weights(row, start, scores)
            self._accumulate(row, b.emit("min", dt.i64, 1, (b.int(BLOCK), left)), factors)

    def _panels(self, count: int, one_group: bool) -> int:
        """Return how many panels a tile takes at once."""
        for panels in (8, 4, 2):
            fits = self.s.rows * panels <= self.registers and count % panels == 0
            if fits and (not one_group or panels <= GROUP // PANEL):
                return panels
        return 1

    def _zeros(self, panels: int) -> list[list[Value]]:
        b = self.e.b
        zero = b.const(0.0, dt.f32, LANES)
        return [[b.reg(zero) for _ in range(panels)] for _ in range(self.s.rows)]

    def _scores(self, row: Value) -> list[list[Value]]:
        """Return the scores of a tile: for each row four times 16 positions."""
        b, s, k = self.e.b, self.s, self.keys
        panels = self._panels(PANELS, False)
        found: list[list[Value]] = [[] for _ in range(s.rows)]
        q_at = b.mul(row, b.int(s.wide))
        for first in range(0, PANELS, panels):
            totals = self._zeros(panels)
            far = [k.panel(first + i) for i in range(panels)]
            if k.scale is None:
                self._products(totals, q_at, b.int(0), far, s.dim)
            else:
                with b.loop(b.int(0), b.int(s.dim // GROUP)) as group:
                    parts = self._zeros(panels)
                    at = b.add(q_at, b.mul(group, b.int(GROUP)))
                    self._products(parts, at, k.group(group), far, GROUP)
                    for i in range(panels):
                        scale = k.scales(group, first + i)
                        for total, part in zip(totals, parts, strict=True):
                            new = b.alu("fma", b.get(part[i]), scale, b.get(total[i]))
                            b.set(total[i], new)
            for out, total in zip(found, totals, strict=True):
                out.extend(b.get(t) for t in total)
        if k.valid is None:
            return found
        zero = b.const(0.0, dt.f32, LANES)
        return [[b.alu("where", k.valid, v, zero) for v in out] for out in found]

    def _products(
        self, totals: list[list[Value]], q_at: Value, k_at: Value, far: list[int], count: int
    ) -> None:
        """Add q times k over `count` channels: the first hot loop."""
        b, s, k = self.e.b, self.s, self.keys

        def step(d: Value, u: int) -> None:
            at = b.add(b.add(k_at, b.mul(d, b.int(k.step))), b.int(u * k.step))
            if u == 0:
                k.fetch(b.add(at, b.int(far[0])), len(far))
            loaded = [k.load(b.add(at, b.int(f))) for f in far]
            for r, out in enumerate(totals):
                place = b.add(b.add(q_at, d), b.int(r * s.wide + u))
                factor = b.splat(b.load(self.q, place), LANES)
                for total, panel in zip(out, loaded, strict=True):
                    b.set(total, b.alu("fma", factor, panel, b.get(total)))

        self._unrolled(b.int(count), step)

    def _unrolled(self, count: Value, step: Callable[[Value, int], None]) -> None:
        """Run step(i, u) for i + u = 0 .. count - 1, several in one turn."""
        b = self.e.b
        if count.constant is not None:
            whole = b.int(count.constant // UNROLL * UNROLL)
        else:
            turns = b.emit("idiv", dt.i64, 1, (count, b.int(UNROLL)))
            whole = b.mul(turns, b.int(UNROLL))
        with b.loop(b.int(0), whole, UNROLL) as i:
            for u in range(UNROLL):
                step(i, u)
        if count.constant is None or count.constant % UNROLL:
            with b.loop(whole, count) as i:
                step(i, 0)

    # -- weights --------------------------------------------------------------------------------

    def _weights(self, row: Value, start: Value, scores: list[list[Value]]) -> list[Value]:
        """Store a tile's weights; return the power of two by which each row's sums are scaled."""
        b = self.e.b
        base = b.splat(b.cast(start, dt.i32), LANES)
        sixteen = [b.const(PANEL * i, dt.i32, LANES) for i in range(PANELS)]
        places = [b.alu("add", b.alu("add", base, b.lane(LANES)), far) for far in sixteen]
        return [
            self._row_weights(r, b.add(row, b.int(r)), places, values)
            for r, values in enumerate(scores)
        ]

    def _seen(self, row: Value, place: Value, panel: int) -> Value:
        """Return which of 16 positions a row sees."""
        e, b = self.e, self.e.b
        seen = b.alu("lt", place, b.splat(b.load(self.upper, row), LANES))
        if "lower" in self.options:
            early = b.alu("lt", place, b.splat(b.load(self.lowest, row), LANES))
            seen = b.alu("and", seen, b.alu("xor", early, b.const(True, dt.boolean, LANES)))
        if "mask" in self.options:
            shared = b.int(self.s.groups)
            query = b.emit("idiv", dt.i64, 1, (row, shared))
            self.stand_at(query, b.emit("mod", dt.i64, 1, (row, shared)))
            e.begin({})  # what was read of another row of the tile is not this row's
            at = of(self.keys.w.block) * BLOCK + panel * PANEL + of(self.lane)
            edge = tuple(c for c in ((at, self.arg.keys),) if not holds(c))
            with e.lanes(self.lane):
                other = b.splat(e.value(self.options["mask"], (*self.at(), at), edge), LANES)
            seen = b.alu("and", seen, other)
        return seen

    def _row_weights(self, r: int, row: Value, places: list[Value], scores: list[Value]) -> Value:
        b = self.e.b
        never, rounder = b.const(NEVER, dt.f32, LANES), b.const(ROUND, dt.f32)
        masked = [
            b.alu("where", self._seen(row, place, i), capped(b, score, self.arg.cap), never)
            for i, (place, score) in enumerate(zip(places, scores, strict=True))
        ]
        pairs = [b.alu("max", masked[i], masked[i + 1]) for i in range(0, PANELS, 2)]
        top = b.emit("tree", dt.f32, 1, (b.alu("max", *pairs),), "max")
        whole = b.alu("sub", b.alu("add", top, rounder), rounder)
        old = b.load(self.exponent, row)
        new = b.alu("max", whole, old)
        b.store(self.exponent, row, new)
        factor = b.splat(whole_power(b, b.alu("sub", old, new)), LANES)
        shift = b.splat(b.bitcast(b.alu("add", new, rounder), dt.i32), LANES)
        weights = [power_below(b, score, shift) for score in masked]
        halves = [b.alu("add", weights[i], weights[i + 1]) for i in range(0, PANELS, 2)]
        at = b.mul(row, b.int(LANES))
        total = b.load(self.total, at, LANES)
        b.store(self.total, at, b.alu("fma", total, factor, b.alu("add", *halves)))
        for i, weight in enumerate(weights):
            if self.values.valid is not None:
                none = b.const(0.0, dt.f32, LANES)
                weight = b.alu("where", self.values.valid, weight, none)
            b.store(self.weights, b.int(r * BLOCK + i * PANEL), weight)
        return factor

    # -- values ---------------------------------------------------------------------------------

    def _accumulate(self, row: Value, count: Value, factors: list[Value]) -> None:
        """Scale a tile's sums and add weights times the values of the block's first positions."""
        b, s, v = self.e.b, self.s, self.values
        total = s.wide // PANEL
        panels = self._panels(total, v.scale is not None)
        for first in range(0, total, panels):
            weights = self.weights
            if v.scale is not None:
                if first % (GROUP // PANEL) == 0:
                    self._scale_weights(b.int(first * PANEL // GROUP))
                weights = self.scaled
            far = [v.panel(first + i) for i in range(panels)]
            places = [
                b.add(b.mul(b.add(row, b.int(r)), b.int(s.wide)), b.int(first * PANEL))
                for r in range(s.rows)
            ]
            sums = [
                [b.reg(b.alu("mul", self._sum(at, i), factor)) for i in range(panels)]
                for at, factor in zip(places, factors, strict=True)
            ]

            self._values(sums, weights, far, count)
            for at, out in zip(places, sums, strict=True):
                for i, each in enumerate(out):
                    b.store(self.sums, b.add(at, b.int(i * PANEL)), b.get(each))

    def _sum(self, at: Value, panel: int) -> Value:
        return self.e.b.load(self.sums, self.e.b.add(at, self.e.b.int(panel * PANEL)), LANES)

    def _values(
        self, sums: list[list[Value]], weights: Value, far: list[int], count: Value
    ) -> None:
        """Add weights times values over `count` positions: the second hot loop."""
        b, v = self.e.b, self.values

        def step(p: Value, u: int) -> None:
            at = b.add(b.mul(p, b.int(v.step)), b.int(u * v.step))
            if u == 0:
                v.fetch(b.add(at, b.int(far[0])), len(far))
            loaded = [v.load(b.add(at, b.int(f))) for f in far]
            for r, out in enumerate(sums):
                place = b.add(p, b.int(r * BLOCK + u))
                factor = b.splat(b.load(weights, place), LANES)
                for total, panel in zip(out, loaded, strict=True):
                    b.set(total, b.alu("fma", factor, panel, b.get(total)))

        self._unrolled(count, step)

    def _scale_weights(self, group: Value) -> None:
        """Store weights times the values' scales for a group of channels."""
        b = self.e.b
        scales = [self.values.scales(group, i) for i in range(PANELS)]
        for r in range(self.s.rows):
            for i, scale in enumerate(scales):
                at = b.int(r * BLOCK + i * PANEL)
                b.store(self.scaled, at, b.alu("mul", b.load(self.weights, at, LANES), scale))

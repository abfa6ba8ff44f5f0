"""Emits expressions for work-items: one lane each, and sums that sixteen of them share.

The one idea: the counter that runs in lanes on a CPU is here an ordinary counter whose value is the
work-item's place in its row. What moves with it is summed by each work-item for itself, in order;
what does not is a row's sum, which sixteen work-items split as sixteen lanes would.
Invariant: the same additions in the same order as on a CPU, hence the same bits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from homebox.engine.codegen.linear import Value
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.indexing import Conditions, Counters, holds
from homebox.engine.graph.ops import Dim, Node, Sym, size_max
from homebox.engine.graph.symbolic import Index, Loop, of
from homebox.engine.kernels.loops import LANES, Emitter, neutral, own_conditions
from homebox.errors import EngineError

UNROLL = 8  # numbers that are read from local memory before they are added
READ_AHEAD = 8  # elements of a column that are read before they are added
LONGEST = 4096  # numbers of a row in local memory at most


class SimtEmitter(Emitter):
    """Emits one SIMT kernel; `item` is the counter that tells the work-items of a row apart."""

    def __init__(self, realised: frozenset[Node], counters: Counters, syms: list[Sym]) -> None:
        super().__init__(realised, counters, syms)
        self.item: Loop | None = None
        self.alone = False  # every sum is of one work-item
        self._line: Value | None = None  # the work-item's row in its group, if rows are shared
        self._place: Value | None = None  # and its lane, 0 .. 15
        self._lines = 1
        self._width = LANES  # work-items of a row: sixteen, or the whole group
        self._piece = 0  # numbers of a row that a whole group puts into local memory at once
        self._pieces: dict[DType, Value] = {}

    # -- work-items -----------------------------------------------------------------------------

    def group(self, axis: int = 0) -> Value:
        """Return the number of this work-group along an axis of the grid."""
        return self.b.emit("group", dt.i64, 1, (), axis)

    def local(self, axis: int = 0) -> Value:
        """Return the number of this work-item along an axis of its group."""
        return self.b.emit("local", dt.i64, 1, (), axis)

    def barrier(self) -> None:
        """Wait for all work-items of the group; must be reached by every one of them."""
        self.b.emit("barrier", dt.i64)

    def shared(self, dtype: DType, count: int) -> Value:
        """Return a pointer to new local memory."""
        with self.b.at(0):
            return self.b.emit("shared", dtype, 1, (), count)

    def divide(self, value: Value, by: Value) -> tuple[Value, Value]:
        """Return quotient and remainder of a non-negative i64."""
        if by.constant == 1:
            return value, self.b.int(0)
        return self.b.emit("idiv", dt.i64, 1, (value, by)), self.b.emit(
            "mod", dt.i64, 1, (value, by)
        )

    def product(self, sizes: Sequence[Dim]) -> Value:
        """Return the product of sizes as they are at run time."""
        total = self.b.int(1)
        for size in sizes:
            total = self.b.mul(total, self.extent(size))
        return total

    def spread(self, number: Value, counters: Sequence[Loop], sizes: Sequence[Dim]) -> None:
        """Set counters so that `number` counts through them, the last one fastest."""
        for place, (counter, size) in enumerate(zip(reversed(counters), reversed(sizes))):
            if place == len(counters) - 1:
                self.env[counter] = number
                return
            number, self.env[counter] = self.divide(number, self.extent(size))

    def share_rows(self, rows: int) -> tuple[Value, Value]:
        """Put sixteen work-items to each of `rows` rows; return this one's row and lane."""
        self._lines = rows
        line, place = self.divide(self.local(), self.b.int(LANES))
        if rows == 1:
            line, place = self.b.int(0), self.local()
        self._line, self._place = line, place
        return line, place

    def share_group(
        self, width: int, longest: int, room: int, numbers: Value | None = None
    ) -> Value:
        """Put all `width` work-items of a group to one row; return this one's place in it.

        The `longest` axis that is summed goes through up to `room` bytes of local memory: those of
        `numbers`, float32, if they are given (512 at least, four for each work-item).
        """
        self._width, self._lines = width, 1
        most = min(LONGEST, room // 4, -(-longest // width) * width)
        self._piece = max(LANES * UNROLL, most // width * width)
        self._line, self._place = self.b.int(0), self.local()
        if numbers is not None:
            self._pieces[dt.f32] = numbers
        return self._place

    @contextmanager
    def moving(self, item: Loop | None) -> Iterator[None]:
        """Say which counter differs between the work-items of a row."""
        saved, self.item = self.item, item
        yield
        self.item = saved

    # -- lanes ----------------------------------------------------------------------------------

    def even(self, flat: Index) -> bool:
        """Whether a place is a multiple of the lanes; the lane counter begins at 0."""
        rest = [c for atom, c in flat.terms if atom != self.lane]
        return all(c % self.width == 0 for c in (flat.const, *rest))

    def load_at(self, pointer: Value, flat: Index, mask: Value | None) -> Value:
        """Read a flat position; lanes that one condition guards are still read at once."""
        lane, b = self.lane, self.b
        if lane is None or mask is None or mask.lanes > 1 or not flat.depends(lane):
            return super().load_at(pointer, flat, mask)
        if flat.coefficient(lane) != 1 or not flat.linear_in(lane):
            return super().load_at(pointer, flat, mask)
        base = self.integer(flat + of(lane) * -1)
        safe = b.alu("where", mask, base, b.int(0))
        value = b.load(pointer, safe, self.width, aligned=self.even(flat))
        return b.emit(
            "where",
            value.dtype,
            self.width,
            (mask, value, b.const(0, value.dtype, self.width)),
        )

    # -- reductions -----------------------------------------------------------------------------

    def reduce(self, n: Node, index: tuple[Index, ...], conditions: Conditions) -> Value:
        """Return a reduction: in order if it moves with the work-items, else shared by a row."""
        moving = self.item is not None and any(i.depends(self.item) for i in index)
        if moving or self.alone:
            return self._sum(n, index, conditions, row=False)
        conditions = own_conditions(n, index, conditions)
        key = (n, index, conditions, None, "row")
        done = self._memo.get(key)
        if done is not None and done.scope.open:
            return done
        with self.moving(None), self.b.at(self.depth_of(index, conditions)):
            done = self._sum(n, index, conditions, row=True)
        self._memo[key] = done
        return done

    def _sum(self, n: Node, index: tuple[Index, ...], conditions: Conditions, row: bool) -> Value:
        how, axes = n.arg
        total = self.b.reg(self.b.const(neutral(how, n.dtype), n.dtype))
        self._walk(n, list(index), list(axes), conditions, total, row)
        result = self.b.get(total)
        return self._meet(how, result) if row else result

    def _walk(
        self,
        n: Node,
        index: list[Index],
        axes: list[int],
        conditions: Conditions,
        total: Value,
        row: bool,
    ) -> None:
        """Loop over the axes in order; the last one is dealt out to the sixteen if `row`."""
        axis, rest = axes[0], axes[1:]
        if not rest and row:
            deal = self._deal if self._width == LANES else self._stage
            deal(n, index, axis, conditions, total)
            return
        dim = n.src[0].shape[axis]
        if not rest:
            self._in_order(n, index, axis, conditions, total)
            return
        counter = self.counters.loop(size_max(dim))
        index[axis] = of(counter)
        with self.b.loop(self.b.int(0), self.extent(dim)) as i:
            self.env[counter] = i
            self._walk(n, index, rest, conditions, total, row)

    def _in_order(
        self, n: Node, index: list[Index], axis: int, conditions: Conditions, total: Value
    ) -> None:
        """Add up an axis; several elements are read before they are added."""
        b, dim, how = self.b, n.src[0].shape[axis], n.arg[0]
        turn = READ_AHEAD if isinstance(dim, int) and dim >= READ_AHEAD else 1
        turns = size_max(dim) // turn

        def add(places: list[Index]) -> None:
            values = []
            for place in places:
                index[axis] = place
                values.append(self.value(n.src[0], tuple(index), conditions))
            for value in values:
                b.set(total, b.alu(how, b.get(total), value))

        if turn > 1:
            block = self.counters.loop(turns)
            with b.loop(b.int(0), b.int(turns)) as i:
                self.env[block] = i
                add([of(block) * turn + u for u in range(turn)])
            if size_max(dim) == turns * turn:
                return
        counter = self.counters.loop(size_max(dim))
        with b.loop(b.int(turns * turn if turn > 1 else 0), self.extent(dim)) as i:
            self.env[counter] = i
            add([of(counter)])

    def _deal(
        self, n: Node, index: list[Index], axis: int, conditions: Conditions, total: Value
    ) -> None:
        """Let work-item i add up elements i, i + 16, i + 32, .. of an axis."""
        b, dim, (how, _) = self.b, n.src[0].shape[axis], n.arg
        if self._place is None:
            raise EngineError(f"the sum {n!r} needs the work-items of a row, which are not there")
        lane = self.counters.loop(LANES)
        block = self.counters.loop(-(-size_max(dim) // LANES))
        self.env[lane] = self._place
        index[axis] = of(block) * LANES + of(lane)
        edge = ((index[axis], dim),)
        ragged = tuple(c for c in edge if not holds(c))
        whole, blocks = self.blocks(dim)

        def step(counter: Value, extra: Conditions) -> None:
            self.env[block] = counter
            with self.moving(lane):
                value = self.value(n.src[0], tuple(index), (*conditions, *extra))
            mask = self.mask(extra)
            if mask is not None:
                value = b.alu("where", mask, value, b.const(neutral(how, n.dtype), n.dtype))
            b.set(total, b.alu(how, b.get(total), value))

        if size_max(dim) >= LANES:
            with b.loop(b.int(0), whole) as counter:
                step(counter, ())
        if ragged:
            with b.loop(whole, blocks) as counter:
                step(counter, ragged)

    def _stage(
        self, n: Node, index: list[Index], axis: int, conditions: Conditions, total: Value
    ) -> None:
        """Let all work-items compute the numbers, and sixteen add them up in their order.

        A maximum is the same in any order: each work-item folds its own numbers first.
        """
        b, dim, (how, _) = self.b, n.src[0].shape[axis], n.arg
        if self._place is None:
            raise EngineError(f"the sum {n!r} needs the work-items of a row, which are not there")
        item = self._place
        size, place = self.extent(dim), self.counters.loop(size_max(dim))
        index[axis] = of(place)
        again = len(n.arg[1]) > 1  # else the meeting of the sixteen comes before the next numbers

        def number(at: Value) -> Value:
            self.env[place] = at
            with self.moving(place):
                return self.value(n.src[0], tuple(index), conditions)

        if how == "max":
            most = b.reg(b.const(neutral(how, n.dtype), n.dtype))
            with b.loop(item, size, self._width) as at:
                b.set(most, b.alu(how, b.get(most), number(at)))
            numbers = self._numbers(n.dtype)
            b.store(numbers, item, b.get(most))
            self._add(numbers, how, total, b.int(self._width))
            if again:
                self.barrier()
            return
        numbers = self._numbers(n.dtype)
        with b.loop(b.int(0), size, self._piece) as first:
            left = b.alu("sub", size, first)
            count = b.emit("min", dt.i64, 1, (left, b.int(self._piece)))
            with b.loop(item, count, self._width) as at:
                b.store(numbers, at, number(b.add(first, at)))
            self._add(numbers, how, total, count)
            if again or size_max(dim) > self._piece:
                self.barrier()

    def _numbers(self, dtype: DType) -> Value:
        """Return the local memory for a row's numbers; there is one for each type."""
        if dtype not in self._pieces:
            self._pieces[dtype] = self.shared(dtype, max(self._piece, self._width))
        return self._pieces[dtype]

    def _add(self, numbers: Value, how: str, total: Value, count: Value) -> None:
        """Add `count` numbers of local memory to the totals of the first sixteen work-items."""
        b, step = self.b, LANES * UNROLL
        item = self.local()
        self.barrier()
        with b.when(b.alu("lt", item, b.int(LANES))):
            whole = b.mul(self.divide(count, b.int(step))[0], b.int(step))
            with b.loop(b.int(0), whole, step) as i:
                first = b.add(i, item)
                parts = [b.load(numbers, b.add(first, b.int(LANES * u))) for u in range(UNROLL)]
                for part in parts:
                    b.set(total, b.alu(how, b.get(total), part))
            with b.loop(b.add(whole, item), count, LANES) as i:
                b.set(total, b.alu(how, b.get(total), b.load(numbers, i)))

    def blocks(self, dim: Dim) -> tuple[Value, Value]:
        """Return how many whole blocks of 16 an axis has, and how many with the ragged one."""
        if isinstance(dim, int):
            return self.b.int(dim // LANES), self.b.int(-(-dim // LANES))
        up = self.b.add(self.extent(dim), self.b.int(LANES - 1))
        sixteen = self.b.int(LANES)
        return self.divide(self.extent(dim), sixteen)[0], self.divide(up, sixteen)[0]

    def _meet(self, how: str, partial: Value) -> Value:
        """Return the halving tree over a row's sixteen partial sums.

        Each work-item folds all sixteen for itself: two barriers; halving together needs five.
        """
        b = self.b
        if self._line is None or self._place is None:
            raise EngineError("a row's sum needs sixteen work-items")
        scratch = self.shared(partial.dtype, self._lines * LANES)
        first = b.mul(self._line, b.int(LANES))
        if self._width == LANES:
            b.store(scratch, b.add(first, self._place), partial)
        else:
            with b.when(b.alu("lt", self._place, b.int(LANES))):
                b.store(scratch, self._place, partial)
        self.barrier()
        parts = [b.load(scratch, b.add(first, b.int(i))) for i in range(LANES)]
        if b.depth:  # the next round must not overwrite what others still read
            self.barrier()
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [b.alu(how, parts[i], parts[i + half]) for i in range(half)]
        return parts[0]

"""Turns graph expressions into linear IR: elements of a node as values inside loops.

The `Emitter` computes node[index] as a scalar, or as 16 lanes when the index moves with the lane
counter. Reductions that appear inside an expression become loops in the outermost scope where
their index is known (rule R1: a row's statistics stay in the row's kernel).
Invariant: a reduction's order depends on shapes alone. Row sums use 16 lanes and a halving tree;
sums across rows run in order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import element
from homebox.engine.graph.indexing import Conditions, Counters, gathered, holds, through
from homebox.engine.graph.ops import (
    BINARY,
    ELEMENTWISE,
    MOVEMENT,
    Dim,
    Node,
    Op,
    Sym,
    memory_of,
    numel_max,
    size_max,
)
from homebox.engine.graph.symbolic import Atom, Div, Index, Loaded, Loop, Mod, flatten, of
from homebox.engine.kernels import polynomials
from homebox.errors import EngineError

LANES = 16
NARROW = 1 << 31  # places below it fit into 32 bits
START = {"add": 0.0, "mul": 1.0, "max": float("-inf")}


def neutral(how: str, dtype: DType) -> float:
    """Return the number with which a reduction of this type starts."""
    if dtype.is_float:
        return START[how]
    least = -(1 << (8 * dtype.size - 1)) if dtype.kind == "i" else 0
    return {"add": 0, "mul": 1, "max": least}[how]


ALU = {
    Op.ADD: "add",
    Op.MUL: "mul",
    Op.MAX: "max",
    Op.IDIV: "idiv",
    Op.MOD: "mod",
    Op.LT: "lt",
    Op.EQ: "eq",
    Op.AND: "and",
    Op.XOR: "xor",
    Op.SHR: "shr",
}
POLYNOMIALS = {
    Op.EXP2: polynomials.exp2,
    Op.LOG2: polynomials.log2,
    Op.SIN: polynomials.sin,
    Op.TANH: polynomials.tanh,
}


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction being emitted: what is summed, how, from what, into which register."""

    source: Node
    how: str
    start: Value
    total: Value
    conditions: Conditions
    row: bool  # 16 lanes side by side, met by a halving tree; else each lane sums for itself


class Emitter:
    """Emits one kernel. `realised` nodes are read from memory, everything else is computed."""

    def __init__(self, realised: frozenset[Node], counters: Counters, syms: list[Sym]) -> None:
        self.b = Builder()
        self.realised = realised
        self.counters = counters
        self.syms = syms  # the program's run-time integers: place in the vars buffer
        self.memory: list[Node] = []  # the node behind each kernel parameter
        self.pointers: dict[Node, Value] = {}
        self.written: set[Node] = set()  # owners of memory that the kernel will write
        self.env: dict[Atom, Value] = {}
        self.lane: Loop | None = None
        self.width = LANES  # lanes of a value that moves with the lane counter
        self.floor = 0  # row sums are not moved out of this scope
        self._given: dict[Node, Value] = {}
        self._memo: dict[tuple[object, ...], Value] = {}

    def begin(self, given: dict[Node, Value]) -> None:
        """Begin an expression in which some nodes have these values already."""
        self._given = given
        # Sums over rows are of memory, not of what is given, and stay known.
        self._memo = {key: value for key, value in self._memo.items() if key[-1] == "row"}

    # -- memory ---------------------------------------------------------------------------------

    def pointer(self, n: Node, written: bool = False) -> Value:
        """Return the parameter that points to a node's memory."""
        owner = memory_of(n)
        if owner not in self.pointers:
            stored = dt.u8 if owner.dtype is dt.boolean else owner.dtype
            written = written or owner in self.written
            self.pointers[owner] = self.b.param(stored, numel_max(owner.shape), written)
            self.memory.append(owner)
        return self.pointers[owner]

    def load(self, n: Node, index: tuple[Index, ...], conditions: Conditions) -> Value:
        """Read node[index] from its memory; 0 where a condition fails."""
        pointer = self.pointer(n)
        if numel_max(n.shape) == 0:
            return self.b.const(False if n.dtype is dt.boolean else 0, n.dtype)
        value = self.load_at(pointer, flatten(index, n.shape), self.mask(conditions))
        if n.dtype in (dt.f16, dt.bf16):
            return self.b.cast(value, n.dtype)
        if n.dtype is dt.boolean:
            return self.b.alu("lt", self.b.const(0, dt.u8, value.lanes), value)
        return value

    def load_at(self, pointer: Value, flat: Index, mask: Value | None) -> Value:
        """Read a flat position of memory, 16 lanes if it moves with the lane counter."""
        if self.lane is None or not flat.depends(self.lane):
            return self._load_scalar(pointer, flat, mask)
        where = mask if mask is None or mask.lanes > 1 else self.b.splat(mask, self.width)
        if flat.coefficient(self.lane) == 1 and flat.linear_in(self.lane):
            base = self.integer(flat + of(self.lane) * -1)
            return self.b.load(pointer, base, self.width, where, self.even(flat))
        return self.b.load(pointer, self.places(pointer, flat), self.width, where)

    def unpacked(self, n: Node, index: tuple[Index, ...], conditions: Conditions) -> Value:
        """Return an element of an UNPACK, wherever it lies in the bytes."""
        b, mask = self.b, self.mask(conditions)
        place = element(n.arg, size_max(n.shape[1]), *index)
        pointer = self.pointer(n.src[0])
        number = self.load_at(b.view(pointer, place.dtype), place.at, mask)
        if place.scale_at is None or place.scale_dtype is None:
            return b.cast(number, dt.f32)
        if place.high is not None:
            shift = self.value_of(place.high, dt.u8)
            four = b.alu("mul", shift, b.const(4, dt.u8, shift.lanes))
            number = b.alu("shr", number, b.splat(four, number.lanes))
            number = b.alu("and", number, b.const(15, dt.u8, number.lanes))
        whole = b.cast(number, dt.i32)
        if n.arg.zero:
            whole = b.alu("sub", whole, b.const(n.arg.zero, dt.i32, whole.lanes))
        scale = self.load_at(b.view(pointer, place.scale_dtype), place.scale_at, mask)
        return b.alu("mul", b.cast(whole, dt.f32), b.cast(scale, dt.f32))

    def value_of(self, index: Index, dtype: DType) -> Value:
        """Return an index as a number of a type, in lanes if it moves with them."""
        if self.lane is not None and index.depends(self.lane):
            return self.b.cast(self.vector(index), dtype)
        return self.b.cast(self.integer(index), dtype)

    def _load_scalar(self, pointer: Value, flat: Index, mask: Value | None) -> Value:
        place = self.integer(flat)
        if mask is None:
            return self.b.load(pointer, place)
        zero = self.b.const(0, pointer.dtype)
        if mask.lanes > 1:
            inside = self._inside(pointer, flat, place)
            return self.b.alu("where", mask, self.b.load(pointer, inside), zero)
        safe = self.b.alu("where", mask, place, self.b.int(0))
        return self.b.alu("where", mask, self.b.load(pointer, safe), zero)

    def _inside(self, pointer: Value, flat: Index, place: Value) -> Value:
        """Return a place that may be read even if every lane of the mask is off."""
        count = self._count(pointer)
        lo, hi = flat.bounds()
        if lo >= 0 and hi < count:
            return place
        above = self.b.alu("lt", self.b.int(-1), place)
        within = self.b.alu("and", above, self.b.alu("lt", place, self.b.int(count)))
        return self.b.alu("where", within, place, self.b.int(0))

    def _count(self, pointer: Value) -> int:
        """Return how many elements the memory behind a pointer has."""
        owner = pointer
        while owner.op == "view":
            owner = owner.args[0]
        count: int = self.b.params[owner.arg].count * owner.dtype.size // pointer.dtype.size
        return count

    def even(self, flat: Index) -> bool:
        """Whether a target profits from knowing that lanes begin at a multiple of their number."""
        return False

    def store(self, n: Node, flat: Index, value: Value, mask: Value | None) -> None:
        """Write a value to a flat position of a node's memory; lanes follow the lane counter."""
        pointer = self.pointer(n)
        if n.dtype is dt.boolean:
            ones = self.b.const(1, dt.u8, value.lanes)
            value = self.b.alu("where", value, ones, self.b.const(0, dt.u8, value.lanes))
        if self.lane is None or not flat.depends(self.lane):
            if mask is None:
                self.b.store(pointer, self.integer(flat), value)
            else:
                with self.b.when(mask):
                    self.b.store(pointer, self.integer(flat), value)
            return
        value = self.b.splat(value, self.width)
        where = mask if mask is None or mask.lanes > 1 else self.b.splat(mask, self.width)
        if flat.coefficient(self.lane) == 1 and flat.linear_in(self.lane):
            base = self.integer(flat + of(self.lane) * -1)
            self.b.store(pointer, base, value, where, self.even(flat))
        else:
            self.b.store(pointer, self.places(pointer, flat), value, where)

    # -- integers -------------------------------------------------------------------------------

    def variable(self, sym: Sym) -> Value:
        """Return a run-time integer."""
        return self.b.emit("var", dt.i64, 1, (), self.syms.index(sym))

    def extent(self, dim: Dim) -> Value:
        """Return the size of an axis in this run."""
        return self.variable(dim) if isinstance(dim, Sym) else self.b.int(dim)

    def atom(self, atom: Atom) -> Value:
        """Return the value of an atom that does not move with the lanes."""
        if isinstance(atom, Sym):
            return self.variable(atom)
        if isinstance(atom, Div):
            return self.b.emit("idiv", dt.i64, 1, (self.integer(atom.index), self.b.int(atom.by)))
        if isinstance(atom, Mod):
            return self.b.emit("mod", dt.i64, 1, (self.integer(atom.index), self.b.int(atom.by)))
        if isinstance(atom, Loaded):
            return self.b.cast(self.loaded(atom), dt.i64)
        return self.env[atom]

    def loaded(self, atom: Loaded) -> Value:
        """Return an integer read from memory; beyond the ends, where nobody uses it, 0."""
        outside = zip(atom.at, atom.value.shape, strict=True)
        return self.value(atom.value, atom.at, tuple(c for c in outside if not holds(c)))

    def integer(self, index: Index) -> Value:
        """Return a lane-free index as an i64 scalar; outer terms first, so that loops stay lean."""
        terms = [self.b.mul(self.atom(a), self.b.int(c)) for a, c in index.terms]
        total = self.b.int(index.const)
        for term in sorted(terms, key=lambda t: t.depth):
            total = self.b.add(term, total)
        return total

    def places(self, pointer: Value, flat: Index) -> Value:
        """Return places in memory that move with the lanes, in as many bits as it has elements."""
        return self.vector(flat, dt.i32 if self._count(pointer) < NARROW else dt.i64)

    def vector(self, index: Index, kind: DType = dt.i32) -> Value:
        """Return an index that moves with the lanes, as 16 lanes of an integer type."""
        b, lane = self.b, self.lane
        if lane is None or not index.depends(lane):
            return b.splat(b.cast(self.integer(index), kind), self.width)
        fixed = Index(index.const, tuple(t for t in index.terms if not of(t[0]).depends(lane)))
        total = b.splat(b.cast(self.integer(fixed), kind), self.width)
        for atom, c in index.terms:
            if not of(atom).depends(lane):
                continue
            if atom == lane:
                part = b.lane(self.width)
            elif isinstance(atom, (Div, Mod)):
                inner = dt.i32 if atom.index.bounds(valid=True)[1] < NARROW else dt.i64
                op = "idiv" if isinstance(atom, Div) else "mod"
                by = b.const(atom.by, inner, self.width)
                part = b.alu(op, self.vector(atom.index, inner), by)
            elif isinstance(atom, Loaded):
                part = b.cast(self.loaded(atom), dt.i32)
            else:
                raise EngineError(f"no vector form of {atom}")
            times = b.const(c, kind, self.width)
            total = b.alu("add", total, b.alu("mul", b.cast(part, kind), times))
        return total

    def mask(self, conditions: Conditions) -> Value | None:
        """Return a bool (scalar or lanes) that says whether all conditions hold; None = always."""
        total: Value | None = None
        for index, size in conditions:
            lo, hi = index.bounds()
            parts: list[Value] = []
            moving = self.lane is not None and index.depends(self.lane)
            lanes = self.width if moving else 1
            position = self.vector(index) if moving else self.integer(index)
            if lo < 0:
                minus = self.b.const(-1, position.dtype, lanes)
                parts.append(self.b.alu("lt", minus, position))
            if hi >= (size.lo if isinstance(size, Sym) else size):
                limit = self.b.splat(self.b.cast(self.extent(size), position.dtype), lanes)
                parts.append(self.b.alu("lt", position, limit))
            for part in parts:
                total = part if total is None else self.b.alu("and", total, part)
        return total

    # -- values ---------------------------------------------------------------------------------

    def value(self, n: Node, index: tuple[Index, ...], conditions: Conditions = ()) -> Value:
        """Return node[index]: a scalar, or 16 lanes if it moves with the lane counter.

        Where a condition fails, reads are not done and give 0.
        """
        key = (n, index, conditions, self.lane)
        known = self._memo.get(key)
        if known is not None and known.scope.open:
            return known
        result = self._compute(n, index, conditions)
        self._memo[key] = result
        return result

    def _compute(self, n: Node, index: tuple[Index, ...], conditions: Conditions) -> Value:
        if n in self._given:
            return self._given[n]
        if n.op is Op.BUFFER or n in self.realised:
            return self.load(n, index, conditions)
        if n.op in ELEMENTWISE:
            return self.elementwise(n, [self.value(s, index, conditions) for s in n.src])
        if n.op is Op.CONST:
            return self.b.const(n.arg, n.dtype)
        if n.op is Op.VAR:
            return self.b.cast(self.variable(n.arg), dt.i32)
        if n.op is Op.IOTA:
            return self._iota(index[0])
        if n.op is Op.REDUCE:
            return self.reduce(n, index, conditions)
        if n.op is Op.UNPACK:
            return self.unpacked(n, index, conditions)
        if n.op is Op.GATHER:
            inner, inside = gathered(n, index)
            return self._guarded(n.src[0], inner, conditions, (inside,))
        if n.op is Op.COPY:
            return self.value(n.src[0], index, conditions)
        if n.op in MOVEMENT:
            return self._moved(n, index, conditions)
        raise EngineError(f"{n!r} cannot be computed inside a kernel")

    def _iota(self, index: Index) -> Value:
        if self.lane is not None and index.depends(self.lane):
            return self.vector(index)
        return self.b.cast(self.integer(index), dt.i32)

    def _moved(self, n: Node, index: tuple[Index, ...], conditions: Conditions) -> Value:
        inner, more = through(n, index)
        return self._guarded(n.src[0], inner, conditions, more)

    def _guarded(
        self, source: Node, index: tuple[Index, ...], conditions: Conditions, more: Conditions
    ) -> Value:
        """Return source[index], or 0 where one of `more` fails."""
        result = self.value(source, index, (*conditions, *more))
        mask = self.mask(more)
        dtype = source.dtype
        while source.op in MOVEMENT:
            source = source.src[0]
        if mask is None or source.op is Op.BUFFER or source in self.realised:
            return result  # a masked read is 0 already
        return self.b.alu("where", mask, result, self.b.const(0, dtype))

    def elementwise(self, n: Node, src: list[Value]) -> Value:
        """Return an elementwise op applied to values."""
        b = self.b
        if n.op is Op.WHERE:
            return b.alu("where", *src)
        if n.op in (Op.IDIV, Op.MOD) and src[1].constant is None:
            # Lanes beyond the edge hold 0, and a machine may stop at a division by it.
            src[1] = b.alu("max", src[1], b.const(1, n.dtype, src[1].lanes))
        if n.op in BINARY:
            return b.alu(ALU[n.op], *src)
        (x,) = src
        if n.op is Op.CAST:
            return self.converted(x, n.dtype)
        if n.op is Op.BITCAST:
            return b.bitcast(x, n.dtype)
        if n.op is Op.SQRT:
            return b.alu("sqrt", x)
        if n.op is Op.RECIP:
            return b.alu("div", b.const(1.0, x.dtype, x.lanes), x)
        return POLYNOMIALS[n.op](b, x)

    def converted(self, x: Value, dtype: DType) -> Value:
        """Return a value converted to another type; bool counts as 0 and 1."""
        if x.dtype is dt.boolean and dtype is not dt.boolean:
            return self.b.alu(
                "where", x, self.b.const(1, dtype, x.lanes), self.b.const(0, dtype, x.lanes)
            )
        if dtype is dt.boolean:
            zero = self.b.const(0, x.dtype, x.lanes)
            return self.b.alu("xor", self.b.alu("eq", x, zero), self.b.const(True, dtype, x.lanes))
        return self.b.cast(x, dtype)

    # -- reductions -----------------------------------------------------------------------------

    def depth_of(self, index: tuple[Index, ...], conditions: Conditions) -> int:
        """Return the outermost scope in which an index can be computed."""
        atoms = [a for i in index for a, _ in i.terms]
        atoms += [a for i, _ in conditions for a, _ in i.terms]
        return max((self.atom(a).depth for a in atoms), default=0)

    @contextmanager
    def lanes(self, lane: Loop | None) -> Iterator[None]:
        """Say which counter moves with the lanes inside of the block."""
        saved, self.lane = self.lane, lane
        yield
        self.lane = saved

    def reduce(self, n: Node, index: tuple[Index, ...], conditions: Conditions) -> Value:
        """Return a reduction as a loop nest; see the module's note on its order."""
        moving = self.lane is not None and any(i.depends(self.lane) for i in index)
        if moving:
            return self._reduce(n, index, conditions, row=False)
        conditions = own_conditions(n, index, conditions)
        key = (n, index, conditions, None, "row")
        done = self._memo.get(key)
        if done is not None and done.scope.open:
            return done
        with self.lanes(None):
            depth = max(self.depth_of(index, conditions), self.floor)
            with self.b.at(depth):
                done = self._reduce(n, index, conditions, row=True)
        self._memo[key] = done
        return done

    def _reduce(
        self, n: Node, index: tuple[Index, ...], conditions: Conditions, row: bool
    ) -> Value:
        how, axes = n.arg
        start = self.b.const(neutral(how, n.dtype), n.dtype, LANES)
        fold = Fold(n.src[0], how, start, self.b.reg(start), conditions, row)
        self._nest(fold, list(index), list(axes))
        result = self.b.get(fold.total)
        return self.b.emit("tree", n.dtype, 1, (result,), how) if row else result

    def _nest(self, fold: Fold, index: list[Index], axes: list[int]) -> None:
        """Loop over the axes in order; the last one runs in lanes if the fold is a row's."""
        axis, rest = axes[0], axes[1:]
        if not rest and fold.row:
            self._row(fold, index, axis)
            return
        dim = fold.source.shape[axis]
        counter = self.counters.loop(size_max(dim))
        index[axis] = of(counter)
        with self.b.loop(self.b.int(0), self.extent(dim)) as i:
            self.env[counter] = i
            if rest:
                self._nest(fold, index, rest)
            else:
                self._step(fold, index, ())

    def _row(self, fold: Fold, index: list[Index], axis: int) -> None:
        """Walk one axis in steps of 16 lanes, the ragged end under a mask."""
        b, dim = self.b, fold.source.shape[axis]
        lane = self.counters.loop(LANES)
        block = self.counters.loop(-(-size_max(dim) // LANES))
        position = of(block) * LANES + of(lane)
        index[axis] = position
        size, sixteen = self.extent(dim), b.int(LANES)
        if isinstance(dim, int):
            whole = b.int(dim // LANES)
        else:
            whole = b.emit("idiv", dt.i64, 1, (size, sixteen))
        if size_max(dim) >= LANES:
            with b.loop(b.int(0), whole) as counter, self.lanes(lane):
                self.env[block] = counter
                self._step(fold, index, ())
        if isinstance(dim, int) and dim % LANES == 0:
            return
        if isinstance(dim, int):
            blocks = b.int(-(-dim // LANES))
        else:
            blocks = b.emit("idiv", dt.i64, 1, (b.add(size, b.int(LANES - 1)), sixteen))
        edge = tuple(c for c in ((position, dim),) if not holds(c))
        with b.loop(whole, blocks) as counter, self.lanes(lane):
            self.env[block] = counter
            self._step(fold, index, edge)

    def _step(self, fold: Fold, index: list[Index], edge: Conditions) -> None:
        """Add one element to each lane; lanes beyond the edge keep what they have."""
        b = self.b
        value = b.splat(self.value(fold.source, tuple(index), (*fold.conditions, *edge)), LANES)
        mask = self.mask(edge)
        if mask is not None:
            value = b.alu("where", mask, value, fold.start)
        b.set(fold.total, b.alu(fold.how, b.get(fold.total), value))


def own_conditions(n: Node, index: tuple[Index, ...], conditions: Conditions) -> Conditions:
    """Return what must hold so that a reduction may read its source, whoever asks for it.

    A condition on anything but its index (a ragged edge, say) cannot make it invalid, and would tie
    it to a place where it need not be computed.
    """
    known = {a for i in index for a, _ in i.terms}
    kept = tuple(c for c in conditions if {a for a, _ in c[0].terms} <= known)
    # Memory reaches to the upper bound of a size known only at run time.
    inside = [(i, d) for i, d in zip(index, n.shape, strict=True) if not holds((i, size_max(d)))]
    return (*kept, *(c for c in inside if c not in kept))

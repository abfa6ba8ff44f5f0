"""The linear IR: what a kernel does, as a flat SSA list that every back end can print.

Values are instructions; an instruction's arguments are indices of earlier instructions. Loops and
conditions are bracketed. A value has `lanes` elements (1 = scalar). Index arithmetic is i64 scalar.
On a CPU target `lo`/`hi` give the range of work units of one call; on a SIMT target `group` and
`local` give the ids. Invariant: nothing here depends on thread counts, so bits do not either.

    const    arg = value                         any dtype and lanes (splat)
    param    arg = i                             pointer to buffer i of the kernel (dtype = element)
    var      arg = i                             i64 scalar, entry i of the int32 vars buffer
    lo, hi                                       i64, range of units (CPU)
    group, local   arg = axis                    i64, work-group and work-item ids (SIMT)
    loop     (lo, hi) arg = step                 value = i64 counter; closed by `endloop`
    if       (bool scalar)                       closed by `endif`
    add sub mul max min (a, b)                   numbers of any type
    idiv mod (a, b)                              non-negative integers
    div      (a, b)                              float, correctly rounded
    fma      (a, b, c)                           a*b+c rounded once
    sqrt     (a)                                 correctly rounded
    lt eq and or xor shr shl (a, b)              lt, eq -> bool; shr is logical
    where    (cond, a, b)
    cast, bitcast (a)                            to dtype; float -> int truncates; bitcast may
                                                 change the number of lanes, not of bytes
    lane                                         <lanes x i32> 0, 1, ..
    splat    (scalar)                            to lanes
    load     (ptr, index[, mask])                lanes consecutive elements; masked-off lanes are 0
    store    (ptr, index, value[, mask])         arg = "aligned": at a multiple of the value's bytes
    prefetch (ptr, index)                        this line of memory will be read soon; any index
    gather   (ptr, indices[, mask])              indices: <lanes x i32> or i64; masked-off: 0
    scatter  (ptr, indices, value[, mask])       lanes in order
    reg      (initial)                           a mutable register; read by `get`, written by `set`
    get      (reg)      set (reg, value)
    tree     (vector) arg = add|max|mul          scalar; lane i with lane i + n/2, then n/4, ..
    view     (ptr)                               the same memory as elements of dtype
    dot4     (i32 acc, u8 a, i8 b)               acc + 4 products each; a, b have 4 * lanes
    dotbf16  (f32 acc, bf16 a, bf16 b)           acc + 2 products each, rounded as the target does
    first                                        bool: the thread's first call of this launch
    keep     arg = count                         array that a thread keeps from its first call of a
                                                 launch to its last; 64-byte aligned; pointer (CPU)
    shuffle  (a, b) arg = lanes                  lanes picked from a and b, one after the other; a
                                                 single one is a scalar
    stack    arg = count                         private array, 64-byte aligned; pointer
    shared   arg = count                         work-group memory (SIMT); pointer
    barrier                                      all work-items of the group (SIMT)
    exchange (value) arg = mask                  the value of the work-item whose number in its
                                                 sub-group is ours XOR mask (SIMT)
    fragment_zero  arg = width                   16 x 16 sums, all 0; changed in place (SIMT)
    fragment_a, fragment_b (ptr, index) arg = (step, width)   a factor in shared memory (SIMT)
    mma      (sums, a, b)                        sums += a times b (SIMT)
    fragment_scale (sums, whole, ptr, index, ptr, index)      sums += whole * rows * columns (SIMT)
    fragment_add   (sums, parts)                 sums += parts, both f32 (SIMT)
    fragment_store (ptr, index, sums) arg = step (SIMT)

Fragments are tiles that `width` neighbouring work-items (those with the same local // width) hold
together, in whatever way suits the machine's matrix units; all of them reach these operations, and
none stands under a condition. A factor is 16 lines of 16 numbers (f16, bf16) or 32 (i8) that lie
side by side along k in shared memory: line i begins at element index + i * step, and both are
multiples of 16 bytes. It must stay as it is until the last `mma` that uses it. `mma` adds
a[r][k] * b[c][k] for all k to sums[r][c]: exactly in i32, which wraps; in f32 (of f16, bf16) in the
order and with the roundings of the machine, so that its bits are the machine's. `fragment_scale`
makes f32 sums[r][c] = fma(whole[r][c], rows[r] * columns[c], sums[r][c]), where whole are i32 sums,
and 16 f32 rows and columns begin at the two places in shared memory; whole becomes f32 first, and
every step rounds once, as `fragment_add` does. `fragment_store` writes line r of the sums to 16
elements of shared memory from index + r * step on.

max(a, b) = a > b ? a : b and min(a, b) = a < b ? a : b, one compare and one select, so that every
target gives the same bits (a NaN in either operand yields b).
"""

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from homebox.engine.graph.dtype import DType, boolean, i32, i64

KEPT_BYTES = 1 << 20  # of memory that each thread has for `keep`


@dataclass(frozen=True, slots=True)
class Inst:
    """One instruction; `args` are positions of earlier instructions in the kernel's list."""

    op: str
    dtype: DType
    lanes: int
    args: tuple[int, ...] = ()
    arg: Any = None


@dataclass(frozen=True, slots=True)
class Param:
    """A buffer that a kernel reads or writes: element type, and elements that must exist."""

    dtype: DType
    count: int
    written: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """A linear program over `params`; `group`/`grid` only on SIMT targets."""

    params: tuple[Param, ...]
    body: tuple[Inst, ...]
    group: tuple[int, ...] = ()  # work-items per group and axis; () on CPU targets


@dataclass(slots=True, eq=False)
class Scope:
    """A bracket that is being filled: its instructions, and the pure values it can share."""

    guard: bool  # an `if`: reads may not be moved out of it
    items: list["Value"] = field(default_factory=list)
    shared: dict[tuple[Any, ...], "Value"] = field(default_factory=dict)
    open: bool = True


@dataclass(slots=True, eq=False)
class Value:
    """A handle on an instruction while a kernel is being built; `inner` holds a bracket's body."""

    op: str
    dtype: DType
    lanes: int
    args: tuple["Value", ...]
    arg: Any
    depth: int
    scope: Scope
    inner: Scope | None = None

    @property
    def constant(self) -> Any:
        """The Python number behind a constant, else None."""
        return self.arg if self.op == "const" else None


PURE = frozenset(
    "const param var lo hi group local add sub mul idiv mod max min div fma sqrt lt eq and or xor "
    "shr shl where cast bitcast lane splat tree view dot4 dotbf16 shuffle first".split()
)
READS = frozenset({"load", "gather"})
FRAGMENTS = frozenset(
    "fragment_zero fragment_a fragment_b fragment_scale fragment_add fragment_store mma".split()
)
FRAGMENT_K = {"f16": 16, "bf16": 16, "i8": 32}  # numbers along k in a line of a factor


class Builder:
    """Collects instructions into nested scopes.

    A pure value goes into the outermost scope in which its arguments exist, and equal pure values
    are one: loop-invariant code leaves loops and common subexpressions vanish without a later pass.
    Reads of buffers that the kernel never writes count as pure, but stay inside an `if`.
    """

    def __init__(self) -> None:
        self.params: list[Param] = []
        self._scopes: list[Scope] = [Scope(False)]

    # -- scopes ---------------------------------------------------------------------------------

    @property
    def depth(self) -> builtins.int:
        """How many brackets are open."""
        return len(self._scopes) - 1

    @contextmanager
    def at(self, depth: builtins.int) -> Iterator[None]:
        """Emit into an enclosing scope, before the brackets that are open inside it."""
        saved = self._scopes
        self._scopes = saved[: depth + 1]
        yield
        self._scopes = saved

    @contextmanager
    def _bracket(self, opener: Value, guard: bool) -> Iterator[None]:
        scope = Scope(guard)
        opener.inner = scope
        depth = self.depth
        self._scopes.append(scope)
        yield
        if self._scopes.pop() is not scope or self.depth != depth:
            raise AssertionError("brackets of a kernel must nest")
        scope.open = False
        self._scopes[-1].items.append(opener)

    @contextmanager
    def loop(self, lo: Value, hi: Value, step: builtins.int = 1) -> Iterator[Value]:
        """Open a loop over lo <= counter < hi; yields the i64 counter."""
        counter = Value("loop", i64, 1, (lo, hi), step, self.depth + 1, self._scopes[-1])
        with self._bracket(counter, False):
            counter.scope = self._scopes[-1]
            yield counter

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Open a block that runs only if the scalar condition holds."""
        opener = Value("if", boolean, 1, (condition,), None, self.depth, self._scopes[-1])
        with self._bracket(opener, True):
            yield

    # -- instructions ---------------------------------------------------------------------------

    def _home(self, op: str, args: tuple[Value, ...]) -> builtins.int | None:
        """Return the depth of the outermost scope that may hold a pure value, else None."""
        if op in PURE:
            return max((a.depth for a in args), default=0)
        if op in READS and self._unwritten(args[0]):
            home = max(a.depth for a in args)
            for depth in range(self.depth, home, -1):
                if self._scopes[depth].guard:
                    return depth
            return home
        return None

    def _unwritten(self, pointer: Value) -> bool:
        """Whether a pointer is to memory that the kernel only reads."""
        while pointer.op == "view":
            pointer = pointer.args[0]
        return pointer.op == "param" and not self.params[pointer.arg].written

    def emit(
        self,
        op: str,
        dtype: DType,
        lanes: builtins.int = 1,
        args: tuple[Value, ...] = (),
        arg: Any = None,
    ) -> Value:
        """Add an instruction, or return the equal pure one that is there already."""
        home = self._home(op, args)
        depth = self.depth if home is None else home
        scope = self._scopes[depth]
        key = (op, dtype, lanes, tuple(id(a) for a in args), repr(arg))
        if home is not None:
            for outer in self._scopes[depth:]:
                if key in outer.shared:
                    return outer.shared[key]
        value = Value(op, dtype, lanes, args, arg, depth, scope)
        scope.items.append(value)
        if home is not None:
            scope.shared[key] = value
        return value

    def param(self, dtype: DType, count: builtins.int, written: bool) -> Value:
        """Add a buffer to the kernel and return its pointer."""
        self.params.append(Param(dtype, count, written))
        return self.emit("param", dtype, 1, (), len(self.params) - 1)

    def const(self, value: Any, dtype: DType, lanes: builtins.int = 1) -> Value:
        """Return a number, the same in all lanes."""
        return self.emit("const", dtype, lanes, (), value)

    def int(self, value: builtins.int) -> Value:
        """Return an i64 number, as indices are."""
        return self.const(value, i64)

    def add(self, a: Value, b: Value) -> Value:
        """i64 scalar addition with folding."""
        if a.constant == 0:
            return b
        if b.constant == 0:
            return a
        if a.constant is not None and b.constant is not None:
            return self.int(a.constant + b.constant)
        return self.emit("add", i64, 1, (a, b))

    def mul(self, a: Value, b: Value) -> Value:
        """i64 scalar multiplication with folding."""
        if a.constant is not None and b.constant is not None:
            return self.int(a.constant * b.constant)
        for x, y in ((a, b), (b, a)):
            if x.constant == 0:
                return x
            if x.constant == 1:
                return y
        return self.emit("mul", i64, 1, (a, b))

    def alu(self, op: str, *args: Value) -> Value:
        """An operation whose result has the type of its last argument (bool for comparisons).

        Scalars among vector arguments are splatted.
        """
        lanes = max(a.lanes for a in args)
        args = tuple(self.splat(a, lanes) for a in args)
        dtype = boolean if op in ("lt", "eq") else args[-1].dtype
        return self.emit(op, dtype, lanes, args)

    def cast(self, value: Value, dtype: DType) -> Value:
        """Return a value converted to another type."""
        return value if value.dtype is dtype else self.emit("cast", dtype, value.lanes, (value,))

    def bitcast(self, value: Value, dtype: DType) -> Value:
        """Return the same bits as another type; vectors get as many lanes as these bits fill."""
        if value.dtype is dtype:
            return value
        lanes = value.lanes * value.dtype.size // dtype.size
        return self.emit("bitcast", dtype, lanes, (value,))

    def view(self, pointer: Value, dtype: DType) -> Value:
        """Return a pointer to the same memory, read as elements of another type."""
        return pointer if pointer.dtype is dtype else self.emit("view", dtype, 1, (pointer,))

    def splat(self, value: Value, lanes: builtins.int) -> Value:
        """Return a scalar in all lanes; a value of so many lanes as it is."""
        if value.lanes == lanes:
            return value
        if value.op == "const":
            return self.const(value.arg, value.dtype, lanes)
        return self.emit("splat", value.dtype, lanes, (value,))

    def lane(self, lanes: builtins.int) -> Value:
        """Return 0, 1, .. as int32."""
        return self.emit("lane", i32, lanes)

    def load(
        self,
        ptr: Value,
        index: Value,
        lanes: builtins.int = 1,
        mask: Value | None = None,
        aligned: bool = False,
    ) -> Value:
        """Read elements from `index` on, or at several indices; masked-off lanes give 0."""
        args = (ptr, index) if mask is None else (ptr, index, mask)
        op = "gather" if index.lanes > 1 else "load"
        return self.emit(op, ptr.dtype, lanes, args, "aligned" if aligned else None)

    def store(
        self,
        ptr: Value,
        index: Value,
        value: Value,
        mask: Value | None = None,
        aligned: bool = False,
    ) -> None:
        """Write elements from `index` on, or at the indices of several lanes."""
        args = (ptr, index, value) if mask is None else (ptr, index, value, mask)
        op = "scatter" if index.lanes > 1 else "store"
        self.emit(op, ptr.dtype, value.lanes, args, "aligned" if aligned else None)

    def prefetch(self, ptr: Value, index: Value) -> None:
        """Say that memory will be read soon; the index may be outside of it."""
        self.emit("prefetch", ptr.dtype, 1, (ptr, index))

    def reg(self, initial: Value) -> Value:
        """Return a new register with this value."""
        return self.emit("reg", initial.dtype, initial.lanes, (initial,))

    def get(self, reg: Value) -> Value:
        """Return what a register holds now."""
        return self.emit("get", reg.dtype, reg.lanes, (reg,))

    def set(self, reg: Value, value: Value) -> None:
        """Put a value into a register."""
        self.emit("set", reg.dtype, reg.lanes, (reg, value))

    def kernel(self, group: tuple[builtins.int, ...] = ()) -> Kernel:
        """Flatten the scopes into the finished kernel."""
        body: list[Inst] = []
        place: dict[builtins.int, builtins.int] = {}

        def write(scope: Scope) -> None:
            for value in scope.items:
                args = tuple(place[id(a)] for a in value.args)
                place[id(value)] = len(body)
                body.append(Inst(value.op, value.dtype, value.lanes, args, value.arg))
                if value.inner is not None:
                    write(value.inner)
                    body.append(Inst("endloop" if value.op == "loop" else "endif", value.dtype, 1))

        write(self._scopes[0])
        return Kernel(tuple(self.params), tuple(body), group)

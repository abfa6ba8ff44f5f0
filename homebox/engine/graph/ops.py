"""The graph's vocabulary: 34 primitive operations, and the immutable nodes they make.

A `Node` is an operation applied to other nodes. Nodes with the same content are the same object
(interned), so equality is identity and a rewrite that changes nothing costs nothing.
Invariant: a node's shape and dtype follow from its op, sources and argument; nothing mutates.
"""

import threading
import weakref
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from homebox.engine.graph.dtype import DType


class Op(Enum):
    """Primitive operations. `src` and `arg` of each are given in the comment."""

    # sources
    CONST = auto()  # src (), arg = Python number; shape ()
    BUFFER = auto()  # src (), arg = Buffer; device memory
    VAR = auto()  # src (), arg = Sym; int32 scalar read from the vars buffer at run time
    IOTA = auto()  # src (), arg = None; shape (n,), int32 0, 1, .. n-1
    # unary, elementwise
    CAST = auto()  # value conversion to the node's dtype (float -> int truncates)
    BITCAST = auto()  # same bits, other type of the same size
    EXP2 = auto()
    LOG2 = auto()
    SIN = auto()
    TANH = auto()
    SQRT = auto()
    RECIP = auto()
    # binary, elementwise; both sources have the node's shape
    ADD = auto()
    MUL = auto()
    MAX = auto()
    IDIV = auto()  # floor division of non-negative integers
    MOD = auto()
    LT = auto()  # -> bool
    EQ = auto()  # -> bool
    AND = auto()
    XOR = auto()
    SHR = auto()  # logical shift right
    WHERE = auto()  # src (bool, a, b)
    # movement: only indices change
    RESHAPE = auto()  # arg = new shape
    PERMUTE = auto()  # arg = order of the source's axes
    EXPAND = auto()  # arg = new shape; axes of size 1 repeat
    SLICE = auto()  # arg = ((start, size, step), ...) per axis; start int or Sym, step 1 or -1
    PAD = auto()  # arg = ((before, after), ...) per axis; zeros
    # reduction over axes, which stay with size 1
    REDUCE = auto()  # arg = ("add" | "max" | "mul", axes)
    # memory
    GATHER = auto()  # src (table (V, *rest), index I int32) -> I + rest; outside of 0..V-1 reads 0
    STORE = (
        auto()
    )  # src (target, value) or (target, value, index); arg "set" | "add"; -> the target
    #   after the write: without index value has target's shape; with index I: value is I + rest,
    #   target[index[i]] (+)= value[i] in the order of i; an index outside of 0..V-1 is skipped;
    #   "unique" is "set" with the promise that no two indices inside are equal
    COPY = auto()  # src (x,); the same values, made contiguous in memory here; with a text as
    #   argument a name only, without memory: "detach" stops gradients, others tell values apart
    # packed numbers: `formats` says how they lie
    UNPACK = auto()  # src (bytes,), arg = Format; shape (n, k) f32: what the bytes stand for
    PACK = auto()  # src (x,) with x (m, k) f32, arg = Format; shape (m, bytes of a row) u8

    # By identity: an Enum's own hash is Python code, and graphs look ops up millions of times.
    __hash__ = object.__hash__
    # made by a rule, never by `tensor`
    ATTEND = auto()  # src (q, k, v, ..), arg = Attend: a whole attention; see `attend`


@dataclass(frozen=True, slots=True)
class Sym:
    """A size or offset known only at run time, with bounds; memory is laid out for `hi`."""

    name: str
    lo: int
    hi: int


Dim = int | Sym
Shape = tuple[Dim, ...]

UNARY = frozenset({Op.CAST, Op.BITCAST, Op.EXP2, Op.LOG2, Op.SIN, Op.TANH, Op.SQRT, Op.RECIP})
BINARY = frozenset({Op.ADD, Op.MUL, Op.MAX, Op.IDIV, Op.MOD, Op.LT, Op.EQ, Op.AND, Op.XOR, Op.SHR})
ELEMENTWISE = UNARY | BINARY | {Op.WHERE}
MOVEMENT = frozenset({Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.SLICE, Op.PAD})
LEAF = frozenset({Op.CONST, Op.BUFFER, Op.VAR, Op.IOTA})


class Node:
    """One operation of the graph. Create with `node(...)`, which interns."""

    __slots__ = ("__weakref__", "arg", "dtype", "op", "shape", "src")

    op: Op
    dtype: DType
    shape: Shape
    src: tuple["Node", ...]
    arg: Any

    def __init__(
        self, op: Op, dtype: DType, shape: Shape, src: tuple["Node", ...], arg: Any
    ) -> None:
        self.op, self.dtype, self.shape, self.src, self.arg = op, dtype, shape, src, arg

    def __repr__(self) -> str:
        return f"{self.op.name}({self.dtype}{list(self.shape)}, arg={self.arg!r})"


_lock = threading.Lock()
_interned: "weakref.WeakValueDictionary[tuple[Any, ...], Node]" = weakref.WeakValueDictionary()


def node(op: Op, dtype: DType, shape: Shape, src: tuple[Node, ...] = (), arg: Any = None) -> Node:
    """Return the node with this content, making it if it does not exist yet."""
    # The type of the argument is part of the key: 1, 1.0 and True are equal in Python. -0.0 too.
    key = (
        op,
        dtype,
        shape,
        tuple(id(s) for s in src),
        type(arg),
        repr(arg) if isinstance(arg, float) else arg,
    )
    with _lock:  # two threads may build graphs at the same time
        found = _interned.get(key)
        if found is None:
            found = Node(op, dtype, shape, src, arg)
            _interned[key] = found
        return found


def size_max(dim: Dim) -> int:
    """Return the number of elements that memory must hold along this axis."""
    return dim.hi if isinstance(dim, Sym) else dim


def numel_max(shape: Iterable[Dim]) -> int:
    """Return the number of elements of the memory behind a shape."""
    total = 1
    for dim in shape:
        total *= size_max(dim)
    return total


def is_name(n: Node) -> bool:
    """Whether a node is a COPY without memory: another name for its source."""
    return n.op is Op.COPY and isinstance(n.arg, str)


def strides_of(shape: Shape) -> tuple[int, ...]:
    """Return row-major strides in elements; symbolic axes count with their upper bound."""
    strides, step = [], 1
    for dim in reversed(shape):
        strides.append(step)
        step *= size_max(dim)
    return tuple(reversed(strides))


def toposort(roots: Iterable[Node], leaves: Container[Node] = ()) -> list[Node]:
    """Return every node below `roots`, sources before users, without recursion.

    The walk does not go below nodes in `leaves`.
    """
    order: list[Node] = []
    done: set[Node] = set()
    for root in roots:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            current, expanded = stack.pop()
            if current in done:
                continue
            if expanded or current in leaves:
                done.add(current)
                order.append(current)
            else:
                stack.append((current, True))
                stack.extend((s, False) for s in reversed(current.src) if s not in done)
    return order


def memory_of(n: Node) -> Node:
    """Return the node that owns the memory in which a realised node lives."""
    while n.op is Op.STORE:
        n = n.src[0]
    return n

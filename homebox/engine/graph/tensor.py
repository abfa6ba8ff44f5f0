"""Lazy tensors: the language in which models are written. Every method only adds graph nodes.

Nothing is computed before `capture` compiles a function or `evaluate` asks for values.
Shapes are tuples of ints; an axis whose size is known only at run time is a `Sym`.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer, Device
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import A8, Format
from homebox.engine.graph.ops import Dim, Node, Op, Shape, Sym, node, numel_max

Number = int | float | bool
LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


class Tensor:
    """A handle on a graph node; arithmetic on it builds the graph."""

    __slots__ = ("node",)
    __array_priority__ = 1000

    def __init__(self, source: Node) -> None:
        self.node = source

    # -- making ---------------------------------------------------------------------------------

    @staticmethod
    def from_numpy(
        array: np.ndarray, frozen: bool = False, device: Device | None = None
    ) -> "Tensor":
        """Copy an array into device memory; `frozen` promises that it never changes."""
        array = np.asarray(array)
        kind = dt.from_numpy(array.dtype)
        buffer = Buffer(array.size, kind, dense=True, device=device)
        buffer.write(array)
        buffer.frozen = frozen
        return Tensor(node(Op.BUFFER, kind, tuple(array.shape), (), buffer))

    @staticmethod
    def zeros(shape: Shape, dtype: DType = dt.f32, device: Device | None = None) -> "Tensor":
        """Return new zeroed device memory that programs may write to."""
        buffer = Buffer(numel_max(shape), dtype, device=device)
        return Tensor(node(Op.BUFFER, dtype, shape, (), buffer))

    @staticmethod
    def full(shape: Shape, value: Number, dtype: DType = dt.f32) -> "Tensor":
        """Return a tensor whose elements all are `value`."""
        return Tensor(const(value, dtype)).reshape((1,) * len(shape)).expand(shape)

    @staticmethod
    def iota(size: Dim) -> "Tensor":
        """Return int32 0, 1, .. size - 1."""
        return Tensor(node(Op.IOTA, dt.i32, (size,)))

    @staticmethod
    def variable(sym: Sym) -> "Tensor":
        """Return a run-time integer as an int32 scalar."""
        return Tensor(node(Op.VAR, dt.i32, (), (), sym))

    # -- facts ----------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """The sizes of the axes."""
        return self.node.shape

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return self.node.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.node.shape)

    @property
    def buffer(self) -> Buffer:
        """The memory behind a tensor made by `from_numpy` or `zeros`."""
        if self.node.op is not Op.BUFFER:
            raise TypeError("only tensors with own memory have a buffer; this one is computed")
        found: Buffer = self.node.arg
        return found

    def part(self, i: int) -> "Tensor":
        """Return entry i along the first axis as a tensor of its own that shares this memory."""
        shape = self.shape[1:]
        count = numel_max(shape)
        view = self.buffer.part(i * count, count)
        return Tensor(node(Op.BUFFER, self.dtype, shape, (), view))

    def __bool__(self) -> bool:
        raise TypeError("a lazy tensor has no truth value; compute it first with `evaluate`")

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}{list(self.shape)}, {self.node.op.name})"

    # -- elementwise ----------------------------------------------------------------------------

    def _lift(self, other: "Tensor | Number") -> "Tensor":
        if isinstance(other, Tensor):
            return other
        return Tensor(const(other, self.dtype))

    def _binary(self, op: Op, other: "Tensor | Number", reverse: bool = False) -> "Tensor":
        a, b = self, self._lift(other)
        shape = broadcast_shape(a.shape, b.shape)
        a, b = a.broadcast(shape), b.broadcast(shape)
        if a.dtype is not b.dtype:
            raise TypeError(f"{op.name} of {a.dtype} and {b.dtype}; cast one of them")
        _require_arithmetic(op, a.dtype)
        if reverse:
            a, b = b, a
        kind = dt.boolean if op in (Op.LT, Op.EQ) else a.dtype
        return Tensor(node(op, kind, shape, (a.node, b.node)))

    def _unary(self, op: Op) -> "Tensor":
        _require_arithmetic(op, self.dtype)
        return Tensor(node(op, self.dtype, self.shape, (self.node,)))

    def __add__(self, other: "Tensor | Number") -> "Tensor":
        return self._binary(Op.ADD, other)

    def __mul__(self, other: "Tensor | Number") -> "Tensor":
        return self._binary(Op.MUL, other)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Tensor":
        return self * -1

    def __sub__(self, other: "Tensor | Number") -> "Tensor":
        return self + (-other)

    def __rsub__(self, other: Number) -> "Tensor":
        return -self + other

    def __truediv__(self, other: "Tensor | Number") -> "Tensor":
        if isinstance(other, Tensor):
            return self * other.recip()
        return self * (1.0 / other)

    def __rtruediv__(self, other: Number) -> "Tensor":
        return self.recip() * other

    def __floordiv__(self, other: "Tensor | int") -> "Tensor":
        return self._binary(Op.IDIV, other)

    def __mod__(self, other: "Tensor | int") -> "Tensor":
        return self._binary(Op.MOD, other)

    def __lt__(self, other: "Tensor | Number") -> "Tensor":
        return self._binary(Op.LT, other)

    def __gt__(self, other: "Tensor | Number") -> "Tensor":
        return self._binary(Op.LT, other, reverse=True)

    def __le__(self, other: "Tensor | Number") -> "Tensor":
        return (self > other).logical_not()

    def __ge__(self, other: "Tensor | Number") -> "Tensor":
        return (self < other).logical_not()

    def __and__(self, other: "Tensor | Number") -> "Tensor":
        return self._binary(Op.AND, other)

    def __xor__(self, other: "Tensor | Number") -> "Tensor":
        return self._binary(Op.XOR, other)

    def __rshift__(self, other: "Tensor | int") -> "Tensor":
        return self._binary(Op.SHR, other)

    def equal(self, other: "Tensor | Number") -> "Tensor":
        """Elementwise equality (== stays identity, tensors are handles)."""
        return self._binary(Op.EQ, other)

    def logical_not(self) -> "Tensor":
        """The opposite of a boolean tensor."""
        return self._binary(Op.XOR, True)

    def maximum(self, other: "Tensor | Number") -> "Tensor":
        """The larger of two, elementwise; the second one if either is NaN."""
        return self._binary(Op.MAX, other)

    def where(self, yes: "Tensor | Number", no: "Tensor | Number") -> "Tensor":
        """Return `yes` where this boolean tensor holds, else `no`."""
        if isinstance(yes, Tensor):
            kind = yes.dtype
        elif isinstance(no, Tensor):
            kind = no.dtype
        else:
            kind = dt.f32
        a = yes if isinstance(yes, Tensor) else Tensor(const(yes, kind))
        b = no if isinstance(no, Tensor) else Tensor(const(no, kind))
        shape = broadcast_shape(broadcast_shape(self.shape, a.shape), b.shape)
        sources = tuple(t.broadcast(shape).node for t in (self, a, b))
        return Tensor(node(Op.WHERE, kind, shape, sources))

    def cast(self, dtype: DType) -> "Tensor":
        """Convert values; 16-bit floats are reached through f32, and float to int truncates."""
        if dtype is self.dtype:
            return self
        if dt.f32 not in (dtype, self.dtype) and (is_narrow(dtype) or is_narrow(self.dtype)):
            return self.cast(dt.f32).cast(dtype)
        return Tensor(node(Op.CAST, dtype, self.shape, (self.node,)))

    def bitcast(self, dtype: DType) -> "Tensor":
        """Reinterpret the bits as another type of the same size."""
        return Tensor(node(Op.BITCAST, dtype, self.shape, (self.node,)))

    def exp2(self) -> "Tensor":
        """2 to the power of each element."""
        return self._unary(Op.EXP2)

    def log2(self) -> "Tensor":
        """The binary logarithm."""
        return self._unary(Op.LOG2)

    def exp(self) -> "Tensor":
        """e to the power of each element."""
        return (self * LOG2_E).exp2()

    def log(self) -> "Tensor":
        """The natural logarithm."""
        return self.log2() * LN_2

    def sin(self) -> "Tensor":
        """The sine; exact to 1e-6 up to 1e4."""
        return self._unary(Op.SIN)

    def tanh(self) -> "Tensor":
        """The hyperbolic tangent."""
        return self._unary(Op.TANH)

    def sqrt(self) -> "Tensor":
        """The square root."""
        return self._unary(Op.SQRT)

    def recip(self) -> "Tensor":
        """1 divided by each element."""
        return self._unary(Op.RECIP)

    def rsqrt(self) -> "Tensor":
        """1 divided by the square root."""
        return self.sqrt().recip()

    def sigmoid(self) -> "Tensor":
        """1 / (1 + exp(-x))."""
        return ((self * -LOG2_E).exp2() + 1.0).recip()

    def silu(self) -> "Tensor":
        """x * sigmoid(x)."""
        return self * self.sigmoid()

    def gelu_tanh(self) -> "Tensor":
        """x * Phi(x), the normal distribution by tanh (Hendrycks and Gimpel, arXiv 1606.08415)."""
        inner = (self * self * 0.044715 + 1.0) * self * math.sqrt(2.0 / math.pi)
        return self * 0.5 * (inner.tanh() + 1.0)

    def detach(self) -> "Tensor":
        """Return the same values, through which no gradient flows."""
        return Tensor(node(Op.COPY, self.dtype, self.shape, (self.node,), "detach"))

    def again(self, label: str) -> "Tensor":
        """Return the same values under another name.

        What is computed from it is a new computation, not one that is shared and kept in memory.
        """
        return Tensor(node(Op.COPY, self.dtype, self.shape, (self.node,), f"again {label}"))

    def contiguous(self) -> "Tensor":
        """Return the same values, written to memory of their own here."""
        return Tensor(node(Op.COPY, self.dtype, self.shape, (self.node,)))

    # -- movement -------------------------------------------------------------------------------

    def reshape(self, shape: Sequence[Dim]) -> "Tensor":
        """Return the same elements in another shape; one size may be -1."""
        new = tuple(shape)
        if -1 in new:
            known = numel_max(d for d in new if d != -1)
            new = tuple(numel_max(self.shape) // known if d == -1 else d for d in new)
        if new == self.shape:
            return self
        if numel_max(new) != numel_max(self.shape):
            raise ValueError(f"cannot reshape {list(self.shape)} to {list(new)}")
        return Tensor(node(Op.RESHAPE, self.dtype, new, (self.node,), new))

    def permute(self, *order: int) -> "Tensor":
        """Return the axes in another order."""
        order = tuple(o % self.ndim for o in order)
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(f"{order} is no order of {self.ndim} axes")
        shape = tuple(self.shape[o] for o in order)
        return Tensor(node(Op.PERMUTE, self.dtype, shape, (self.node,), order))

    def transpose(self, a: int = -2, b: int = -1) -> "Tensor":
        """Swap two axes, the last two by default."""
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return self.permute(*order)

    def expand(self, shape: Shape) -> "Tensor":
        """Repeat the elements along axes of size 1."""
        if shape == self.shape:
            return self
        if len(shape) != self.ndim or any(
            old not in (1, new) for old, new in zip(self.shape, shape, strict=True)
        ):
            raise ValueError(f"cannot expand {list(self.shape)} to {list(shape)}")
        return Tensor(node(Op.EXPAND, self.dtype, shape, (self.node,), shape))

    def broadcast(self, shape: Shape) -> "Tensor":
        """Expand after adding axes in front."""
        if self.shape == shape:
            return self
        return self.reshape((1,) * (len(shape) - self.ndim) + self.shape).expand(shape)

    def slice(self, axis: int, start: int | Sym, size: Dim, step: int = 1) -> "Tensor":
        """Return `size` elements along an axis from `start`; step -1 walks backwards."""
        axis %= self.ndim
        if isinstance(start, int) and isinstance(size, int):
            last = start + step * (size - 1)
            limit = numel_max((self.shape[axis],))
            if size < 0 or (size and not (0 <= start < limit and 0 <= last < limit)):
                raise ValueError(f"slice {start}, {size} is outside of axis {axis} of {self.shape}")
        arg = tuple(
            (start, size, step) if i == axis else (0, d, 1) for i, d in enumerate(self.shape)
        )
        shape = tuple(size if i == axis else d for i, d in enumerate(self.shape))
        return Tensor(node(Op.SLICE, self.dtype, shape, (self.node,), arg))

    def pad(self, axis: int, before: int, after: int) -> "Tensor":
        """Add zeros at both ends of an axis."""
        if not before and not after:
            return self
        axis %= self.ndim
        arg = tuple((before, after) if i == axis else (0, 0) for i in range(self.ndim))
        if isinstance(self.shape[axis], Sym):
            raise ValueError("an axis whose size is known only at run time cannot be padded")
        shape = tuple(
            d + before + after if i == axis and isinstance(d, int) else d
            for i, d in enumerate(self.shape)
        )
        return Tensor(node(Op.PAD, self.dtype, shape, (self.node,), arg))

    def cat(self, *others: "Tensor", axis: int = -1) -> "Tensor":
        """Join tensors along an axis (as padded parts put together, which fuses into the user)."""
        axis %= self.ndim
        parts = (self, *others)
        sizes = [size_of(p.shape[axis]) for p in parts]
        total, at = sum(sizes), sizes[0]
        joined = self.pad(axis, 0, total - at)
        summed = self.dtype is not dt.boolean and not is_narrow(self.dtype)
        place = Tensor.iota(total).reshape((total, *(1,) * (self.ndim - 1 - axis)))
        for part, size in zip(others, sizes[1:], strict=True):
            padded = part.pad(axis, at, total - at - size)
            joined = joined + padded if summed else (place < at).where(joined, padded)
            at += size
        return joined

    # -- reductions -----------------------------------------------------------------------------

    def _reduce(self, how: str, axis: int | tuple[int, ...] | None, keepdim: bool) -> "Tensor":
        if axis is None:
            axes = tuple(range(self.ndim))
        else:
            axes = tuple(
                sorted(a % self.ndim for a in ((axis,) if isinstance(axis, int) else axis))
            )
        _require_arithmetic(Op.ADD, self.dtype)
        kept = tuple(1 if i in axes else d for i, d in enumerate(self.shape))
        out = Tensor(node(Op.REDUCE, self.dtype, kept, (self.node,), (how, axes)))
        if keepdim:
            return out
        return out.reshape(tuple(d for i, d in enumerate(self.shape) if i not in axes))

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Tensor":
        """Sum over axes, all by default."""
        return self._reduce("add", axis, keepdim)

    def max(self, axis: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Tensor":
        """Return the largest element along axes, all by default."""
        if self.dtype is dt.boolean:
            return self.cast(dt.i32).max(axis, keepdim) > 0
        return self._reduce("max", axis, keepdim)

    def prod(self, axis: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Tensor":
        """Multiply along axes, all by default."""
        return self._reduce("mul", axis, keepdim)

    def mean(self, axis: int, keepdim: bool = False) -> "Tensor":
        """Return the mean along an axis of fixed size."""
        return self.sum(axis, keepdim) * (1.0 / size_of(self.shape[axis]))

    def softmax(self, axis: int = -1) -> "Tensor":
        """exp(x) / sum(exp(x)) along an axis."""
        shifted = (self - self.max(axis, keepdim=True).detach()).exp()
        return shifted * shifted.sum(axis, keepdim=True).recip()

    def logsumexp(self, axis: int = -1) -> "Tensor":
        """log(sum(exp(x))) along an axis, which stays with size 1."""
        top = self.max(axis, keepdim=True).detach()
        return (self - top).exp().sum(axis, keepdim=True).log() + top

    def matmul(self, other: "Tensor") -> "Tensor":
        """(..., M, K) @ (..., K, N) -> (..., M, N); leading axes broadcast."""
        if self.ndim < 2 or other.ndim < 2 or self.shape[-1] != other.shape[-2]:
            raise ValueError(f"cannot multiply {list(self.shape)} by {list(other.shape)}")
        k, m, n = self.shape[-1], self.shape[-2], other.shape[-1]
        a = self.reshape((*self.shape[:-1], 1, k))
        b = other.transpose().reshape((*other.shape[:-2], 1, n, k))
        batch = broadcast_shape(self.shape[:-2], other.shape[:-2])
        full = (*batch, m, n, k)
        return (a.broadcast(full) * b.broadcast(full)).sum(-1)

    __matmul__ = matmul

    def linear(self, weight: "Tensor") -> "Tensor":
        """(..., K) times a weight (N, K) -> (..., N)."""
        if self.ndim == 2:
            return self.matmul(weight.transpose())
        rows = numel_max(self.shape[:-1])
        out = self.reshape((rows, self.shape[-1])).matmul(weight.transpose())
        return out.reshape((*self.shape[:-1], weight.shape[0]))

    def grouped_linear(self, weights: "Tensor", expert: "Tensor") -> "Tensor":
        """Blocks of rows (B, R, K), each times one of E weights (E, N, K) -> (B, R, N).

        `expert`, int32 (B,), names the weight of each block; the rows of a block whose weight
        does not exist (as -1) are finite numbers that mean nothing. A weight that is packed, as
        `packed(form, E * N, K, memory).reshape((E, N, K))`, is read where it lies.
        """
        _require_grouped(self, weights, expert, 2)
        return self @ weights.gather(expert).transpose()

    def grouped_matmul(self, weights: "Tensor", expert: "Tensor") -> "Tensor":
        """(B, R, N), each block times one of E weights (E, N, K) -> (B, R, K).

        What the gradient of `grouped_linear` needs; `expert` as there.
        """
        _require_grouped(self, weights, expert, 1)
        return self @ weights.gather(expert)

    # -- packed numbers -------------------------------------------------------------------------

    @staticmethod
    def packed(form: Format, n: int, k: int, memory: "Tensor") -> "Tensor":
        """Return the (n, k) float32 matrix that bytes of a format stand for; u8 (nbytes,)."""
        if memory.dtype is not dt.u8 or numel_max(memory.shape) < form.nbytes(n, k):
            raise ValueError(
                f"{form} of ({n}, {k}) needs {form.nbytes(n, k)} bytes, "
                f"not {memory.dtype} {list(memory.shape)}"
            )
        return Tensor(node(Op.UNPACK, dt.f32, (n, k), (memory.node,), form))

    def quantised(self) -> "Tensor":
        """Round x (m, k) to int8 with one scale for each 32 along k (format a8); float32 again."""
        if self.ndim != 2 or self.dtype is not dt.f32:
            raise TypeError(f"only float32 (m, k) can be quantised, not {self!r}")
        rows, k = self.shape
        width = A8.panel_bytes(size_of(k))
        stored = node(Op.PACK, dt.u8, (rows, width), (self.node,), A8)
        return Tensor(node(Op.UNPACK, dt.f32, self.shape, (stored,), A8))

    # -- memory ---------------------------------------------------------------------------------

    def gather(self, index: "Tensor") -> "Tensor":
        """Return rows `index` of this (V, *rest) table: index.shape + rest; outside reads 0."""
        shape = (*index.shape, *self.shape[1:])
        return Tensor(node(Op.GATHER, self.dtype, shape, (self.node, index.node)))

    def store(
        self,
        value: "Tensor",
        index: "Tensor | None" = None,
        add: bool = False,
        unique: bool = False,
    ) -> "Tensor":
        """Write into this tensor's memory; return the memory as it is afterwards.

        Without `index`, value has this shape. With an int32 index of shape I, value has shape
        I + rest and row index[i] gets value[i] in the order of i; rows outside are skipped.
        `unique` promises that no two of the other rows are the same: they need no order.
        """
        if self.node.op not in (Op.BUFFER, Op.STORE):
            raise TypeError("only tensors with own memory can be stored to")
        want = self.shape if index is None else (*index.shape, *self.shape[1:])
        if add:
            _require_arithmetic(Op.ADD, self.dtype)
        sources: tuple[Node, ...] = (self.node, value.broadcast(want).node)
        if index is not None:
            sources = (*sources, index.node)
        arg = "add" if add else "unique" if unique and index is not None else "set"
        return Tensor(node(Op.STORE, self.dtype, self.shape, sources, arg))


def const(value: Number, dtype: DType) -> Node:
    """Return a scalar constant of the given type: floats are rounded to it, integers wrap."""
    if dtype is dt.bf16:
        bits = struct.unpack("<I", struct.pack("<f", np.float32(value)))[0]
        if value == value:
            bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        value = struct.unpack("<f", struct.pack("<I", bits))[0]
    elif dtype.is_float:
        value = float(dtype.to_numpy().type(value))
    elif dtype is dt.boolean:
        value = bool(value)
    else:
        modulus = 1 << (8 * dtype.size)
        value = int(value) % modulus
        if dtype.kind == "i" and value >= modulus // 2:
            value -= modulus
    return node(Op.CONST, dtype, (), (), value)


def is_narrow(dtype: DType) -> bool:
    """Whether a type is a float for storage only, with which nothing is computed."""
    return dtype in (dt.f16, dt.bf16)


def _require_arithmetic(op: Op, dtype: DType) -> None:
    """Raise TypeError if an operation is not defined for a type."""
    if dtype is dt.boolean and op not in (Op.EQ, Op.AND, Op.XOR):
        raise TypeError(f"{op.name} of bool; cast to i32 first")
    if is_narrow(dtype):
        raise TypeError(f"{op.name} of {dtype}, which is for storage; cast to f32 first")
    if op in (Op.EXP2, Op.LOG2, Op.SIN, Op.TANH) and dtype is not dt.f32:
        raise TypeError(f"{op.name} of {dtype}; it is computed in f32, cast to it first")
    if op in (Op.SQRT, Op.RECIP) and not dtype.is_float:
        raise TypeError(f"{op.name} of {dtype}; cast to f32 first")


def _require_grouped(x: Tensor, weights: Tensor, expert: Tensor, axis: int) -> None:
    """Raise unless blocks of rows fit to weights, whose `axis` is summed, and to their numbers."""
    if expert.dtype is not dt.i32:
        raise TypeError(f"the groups' numbers are int32, not {expert!r}")
    fits = x.ndim == 3 and weights.ndim == 3 and x.shape[2] == weights.shape[axis]
    if not fits or expert.shape != x.shape[:1]:
        raise ValueError(
            f"blocks {list(x.shape)}, weights {list(weights.shape)} and "
            f"their numbers {list(expert.shape)} do not fit together"
        )


def size_of(dim: Dim) -> int:
    """Return a static size; raise TypeError for a run-time one."""
    if isinstance(dim, Sym):
        raise TypeError(f"the size of axis {dim.name!r} is known only at run time")
    return dim


def broadcast_shape(a: Shape, b: Shape) -> Shape:
    """Return the common shape by numpy's rule; raise ValueError if there is none."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    out: list[Any] = []
    for x, y in zip(a, b, strict=True):
        if x != y and x != 1 and y != 1:
            raise ValueError(f"shapes {list(a)} and {list(b)} do not fit together")
        out.append(y if x == 1 else x)
    return tuple(out)

"""The truth about a graph: every primitive operation as one plain numpy expression.

Tests compare what the compiler makes with what this module says. It walks the graph once, sources
before users, fuses nothing and shares no code with the compiler. The invariant: after each node the
array has exactly the node's shape (symbolic sizes resolved) and dtype, or `EngineError` is raised.

Two modes. Strict computes f32 in float32 and rounds f16 and bf16 after each operation (bf16 arrays
hold their 16 bits); only sums and products over axes, whose order a graph does not fix, accumulate
in float64 and round once. Precise holds all floats in float64 and never rounds, for finite
differences.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebox.engine.graph import formats
from homebox.engine.graph.dtype import DType, bf16
from homebox.engine.graph.ops import Node, Op, Shape, Sym, size_max, toposort
from homebox.errors import EngineError

Array = NDArray[Any]


def evaluate(
    roots: Sequence[Node],
    variables: Mapping[str, int] | None = None,
    buffers: Mapping[Any, Array] | None = None,
    *,
    precise: bool = False,
) -> list[Array]:
    """Return the value of every root as a new array of the root's shape and numpy dtype.

    `variables` gives each `Sym` by name. `buffers` overrides the contents of device buffers (in any
    shape with enough elements); other buffers are read through `read`. Nothing is ever written.
    With `precise`, floats are float64 in and out. Raises EngineError if a node breaks its contract.
    """
    evaluator = _Evaluator(variables or {}, buffers or {}, precise)
    with np.errstate(all="ignore"):
        return evaluator.run(roots)


def widen(bits: Array) -> Array:
    """Return bf16 bits (uint16) as float32."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def narrow(values: Array) -> Array:
    """Return floats as bf16 bits (uint16), rounded once to nearest, ties to even."""
    values = np.asarray(values)
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
        if values.dtype == np.float64:
            # Rounding to odd first keeps the second rounding from seeing a tie that is none.
            back = single.astype(np.float64)
            even = (single.view(np.uint32) & 1) == 0
            towards = np.where(values > back, np.inf, -np.inf).astype(np.float32)
            fix = (back != values) & even & np.isfinite(single)
            single = np.where(fix, np.nextafter(single, towards), single)
    bits = np.asarray(single).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(single), (bits >> 16) | 0x40, rounded).astype(np.uint16)


class _Evaluator:
    """One walk over one graph."""

    def __init__(
        self, variables: Mapping[str, int], buffers: Mapping[Any, Array], precise: bool
    ) -> None:
        self.variables, self.buffers, self.precise = variables, buffers, precise

    def run(self, roots: Sequence[Node]) -> list[Array]:
        order = toposort(roots)
        uses: dict[Node, int] = dict.fromkeys(order, 0)
        for user in order:
            for source in user.src:
                uses[source] += 1
        for root in roots:
            uses[root] += 1
        values: dict[Node, Array] = {}
        for current in order:
            sources = [values[source] for source in current.src]
            values[current] = self._checked(current, _RULES[current.op](self, current, sources))
            for source in current.src:
                uses[source] -= 1
                if uses[source] == 0:  # deep graphs would otherwise hold every intermediate
                    del values[source]
        return [np.array(values[root], order="C") for root in roots]

    def _checked(self, node: Node, value: Any) -> Array:
        result = np.asarray(value)
        shape, dtype = self.shape(node.shape), self.held(node.dtype)
        if result.shape != shape:
            raise EngineError(f"{node!r} computes shape {result.shape}, but declares {shape}")
        if result.dtype != dtype:
            raise EngineError(f"{node!r} computes {result.dtype}, but declares {dtype}")
        return result

    # Types: `held` is how a value rests between nodes, `work` is where its arithmetic happens.

    def held(self, dtype: DType) -> np.dtype[Any]:
        if dtype.is_float and self.precise:
            return np.dtype(np.float64)
        return dtype.to_numpy()

    def load(self, node: Node, value: Array) -> Array:
        """Return a value in its working type: float32 for narrow floats, else unchanged."""
        if self.precise or not node.dtype.is_float or node.dtype.size > 2:
            return value
        return widen(value) if node.dtype is bf16 else value.astype(np.float32)

    def rest(self, dtype: DType, value: Any) -> Array:
        """Return a computed value in the type it rests in."""
        if dtype is bf16 and not self.precise:
            return narrow(value)
        held: Array = np.asarray(value).astype(self.held(dtype))
        return held

    def dim(self, dim: int | Sym) -> int:
        if not isinstance(dim, Sym):
            return int(dim)
        if dim.name not in self.variables:
            raise EngineError(f"no value for variable {dim.name!r}; pass it in `variables`")
        value = int(self.variables[dim.name])
        if not dim.lo <= value <= dim.hi:
            raise EngineError(f"{dim.name} = {value} is outside of {dim.lo}..{dim.hi}")
        return value

    def shape(self, shape: Shape) -> tuple[int, ...]:
        return tuple(self.dim(dim) for dim in shape)

    # Sources

    def const(self, node: Node, sources: list[Array]) -> Array:
        if node.dtype.kind in "iu":
            bits = 8 * node.dtype.size
            raw = int(node.arg) % (1 << bits)
            return np.array(raw, f"uint{bits}").view(self.held(node.dtype))
        if node.dtype.is_float:
            return self.rest(node.dtype, np.float64(node.arg))
        return np.array(bool(node.arg))

    def buffer(self, node: Node, sources: list[Array]) -> Array:
        given = self.buffers.get(node.arg)
        data = np.asarray(node.arg.read() if given is None else given)
        full = tuple(size_max(dim) for dim in node.shape)
        count = int(np.prod(full, dtype=np.int64))
        if data.size < count:
            raise EngineError(f"{node!r} needs {count} elements, its buffer has {data.size}")
        data = data.reshape(-1)[:count].reshape(full)
        if self.precise and node.dtype is bf16 and data.dtype == np.uint16:
            data = widen(data)
        if self.precise and node.dtype.is_float:
            data = data.astype(np.float64)
        logical: Array = data[tuple(slice(self.dim(dim)) for dim in node.shape)]
        return logical

    def var(self, node: Node, sources: list[Array]) -> Array:
        return np.array(self.dim(node.arg), self.held(node.dtype))

    def iota(self, node: Node, sources: list[Array]) -> Array:
        return np.arange(self.dim(node.shape[0]), dtype=self.held(node.dtype))

    # Elementwise

    def cast(self, node: Node, sources: list[Array]) -> Array:
        value = self.load(node.src[0], sources[0])
        if node.dtype.kind == "b":
            return np.asarray(value != 0)
        if node.dtype is bf16 and not node.src[0].dtype.is_float:
            value = value.astype(np.float64)  # float32 would round a large integer first
        return self.rest(node.dtype, value)

    def bitcast(self, node: Node, sources: list[Array]) -> Array:
        source = node.src[0].dtype
        if source.size != node.dtype.size:
            raise EngineError(f"{node!r} reinterprets {source}, which has another size")
        bits = sources[0]
        if self.precise and source.is_float:
            bits = narrow(bits) if source is bf16 else bits.astype(source.to_numpy())
        out = np.ascontiguousarray(bits).view(node.dtype.to_numpy()).reshape(bits.shape)
        if self.precise and node.dtype.is_float:
            out = (widen(out) if node.dtype is bf16 else out).astype(np.float64)
        return out

    def elementwise(self, node: Node, sources: list[Array]) -> Array:
        operands = [self.load(src, value) for src, value in zip(node.src, sources, strict=True)]
        if any(x.shape != operands[0].shape for x in operands):
            raise EngineError(f"{node!r} has sources of shapes {[x.shape for x in operands]}")
        if node.op is Op.WHERE and node.src[0].dtype.kind != "b":
            raise EngineError(f"{node!r} selects by {node.src[0].dtype}, not by bool")
        kinds = {src.dtype for src in node.src[-2:]}
        if len(kinds) != 1:
            raise EngineError(f"{node!r} mixes {sorted(kind.name for kind in kinds)}")
        try:
            return self.rest(node.dtype, _ELEMENTWISE[node.op](*operands))
        except (TypeError, ValueError) as error:
            raise EngineError(f"{node!r}: {error}") from error

    # Movement

    def reshape(self, node: Node, sources: list[Array]) -> Array:
        shape = self.shape(node.arg)
        if sources[0].size != int(np.prod(shape, dtype=np.int64)):
            raise EngineError(f"{node!r} cannot hold the {sources[0].shape} of its source")
        return sources[0].reshape(shape)

    def permute(self, node: Node, sources: list[Array]) -> Array:
        return sources[0].transpose(node.arg)

    def expand(self, node: Node, sources: list[Array]) -> Array:
        shape = self.shape(node.arg)
        have = sources[0].shape
        if len(have) != len(shape) or any(a not in (1, b) for a, b in zip(have, shape)):
            raise EngineError(f"{node!r} cannot expand {have}; only axes of size 1 repeat")
        return np.broadcast_to(sources[0], shape)

    def slice(self, node: Node, sources: list[Array]) -> Array:
        pieces = []
        for axis, (start, size, step) in enumerate(node.arg):
            first, count = self.dim(start), self.dim(size)
            have = sources[0].shape[axis]
            last = first + (count - 1) * step
            if step not in (1, -1):
                raise EngineError(f"{node!r} has step {step} on axis {axis}; only 1 and -1 exist")
            if count > 0 and not (0 <= first < have and 0 <= last < have):
                raise EngineError(
                    f"{node!r} takes {first}..{last} of axis {axis}, which has {have} elements"
                )
            pieces.append(first + step * np.arange(count))
        return sources[0][np.ix_(*pieces)] if pieces else sources[0]

    def pad(self, node: Node, sources: list[Array]) -> Array:
        widths = [(self.dim(before), self.dim(after)) for before, after in node.arg]
        if any(width < 0 for pair in widths for width in pair):
            raise EngineError(f"{node!r} pads by a negative amount")
        inner = tuple(slice(b, b + n) for (b, _), n in zip(widths, sources[0].shape, strict=True))
        out = np.zeros([b + n + a for (b, a), n in zip(widths, sources[0].shape)], sources[0].dtype)
        out[inner] = sources[0]
        return out

    # Reduction and memory

    def reduce(self, node: Node, sources: list[Array]) -> Array:
        how, axes = node.arg
        value = self.load(node.src[0], sources[0])
        if how == "max":
            least = _least(value.dtype)
            out = np.max(value, axis=tuple(axes), keepdims=True, initial=least)
        elif how in ("add", "mul"):
            function = np.add if how == "add" else np.multiply
            wide = np.float64 if node.dtype.is_float else value.dtype
            out = function.reduce(value, axis=tuple(axes), keepdims=True, dtype=wide)
        else:
            raise EngineError(f"{node!r} reduces by {how!r}; only add, max and mul exist")
        return self.rest(node.dtype, out)

    def gather(self, node: Node, sources: list[Array]) -> Array:
        table, index = sources
        inside = (index >= 0) & (index < table.shape[0])
        out = np.zeros(index.shape + table.shape[1:], table.dtype)
        out[inside] = table[index[inside]]
        return out

    def unpack(self, node: Node, sources: list[Array]) -> Array:
        n, k = self.shape(node.shape)
        stored = np.ascontiguousarray(sources[0]).reshape(-1)
        return self.rest(node.dtype, formats.unpack(node.arg, stored, n, k))

    def pack(self, node: Node, sources: list[Array]) -> Array:
        stored = formats.pack(node.arg, sources[0].astype(np.float32))
        return stored.reshape(self.shape(node.shape))

    def store(self, node: Node, sources: list[Array]) -> Array:
        target, value = sources[0], sources[1]
        if node.src[0].dtype is not node.src[1].dtype:
            raise EngineError(f"{node!r} stores {node.src[1].dtype} into {node.src[0].dtype}")
        if len(sources) == 2:
            if value.shape != target.shape:
                raise EngineError(f"{node!r} stores shape {value.shape} into {target.shape}")
            return self._written(node, target, value)
        index = sources[2]
        if value.shape != index.shape + target.shape[1:]:
            raise EngineError(
                f"{node!r} stores shape {value.shape} at {index.shape} rows of {target.shape}"
            )
        inside = index[(index >= 0) & (index < len(target))]
        if node.arg == "unique" and len(np.unique(inside)) < inside.size:
            raise EngineError(f"{node!r} promises distinct rows, but two are the same")
        out = target.copy()
        rows = value.reshape(index.size, *target.shape[1:])
        for i, row in enumerate(index.reshape(-1)):
            if 0 <= row < len(out):
                out[row] = self._written(node, out[row], rows[i])
        return out

    def _written(self, node: Node, old: Array, new: Array) -> Array:
        if node.arg in ("set", "unique"):
            return np.array(new)
        if node.arg != "add":
            raise EngineError(f"{node!r} stores by {node.arg!r}; it must be set, unique or add")
        total = self.load(node, np.asarray(old)) + self.load(node, np.asarray(new))
        return self.rest(node.dtype, total)

    def copy(self, node: Node, sources: list[Array]) -> Array:
        return np.array(sources[0], order="C")


def _least(dtype: np.dtype[Any]) -> Any:
    """Return the neutral element of max."""
    if dtype.kind == "f":
        return -np.inf
    return False if dtype.kind == "b" else np.iinfo(dtype).min


def _divisible(a: Array, b: Array) -> None:
    if np.any(a < 0) or np.any(b <= 0):
        raise ValueError("integer division is defined for a >= 0 and b > 0 only")


def _idiv(a: Array, b: Array) -> Array:
    _divisible(a, b)
    return np.asarray(a // b)


def _mod(a: Array, b: Array) -> Array:
    _divisible(a, b)
    return np.asarray(a % b)


def _shr(a: Array, b: Array) -> Array:
    unsigned = np.dtype(f"uint{8 * a.dtype.itemsize}")
    return np.asarray(a.astype(unsigned) >> b.astype(unsigned)).astype(a.dtype)


def _maximum(a: Array, b: Array) -> Array:
    return np.where(a > b, a, b)  # not np.maximum: a NaN in either operand yields b


_ELEMENTWISE: dict[Op, Callable[..., Any]] = {
    Op.EXP2: np.exp2,
    Op.LOG2: np.log2,
    Op.SIN: np.sin,
    Op.TANH: np.tanh,
    Op.SQRT: np.sqrt,
    Op.RECIP: lambda a: np.ones_like(a) / a,
    Op.ADD: np.add,
    Op.MUL: np.multiply,
    Op.MAX: _maximum,
    Op.IDIV: _idiv,
    Op.MOD: _mod,
    Op.LT: np.less,
    Op.EQ: np.equal,
    Op.AND: np.bitwise_and,
    Op.XOR: np.bitwise_xor,
    Op.SHR: _shr,
    Op.WHERE: np.where,
}

_RULES: dict[Op, Callable[[_Evaluator, Node, list[Array]], Array]] = {
    **dict.fromkeys(_ELEMENTWISE, _Evaluator.elementwise),
    Op.CONST: _Evaluator.const,
    Op.BUFFER: _Evaluator.buffer,
    Op.VAR: _Evaluator.var,
    Op.IOTA: _Evaluator.iota,
    Op.CAST: _Evaluator.cast,
    Op.BITCAST: _Evaluator.bitcast,
    Op.UNPACK: _Evaluator.unpack,
    Op.PACK: _Evaluator.pack,
    Op.RESHAPE: _Evaluator.reshape,
    Op.PERMUTE: _Evaluator.permute,
    Op.EXPAND: _Evaluator.expand,
    Op.SLICE: _Evaluator.slice,
    Op.PAD: _Evaluator.pad,
    Op.REDUCE: _Evaluator.reduce,
    Op.GATHER: _Evaluator.gather,
    Op.STORE: _Evaluator.store,
    Op.COPY: _Evaluator.copy,
}

"""What each arithmetic operation of the linear IR computes, to the bit.

`operation` turns one instruction into a Python function of its operands. Vectors are numpy arrays;
scalars are numpy scalars, except that i64 scalars (index arithmetic) are Python ints and bool
scalars Python bools. bf16 rests as its 16 bits. The invariant: every float operation rounds exactly
once, to nearest, ties to even, as the IR demands of every target.
"""

import math
import operator
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebox.engine.codegen.linear import Inst
from homebox.engine.graph.dtype import DType, bf16, f32, f64, i64
from homebox.engine.verify.oracle import narrow, widen

Array = NDArray[Any]
Function = Callable[..., Any]

# Operations whose operands may lie outside of what the IR defines; they raise ValueError.
PARTIAL = frozenset({"idiv", "mod", "shr", "shl", "dot4"})


def operation(inst: Inst, operands: list[Inst]) -> Function:
    """Return the function that computes an arithmetic instruction from its operands' values."""
    if inst.op == "cast":
        source = operands[0].dtype
        return lambda a: settle(convert(np.asarray(a), source, inst.dtype), inst)
    if inst.op == "bitcast":
        before, after = operands[0].dtype.to_numpy(), inst.dtype.to_numpy()
        return lambda a: settle(np.atleast_1d(np.asarray(a, before)).view(after), inst)
    if inst.op == "shuffle":
        return lambda a, b: settle(np.concatenate([a, b])[list(inst.arg)], inst)
    if inst.op == "dot4":
        dot = _dot4(inst.arg)
        return lambda acc, a, b: settle(dot(np.atleast_1d(acc), a, b), inst)
    if inst.op == "dotbf16":
        return _dotbf16
    if inst.op == "splat":
        return lambda a: settle(np.full(inst.lanes, a, inst.dtype.to_numpy()), inst)
    if inst.op == "where":
        return _where_scalar if operands[0].lanes == 1 else np.where
    if inst.op == "tree":
        return _tree(inst)
    if inst.op == "fma":
        return lambda a, b, c: settle(fma(a, b, c, inst.dtype), inst)
    operand = operands[0]
    if inst.op in ("idiv", "mod"):
        function = _divide(inst.op, inst.dtype)
    elif inst.op in ("shr", "shl"):
        function = _shift(inst.op, inst.dtype)
    else:
        function = (_SCALARS if operand.lanes == 1 else _VECTORS)[inst.op]
    if operand.dtype is i64 and operand.lanes == 1 and inst.op in _WRAPPED:
        return _WRAPPED[inst.op]
    if operand.dtype is bf16:
        function = _in_float32(function, rounds=inst.dtype is bf16)
    if operand.lanes > 1 or (inst.dtype.is_float and inst.dtype is not bf16):
        return function
    return lambda *values: settle(function(*values), inst)


def settle(value: Any, inst: Inst) -> Any:
    """Return a result in the form in which values of this type are held."""
    if inst.lanes > 1:
        return value
    if isinstance(value, np.ndarray):
        value = value.reshape(())[()]
    if inst.dtype is i64:
        return int(value)
    if inst.dtype.kind == "b":
        return bool(value)
    return inst.dtype.to_numpy().type(value)


def constant(inst: Inst) -> Any:
    """Return the value of a `const` instruction."""
    if inst.dtype is bf16:
        value = narrow(np.asarray(inst.arg, np.float64))
    else:
        value = np.asarray(inst.arg).astype(inst.dtype.to_numpy())
    return settle(value if inst.lanes == 1 else np.full(inst.lanes, value), inst)


def convert(values: Array, source: DType, target: DType) -> Array:
    """Return values of one type as another; floats truncate towards zero on their way to integers.

    A float outside of the integer's range (undefined on most targets) gives the least integer.
    """
    if source is target:
        return values
    if source is bf16:
        values = widen(values)
    if target is bf16:
        return narrow(values if source.is_float else values.astype(np.float64))
    if target.kind == "b":
        return np.asarray(values != 0)
    if source.is_float and not target.is_float:
        bounds = np.iinfo(target.to_numpy())
        whole = np.trunc(values.astype(np.float64))
        fits = (whole >= float(bounds.min)) & (whole < float(bounds.max) + 1.0)
        inside = np.where(fits, whole, 0.0).astype(target.to_numpy())
        return np.where(fits, inside, inside.dtype.type(bounds.min))
    converted: Array = values.astype(target.to_numpy())
    return converted


def fma(a: Any, b: Any, c: Any, dtype: DType) -> Any:
    """Return a*b+c rounded once, for scalars or vectors of a float type."""
    if dtype is f64:
        exact = [_fma64(*map(float, item)) for item in np.broadcast(a, b, c)]
        return np.array(exact).reshape(np.shape(a))
    if dtype is f32 and not isinstance(a, np.ndarray):
        return np.float32(_odd_scalar(float(a), float(b), float(c)))
    if dtype is bf16:
        return narrow(_odd_sum(widen(a), widen(b), widen(c)))
    return np.asarray(_odd_sum(a, b, c)).astype(dtype.to_numpy())


def _odd_sum(a: Any, b: Any, c: Any) -> Array:
    """Return a*b+c in float64, rounded to odd.

    The product of two f32 is exact in float64. A float64 sum rounded to nearest and then again to
    f32 can be wrong (it may land on a tie that the exact sum is not on); rounded to odd it keeps
    the information on which side it lies (Boldo and Melquiond, 2008). The error term is Knuth's
    TwoSum.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    part = total - product
    error = (product - (total - part)) + (addend - part)
    if not np.any(error):
        return total
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    fix = (error != 0) & even & np.isfinite(total)
    return np.where(fix, np.nextafter(total, towards), total)


def _odd_scalar(a: float, b: float, c: float) -> float:
    """Return what `_odd_sum` returns; numpy is slow on scalars."""
    product = a * b
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    if error == 0 or not math.isfinite(total):
        return total
    if struct.unpack("<q", struct.pack("<d", total))[0] & 1:
        return total
    return math.nextafter(total, math.inf if error > 0 else -math.inf)


def _fma64(a: float, b: float, c: float) -> float:
    if not np.isfinite([a, b, c]).all() or a == 0 or b == 0:
        return a * b + c  # nothing is rounded twice here
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return 0.0
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def _dot4(most: int) -> Function:
    def dot(acc: Array, a: Array, b: Array) -> Array:
        if a.max() > most:
            raise ValueError(f"multiplies {a.max()}, which was said to be at most {most}")
        products = (a.astype(np.int32) * b).reshape(len(acc), 4)
        return np.asarray(acc + products.sum(1, dtype=np.int32))

    return dot


def _dotbf16(acc: Array, a: Array, b: Array) -> Array:
    """Return both products added in turn, each rounded once; machines may round otherwise."""
    x, y = widen(a), widen(b)
    return np.asarray(fma(x[1::2], y[1::2], fma(x[::2], y[::2], acc, f32), f32))


def _where_scalar(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _tree(inst: Inst) -> Function:
    step = _VECTORS[inst.arg]
    if inst.dtype is bf16:
        step = _in_float32(step, rounds=True)

    def reduce(values: Array) -> Any:
        while len(values) > 1:
            half = len(values) // 2
            values = step(values[:half], values[half:])
        return settle(values[0], inst)

    return reduce


def _in_float32(function: Function, *, rounds: bool) -> Function:
    # f32 has more than twice the precision of bf16, so rounding twice is rounding once.
    def computed(*values: Any) -> Any:
        result = function(*(widen(value) for value in values))
        return narrow(result) if rounds else result

    return computed


def _wrap(value: int) -> int:
    if -(1 << 63) <= value < 1 << 63:
        return value
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def _divide(op: str, dtype: DType) -> Function:
    """Return floor division or its remainder; undefined (negative) operands give the least value.

    Such results are legal as long as nothing uses them, and as an index they are out of bounds.
    """
    function = operator.floordiv if op == "idiv" else operator.mod
    least = np.iinfo(dtype.to_numpy()).min

    def divided(a: Any, b: Any) -> Any:
        if isinstance(a, np.ndarray):
            if np.any(b == 0):
                raise ValueError("divides by zero")
            return np.where((a < 0) | (b < 0), a.dtype.type(least), function(a, b))
        if b == 0:
            raise ValueError("divides by zero")
        return least if a < 0 or b < 0 else function(a, b)

    return divided


def _shift(op: str, dtype: DType) -> Function:
    bits = 8 * dtype.size
    held, unsigned = dtype.to_numpy(), np.dtype(f"uint{bits}")
    function = np.right_shift if op == "shr" else np.left_shift

    def shifted(a: Any, b: Any) -> Any:
        count = np.asarray(b)
        if np.any(count < 0) or np.any(count >= bits):
            raise ValueError(f"shifts {bits} bits by {b}")
        pattern = np.asarray(a, held).view(unsigned)
        return np.asarray(function(pattern, count.astype(unsigned))).view(held)

    return shifted


_COMMON: dict[str, Function] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "sqrt": np.sqrt,
    "lt": operator.lt,
    "eq": operator.eq,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
}
_VECTORS: dict[str, Function] = {
    **_COMMON,
    "max": lambda a, b: np.where(a > b, a, b),
    "min": lambda a, b: np.where(a < b, a, b),
}
_SCALARS: dict[str, Function] = {
    **_COMMON,
    "max": lambda a, b: a if a > b else b,
    "min": lambda a, b: a if a < b else b,
}
_WRAPPED: dict[str, Function] = {
    "add": lambda a, b: _wrap(a + b),
    "sub": lambda a, b: _wrap(a - b),
    "mul": lambda a, b: _wrap(a * b),
}

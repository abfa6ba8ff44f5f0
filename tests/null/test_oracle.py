"""The oracle: each operation against a direct numpy expression, and its contracts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.engine.graph.device import Buffer
from homebox.engine.graph.dtype import (
    ALL,
    DType,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
    u32,
)
from homebox.engine.graph.ops import Node, Op, Sym, node
from homebox.engine.verify.oracle import evaluate, narrow, widen
from homebox.errors import EngineError


def memory(array: np.ndarray, dtype: DType, shape: tuple[int | Sym, ...] | None = None) -> Node:
    buffer = Buffer(array.size, dtype)
    buffer.array[:] = array.reshape(-1)
    return node(Op.BUFFER, dtype, array.shape if shape is None else shape, (), buffer)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def apply(op: Op, *sources: Node, dtype: DType | None = None) -> np.ndarray:
    """Evaluate an elementwise operation of sources of one shape."""
    made = node(op, dtype or sources[-1].dtype, sources[-1].shape, sources)
    return evaluate([made])[0]


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


X, Y = floats(3, 5), floats(3, 5, seed=1)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Op.EXP2, np.exp2),
        (Op.SIN, np.sin),
        (Op.TANH, np.tanh),
        (Op.LOG2, np.log2),
        (Op.SQRT, np.sqrt),
        (Op.RECIP, lambda x: np.float32(1) / x),
    ],
)
def test_unary(op: Op, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.abs(X)
    assert same_bits(apply(op, memory(x, f32)), expected(x))


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Op.ADD, lambda x, y: x + y),
        (Op.MUL, lambda x, y: x * y),
        (Op.MAX, np.maximum),
        (Op.LT, lambda x, y: x < y),
        (Op.EQ, lambda x, y: x == y),
    ],
)
def test_binary(op: Op, expected: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    y = Y.copy()
    y[0] = X[0]
    out = boolean if op in (Op.LT, Op.EQ) else f32
    assert same_bits(apply(op, memory(X, f32), memory(y, f32), dtype=out), expected(X, y))


def test_max_of_nan_gives_the_second() -> None:
    nan = np.float32("nan")
    a, b = np.array([nan, 1, nan], np.float32), np.array([2, nan, nan], np.float32)
    assert same_bits(apply(Op.MAX, memory(a, f32), memory(b, f32)), b)


def test_integer_operations() -> None:
    a, b = np.array([7, 0, 2**31 - 1], np.int32), np.array([2, 5, 10], np.int32)
    x, y = memory(a, i32), memory(b, i32)
    assert apply(Op.IDIV, x, y).tolist() == [3, 0, 214748364]
    assert apply(Op.MOD, x, y).tolist() == [1, 0, 7]
    assert apply(Op.ADD, x, y).tolist() == [9, 5, -(2**31) + 9]  # wraps
    assert apply(Op.AND, x, y).tolist() == [2, 0, 10]
    assert apply(Op.XOR, x, y).tolist() == [5, 5, 2**31 - 11]
    negative = memory(np.array([-1, -8, 8], np.int32), i32)
    shift = memory(np.array([31, 1, 2], np.int32), i32)
    assert apply(Op.SHR, negative, shift).tolist() == [1, 2**31 - 4, 2]
    truth = memory(np.array([True, False]), boolean), memory(np.array([True, True]), boolean)
    assert apply(Op.XOR, *truth).tolist() == [False, True]


def test_division_is_for_non_negative_integers() -> None:
    one, zero = memory(np.array([1], np.int32), i32), memory(np.array([0], np.int32), i32)
    minus = memory(np.array([-1], np.int32), i32)
    for sources in ((one, zero), (minus, one)):
        for op in (Op.IDIV, Op.MOD):
            with pytest.raises(EngineError, match="a >= 0 and b > 0"):
                apply(op, *sources)


def test_where() -> None:
    condition = memory(X < Y, boolean)
    assert same_bits(apply(Op.WHERE, condition, memory(X, f32), memory(Y, f32)), np.minimum(X, Y))


def test_constants_variables_and_iota() -> None:
    rows = Sym("rows", 1, 8)
    for kind in ALL:
        made = evaluate([node(Op.CONST, kind, (), (), 1)])[0]
        assert made.dtype == kind.to_numpy() and made.shape == ()
        assert (widen(made) if kind is bf16 else made) == 1
    assert evaluate([node(Op.CONST, u32, (), (), -1)])[0] == 2**32 - 1
    assert evaluate([node(Op.CONST, i8, (), (), 255)])[0] == -1
    assert np.signbit(evaluate([node(Op.CONST, f32, (), (), -0.0)])[0])
    var = node(Op.VAR, i32, (), (), rows)
    iota = node(Op.IOTA, i32, (rows,))
    number, sequence = evaluate([var, iota], {"rows": 3})
    assert same_bits(number, np.array(3, np.int32))
    assert same_bits(sequence, np.arange(3, dtype=np.int32))
    with pytest.raises(EngineError, match=r"rows = 9 is outside of 1\.\.8"):
        evaluate([var], {"rows": 9})
    with pytest.raises(EngineError, match="no value for variable 'rows'"):
        evaluate([iota])


def test_symbolic_axes_are_laid_out_for_the_upper_bound() -> None:
    rows = Sym("rows", 1, 4)
    data = floats(2, 4, 3)
    buffer = memory(data, f32, (2, rows, 3))
    doubled = node(Op.ADD, f32, (2, rows, 3), (buffer, buffer))
    for count in (1, 3, 4):
        assert same_bits(evaluate([doubled], {"rows": count})[0], data[:, :count] * 2)
    short = node(Op.BUFFER, f32, (2, Sym("rows", 1, 5), 3), (), buffer.arg)
    with pytest.raises(EngineError, match="needs 30 elements, its buffer has 24"):
        evaluate([short], {"rows": 1})


def test_contents_of_buffers_can_be_replaced() -> None:
    buffer = memory(X, f32)
    total = node(Op.ADD, f32, X.shape, (buffer, buffer))
    assert same_bits(evaluate([total], buffers={buffer.arg: Y})[0], Y + Y)
    assert same_bits(evaluate([total])[0], X + X)
    with pytest.raises(EngineError, match="computes float64, but declares float32"):
        evaluate([total], buffers={buffer.arg: Y.astype(np.float64)})


def test_precise_mode_rounds_nothing() -> None:
    exact = X.astype(np.float64) + 1e-12
    buffer = memory(X, f32)
    half = node(Op.CAST, bf16, X.shape, (buffer,))
    back = node(Op.CAST, f32, X.shape, (half,))
    root = node(Op.EXP2, f32, X.shape, (back,))
    (got,) = evaluate([root], buffers={buffer.arg: exact}, precise=True)
    assert same_bits(got, np.exp2(exact))
    (strict,) = evaluate([root])
    assert same_bits(strict, np.exp2(widen(narrow(X))))


# Types


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=400, deadline=None)
def test_bf16_is_the_nearest_with_ties_to_even(bits: int) -> None:
    value = np.array(bits, np.uint32).view(np.float32)[()]
    got = int(narrow(np.array([value]))[0])
    if np.isnan(value):
        assert np.isnan(widen(np.array([got], np.uint16))[0])
        return
    low = bits >> 16
    rest = bits & 0xFFFF
    up = rest > 0x8000 or (rest == 0x8000 and low % 2 == 1)
    assert got == low + up


@pytest.mark.parametrize("source", ALL, ids=str)
@pytest.mark.parametrize("target", ALL, ids=str)
def test_casts(source: DType, target: DType) -> None:
    values = np.array([0, 1, 2, 100], np.float64)
    if source.kind != "b":
        values = np.append(values, 2.75 if source.is_float else 3)
    held = narrow(values) if source is bf16 else values.astype(source.to_numpy())
    got = apply(Op.CAST, memory(held, source), dtype=target)
    assert got.dtype == target.to_numpy()
    plain = (widen(held) if source is bf16 else held).astype(np.float64)
    if target.kind == "b":
        expected = plain != 0
    else:
        expected = plain if target.is_float else np.trunc(plain)
    assert np.array_equal(widen(got) if target is bf16 else got, expected)


def test_bitcasts() -> None:
    assert same_bits(apply(Op.BITCAST, memory(X, f32), dtype=u32), X.view(np.uint32))
    halves = X.astype(np.float16)
    assert same_bits(apply(Op.BITCAST, memory(halves, f16), dtype=bf16), halves.view(np.uint16))
    assert apply(Op.BITCAST, memory(np.array([255], np.uint8), u8), dtype=i8)[0] == -1
    with pytest.raises(EngineError, match="another size"):
        apply(Op.BITCAST, memory(X, f32), dtype=i64)


def test_narrow_floats_round_after_each_operation() -> None:
    for kind, round_to in ((f16, lambda x: x.astype(np.float16)), (bf16, narrow)):
        a, b = round_to(X), round_to(Y)
        wide = (widen(a), widen(b)) if kind is bf16 else (a.astype("f4"), b.astype("f4"))
        got = apply(Op.MUL, memory(a, kind), memory(b, kind))
        assert same_bits(got, round_to(wide[0] * wide[1]))
    ones = memory(narrow(np.ones(1000)), bf16, (1000,))
    total = node(Op.REDUCE, bf16, (1,), (ones,), ("add", (0,)))
    assert widen(evaluate([total])[0])[0] == 1000  # adding bf16 one by one would stop at 256


# Movement, on random shapes


@st.composite
def shapes(draw: st.DrawFn, least: int = 0) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(least, 4), min_size=1, max_size=4)))


def ramp(shape: tuple[int, ...]) -> tuple[np.ndarray, Node]:
    data = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    return data, memory(data, i32)


@given(shapes(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_reshape_and_permute(shape: tuple[int, ...], chooser: Any) -> None:
    data, source = ramp(shape)
    flat = node(Op.RESHAPE, i32, (data.size,), (source,), (data.size,))
    order = list(range(len(shape)))
    chooser.shuffle(order)
    new = tuple(shape[axis] for axis in order)
    turned = node(Op.PERMUTE, i32, new, (source,), tuple(order))
    one, two = evaluate([flat, turned])
    assert same_bits(one, data.reshape(-1))
    assert same_bits(two, np.ascontiguousarray(data.transpose(order)))


@given(shapes(1), st.data())
@settings(max_examples=60, deadline=None)
def test_slice(shape: tuple[int, ...], data: st.DataObject) -> None:
    values, source = ramp(shape)
    arg, pieces = [], []
    for size in shape:
        step = data.draw(st.sampled_from([1, -1]))
        start = data.draw(st.integers(0, size - 1))
        count = data.draw(st.integers(0, size - start if step == 1 else start + 1))
        arg.append((start, count, step))
        pieces.append([start + step * i for i in range(count)])
    made = node(Op.SLICE, i32, tuple(n for _, n, _ in arg), (source,), tuple(arg))
    assert same_bits(evaluate([made])[0], values[np.ix_(*pieces)].astype(np.int32))


@given(shapes(), st.data())
@settings(max_examples=60, deadline=None)
def test_pad_and_its_inverse(shape: tuple[int, ...], data: st.DataObject) -> None:
    values, source = ramp(shape)
    width = st.tuples(st.integers(0, 3), st.integers(0, 3))
    widths = tuple(data.draw(width) for _ in shape)
    new = tuple(b + n + a for (b, a), n in zip(widths, shape))
    padded = node(Op.PAD, i32, new, (source,), widths)
    cut = tuple((b, n, 1) for (b, _), n in zip(widths, shape))
    back = node(Op.SLICE, i32, shape, (padded,), cut)
    one, two = evaluate([padded, back])
    assert same_bits(one, np.pad(values, widths))
    assert same_bits(two, values)


@given(shapes(), st.data())
@settings(max_examples=60, deadline=None)
def test_expand_and_reduce(shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = tuple(axis for axis in range(len(shape)) if data.draw(st.booleans()))
    values, source = ramp(shape)
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    total = node(Op.REDUCE, i32, kept, (source,), ("add", axes))
    product = node(Op.REDUCE, i32, kept, (source,), ("mul", axes))
    spread = node(Op.EXPAND, i32, shape, (total,), shape)
    most = node(Op.REDUCE, i32, kept, (source,), ("max", axes))
    got = evaluate([total, product, spread, most])
    with np.errstate(over="ignore"):
        want = values.sum(axis=axes, keepdims=True, dtype=np.int32)
        assert same_bits(got[0], want)
        assert same_bits(got[1], values.prod(axis=axes, keepdims=True, dtype=np.int32))
    assert same_bits(got[2], np.ascontiguousarray(np.broadcast_to(want, shape)))
    assert same_bits(got[3], values.max(axis=axes, keepdims=True, initial=-(2**31)))


def test_reductions_of_nothing_and_of_floats() -> None:
    empty = memory(np.zeros((2, 0), np.float32), f32)
    how = {"add": 0.0, "mul": 1.0, "max": -np.inf}
    roots = [node(Op.REDUCE, f32, (2, 1), (empty,), (name, (1,))) for name in how]
    assert [got[0, 0] for got in evaluate(roots)] == list(how.values())
    many = memory(floats(7, 1000), f32)
    total = node(Op.REDUCE, f32, (7, 1), (many,), ("add", (1,)))
    wide = many.arg.array.reshape(7, 1000).astype(np.float64).sum(axis=1, keepdims=True)
    assert same_bits(evaluate([total])[0], wide.astype(np.float32))
    flags = memory(np.array([[False, True], [False, False]]), boolean)
    some = node(Op.REDUCE, boolean, (2, 1), (flags,), ("max", (1,)))
    assert evaluate([some])[0].tolist() == [[True], [False]]


@pytest.mark.parametrize(
    ("op", "shape", "arg", "reason"),
    [
        (Op.RESHAPE, (4, 4), (4, 4), "cannot hold"),
        (Op.EXPAND, (3, 10), (3, 10), "only axes of size 1"),
        (Op.EXPAND, (2, 3, 5), (2, 3, 5), "only axes of size 1"),
        (Op.SLICE, (3, 6), ((0, 3, 1), (0, 6, 1)), "takes 0..5 of axis 1"),
        (Op.SLICE, (3, 2), ((0, 3, 1), (0, 2, -1)), "takes 0..-1 of axis 1"),
        (Op.SLICE, (3, 2), ((0, 3, 1), (0, 2, 2)), "step 2"),
        (Op.PAD, (3, 4), ((0, 0), (-1, 0)), "negative"),
        (Op.REDUCE, (3, 5), ("add", (1,)), r"computes shape \(3, 1\), but declares \(3, 5\)"),
        (Op.REDUCE, (3, 1), ("mean", (1,)), "reduces by 'mean'"),
    ],
)
def test_broken_nodes_are_refused(op: Op, shape: Any, arg: Any, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        evaluate([node(op, f32, shape, (memory(X, f32),), arg)])


def test_operands_of_different_shape_or_type_are_refused() -> None:
    x = memory(X, f32)
    with pytest.raises(EngineError, match="sources of shapes"):
        apply(Op.ADD, memory(X[:, :1].copy(), f32), x)
    with pytest.raises(EngineError, match=r"mixes \['f32', 'i32'\]"):
        apply(Op.ADD, memory(X.astype(np.int32), i32), x)
    with pytest.raises(EngineError, match="selects by f32, not by bool"):
        apply(Op.WHERE, x, x, x)
    with pytest.raises(EngineError, match="AND"):
        apply(Op.AND, x, x)
    with pytest.raises(EngineError, match="stores f64 into f32"):
        wide = memory(X.astype(np.float64), f64)
        evaluate([node(Op.STORE, f32, X.shape, (x, wide), "set")])


# Memory


def test_gather_reads_zero_outside() -> None:
    table = memory(X, f32)
    index = np.array([[2, -1], [0, 3]], np.int32)
    made = node(Op.GATHER, f32, (2, 2, 5), (table, memory(index, i32)))
    zero = np.zeros(5, np.float32)
    want = np.array([[X[2], zero], [X[0], zero]])
    assert same_bits(evaluate([made])[0], want)


@pytest.mark.parametrize("how", ["set", "add"])
def test_store_of_a_whole_target_changes_no_memory(how: str) -> None:
    target, value = memory(X, f32), memory(Y, f32)
    made = node(Op.STORE, f32, X.shape, (target, value), how)
    after, before = evaluate([made, target])
    assert same_bits(after, Y if how == "set" else X + Y)
    assert same_bits(before, X) and same_bits(target.arg.array, X.reshape(-1))
    after[:] = 0
    assert same_bits(value.arg.array, Y.reshape(-1))


@pytest.mark.parametrize("kind", [f32, bf16, i32], ids=str)
@pytest.mark.parametrize("how", ["set", "add"])
def test_indexed_store_is_in_order_and_skips_outside(how: str, kind: DType) -> None:
    index = np.array([[1, 1, -1], [3, 0, 1]], np.int32)
    rows = np.arange(2 * 3 * 5).reshape(2, 3, 5) * (1 if kind is i32 else 0.37)
    held = narrow if kind is bf16 else lambda x: np.asarray(x).astype(kind.to_numpy())
    want, values = held(np.ones((3, 5))), held(rows)
    target = memory(want, kind)
    made = node(
        Op.STORE,
        kind,
        (3, 5),
        (target, memory(values, kind), memory(index, i32)),
        how,
    )
    before = want.copy()
    for place in np.ndindex(2, 3):
        row = index[place]
        if 0 <= row < 3:
            old, new = want[row], values[place]
            if how == "set":
                want[row] = new
            elif kind is bf16:
                want[row] = narrow(widen(old) + widen(new))
            else:
                want[row] = old + new
    assert same_bits(evaluate([made])[0], want)
    assert same_bits(target.arg.array, before.reshape(-1))


def test_copy_and_results_are_new_and_contiguous() -> None:
    source = memory(X, f32)
    turned = node(Op.PERMUTE, f32, (5, 3), (source,), (1, 0))
    copied = node(Op.COPY, f32, (5, 3), (turned,))
    got = evaluate([turned, copied, source])
    assert same_bits(got[0], X.T) and same_bits(got[1], X.T)
    assert all(item.flags.c_contiguous and item.flags.writeable for item in got)
    got[2][:] = 0
    assert same_bits(source.arg.array, X.reshape(-1))


def test_deep_graphs_and_shared_sources() -> None:
    x = memory(np.ones(3, np.float32), f32)
    deep = x
    for _ in range(3000):
        deep = node(Op.ADD, f32, (3,), (deep, x))
    twice = node(Op.MUL, f32, (3,), (deep, deep))
    got = evaluate([twice, deep, x, twice])
    assert got[0].tolist() == [3001.0**2] * 3 and same_bits(got[0], got[3])
    assert got[1].tolist() == [3001.0] * 3

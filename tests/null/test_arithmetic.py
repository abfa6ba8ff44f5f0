"""The interpreter's arithmetic: every operation against exact fractions or its definition."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.engine.codegen.linear import Builder
from homebox.engine.graph.dtype import bf16, boolean, f16, f32, f64, i8, i32, i64, u32
from homebox.engine.verify.arithmetic import convert, fma
from homebox.engine.verify.interpret import run
from homebox.errors import EngineError

NONE = np.zeros(0, np.int32)


def compute(op: str, *values: tuple[float, object], dtype=f32, arg=None, out=None, lanes=1):
    """Run one operation on constants and return its result as an array."""
    b = Builder()
    result = b.emit(
        op,
        out or dtype,
        1 if op == "tree" else lanes,
        tuple(b.const(value, kind, lanes) for value, kind in values),
        arg,
    )
    memory = b.param(result.dtype, result.lanes, True)
    b.store(memory, b.int(0), result)
    data = np.zeros(result.lanes, result.dtype.to_numpy())
    run(b.kernel(), [data], NONE)
    return data


SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded(exact: Fraction) -> np.float32:
    """Round to the nearest f32, ties to even, by comparing with its neighbours exactly."""
    near = np.float32(float(exact))
    if not np.isfinite(near):
        return near
    around = [near, np.nextafter(near, np.float32("inf")), np.nextafter(near, np.float32("-inf"))]
    finite = [x for x in around if np.isfinite(x)]
    distance = min(abs(Fraction(float(x)) - exact) for x in finite)
    best = [x for x in finite if abs(Fraction(float(x)) - exact) == distance]
    return next((x for x in best if x.view(np.uint32) % 2 == 0), best[0])


def fma32(a: float, b: float, c: float) -> float:
    """Return the fma of scalars, which must be that of vectors."""
    with np.errstate(all="ignore"):
        scalar = fma(a, b, c, f32)
        vector = fma(*(np.array([x, x], np.float32) for x in (a, b, c)), f32)
    assert np.array([scalar, scalar]).tobytes() == vector.tobytes()
    return float(scalar)


@given(SINGLE, SINGLE, SINGLE)
@settings(max_examples=300, deadline=None)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if abs(exact) >= Fraction(2) ** 127:
        return
    assert fma32(a, b, c) == float(rounded(exact))


def test_fma_where_rounding_twice_is_wrong() -> None:
    # Just below a tie of f32; rounded to f64 first, the sum lies on the tie and goes up to even.
    a, b, c = 2.0**-24 * (1 + 2.0**-20), 1 - 2.0**-20, 1 + 2.0**-23
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert float(np.float32(a * b + c)) == 1 + 2.0**-22 != float(rounded(exact))
    assert fma32(a, b, c) == float(rounded(exact)) == c


@given(st.integers(0, 2**23 - 1), st.integers(0, 2**23 - 1))
@settings(max_examples=200, deadline=None)
def test_fma_near_ties(m: int, n: int) -> None:
    """Addends far smaller than half a unit in the last place, on both sides of a tie."""
    c = 1 + m * 2.0**-23
    for sign in (1, -1):
        a, b = sign * (2**23 + n) * 2.0**-23, 2.0**-24  # both are float32 numbers
        assert fma32(a, b, c) == float(rounded(Fraction(a) * Fraction(b) + Fraction(c)))
    for sign in (1, -1):
        a, b = float(np.float32(1 + 2.0**-12)), float(np.float32(sign * (1 - 2.0**-12)))
        c = c * 2.0**40
        assert fma32(a, b, c) == float(rounded(Fraction(a) * Fraction(b) + Fraction(c)))


def test_fma_keeps_signs_and_specials() -> None:
    inf = float("inf")
    with np.errstate(all="ignore"):
        assert np.signbit(fma(-1.0, 0.0, -0.0, f32))
        assert not np.signbit(fma(1.0, 1.0, -1.0, f32))
        assert np.isnan(fma(inf, 0.0, 1.0, f32))
        assert np.isnan(fma(inf, 1.0, -inf, f32))
        assert fma(3e38, 2.0, 0.0, f32) == inf
    assert fma(0.1, 10.0, -1.0, f64) == float(Fraction(0.1) * 10 - 1) != 0.1 * 10.0 - 1.0


def test_max_and_min_give_b_for_nan() -> None:
    nan = float("nan")
    for lanes in (1, 4):
        for op in ("max", "min"):
            assert (compute(op, (nan, f32), (2.0, f32), lanes=lanes) == 2).all()
            assert np.isnan(compute(op, (2.0, f32), (nan, f32), lanes=lanes)).all()
            zero = compute(op, (0.0, f32), (-0.0, f32), lanes=lanes)
            assert np.signbit(zero).all()


@pytest.mark.parametrize("lanes", [1, 4])
def test_integers_wrap_and_shift(lanes: int) -> None:
    assert (compute("add", (127, i8), (1, i8), dtype=i8, lanes=lanes) == -128).all()
    assert (compute("mul", (2**31, u32), (2, u32), dtype=u32, lanes=lanes) == 0).all()
    assert (compute("add", (2**63 - 1, i64), (1, i64), dtype=i64, lanes=lanes) == -(2**63)).all()
    assert (compute("shr", (-1, i32), (28, i32), dtype=i32, lanes=lanes) == 15).all()
    assert (compute("shl", (3, i32), (31, i32), dtype=i32, lanes=lanes) == -(2**31)).all()
    assert (compute("xor", (True, boolean), (True, boolean), dtype=boolean, lanes=lanes) == 0).all()
    for op, count in (("shr", 32), ("shl", -1)):
        with pytest.raises(EngineError, match="shifts 32 bits"):
            compute(op, (1, i32), (count, i32), dtype=i32, lanes=lanes)


@pytest.mark.parametrize("lanes", [1, 4])
def test_undefined_divisions(lanes: int) -> None:
    assert (compute("idiv", (7, i32), (2, i32), dtype=i32, lanes=lanes) == 3).all()
    assert (compute("mod", (7, i64), (4, i64), dtype=i64, lanes=lanes) == 3).all()
    assert (compute("idiv", (-7, i64), (2, i64), dtype=i64, lanes=lanes) == -(2**63)).all()
    with pytest.raises(EngineError, match="divides by zero"):
        compute("mod", (7, i32), (0, i32), dtype=i32, lanes=lanes)


@pytest.mark.parametrize("lanes", [1, 4])
def test_casts(lanes: int) -> None:
    def cast(value: float, source: object, target: object) -> object:
        result = compute("cast", (value, source), out=target, lanes=lanes)
        assert (result == result[0]).all()
        return result[0]

    assert cast(-2.9, f32, i32) == -2 and cast(3e10, f32, i32) == -(2**31)
    assert cast(2.0**31 - 1, f64, i32) == 2**31 - 1 and cast(2.0**31, f64, i32) == -(2**31)
    assert cast(1 + 2.0**-8 + 2.0**-40, f64, bf16) == 0x3F81  # no tie, though one of f32
    assert cast(1 + 2.0**-8 + 2.0**-7 - 2.0**-40, f64, bf16) == 0x3F81
    assert cast(float("nan"), f32, i8) == -128
    assert cast(300, i32, i8) == 44
    assert cast(2**24 + 1, i64, f32) == 2**24
    assert cast(1.00390625, f32, bf16) == 0x3F80  # a tie: to even
    assert cast(1.01171875, f32, bf16) == 0x3F82
    assert cast(1.5, bf16, f32) == 1.5
    assert cast(65520.0, f32, f16) == np.inf
    assert cast(0.25, f32, boolean) and cast(True, boolean, f32) == 1.0
    bits = compute("bitcast", (-0.0, f32), out=u32, lanes=lanes)
    assert (bits == 2**31).all()


def test_bf16_arithmetic_rounds_once_to_bf16() -> None:
    for lanes in (1, 4):
        total = compute("add", (1.0, bf16), (0.0078125, bf16), dtype=bf16, lanes=lanes)
        assert (total == 0x3F81).all()
        both = compute("fma", (1.5, bf16), (2.0, bf16), (0.0078125, bf16), dtype=bf16, lanes=lanes)
        assert (both == 0x4040).all()
        assert compute("lt", (-1.0, bf16), (1.0, bf16), out=boolean, lanes=lanes).all()


@given(st.floats(allow_nan=False))
@settings(max_examples=200, deadline=None)
def test_narrowing_a_double_to_bf16_rounds_once(value: float) -> None:
    got = convert(np.array([value]), f64, bf16)
    back = float((got.astype(np.uint32) << 16).view(np.float32)[0])
    if not np.isfinite(back):
        assert abs(value) > 3.38e38
        return
    for step in (-1, 1):
        other = np.array(((int(got[0]) + step) % 65536) << 16, np.uint32).view(np.float32)[()]
        if np.isfinite(other) and (got[0] & 0x7FFF) > 0:
            apart = abs(Fraction(back) - Fraction(value))
            other_apart = abs(Fraction(float(other)) - Fraction(value))
            assert apart < other_apart or (apart == other_apart and got[0] % 2 == 0)

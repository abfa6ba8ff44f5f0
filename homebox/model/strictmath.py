"""Computes exp, sin and cos in float64 with the same bits on every machine.

A C library's or a vector unit's exp and cos differ in the last bit from machine to machine, and a
learning job's result is named by its hash. So: + - * and power-of-two scaling only, which IEEE 754
defines exactly, with our own range reduction and series.
Invariant: no call of a transcendental function of numpy or of the C library.
"""

from decimal import Decimal, localcontext
from math import factorial

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

_DIGITS = 60  # of every decimal computation; a float32 needs about 9
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
_LN2 = Decimal(
    "0.693147180559945309417232121458176568075500134360255254120680009493393621969694716"
)
MAX_ANGLE = 2.0**24


def _split(value: Decimal, bits: int, parts: int) -> tuple[float, ...]:
    """Return `parts` floats of at most `bits` bits each (the last one full) that sum to `value`."""
    result, rest = [], value
    with localcontext(prec=120):
        for index in range(parts):
            part = float(rest)
            if index < parts - 1:
                mantissa, exponent = np.frexp(part)
                part = float(np.ldexp(np.trunc(np.ldexp(mantissa, bits)), exponent - bits))
            result.append(part)
            rest -= Decimal(part)
    return tuple(result)


def _series(start: int, step: int, terms: int, alternate: bool) -> tuple[float, ...]:
    """Return the Taylor coefficients 1/n!, n = start, start + step, ..., each rounded once."""
    signs = [-1 if alternate and i % 2 == 0 else 1 for i in range(terms)]
    return tuple(signs[i] / factorial(start + step * i) for i in range(terms))


# 29 bits times a quotient of up to 24 bits is exact in the 53 bits of a float64.
_HALF_PI = _split(PI / 2, 29, 4)
_LN2_PARTS = _split(_LN2, 40, 2)
_INV_HALF_PI = float(2 / PI)
_INV_LN2 = float(1 / _LN2)
_SIN = _series(3, 2, 9, alternate=True)  # after x: -x^3/3! + ...; |x| <= pi/4
_COS = _series(2, 2, 10, alternate=True)  # after 1: -x^2/2! + ...
_AT_ONCE = 4096  # numbers whose intermediate results stay in the cache
_EXP = _series(2, 1, 13, alternate=False)  # after 1 + x; |x| <= ln(2)/2


def exp(x: Float64) -> Float64:
    """Return e^x for float64 `x` of any shape, within 1 unit of the last place; 0 below -708.

    Values above 709 are not supported: callers subtract the maximum first.
    """
    if x.size <= _AT_ONCE:
        return _exp(x)
    flat = x.reshape(-1)
    out = np.empty_like(flat)
    for i in range(0, flat.size, _AT_ONCE):
        out[i : i + _AT_ONCE] = _exp(flat[i : i + _AT_ONCE])
    return out.reshape(x.shape)


def _exp(x: Float64) -> Float64:
    clipped = np.maximum(x, -800.0)
    quotient = np.rint(clipped * _INV_LN2)
    rest = (clipped - quotient * _LN2_PARTS[0]) - quotient * _LN2_PARTS[1]
    tail = np.full_like(rest, _EXP[-1])
    for coefficient in reversed(_EXP[:-1]):
        tail = tail * rest + coefficient
    value = 1.0 + (rest + rest * rest * tail)
    # Denormal results would depend on the flush mode of the thread; they are 0 for every use here.
    return np.where(clipped < -708.0, 0.0, np.ldexp(value, quotient.astype(np.int32)))


def cos_sin(angles: Float32) -> tuple[Float32, Float32]:
    """Return cos and sin of float32 `angles` (|x| <= 2^24, any shape), correctly rounded.

    Method: Cody and Waite's reduction with pi/2 in four parts, Taylor series in float64, and for
    the few results that lie too close to a rounding boundary the same in decimals (Ziv's test).
    """
    x = angles.astype(np.float64)
    if x.size and not float(np.max(np.abs(x))) <= MAX_ANGLE:
        raise ValueError("angles must be finite and at most 2^24 in size")
    quotient = np.rint(x * _INV_HALF_PI)
    rest = x
    for part in _HALF_PI:
        rest = rest - quotient * part
    square = rest * rest
    sine = rest + rest * square * _polynomial(_SIN, square)
    cosine = 1.0 + square * _polynomial(_COS, square)
    turn = quotient.astype(np.int64) & 3
    swapped = (turn & 1) == 1
    cos64 = np.where(swapped, sine, cosine) * np.where((turn == 1) | (turn == 2), -1.0, 1.0)
    sin64 = np.where(swapped, cosine, sine) * np.where(turn >= 2, -1.0, 1.0)
    return _round(cos64, angles, "cos"), _round(sin64, angles, "sin")


def _polynomial(coefficients: tuple[float, ...], square: Float64) -> Float64:
    total = np.full_like(square, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * square + coefficient
    return total


def _round(values: Float64, angles: Float32, function: str) -> Float32:
    """Round to float32; decide by decimals where the float64's own error could decide wrongly."""
    rounded = values.astype(np.float32)
    margin = np.abs(values) * 2.0**-48
    doubtful = (values - margin).astype(np.float32) != (values + margin).astype(np.float32)
    flat, sources = rounded.reshape(-1), angles.reshape(-1)
    for index in np.flatnonzero(doubtful.reshape(-1)):
        flat[index] = round_float32(_decimal(function, float(sources[index])))
    return rounded


def _decimal(function: str, angle: float) -> Decimal:
    """Return cos or sin of `angle` to about 50 digits."""
    with localcontext(prec=_DIGITS + 20):
        x = Decimal(angle)
        quotient = int((x * 2 / PI).to_integral_value())
        rest = x - quotient * PI / 2
        turn = (quotient + (1 if function == "cos" else 0)) & 3
        cosine = turn & 1
        term = Decimal(1) if cosine else rest
        total, power = term, 0 if cosine else 1
        while abs(term) > Decimal(10) ** -(_DIGITS + 10):
            term = -term * rest * rest / ((power + 1) * (power + 2))
            power += 2
            total += term
        return -total if turn >= 2 else +total


def round_float32(value: Decimal) -> np.float32:
    """Return the float32 nearest to a decimal, free of double rounding (normal range only)."""
    guess = np.float32(float(value))
    below, above = np.nextafter(guess, np.float32(-np.inf)), np.nextafter(guess, np.float32(np.inf))
    with localcontext(prec=200):
        candidates = (guess, below, above)
        return min(candidates, key=lambda candidate: abs(Decimal(float(candidate)) - value))

"""What attention does with single scores: powers of two, soft caps, and a row's share at the end.

Scores are binary logarithms here, as queries were multiplied with log2 e. The same functions serve
the kernels for CPUs and those for work-groups, so their bits are equal.
Invariant: a sink joins a row's total once, after all keys, in the graph's own arithmetic
(`fusion.attend.with_sink`): a row has the same bits whether splits are joined here or there.
"""

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.fusion.attend import LEAST_SINK, MOST_SINK
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.tensor import LOG2_E
from homebox.engine.kernels.polynomials import EXP2, ROUND, exp2, horner, tanh


def whole_power(b: Builder, x: Value) -> Value:
    """Return 2 to the power of x, a whole number that is not positive; 0 below -126."""
    low = b.const(-127.0, dt.f32, x.lanes)
    field = b.alu("add", b.cast(b.alu("max", x, low), dt.i32), b.const(127, dt.i32, x.lanes))
    return b.bitcast(b.alu("shl", field, b.const(23, dt.i32, x.lanes)), dt.f32)


def power_below(b: Builder, x: Value, shift: Value) -> Value:
    """Return 2 to the power of x - m, with m given as the bits of m + ROUND; 0 if tiny.

    The fraction does not depend on m, so another m changes the exponent only.
    """
    rounder = b.const(ROUND, dt.f32, x.lanes)
    turned = b.alu("add", x, rounder)
    mantissa = horner(b, b.alu("sub", x, b.alu("sub", turned, rounder)), EXP2)
    down = b.alu("sub", b.bitcast(turned, dt.i32), shift)
    exponent = b.alu("shl", down, b.const(23, dt.i32, x.lanes))
    bits = b.alu("add", b.bitcast(mantissa, dt.i32), exponent)
    tiny = b.alu("lt", down, b.const(-125, dt.i32, x.lanes))
    return b.alu("where", tiny, b.const(0.0, dt.f32, x.lanes), b.bitcast(bits, dt.f32))


def capped(b: Builder, score: Value, cap: float | None) -> Value:
    """Return c tanh(score / c) for a cap that is given for natural logarithms."""
    if cap is None:
        return score
    bound = cap * LOG2_E
    share = b.alu("mul", score, b.const(1.0 / bound, dt.f32, score.lanes))
    return b.alu("mul", tanh(b, share), b.const(bound, dt.f32, score.lanes))


def share_of(b: Builder, total: Value) -> Value:
    """Return what a row's sums are multiplied with at the end; 1 where it saw nothing."""
    zero, one = b.const(0.0, dt.f32), b.const(1.0, dt.f32)
    some = b.alu("lt", zero, total)
    return b.alu("div", one, b.alu("where", some, total, one))


def share_with_sink(b: Builder, sink: Value, exponent: Value, total: Value) -> Value:
    """Return the same for a row that has a sink.

    Sums and total count in 2^exponent, a whole number; the sink is a natural logarithm.
    """
    score = b.alu("mul", sink, b.const(LOG2_E, dt.f32))
    score = b.alu("max", score, b.const(LEAST_SINK, dt.f32))
    score = b.alu("min", score, b.const(MOST_SINK, dt.f32))
    peak = b.alu("max", exponent, b.cast(b.cast(score, dt.i32), dt.f32))
    down = whole_power(b, b.alu("sub", exponent, peak))
    weight = exp2(b, b.alu("sub", score, peak))
    whole = b.alu("add", b.alu("mul", total, down), weight)
    return b.alu("mul", b.alu("div", b.const(1.0, dt.f32), whole), down)

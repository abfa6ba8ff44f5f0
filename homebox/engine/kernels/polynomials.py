"""exp2, log2, sin and tanh as fixed polynomials in fused multiply-adds, the same bits everywhere.

Each is written once, as linear IR. Coefficients are minimax fits on the reduced interval; errors
(measured against float64, see tests) stay within 2 units in the last place for exp2 and log2,
within 3 for tanh, and within 1e-6 absolute for sin up to |x| = 1e4.
"""

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.graph.dtype import f32, i32, u32

ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits

# 2**f on [-0.5, 0.5], constant term first
EXP2 = (
    1.0,
    0.6931472067106205,
    0.24022651213595256,
    0.05550327214209315,
    0.009618025602947949,
    0.0013400432165314982,
    0.00015469731979732033,
)
# log2(m) = r * LOG2_ODD(r**2) with r = (m - 1) / (m + 1), for m in [sqrt(1/2), sqrt(2)]
LOG2_ODD = (
    2.8853900817900646,
    0.9617966733679346,
    0.5770835802316795,
    0.4116729920634288,
    0.34072520225977876,
)
# sin(x) = x + x**3 * SIN(x**2) on [-pi/2, pi/2]
SIN = (
    -0.1666666666388435,
    0.008333332769539624,
    -0.00019841086736178986,
    2.753647531747311e-06,
    -2.4080433418865684e-08,
)

# tanh(x) = x + x**3 * TANH(x**2) on [-0.625, 0.625]
TANH = (
    -0.3333328068256378,
    0.13331441581249237,
    -0.05373971536755562,
    0.0206390842795372,
    -0.005704984534531832,
)


def horner(b: Builder, x: Value, coefficients: tuple[float, ...]) -> Value:
    """Return sum of coefficients[i] * x**i by fused multiply-adds."""
    result = b.const(coefficients[-1], f32, x.lanes)
    for c in reversed(coefficients[:-1]):
        result = b.alu("fma", result, x, b.const(c, f32, x.lanes))
    return result


def exp2(b: Builder, x: Value) -> Value:
    """2**x for float32; 0 below -150, infinity above 128, NaN for NaN."""
    lanes = x.lanes

    def number(value: float) -> Value:
        return b.const(value, f32, lanes)

    # What comes to zero is taken out: masked scores all do, and on many CPUs a product that
    # underflows costs a hundred others.
    gone = b.alu("lt", x, number(-150.0))
    # min returns its second operand for NaN: it stands second, so NaN survives.
    bounded = b.alu("min", number(129.0), b.alu("where", gone, number(0.0), x))
    rounded = b.alu("sub", b.alu("add", bounded, number(ROUND)), number(ROUND))
    fraction = b.alu("sub", bounded, rounded)
    mantissa = horner(b, fraction, EXP2)
    # The exponent is applied in two halves, so that denormal results come out right.
    whole = b.cast(rounded, i32)
    one = b.const(1, i32, lanes)
    bias = b.const(512, i32, lanes)
    half = b.alu("sub", b.alu("shr", b.alu("add", whole, bias), one), b.const(256, i32, lanes))
    rest = b.alu("sub", whole, half)
    for part in (half, rest):
        power = b.alu("shl", b.alu("add", part, b.const(127, i32, lanes)), b.const(23, i32, lanes))
        mantissa = b.alu("mul", mantissa, b.bitcast(power, f32))
    return b.alu("where", gone, number(0.0), mantissa)


def log2(b: Builder, x: Value) -> Value:
    """log2(x) for float32; -infinity at 0, NaN below 0 and for NaN, infinity at infinity."""
    lanes = x.lanes

    def number(value: float) -> Value:
        return b.const(value, f32, lanes)

    tiny = b.alu("lt", x, number(1.1754943508222875e-38))
    scaled = b.alu("where", tiny, b.alu("mul", x, number(8388608.0)), x)
    bits = b.bitcast(scaled, i32)
    # Split into m in [sqrt(1/2), sqrt(2)) and a power of two, by integer arithmetic on the bits.
    offset = b.alu("sub", bits, b.const(0x3F3504F3, i32, lanes))
    exponent = b.alu(
        "sub",
        b.alu(
            "shr", b.alu("add", offset, b.const(0x40000000, i32, lanes)), b.const(23, i32, lanes)
        ),
        b.const(128, i32, lanes),
    )
    shifted = b.alu("shl", exponent, b.const(23, i32, lanes))
    m = b.bitcast(b.alu("sub", bits, shifted), f32)
    one = number(1.0)
    ratio = b.alu("div", b.alu("sub", m, one), b.alu("add", m, one))
    square = b.alu("mul", ratio, ratio)
    power = b.alu("add", b.cast(exponent, f32), b.alu("where", tiny, number(-23.0), number(0.0)))
    result = b.alu("fma", ratio, horner(b, square, LOG2_ODD), power)
    zero = number(0.0)
    positive = b.alu("lt", zero, x)
    limited = b.alu("lt", x, number(float("inf")))
    special = b.alu("where", b.alu("eq", x, zero), number(float("-inf")), number(float("nan")))
    result = b.alu("where", limited, result, x)
    return b.alu("where", positive, result, special)


def sin(b: Builder, x: Value) -> Value:
    """sin(x) for float32 and |x| up to about 1e4 (reduction by multiples of pi in three parts)."""
    lanes = x.lanes

    def number(value: float) -> Value:
        return b.const(value, f32, lanes)

    turns = b.alu("fma", x, number(0.31830988618), number(ROUND))
    parity = b.alu("shl", b.bitcast(turns, u32), b.const(31, u32, lanes))
    whole = b.alu("sub", turns, number(ROUND))
    reduced = b.alu("fma", whole, number(-3.140625), x)
    reduced = b.alu("fma", whole, number(-9.67502593994140625e-4), reduced)
    reduced = b.alu("fma", whole, number(-1.509957990978376432e-7), reduced)
    square = b.alu("mul", reduced, reduced)
    cubic = b.alu("mul", square, reduced)
    value = b.alu("fma", cubic, horner(b, square, SIN), reduced)
    return b.bitcast(b.alu("xor", b.bitcast(value, u32), parity), f32)


def tanh(b: Builder, x: Value) -> Value:
    """tanh(x) for float32; -1 and 1 far away, NaN for NaN, odd to the bit.

    Near 0 a polynomial, else (1 - e) / (1 + e) with e = exp(-2 |x|).
    """
    lanes = x.lanes

    def number(value: float) -> Value:
        return b.const(value, f32, lanes)

    bits = b.bitcast(x, u32)
    size = b.bitcast(b.alu("and", bits, b.const(0x7FFFFFFF, u32, lanes)), f32)
    square = b.alu("mul", size, size)
    cubic = b.alu("mul", square, size)
    near = b.alu("fma", cubic, horner(b, square, TANH), size)
    # 2**power with the whole part in the exponent: from 2**-30 to 1, so one step is enough.
    power = b.alu("max", b.alu("mul", size, number(-2.8853900817779268)), number(-30.0))
    turned = b.alu("add", power, number(ROUND))
    fraction = b.alu("sub", power, b.alu("sub", turned, number(ROUND)))
    exponent = b.alu("shl", b.bitcast(turned, i32), b.const(23, i32, lanes))
    mantissa = b.bitcast(horner(b, fraction, EXP2), i32)
    e = b.bitcast(b.alu("add", mantissa, exponent), f32)
    far = b.alu("div", b.alu("sub", number(1.0), e), b.alu("add", number(1.0), e))
    # A NaN is not above anything: it takes the polynomial, which keeps it.
    value = b.alu("where", b.alu("lt", number(0.625), size), far, near)
    sign = b.alu("and", bits, b.const(0x80000000, u32, lanes))
    return b.bitcast(b.alu("xor", b.bitcast(value, u32), sign), f32)

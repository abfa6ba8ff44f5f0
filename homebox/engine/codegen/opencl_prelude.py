"""Helper functions that OpenCL kernels call, and the variants of each that devices differ in.

The one idea: a kernel's text does not depend on the device's vendor. Where devices need different
code for the same result, the helper holds all variants, and a macro given to the compiler picks
one: `-DHB_DOT4=2`. Variant 0 needs nothing of the device and is always right. The invariant: every
variant gives the same bits, so a probe that fails only costs speed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# Four bytes by four bytes: macro HB_DOT4.
DOT4_VARIANTS: dict[str, int] = {"scalar": 0, "khr": 1, "ptx": 2, "amd_sudot4": 3, "amd_sdot4": 4}
# Values between work-items of a sub-group: macro HB_SHUFFLE. There is none that always works, so
# without a unit "subgroup" no kernel uses it; 0 takes whichever extension the compiler names.
SHUFFLE_VARIANTS: dict[str, int] = {"auto": 0, "khr": 1, "intel": 2, "ptx": 3, "amd": 4}
# Correctly rounded f32 division and root: macro HB_ROUND. "native" needs ROUNDED_OPTION as well.
ROUND_VARIANTS: dict[str, int] = {"integer": 0, "native": 1, "double": 2}

ROUNDED_OPTION = "-cl-fp32-correctly-rounded-divide-sqrt"

# Stands before a loop that adds up floats. Intel's compiler for CPUs gives work-items that do not
# fill a vector a loop of their own, and would add its numbers in lanes, in another order.
IN_ORDER = "#pragma clang loop vectorize(disable)"


@dataclass(frozen=True, slots=True)
class Helper:
    """A part of the prelude: its text, and the names of the parts that must come before it."""

    text: str
    needs: tuple[str, ...] = ()


def build_options(
    *,
    dot4: str = "scalar",
    shuffle: str = "auto",
    rounding: str = "integer",
    standard: str | None = None,
) -> list[str]:
    """Return the compiler's options for kernels; the names are those of the tables of variants.

    `standard` is the language's version, such as "CL3.0"; None leaves the compiler's own.
    """
    options = [f"-cl-std={standard}"] if standard else []
    options += [
        f"-DHB_DOT4={DOT4_VARIANTS[dot4]}",
        f"-DHB_SHUFFLE={SHUFFLE_VARIANTS[shuffle]}",
        f"-DHB_ROUND={ROUND_VARIANTS[rounding]}",
    ]
    return options + ([ROUNDED_OPTION] if rounding == "native" else [])


def prelude(used: Iterable[str], helpers: dict[str, Helper]) -> str:
    """Return the texts of the named helpers and of what they need, each once, in order."""
    placed: dict[str, str] = {}

    def place(name: str) -> None:
        if name not in placed:
            for need in helpers[name].needs:
                place(need)
            placed[name] = helpers[name].text.strip("\n") + "\n"

    for name in used:
        place(name)
    return "\n".join(placed.values())


_ROUND = """
#ifndef HB_ROUND
#define HB_ROUND 0
#endif
#if HB_ROUND == 2
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
"""

# A quotient's or root's 26 bits with a sticky last one, times 2^exponent, rounded to f32 once.
_PACK = """
static float hb_pack(uint sign, uint bits, int exponent) {
    int place = 31 - (int)clz(bits) + exponent;
    int drop = (place < -126 ? -149 : place - 23) - exponent;
    if (drop > 31) return as_float(sign);
    uint kept = bits >> drop;
    uint rest = bits & ((1u << drop) - 1u);
    uint half_way = 1u << (drop - 1);
    kept += rest > half_way || (rest == half_way && (kept & 1u));
    int top = place < -126 ? -126 : place;
    if (top > 127) return as_float(sign | 0x7f800000u);
    uint biased = place < -126 ? 0u : (uint)(top + 126);
    uint whole = (biased << 23) + kept;
    return as_float(sign | (whole > 0x7f800000u ? 0x7f800000u : whole));
}
"""

# The significand of a finite number as an integer of 24 bits, and its exponent.
_SPLIT = """
static uint hb_split(uint magnitude, int *exponent) {
    uint bits = magnitude & 0x7fffffu;
    int biased = (int)(magnitude >> 23);
    if (biased) {
        *exponent = biased - 150;
        return bits | 0x800000u;
    }
    int up = (int)clz(bits) - 8;
    *exponent = -149 - up;
    return bits << up;
}
"""

_DIV = """
static float hb_div(float a, float b) {
#if HB_ROUND == 1
    return a / b;
#elif HB_ROUND == 2
    return (float)((double)a / (double)b);
#else
    uint x = as_uint(a) & 0x7fffffffu, y = as_uint(b) & 0x7fffffffu;
    uint sign = (as_uint(a) ^ as_uint(b)) & 0x80000000u;
    if (x > 0x7f800000u || y > 0x7f800000u || (x == y && (x == 0u || x == 0x7f800000u)))
        return as_float(0x7fc00000u);
    if (x == 0x7f800000u || y == 0u) return as_float(sign | 0x7f800000u);
    if (x == 0u || y == 0x7f800000u) return as_float(sign);
    int ea, eb;
    uint rest = hb_split(x, &ea), by = hb_split(y, &eb), bits = 0u;
    for (int i = 0; i < 27; i++) {
        bits <<= 1;
        if (rest >= by) {
            rest -= by;
            bits |= 1u;
        }
        rest <<= 1;
    }
    return hb_pack(sign, (bits << 1) | (rest != 0u), ea - eb - 27);
#endif
}
"""

_SQRT = """
static float hb_sqrt(float a) {
#if HB_ROUND == 1
    return sqrt(a);
#elif HB_ROUND == 2
    return (float)sqrt((double)a);
#else
    uint x = as_uint(a);
    if ((x & 0x7fffffffu) == 0u || x == 0x7f800000u) return a;
    if (x > 0x7f800000u) return as_float(0x7fc00000u);
    int exponent;
    uint part = hb_split(x, &exponent);
    if (exponent & 1) {
        part <<= 1;
        exponent -= 1;
    }
    ulong rest = (ulong)part << 28, root = 0ul;
    for (ulong bit = 1ul << 26; bit; bit >>= 1) {
        ulong next = root | bit;
        if (next * next <= rest) root = next;
    }
    return hb_pack(0u, (uint)(root << 1) | (root * root != rest), exponent / 2 - 15);
#endif
}
"""

# To nearest even; a NaN keeps its upper half, made quiet.
_TO_BF16 = """
static ushort hb_to_bf16(float a) {
    uint bits = as_uint(a), high = bits >> 16;
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return (ushort)(nan ? high | 0x40u : (bits + 0x7fffu + (high & 1u)) >> 16);
}
"""
_FROM_BF16 = """
static float hb_from_bf16(ushort a) {
    return as_float((uint)a << 16);
}
"""

# Half precision where the device has no such type: its values are held as f32.
_ROUND_HALF = """
static float hb_round_half(float a) {
    ushort bits;
    vstore_half_rte(a, 0, (half *)&bits);
    return vload_half(0, (const half *)&bits);
}
"""
_ROUND_HALF_DOUBLE = """
static float hb_round_half_double(double a) {
    ushort bits;
    vstore_half_rte(a, 0, (half *)&bits);
    return vload_half(0, (const half *)&bits);
}
"""
_HALF_BITS = """
static ushort hb_half_bits(float a) {
    ushort bits;
    vstore_half_rte(a, 0, (half *)&bits);
    return bits;
}
static float hb_bits_half(ushort bits) {
    return vload_half(0, (const half *)&bits);
}
"""

_DOT4 = """
#ifndef HB_DOT4
#define HB_DOT4 0
#endif
#if HB_DOT4 == 1 && defined(cl_khr_integer_dot_product)
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#endif
static int hb_dot4(int acc, uchar4 a, char4 b) {
#if HB_DOT4 == 1
    return acc + dot_4x8packed_us_int(as_uint(a), as_uint(b));
#elif HB_DOT4 == 2
    int sum;
    __asm__("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(as_uint(a)), "r"(as_int(b)), "r"(acc));
    return sum;
#elif HB_DOT4 == 3
    return __builtin_amdgcn_sudot4(false, as_int(a), true, as_int(b), acc, false);
#elif HB_DOT4 == 4
    int shifted = __builtin_amdgcn_sdot4(as_int(a) ^ (int)0x80808080u, as_int(b), acc, false);
    return shifted + 128 * __builtin_amdgcn_sdot4(0x01010101, as_int(b), 0, false);
#else
    return acc + (int)a.s0 * b.s0 + (int)a.s1 * b.s1 + (int)a.s2 * b.s2 + (int)a.s3 * b.s3;
#endif
}
"""

# The same where the unsigned bytes are below 128, so that a signed product is right at once.
_DOT4_SMALL = """
static int hb_dot4_small(int acc, uchar4 a, char4 b) {
#if HB_DOT4 == 4
    return __builtin_amdgcn_sdot4(as_int(a), as_int(b), acc, false);
#else
    return hb_dot4(acc, a, b);
#endif
}
"""

_EXCHANGE = """
#ifndef HB_SHUFFLE
#define HB_SHUFFLE 0
#endif
#if HB_SHUFFLE < 2 && defined(cl_khr_subgroup_shuffle)
#pragma OPENCL EXTENSION cl_khr_subgroup_shuffle : enable
#define HB_SHUFFLE_BY_KHR
#elif HB_SHUFFLE % 2 == 0 && defined(cl_intel_subgroups)
#pragma OPENCL EXTENSION cl_intel_subgroups : enable
#endif
static int hb_exchange(int value, uint mask) {
#if HB_SHUFFLE == 3
    int other;
    __asm__ volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;"
                   : "=r"(other) : "r"(value), "r"(mask));
    return other;
#elif HB_SHUFFLE == 4
    uint me = __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u));
    return __builtin_amdgcn_ds_bpermute((int)((me ^ mask) << 2), value);
#elif defined(HB_SHUFFLE_BY_KHR)
    return sub_group_shuffle_xor(value, mask);
#else
    return intel_sub_group_shuffle_xor(value, mask);
#endif
}
"""
_EXCHANGE_LONG = """
static long hb_exchange_long(long value, uint mask) {
    int low = hb_exchange((int)(uint)value, mask);
    int high = hb_exchange((int)(uint)((ulong)value >> 32), mask);
    return (long)(((ulong)(uint)high << 32) | (ulong)(uint)low);
}
"""

HELPERS: dict[str, Helper] = {
    "hb_round": Helper(_ROUND),
    "hb_pack": Helper(_PACK),
    "hb_split": Helper(_SPLIT),
    "hb_div": Helper(_DIV, ("hb_round", "hb_pack", "hb_split")),
    "hb_sqrt": Helper(_SQRT, ("hb_round", "hb_pack", "hb_split")),
    "hb_to_bf16": Helper(_TO_BF16),
    "hb_from_bf16": Helper(_FROM_BF16),
    "hb_round_half": Helper(_ROUND_HALF),
    "hb_round_half_double": Helper(_ROUND_HALF_DOUBLE),
    "hb_half_bits": Helper(_HALF_BITS),
    "hb_dot4": Helper(_DOT4),
    "hb_dot4_small": Helper(_DOT4_SMALL, ("hb_dot4",)),
    "hb_exchange": Helper(_EXCHANGE),
    "hb_exchange_long": Helper(_EXCHANGE_LONG, ("hb_exchange",)),
}

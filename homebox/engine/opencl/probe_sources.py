"""Trial kernels: what each one computes, from which bytes, and what must come out to the bit.

One idea: a probe is plain data. It grants a unit only by computing the right numbers; names of
extensions are not asked. Probes of one family are ways to the same thing, the best first, and the
first that passes is taken. Invariant: what is expected is computed here, on the host, from the
definition of the operation, never by another kernel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebox.engine.codegen.opencl_prelude import (
    DOT4_VARIANTS,
    HELPERS,
    IN_ORDER,
    ROUND_VARIANTS,
    ROUNDED_OPTION,
    SHUFFLE_VARIANTS,
    prelude,
)

Array = NDArray[Any]
ITEMS = 1024  # work-items of most probes
_GROUP = 64

HEAD = """\
#pragma OPENCL FP_CONTRACT OFF
#define GIVEN(T) ((__global const T *)given)
#define FOUND(T) ((__global T *)found)
"""
START = "__kernel void probe(__global const uchar *given, __global uchar *found) {\n"


@dataclass(frozen=True, slots=True)
class Probe:
    """A kernel `probe(__global const uchar *given, __global uchar *found)` and its right answer."""

    name: str  # what people read, for example "dot4 by dp4a"
    family: str  # probes of one family are alternatives
    source: str  # OpenCL C
    given: bytes
    expected: bytes
    unit: str = ""  # one of simt.target.UNITS that it grants, if any
    options: tuple[str, ...] = ()  # of this build, and of all later ones if it passes
    items: tuple[int, ...] = (ITEMS,)
    groups: tuple[tuple[int, ...], ...] = ((_GROUP,),)  # every one must give the same
    sub_group: int = 0  # the size of sub-groups that it proves, if any
    shows: str = "<u4"  # numpy's name of the elements, for the reason of a refusal


def kernel(body: str, extra: str = "") -> str:
    """Return the source of a kernel with this body; `i` is the work-item."""
    return f"{HEAD}{extra}{START}  const uint i = get_global_id(0);\n{body}\n}}\n"


def standard_probes() -> tuple[Probe, ...]:
    """Return what every device is asked, in order; each builds with the options granted before."""
    return (
        *language_probes(),
        *base_probes(),
        *divide_probes(),
        half_probe(),
        double_probe(),
        *exchange_probes(),
        *dot4_probes(),
    )


REQUIRED = (
    "language",
    "integers",
    "local memory",
    "fma",
)  # without these families a device is not used
STRICT = ("denormals", "contraction", "order", "divide and root")  # without these, bits may differ


# -- numbers --------------------------------------------------------------------------------------


def fma32(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c in float32, rounded once: in float64 to odd first, then to float32."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    even = (total.view(np.int64) & 1) == 0
    towards = np.where((error > 0) == (total > 0), 1, -1)
    odd = (total.view(np.int64) + np.where((error != 0) & even, towards, 0)).view(np.float64)
    rounded: Array = odd.astype(np.float32)
    return rounded


def _numbers(seed: int, count: int, low: int, high: int) -> Array:
    """Return float32 numbers of either sign with exponents in [low, high)."""
    random = np.random.default_rng(seed)
    sizes = np.exp2(random.uniform(low, high, count))
    numbers: Array = (sizes * random.choice([-1.0, 1.0], count)).astype(np.float32)
    return numbers


def _joined(*parts: Array) -> bytes:
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


# -- what every device must do --------------------------------------------------------------------


def language_probes() -> tuple[Probe, ...]:
    """Return the versions of the language to ask for; a driver's default may lack functions."""
    values = np.arange(ITEMS, dtype=np.uint32)
    body = "  FOUND(uint)[i] = GIVEN(uint)[i] * 3u;"
    asked = [(f"OpenCL C {each}", (f"-cl-std=CL{each}",)) for each in ("3.0", "2.0", "1.2")]
    return tuple(
        Probe(name, "language", kernel(body), _joined(values), _joined(values * 3), options=options)
        for name, options in (*asked, ("OpenCL C, any version", ()))
    )


def base_probes() -> tuple[Probe, ...]:
    """Return probes of plain arithmetic and memory, which no schedule can do without."""
    return (
        _integers(),
        _local_memory(),
        _fma(),
        _contraction(),
        _order(),
        _denormals(),
        _half_storage(),
    )


def _integers() -> Probe:
    random = np.random.default_rng(1)
    a = random.integers(-(2**31), 2**31, ITEMS).astype(np.int32)
    b = random.integers(1, 2**15, ITEMS).astype(np.int32)
    wide = a.astype(np.int64) * b
    low = (a & 255).astype(np.uint8).view(np.int8).astype(np.int32)
    wanted = np.stack(
        [
            (wide >> 20).astype(np.int32),
            (a.view(np.uint32) >> (b & 31).astype(np.uint32)).view(np.int32),
            low * b,
            np.trunc(a.astype(np.float64) / b).astype(np.int32),
            (wide & 0xFFFFFFFF).astype(np.uint32).astype(np.float32).view(np.int32),
        ],
        axis=1,
    )
    body = """\
  int a = GIVEN(int)[i], b = GIVEN(int)[1024 + i];
  long wide = (long)a * (long)b;
  __global int *to = FOUND(int) + 5 * i;
  to[0] = (int)(wide >> 20);
  to[1] = (int)((uint)a >> (uint)(b & 31));
  to[2] = (int)((__global const char *)given)[4 * i] * b;
  to[3] = a / b;
  to[4] = as_int((float)(uint)wide);"""
    return Probe(
        "integers", "integers", kernel(body), _joined(a, b), _joined(wanted.astype(np.int32))
    )


def _local_memory() -> Probe:
    """32 KiB written by the work-items of a group and read by others after a barrier."""
    values = np.random.default_rng(2).integers(0, 2**32, ITEMS, np.uint64).astype(np.uint32)
    # Whom a work-item reads from is in another sub-group where those are small.
    wanted = values[np.arange(ITEMS) ^ 32] * np.uint32(32) + np.uint32(sum(range(32)))
    body = """\
  __local uint box[8192];
  uint l = get_local_id(0), size = get_local_size(0), value = GIVEN(uint)[i], sum = 0;
  for (uint k = 0; k < 32; k++) box[k * size + l] = value + k;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint k = 0; k < 32; k++) sum += box[k * size + (l ^ 32)];
  FOUND(uint)[i] = sum;"""
    return Probe(
        "local memory",
        "local memory",
        kernel(body),
        _joined(values),
        _joined(wanted),
        groups=((256,), (64,)),
    )


def _three(seed: int) -> tuple[Array, Array, Array]:
    """Return operands of which many sums cancel, so that one rounding and two differ."""
    a, b = _numbers(seed, ITEMS, -3, 3), _numbers(seed + 1, ITEMS, -3, 3)
    c = _numbers(seed + 2, ITEMS, -4, 4)
    near = -(a * b)
    c[::2] = near[::2]
    c[::4] = np.nextafter(near[::4], np.float32(0))
    return a, b, c


_THREE = "  float a = GIVEN(float)[i], b = GIVEN(float)[1024 + i], c = GIVEN(float)[2048 + i];\n"


def _fma() -> Probe:
    a, b, c = _three(3)
    body = f"{_THREE}  FOUND(float)[i] = fma(a, b, c);"
    return Probe("fma", "fma", kernel(body), _joined(a, b, c), _joined(fma32(a, b, c)), shows="<f4")


def _contraction() -> Probe:
    a, b, c = _three(6)
    name, body = "products and sums round apart", f"{_THREE}  FOUND(float)[i] = a * b + c;"
    given, expected = _joined(a, b, c), _joined(a * b + c)
    return Probe(name, "contraction", kernel(body), given, expected, shows="<f4")


def _order() -> Probe:
    """Sums and products of a long loop; some work-items beyond a whole vector are left out."""
    used, items, length = 70, 128, 512
    values = _numbers(23, used * length, -4, 4).reshape(length, used)
    factors = np.abs(values) ** np.float32(0.125)
    sums, products = np.zeros(used, np.float32), np.ones(used, np.float32)
    for value, factor in zip(values, factors, strict=True):
        sums, products = sums + value, products * factor
    body = f"""\
  const int at = i;
  if (at < {used}) {{
    float sum = 0.0f, product = 1.0f;
{IN_ORDER}
    for (int k = 0; k < {length}; k += 1) sum = sum + GIVEN(float)[{used} * k + at];
{IN_ORDER}
    for (int k = {length}; k < {2 * length}; k += 1)
      product = product * GIVEN(float)[{used} * k + at];
    FOUND(float)[at] = sum;
    FOUND(float)[{used} + at] = product;
  }}"""
    given, expected = _joined(values, factors), _joined(sums, products)
    name = "sums of loops are in order"
    return Probe(name, "order", kernel(body), given, expected, items=(items,), shows="<f4")


def _denormals() -> Probe:
    """Operands, results and both are below 2^-126; a device that flushes them gives zeros."""
    a, b = _numbers(9, ITEMS, -140, -100), _numbers(10, ITEMS, -36, -9)
    c = _numbers(11, ITEMS, -147, -127)
    wanted = np.stack([a * b, a + c, c + c, fma32(a, b, c), c * np.float32(4096)], axis=1)
    body = f"""\
{_THREE}  __global float *to = FOUND(float) + 5 * i;
  to[0] = a * b; to[1] = a + c; to[2] = c + c; to[3] = fma(a, b, c); to[4] = c * 4096.0f;"""
    return Probe(
        "denormals are kept",
        "denormals",
        kernel(body),
        _joined(a, b, c),
        _joined(wanted),
        shows="<f4",
    )


def _half_storage() -> Probe:
    """Every half becomes a float and floats become halves, to nearest, ties to even."""
    halves = np.arange(0, 65536, 64, dtype=np.uint16) + np.arange(ITEMS, dtype=np.uint16) % 64
    halves[~np.isfinite(halves.view(np.float16))] = 0
    floats = _numbers(12, ITEMS, -26, 15)
    floats[::3] = (np.arange(0, ITEMS, 3) + 0.5) * np.float32(2)  # halfway between two halves
    body = """\
  FOUND(float)[i] = vload_half(i, GIVEN(half));
  vstore_half_rte(GIVEN(float)[512 + i], 2048 + i, FOUND(half));"""
    wanted = _joined(halves.view(np.float16).astype(np.float32), floats.astype(np.float16))
    return Probe("halves as storage", "half storage", kernel(body), _joined(halves, floats), wanted)


# -- division -------------------------------------------------------------------------------------


def divide_probes() -> tuple[Probe, ...]:
    """Return ways to a correctly rounded quotient and root; numpy's are."""
    a, b = _numbers(13, ITEMS, -60, 60), _numbers(14, ITEMS, -60, 60)
    a[::7] = _numbers(15, len(a[::7]), -148, -100)
    # Close to one another: quotients near 1, where a wrong last bit is most likely seen.
    b[1::3] = np.nextafter(a[1::3], np.float32(np.inf))
    with np.errstate(over="ignore"):
        wanted = np.stack([a / b, np.sqrt(np.abs(a)), np.float32(1) / b], axis=1)
    body = """\
  float a = GIVEN(float)[i], b = GIVEN(float)[1024 + i];
  __global float *to = FOUND(float) + 3 * i;
  to[0] = hb_div(a, b); to[1] = hb_sqrt(fabs(a)); to[2] = hb_div(1.0f, b);"""
    native = f"-DHB_ROUND={ROUND_VARIANTS['native']}"
    ways = {
        "the device's, as built with an option": (ROUNDED_OPTION, native),
        "the device's": (native,),
        "in f64": (f"-DHB_ROUND={ROUND_VARIANTS['double']}",),
        "by integers": (f"-DHB_ROUND={ROUND_VARIANTS['integer']}",),
    }
    source = kernel(body, prelude(("hb_div", "hb_sqrt"), HELPERS))
    return tuple(
        Probe(
            f"quotients and roots: {way}",
            "divide and root",
            source,
            _joined(a, b),
            _joined(wanted),
            options=options,
            shows="<f4",
        )
        for way, options in ways.items()
    )


# -- types ----------------------------------------------------------------------------------------


def half_probe() -> Probe:
    """Return the probe of arithmetic in f16."""
    numbers = [_numbers(seed, 4 * ITEMS, -4, 4).astype(np.float16) for seed in (16, 17, 18)]
    a, b, c = (part.astype(np.float64) for part in numbers)
    exact = a * b + c
    # Rounding to float32 in between is harmless in a fast mode: what it changes is left out.
    kept = exact.astype(np.float32).astype(np.float16) == exact.astype(np.float16)
    a, b, c = (part[np.flatnonzero(kept)[:ITEMS]] for part in (a, b, c))
    wanted = np.stack([a * b + c, a * b, a + c, a - b], axis=1).astype(np.float16)
    body = """\
  half a = GIVEN(half)[i], b = GIVEN(half)[1024 + i], c = GIVEN(half)[2048 + i];
  __global half *to = FOUND(half) + 4 * i;
  to[0] = fma(a, b, c); to[1] = a * b; to[2] = a + c; to[3] = a - b;"""
    return Probe(
        "arithmetic in f16",
        "half",
        kernel(body, "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n"),
        _joined(*(part.astype(np.float16) for part in (a, b, c))),
        _joined(wanted),
        unit="half",
        shows="<f2",
    )


def double_probe() -> Probe:
    """Return the probe of arithmetic in f64, which some GPUs lack."""
    a, b = (_numbers(seed, ITEMS, -30, 30).astype(np.float64) / 3 for seed in (19, 20))
    body = """\
  double a = GIVEN(double)[i], b = GIVEN(double)[1024 + i];
  FOUND(double)[2 * i] = a * b; FOUND(double)[2 * i + 1] = a + b;"""
    return Probe(
        "arithmetic in f64",
        "double",
        kernel(body, "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n"),
        _joined(a, b),
        _joined(np.stack([a * b, a + b], axis=1)),
        shows="<f8",
    )


# Compilers for processors take any assembly for their own and may crash on it.
_ONLY_WHERE_PTX = """\
#if defined(__AMDGCN__) || defined(cl_intel_subgroups) || \\
    ((defined(__x86_64__) || defined(__aarch64__)) && !defined(__NV_CL_C_VERSION))
#error this device has no PTX
#endif
"""

# -- sub-groups -----------------------------------------------------------------------------------

# What a kernel that exchanges values carries where the compiler chooses sizes by itself.
REQUIRE = "__attribute__((intel_reqd_sub_group_size({size})))\n"
_ONLY_WHERE_SIZES_ARE_CHOSEN = """\
#ifndef cl_intel_required_subgroup_size
#error the size of sub-groups cannot be chosen
#endif
"""


def exchange_probes() -> tuple[Probe, ...]:
    """Return ways to exchange values, each with a size of sub-groups.

    Where the compiler chooses the size of each kernel by itself, it must be told: that goes first.
    """
    ways = [(way, 16, True) for way in ("khr", "intel")]
    ways += [("khr", size, False) for size in (64, 32, 16, 8)]
    ways += [("amd", size, False) for size in (64, 32)]
    ways += [("ptx", 32, False)]
    return tuple(_exchange(*way) for way in ways)


def _exchange(way: str, size: int, required: bool) -> Probe:
    values = np.random.default_rng(21).integers(-(2**31), 2**31, ITEMS).astype(np.int32)
    masks = [1 << bit for bit in range(size.bit_length() - 1)] + [size - 1]
    wanted = np.stack([values[np.arange(ITEMS) ^ mask] for mask in masks], axis=1)
    lines = [
        "  int x = GIVEN(int)[i];",
        f"  __global int *to = FOUND(int) + {len(masks)} * i;",
        *(f"  to[{at}] = hb_exchange(x, {mask}u);" for at, mask in enumerate(masks)),
    ]
    extra = _ONLY_WHERE_SIZES_ARE_CHOSEN if required else _ONLY_WHERE_PTX * (way == "ptx")
    source = kernel("\n".join(lines), extra + prelude(("hb_exchange",), HELPERS))
    if required:
        source = source.replace("__kernel", REQUIRE.format(size=size) + "__kernel")
    return Probe(
        f"exchange in {size} ({way}{', size chosen' if required else ''})",
        "exchange",
        source,
        _joined(values),
        _joined(wanted),
        unit="subgroup",
        options=(f"-DHB_SHUFFLE={SHUFFLE_VARIANTS[way]}",),
        groups=tuple((count,) for count in (256, 128, 64, 32, 16) if count >= size),
        sub_group=size,
        shows="<i4",
    )


# -- products of four bytes -----------------------------------------------------------------------


def dot4_probes() -> tuple[Probe, ...]:
    """Return the ways to a fast product of u8 x 4 and i8 x 4, added to i32."""
    random = np.random.default_rng(22)
    a = random.integers(0, 256, (ITEMS, 4)).astype(np.uint8)
    b = random.integers(-128, 128, (ITEMS, 4)).astype(np.int8)
    a[:4], b[:4] = 255, np.array([-128, 127, -1, 0], np.int8)[:, None]
    c = random.integers(-(2**20), 2**20, ITEMS).astype(np.int32)
    wanted = [(part.astype(np.int32) * b).sum(1, dtype=np.int32) + c for part in (a, a & 127)]
    body = """\
  uchar4 a = GIVEN(uchar4)[i], small = a & (uchar4)(127);
  char4 b = GIVEN(char4)[1024 + i];
  int c = GIVEN(int)[2048 + i];
  FOUND(int)[2 * i] = hb_dot4(c, a, b);
  FOUND(int)[2 * i + 1] = hb_dot4_small(c, small, b);"""
    helpers = prelude(("hb_dot4", "hb_dot4_small"), HELPERS)
    return tuple(
        Probe(
            f"products of four bytes ({way})",
            "dot4",
            kernel(body, _ONLY_WHERE_PTX * (way == "ptx") + helpers),
            _joined(a, b, c),
            _joined(np.stack(wanted, axis=1)),
            unit="dot4",
            options=(f"-DHB_DOT4={number}",),
            shows="<i4",
        )
        for way, number in DOT4_VARIANTS.items()
        if number  # the scalar one is there without asking
    )

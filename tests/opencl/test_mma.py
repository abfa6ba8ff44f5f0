"""Matrix units on OpenCL runtimes without any: the scalar variant, and the others' own parts.

The scalar variant runs whole products. Of the vendors' variants everything but the instruction runs
here; where sub-groups exchange values, the instructions run too, as functions that compute what the
vendors document, so that the very texts of probes and kernels are tried.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.codegen.linear import FRAGMENT_K, Builder, Kernel
from homebox.engine.codegen.opencl import render
from homebox.engine.codegen.opencl_mma import (
    MMA_VARIANTS,
    UNITS,
    VARIANTS,
    Variant,
    mma_text,
    options,
    width_text,
)
from homebox.engine.codegen.opencl_prelude import build_options
from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import Format
from homebox.engine.graph.ops import memory_of
from homebox.engine.graph.tensor import Tensor
from homebox.engine.opencl.probe_mma import mma_probes
from homebox.engine.opencl.probe_sources import Probe
from homebox.engine.opencl.probes import difference
from homebox.engine.runtime.plan import order_regions
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import Fragments, LoweredSimt, Simt
from homebox.engine.verify import oracle
from homebox.engine.verify.interpret import run_simt
from tests.null.test_mma_layouts import STEP, at, loaded
from tests.null.test_simt import Execution
from tests.opencl.both import NONE, run_opencl

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found

# Compilers' remarks are no failures.
pytestmark = pytest.mark.filterwarnings("ignore:Non-empty compiler output")

Array = np.ndarray[Any, Any]
ALL = frozenset(UNITS.values())


# -- operations -----------------------------------------------------------------------------------


def tile_kernel(kind: DType, width: int, teams: int) -> Kernel:
    """Each team multiplies the same a by 16 lines of b of its own, two steps along k."""
    b = Builder()
    k, sums = FRAGMENT_K[kind.name], dt.i32 if kind is dt.i8 else dt.f32
    step = 2 * k + 16 // kind.size
    given = b.param(kind, (1 + teams) * 16 * step, False)
    scales = b.param(dt.f32, 16 * (1 + teams), False)
    found = b.param(dt.f32, teams * 256, True)
    item = b.emit("local", dt.i64, 1, (), 0)
    team = b.emit("idiv", dt.i64, 1, (item, b.int(width)))
    box = b.emit("shared", kind, 1, (), (1 + teams) * 16 * step)
    floats = b.emit("shared", dt.f32, 1, (), 16 * (1 + teams))
    out = b.emit("shared", dt.f32, 1, (), teams * 256)
    for source, target in ((given, box), (scales, floats)):
        count = b.params[source.arg].count
        with b.loop(item, b.int(count), width * teams) as i:
            b.store(target, i, b.load(source, i))
    b.emit("barrier", dt.i64)
    total = b.emit("fragment_zero", dt.f32, 1, (), width)
    whole = b.emit("fragment_zero", sums, 1, (), width) if kind is dt.i8 else total
    line = b.add(b.mul(team, b.int(16)), b.int(16))
    with b.loop(b.int(0), b.int(2 * k), k) as at_k:
        left = b.emit("fragment_a", kind, 1, (box, at_k), (step, width))
        place = b.add(b.mul(line, b.int(step)), at_k)
        right = b.emit("fragment_b", kind, 1, (box, place), (step, width))
        b.emit("mma", sums, 1, (whole, left, right))
    if kind is dt.i8:
        args = (total, whole, floats, b.int(0), floats, line)
        b.emit("fragment_scale", dt.f32, 1, args)
    b.emit("fragment_store", dt.f32, 1, (out, b.mul(team, b.int(256)), total), 16)
    b.emit("barrier", dt.i64)
    with b.loop(item, b.int(teams * 256), width * teams) as i:
        b.store(found, i, b.load(out, i))
    return b.kernel((width * teams,))


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("kind", [dt.f16, dt.bf16, dt.i8], ids=repr)
def test_fragments_of_whole_numbers(cl_entry: "Found", kind: DType, width: int) -> None:
    """Sums of small integers are exact in any order, so all must have the interpreter's bits."""
    teams = 2
    kernel = tile_kernel(kind, width, teams)
    random = np.random.default_rng(5)
    numbers = random.integers(-9, 9, kernel.params[0].count)
    given = numbers.astype(np.int8 if kind is dt.i8 else np.float16)
    if kind is dt.bf16:
        given = (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    scales = random.integers(1, 5, kernel.params[1].count).astype(np.float32)
    want = [given, scales, np.zeros(teams * 256, np.float32)]
    run_simt(kernel, want, NONE, (1,))
    fresh = [given, scales, np.zeros(teams * 256, np.float32)]
    target = Simt(units=ALL, team=width)
    got = run_opencl(cl_entry, kernel, fresh, NONE, (1,), target, build_options())
    assert np.abs(want[2]).max() > 100
    np.testing.assert_array_equal(got[2], want[2])


# -- products -------------------------------------------------------------------------------------


class Launched(Execution):
    """Kernels of a graph, run in order on an OpenCL device."""

    def __init__(
        self, root: Tensor, entry: "Found", target: Simt, more: Sequence[str] = ()
    ) -> None:
        cut = partition([root.node], resident=False)
        self.roots, self.values, self.memory = cut.roots, {}, {}
        self.lowered = [lower_simt(r, cut.realised, [], target) for r in order_regions(cut)]
        for low in self.lowered:
            assert isinstance(low, LoweredSimt)
            arrays = [self.array(n) for n in low.memory]
            grid = low.groups({})
            chosen = [*build_options(), *more]
            got = run_opencl(entry, low.kernel, arrays, NONE, grid, target, chosen)
            for node, result in zip(low.memory, got, strict=True):
                self.memory[memory_of(node)] = result


def product(form: Format, m: int, n: int, k: int, how: str) -> Tensor:
    """Return a product with an epilogue; "turned" ones sum over the weight's rows."""
    random = np.random.default_rng(m)
    stored = formats.pack(form, random.standard_normal((n, k)).astype(np.float32))
    weight = Tensor.packed(form, n, k, Tensor.from_numpy(stored))
    given = random.standard_normal((m, n if how == "turned" else k)).astype(np.float32)
    x = Tensor.from_numpy(given)
    if how == "int8":
        return x.quantised().linear(weight).maximum(0.0)
    x = x.cast(dt.bf16).cast(dt.f32)
    return (x @ weight if how == "turned" else x.linear(weight)).maximum(0.0)


@pytest.mark.parametrize(
    ("form", "how"),
    [
        (formats.Q8, "int8"),
        (formats.Q4, "int8"),
        (formats.BF16, "bf16"),
        (formats.Q4, "bf16"),
        pytest.param(formats.F32, "bf16", marks=pytest.mark.whole),
        (formats.BF16, "turned"),
        pytest.param(formats.Q8, "turned", marks=pytest.mark.whole),
        pytest.param(formats.F32, "turned", marks=pytest.mark.whole),
    ],
)
def test_products(cl_entry: "Found", form: Format, how: str) -> None:
    half = frozenset({"half"}) if "fp16" in cl_entry.device.extensions else frozenset()
    target = Simt(group=128, units=ALL | half)
    root = product(form, 33, 48, 64, how).contiguous()
    done = Launched(root, cl_entry, target)
    assert any(isinstance(low.schedule, Fragments) for low in done.lowered)
    (got,) = done.results()
    (want,) = oracle.evaluate([root.node], {})
    tolerance = 1e-5 if how == "int8" or form is formats.BF16 else 1e-2
    np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max(), rtol=tolerance)
    if how == "int8":  # whole numbers are exact, and scaled in the CPU's order
        (cpu,) = Execution([root], [], {}, None).results()
        assert got.tobytes() == cpu.tobytes()
    if form is formats.Q8:
        (again,) = Launched(root, cl_entry, target).results()
        assert got.tobytes() == again.tobytes()


# -- the vendors' parts ---------------------------------------------------------------------------

_TRIAL = """
HB_MMA_KERNEL __kernel void trial(__global const uchar *lines, __global const float *sums,
                                  __global uchar *a, __global uchar *b, __global float *found) {
    __local uchar box[768] __attribute__((aligned(16)));
    __local float out[320];
    __local float ones[16];
    int l = get_local_id(0);
    for (int i = l; i < 768; i += HB_MMA_WIDTH) box[i] = lines[i];
    for (int i = l; i < 16; i += HB_MMA_WIDTH) ones[i] = 1.0f + i;
    barrier(CLK_LOCAL_MEM_FENCE);
    hb_a left = hb_load_a(box, 48);
    hb_b right = hb_load_b(box, 48);
    const uchar *mine = (const uchar *)&left, *other = (const uchar *)&right;
    for (int i = 0; i < (int)sizeof(left); i++) a[l * sizeof(left) + i] = mine[i];
    for (int i = 0; i < (int)sizeof(right); i++) b[l * sizeof(right) + i] = other[i];
    hb_sums_f32 c;
    hb_zero_f32(&c);
    hb_sums_i32 d;
    for (int e = 0; e < HB_OWN; e++) d.e[e] = (int)sums[l * HB_OWN + e];
    hb_scale(&c, &d, ones, ones);
    hb_store_f32(out, 20, &c);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = l; i < 256; i += HB_MMA_WIDTH) found[i] = out[i / 16 * 20 + i % 16];
}
"""


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_loads_and_sums_lie_as_the_tables_say(cl_entry: "Found", variant: Variant) -> None:
    """The C text against the tables that tests/null compares with the documents."""
    import pyopencl as cl

    random = np.random.default_rng(9)
    lines = random.integers(0, 256, (16, 32)).astype(np.uint8)
    memory = np.zeros((16, STEP), np.uint8)
    memory[:, :32] = lines
    sums = random.permutation(variant.width * variant.own).astype(np.float32)
    sizes = [variant.width * p.count * p.size for p in (variant.a, variant.b)]
    results = [
        np.zeros(sizes[0], np.uint8),
        np.zeros(sizes[1], np.uint8),
        np.zeros(256, np.float32),
    ]
    # The attribute is for compilers that choose sizes; nothing here depends on sub-groups.
    text = (width_text(variant.width) + mma_text() + _TRIAL).replace(variant.attribute or "\0", "")
    context = cl.Context([cl_entry.device])
    queue = cl.CommandQueue(context)
    program = cl.Program(context, text).build(
        [*options(variant.name), "-DHB_MMA_LAYOUT"], cache_dir=False
    )
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    blocks = [cl.Buffer(context, flags, hostbuf=x) for x in (memory, sums, *results)]
    program.trial(queue, (variant.width,), (variant.width,), *blocks)
    for array, block in zip(results, blocks[2:], strict=True):
        cl.enqueue_copy(queue, array, block)
    queue.finish()
    for got, pieces in zip(results, (variant.a, variant.b), strict=False):
        each = got.reshape(variant.width, -1)
        for lane in range(variant.width):
            assert each[lane].tobytes() == loaded(lines, pieces, lane)
    want = np.zeros((16, 16), np.float32)
    for number, value in enumerate(sums):
        names = dict(zip(("lane", "e"), divmod(number, variant.own), strict=True))
        row, column = at(variant.row, **names), at(variant.column, **names)
        want[row, column] = value * (row + 1) * (column + 1)
    np.testing.assert_array_equal(results[2].reshape(16, 16), want)


# The instructions of three vendors, as functions on sub-groups.
_SHUFFLE = """
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define HB_OVER __attribute__((overloadable))
#define HB_FROM(x, lane) sub_group_shuffle(x, lane)
float hb_pair_f16(uint pair, int i) { return vload_half(i, (const half *)&pair); }
float hb_pair_bf16(uint pair, int i) { return as_float(i ? pair & 0xffff0000u : pair << 16); }
int hb_four_i8(uint four, int i) { return ((const char *)&four)[i]; }
"""
_PTX = """
#define HB_PTX(name, sum, number, per) \\
void name(sum *c, uint a0, uint a1, uint a2, uint a3, uint b0, uint b1) { \\
    int lane = get_sub_group_local_id(); \\
    uint a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1}; \\
    _Pragma("nounroll") for (int i = 0; i < 4; i++) \\
        _Pragma("nounroll") for (int k = 0; k < 8 * per; k++) { \\
            int half_of_k = k / (4 * per), thread = k / per % 4, column = lane % 4 * 2 + i % 2; \\
            uint left = (uint)HB_FROM((int)a[2 * half_of_k + i / 2], lane / 4 * 4 + thread); \\
            uint right = (uint)HB_FROM((int)b[half_of_k], column * 4 + thread); \\
            c[i] += number(left, k % per) * number(right, k % per); \\
        } \\
}
HB_PTX(hb_ptx_f16, float, hb_pair_f16, 2)
HB_PTX(hb_ptx_bf16, float, hb_pair_bf16, 2)
HB_PTX(hb_ptx_s8, int, hb_four_i8, 4)
"""
_WMMA = """
#define __AMDGCN__ 1
float hb_test_bf16(short x) { return as_float((uint)(ushort)x << 16); }
float hb_test_half(half x) { return (float)x; }
#define HB_WMMA(name, vector, element, number, count, from_lane, from_k, row) \\
float8 name(vector a, vector b, float8 c) { \\
    int lane = get_sub_group_local_id(); \\
    float out[8]; vstore8(c, 0, out); \\
    element x[count], y[count]; vstore##count(a, 0, x); vstore##count(b, 0, y); \\
    _Pragma("nounroll") for (int i = 0; i < 8; i++) { \\
        _Pragma("nounroll") for (int k = 0; k < 16; k++) { \\
            float left = 0, right = 0; \\
            _Pragma("nounroll") for (int e = 0; e < count; e++) { \\
                float p = HB_FROM(number(x[e]), (row) + (from_lane)); \\
                float q = HB_FROM(number(y[e]), lane % 16 + (from_lane)); \\
                if (e == (from_k)) { left = p; right = q; } \\
            } \\
            out[i] = fma(left, right, out[i]); \\
        } \\
    } \\
    return vload8(0, out); \\
}
#define HB_WMMA11(name, vector, element, number) \\
    HB_WMMA(name, vector, element, number, 16, 0, k, 2 * i + lane / 16)
#define HB_WMMA12(name, vector, element, number) \\
    HB_WMMA(name, vector, element, number, 8, k / 8 * 16, k % 8, 8 * (lane / 16) + i)
HB_WMMA11(__builtin_amdgcn_wmma_f32_16x16x16_f16_w32, half16, half, hb_test_half)
HB_WMMA11(__builtin_amdgcn_wmma_f32_16x16x16_bf16_w32, short16, short, hb_test_bf16)
HB_WMMA12(__builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12, half8, half, hb_test_half)
HB_WMMA12(__builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12, short8, short, hb_test_bf16)
#define HB_WMMA_I8(name, vector, count, lanes, row) \\
int8 name(bool signed_a, vector a, bool signed_b, vector b, int8 c, bool clamp) { \\
    int lane = get_sub_group_local_id(); \\
    int out[8], x[count], y[count]; \\
    vstore8(c, 0, out); vstore##count(a, 0, x); vstore##count(b, 0, y); \\
    _Pragma("nounroll") for (int i = 0; i < 8; i++) \\
        _Pragma("nounroll") for (int k = 0; k < 16; k++) { \\
            int from = k / (4 * count) * lanes, word = k / 4 % count; \\
            int p = HB_FROM(x[word], (row) + from), q = HB_FROM(y[word], lane % 16 + from); \\
            out[i] += (int)((const char *)&p)[k % 4] * ((const char *)&q)[k % 4]; \\
        } \\
    return vload8(0, out); \\
}
HB_WMMA_I8(__builtin_amdgcn_wmma_i32_16x16x16_iu8_w32, int4, 4, 0, 2 * i + lane / 16)
HB_WMMA_I8(__builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12, int2, 2, 16, 8 * (lane / 16) + i)
"""
_DPAS = """
// Work-item `lane` gives `share` words (a whole one, or half of one) of each row of a.
#define HB_DPAS(name, vector, word, sums, sum, number, per, wide) \\
sums HB_OVER name(vector a, int8 b, sums c) { \\
    sum out[8]; vstore8(c, 0, out); \\
    word rows[8]; vstore8(a, 0, rows); \\
    int column[8]; vstore8(b, 0, column); \\
    _Pragma("nounroll") for (int r = 0; r < 8; r++) \\
        _Pragma("nounroll") for (int w = 0; w < 8; w++) { \\
            uint left = wide ? (uint)HB_FROM((int)rows[r], w) \\
                : (uint)(ushort)HB_FROM((int)rows[r], 2 * w) \\
                  | (uint)HB_FROM((int)rows[r], 2 * w + 1) << 16; \\
            for (int i = 0; i < per; i++) out[r] += number(left, i) * number((uint)column[w], i); \\
        } \\
    return vload8(0, out); \\
}
#define HB_BOTH(name, sums, sum, number, per) \\
    HB_DPAS(name, int8, int, sums, sum, number, per, 1) \\
    HB_DPAS(name, short8, short, sums, sum, number, per, 0)
HB_BOTH(intel_sub_group_f16_f16_matrix_mad_k16, float8, float, hb_pair_f16, 2)
HB_BOTH(intel_sub_group_bf16_bf16_matrix_mad_k16, float8, float, hb_pair_bf16, 2)
HB_BOTH(intel_sub_group_i8_i8_matrix_mad_k32, int8, int, hb_four_i8, 4)
"""


def emulated(probe: Probe, variant: Variant) -> str:
    """Return a probe's source with the instructions of its vendor as functions."""
    return instructions(variant) + documented(probe.source, variant)


def instructions(variant: Variant) -> str:
    """Return a vendor's instructions as functions."""
    return _SHUFFLE + {"ptx": _PTX, "wmma": _WMMA, "dpas": _DPAS}[variant.name.rstrip("0123456789")]


def documented(source: str, variant: Variant) -> str:
    """Return a source that calls these functions, in sub-groups of the vendor's size."""
    size = f"__attribute__((intel_reqd_sub_group_size({variant.width})))\n__kernel"
    source = source.replace("__kernel", "__kernel" if variant.attribute else size)
    if variant.name != "ptx":
        return source

    def call(found: re.Match[str]) -> str:
        kind, sums, factors = found.groups()
        first, *_ = re.findall(r"\((c->e\[\d\])\)", sums)
        words = re.findall(r"\((.->w\[\d\])\)", factors)
        return f"hb_ptx_{kind}(&{first}, {', '.join(words)});"

    source = source.replace('#error "this device has no units for ptx"', "")
    statement = r'__asm volatile\("mma\.sync\S+\.(bf16|f16|s8)\.\S+ .*?" : (.*?) : (.*?)\);'
    source, count = re.subn(statement, call, source)
    assert count == 6
    return source


def found_by(entry: "Found", probe: Probe, source: str, chosen: list[str]) -> list[bytes]:
    """Return what a probe's kernel writes, for each size of group."""
    import pyopencl as cl

    context = cl.Context([entry.device])
    queue = cl.CommandQueue(context)
    program = cl.Program(context, source).build(chosen, cache_dir=False)
    kernel, results = cl.Kernel(program, "probe"), []
    for group in probe.groups:
        flags = cl.mem_flags
        given = cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=probe.given)
        out = np.zeros(len(probe.expected), np.uint8)
        block = cl.Buffer(context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=out)
        kernel(queue, probe.items, group, given, block)
        cl.enqueue_copy(queue, out, block)
        queue.finish()
        results.append(out.tobytes())
    return results


def probes_of(name: str) -> list[Probe]:
    return [p for p in mma_probes() if p.name.endswith(f"({name})")]


def test_the_probe_passes_with_the_scalar_variant_and_fails_with_a_wrong_one(
    cl_entry: "Found",
) -> None:
    """The control: sums in turned places, and factors that begin at the next line."""
    chosen = ["-cl-opt-disable", "-DHB_MMA=0"]
    for probe in probes_of("ptx"):
        for got in found_by(cl_entry, probe, probe.source, chosen):
            assert not difference(probe, got)
        if probe.unit != "mma_s8":  # one kind is enough for the controls
            continue
        wrongs = {
            "* HB_MMA_WIDTH + lane) / 16; }": "* HB_MMA_WIDTH + lane) % 16; }",
            "hb_load_b(__local const uchar *at, int step) {\n    return hb_load_a(at,": (
                "hb_load_b(__local const uchar *at, int step) {\n    return hb_load_a(at + step,"
            ),
        }
        for right, wrong in wrongs.items():
            source = probe.source.replace(right, wrong)
            assert source != probe.source
            for got in found_by(cl_entry, probe, source, chosen):
                assert "wrong numbers" in difference(probe, got)


@pytest.mark.parametrize("name", [v.name for v in VARIANTS])
def test_the_vendors_products_with_instructions_as_documented(cl_entry: "Found", name: str) -> None:
    (variant,) = (v for v in VARIANTS if v.name == name)
    for probe in probes_of(name):
        chosen = ["-cl-std=CL3.0", "-cl-opt-disable", f"-DHB_MMA={MMA_VARIANTS[name]}"]
        if "cl_khr_subgroup_shuffle" not in cl_entry.device.extensions:
            # Nothing can be tried here, so the variant must be refused for what it is.
            with pytest.raises(Exception, match=f"no units for {name}"):
                found_by(cl_entry, probe, probe.source, chosen)
            continue
        for got in found_by(cl_entry, probe, emulated(probe, variant), chosen):
            assert not difference(probe, got)


@pytest.mark.parametrize("how", ["int8", "bf16"])
@pytest.mark.parametrize("name", [v.name for v in VARIANTS])
def test_whole_products_of_the_vendors(
    cl_entry: "Found", name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels that these vendors' devices would run, but for the instruction."""
    if "cl_khr_subgroup_shuffle" not in cl_entry.device.extensions:
        return  # the test above says what is refused here
    (variant,) = (v for v in VARIANTS if v.name == name)
    used = []

    def with_instructions(*given: Any, **known: Any) -> str:
        source = render(*given, **known)
        if "HB_MMA_KERNEL" not in source:
            return source
        used.append(name)
        first, rest = source.split("\n", 1)  # the pragma on contraction
        chosen = f"#define HB_MMA {variant.number}"
        return "\n".join([first, chosen, instructions(variant), documented(rest, variant)])

    monkeypatch.setattr("tests.opencl.both.render", with_instructions)
    target = Simt(group=64, units=ALL | {"half"}, team=variant.width)
    root = product(formats.Q8 if how == "int8" else formats.BF16, 17, 32, 64, how).contiguous()
    (got,) = Launched(root, cl_entry, target, ["-cl-opt-disable"]).results()
    (want,) = oracle.evaluate([root.node], {})
    assert used == [name]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=1e-5)

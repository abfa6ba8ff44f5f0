"""The OpenCL C of small kernels, and bounds of integers proven against the interpreter."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.engine.codegen import opencl_prelude
from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.codegen.opencl import render
from homebox.engine.codegen.opencl_types import literal
from homebox.engine.codegen.ranges import analyse
from homebox.engine.graph import dtype as dt
from homebox.engine.simt.target import Simt
from homebox.engine.verify.interpret import run_simt
from homebox.errors import EngineError

PLAIN = Simt()


def local(b: Builder) -> Value:
    return b.emit("local", dt.i64, 1, (), 0)


def body_of(text: str) -> str:
    return text[text.index("__kernel") :]


def test_signature_and_attributes() -> None:
    b = Builder()
    source, out = b.param(dt.f32, 64, False), b.param(dt.f32, 64, True)
    b.store(out, local(b), b.load(source, local(b)))
    text = render(b.kernel((32, 2)), "copy", PLAIN)
    assert "reqd_work_group_size(32, 2, 1)" in text
    assert text.startswith("#pragma OPENCL FP_CONTRACT OFF")
    names = "const __global uchar *b0, ulong o0, __global uchar *b1, ulong o1"
    assert f"__kernel void copy({names}, const __global uchar *bv, ulong ov)" in text
    assert "restrict" not in text and "const __global float *const p" in text


def test_only_used_helpers_are_in_the_text() -> None:
    b = Builder()
    data = b.param(dt.f32, 64, True)
    value = b.load(data, local(b))
    plain = Builder()
    same = plain.param(dt.f32, 64, True)
    plain.store(same, local(plain), plain.load(same, local(plain)))
    assert "hb_" not in render(plain.kernel((64,)), "k", PLAIN)
    b.store(data, local(b), b.alu("div", value, value))
    text = render(b.kernel((64,)), "k", PLAIN)
    assert "hb_div(float a" in text and "hb_sqrt" not in text and "double)a" in text
    assert text.index("hb_pack(uint") < text.index("hb_div(float a")


def test_aligned_accesses_are_whole() -> None:
    b = Builder()
    source, out = b.param(dt.u8, 4096, False), b.param(dt.f32, 4096, True)
    place = b.mul(local(b), b.int(16))
    value = b.load(source, place, 16, aligned=True)
    b.store(out, place, b.cast(value, dt.f32), aligned=True)
    text = body_of(render(b.kernel((64,)), "k", PLAIN))
    assert text.count("uint4 *)(") == 1 and text.count("(__global float4 *)(") == 4
    assert "vload" not in text and "vstore" not in text


def test_fences_follow_what_is_read_again() -> None:
    def kernel(again: bool) -> str:
        b = Builder()
        data = b.param(dt.f32, 64, True)
        other = b.param(dt.f32, 64, False)
        b.store(data, local(b), b.load(data if again else other, local(b)))
        b.emit("barrier", dt.i64)
        return render(b.kernel((64,)), "k", PLAIN)

    assert "CLK_GLOBAL_MEM_FENCE" in kernel(True)
    assert "CLK_GLOBAL_MEM_FENCE" not in kernel(False)
    assert "CLK_LOCAL_MEM_FENCE" in kernel(False)


def test_half_is_storage_unless_it_is_a_unit() -> None:
    b = Builder()
    data = b.param(dt.f16, 64, True)
    value = b.load(data, local(b))
    b.store(data, local(b), b.alu("add", value, value))
    soft = render(b.kernel((64,)), "k", PLAIN)
    hard = render(b.kernel((64,)), "k", Simt(units=frozenset({"half"})))
    assert "vload_half" in body_of(soft) and "vstore_half_rte" in body_of(soft)
    assert "const half v" in hard and "vload_half" not in hard and "cl_khr_fp16" in hard


def test_powers_of_two_divide_by_shifts() -> None:
    b = Builder()
    out = b.param(dt.i64, 64, True)
    number = b.add(b.mul(b.emit("group", dt.i64, 1, (), 0), b.int(64)), local(b))
    row = b.emit("idiv", dt.i64, 1, (number, b.int(16)))
    column = b.emit("mod", dt.i64, 1, (number, b.int(16)))
    third = b.emit("idiv", dt.i64, 1, (number, b.int(3)))
    b.store(out, local(b), b.add(b.add(row, column), third))
    text = body_of(render(b.kernel((64,)), "k", PLAIN, (100,)))
    assert ">> 4" in text and "& 15" in text and re.search(r"\(uint\)v\d+ / \(uint\)3", text)
    assert "const long" not in text


def test_64_bits_only_where_they_are_needed() -> None:
    b = Builder()
    out = b.param(dt.f32, 1 << 20, True)
    size = b.emit("var", dt.i64, 1, (), 0)
    row = b.mul(b.emit("group", dt.i64, 1, (), 0), size)
    b.store(out, b.add(row, local(b)), b.const(1.0, dt.f32))
    kernel = b.kernel((64,))
    for known in ({}, {"most_groups": (50,), "variables": [(0, 1000)]}):
        assert "long v" not in render(kernel, "k", PLAIN, **known)
    with b.when(b.alu("lt", b.add(row, local(b)), size)):
        b.store(out, b.int(0), b.const(2.0, dt.f32))
    kernel = b.kernel((64,))
    assert "long v" in render(kernel, "k", PLAIN)
    assert "long v" not in render(kernel, "k", PLAIN, (50,), [(0, 1000)])


def test_constants_stay_apart_from_what_may_wrap() -> None:
    b = Builder()
    source, out = b.param(dt.f32, 1 << 20, False), b.param(dt.f32, 64, True)
    row = b.mul(b.emit("group", dt.i64, 1, (), 0), b.emit("var", dt.i64, 1, (), 0))
    values = [b.load(source, b.add(row, b.int(i))) for i in range(3)]
    b.store(out, local(b), b.alu("fma", *values))
    text = body_of(render(b.kernel((64,)), "k", PLAIN))
    name = re.search(r"\[(v\d+)\]", text[text.index("p0[") :])
    assert name is not None
    assert f"[{name[1]} + 1]" in text and f"[{name[1]} + 2]" in text


def test_what_cannot_be_printed_is_said() -> None:
    b = Builder()
    out = b.param(dt.i64, 4, True)
    b.store(out, b.int(0), b.emit("lo", dt.i64))
    with pytest.raises(EngineError, match="CPUs only"):
        render(b.kernel((16,)), "k", PLAIN)
    with pytest.raises(EngineError, match="kernel for a CPU"):
        render(b.kernel(), "k", PLAIN)
    b = Builder()
    data = b.param(dt.f32, 64, True)
    b.store(data, b.int(0), b.load(data, b.int(0), 3))
    with pytest.raises(EngineError, match="no vectors of 3"):
        render(b.kernel((16,)), "k", PLAIN)
    b = Builder()
    data = b.param(dt.f32, 64, True)
    b.store(data, b.int(0), b.emit("exchange", dt.f32, 1, (b.load(data, b.int(0)),), 1))
    with pytest.raises(EngineError, match="unit 'subgroup'"):
        render(b.kernel((16,)), "k", PLAIN)


@given(st.floats(width=32), st.sampled_from([dt.f32, dt.f16, dt.f64]))
def test_literals_are_exact(value: float, dtype: dt.DType) -> None:
    text = literal(value, dtype, False)
    with np.errstate(over="ignore"):
        want = np.array(value).astype(np.float32 if dtype is dt.f32 else dtype.to_numpy())
    if (bits := re.fullmatch(r"as_(float|double)\(0x(\w+?)(?:u|ul)\)", text)) is not None:
        kind = np.float32 if bits[1] == "float" else np.float64
        word = np.uint32 if bits[1] == "float" else np.uint64
        got = np.array([int(bits[2], 16)], word).view(kind)[0]
        assert not np.isfinite(got)
    else:
        got = float.fromhex(text.removesuffix("f")) if "0x" in text else float(text.rstrip("f"))
    np.testing.assert_array_equal(np.float64(got), np.float64(want))
    assert np.isnan(value) or np.signbit(got) == np.signbit(want)


def test_variants_have_numbers_of_their_own() -> None:
    for table in ("DOT4_VARIANTS", "SHUFFLE_VARIANTS", "ROUND_VARIANTS"):
        numbers = getattr(opencl_prelude, table).values()
        assert sorted(numbers) == list(range(len(numbers)))
    native = opencl_prelude.build_options(rounding="native")
    assert opencl_prelude.ROUNDED_OPTION in native and "-DHB_ROUND=1" in native
    assert opencl_prelude.ROUNDED_OPTION not in opencl_prelude.build_options()


# -- ranges ---------------------------------------------------------------------------------------

BINARY = ["add", "sub", "mul", "min", "max", "idiv", "mod", "shr", "shl", "and", "or", "xor"]
STEPS = st.lists(
    st.tuples(st.sampled_from([*BINARY, "cast", "where"]), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=12,
)
VARIABLES = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=2)
CONSTANTS = st.lists(
    st.one_of(st.integers(-5, 70), st.integers(-(2**40), 2**40)), min_size=2, max_size=3
)


def arithmetic(steps: list[tuple[str, int, int]], constants: list[int]) -> Kernel:
    """Return a kernel that stores every value of a chain of random index arithmetic."""
    b = Builder()
    out = b.param(dt.i64, 64 * 20, True)
    values = [b.emit("group", dt.i64, 1, (), 0), local(b)]
    values += [b.emit("var", dt.i64, 1, (), i) for i in range(2)]
    values += [b.int(c) for c in constants]
    for op, i, j in steps:
        x, y = values[i % len(values)], values[j % len(values)]
        if op == "cast":
            values.append(b.cast(b.cast(x, dt.i32), dt.i64))
        elif op == "where":
            values.append(b.alu("where", b.alu("lt", x, y), x, y))
        elif op in ("shr", "shl"):
            values.append(b.alu(op, x, b.alu("and", y, b.int(63))))
        elif op in ("idiv", "mod"):
            values.append(b.alu(op, x, b.alu("max", y, b.int(1))))
        else:
            values.append(b.alu(op, x, y))
    with b.loop(values[0], b.alu("min", values[-1], b.int(4))) as i:
        values.append(i)
        b.store(out, b.int(19), i)
    for place, value in enumerate(values[:-1]):
        b.store(out, b.int(place), value)
    return b.kernel((1,))


@settings(max_examples=150, deadline=None)
@given(STEPS, VARIABLES, CONSTANTS, st.booleans())
def test_every_value_lies_in_its_range(
    steps: list[tuple[str, int, int]], variables: list[int], constants: list[int], known: bool
) -> None:
    kernel = arithmetic(steps, constants)
    bounds = [(min(v, 0), max(v, 10)) for v in variables] if known else ()
    ranges = analyse(kernel, (1,) if known else (), bounds)
    out = np.full(64 * 20, -77, np.int64)
    run_simt(kernel, [out], np.array(variables, np.int32), (1,))
    for inst in kernel.body:
        if inst.op != "store" or (inst.args[1] and out[19] == -77 and _place(kernel, inst) == 19):
            continue
        value = int(out[_place(kernel, inst)])
        bound = ranges.bounds[inst.args[2]]
        assert bound is not None and bound[0] <= value <= bound[1]
        if ranges.width[inst.args[2]] == "int":
            assert -(2**31) <= value < 2**31


def _place(kernel: Kernel, inst: object) -> int:
    index = kernel.body[inst.args[1]].arg  # type: ignore[attr-defined]
    return int(index)


def test_counters_that_step_beyond_32_bits_are_long() -> None:
    for end, width in ((2**31 - 9, "int"), (2**31 - 8, "long")):
        b = Builder()
        out = b.param(dt.i64, 4, True)
        with b.loop(b.int(0), b.int(end), 9) as i:
            b.store(out, b.int(0), i)
        kernel = b.kernel((1,))
        place = next(k for k, inst in enumerate(kernel.body) if inst.op == "loop")
        assert analyse(kernel).width[place] == width


def test_counters_that_begin_beyond_32_bits_are_long() -> None:
    """Cut to 32 bits, a beginning above the end would look like one below it."""
    for most, width in ((2**31 - 1, "int"), (2**40, "long")):
        b = Builder()
        out = b.param(dt.i64, 4, True)
        begin = b.alu("mul", b.emit("var", dt.i64, 1, (), 0), b.int(2**10))
        with b.loop(begin, b.int(100)) as i:
            b.store(out, b.int(0), i)
        kernel = b.kernel((1,))
        place = next(k for k, inst in enumerate(kernel.body) if inst.op == "loop")
        assert analyse(kernel, (), [(0, most // 2**10)]).width[place] == width

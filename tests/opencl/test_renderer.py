"""Every operation of the linear IR on OpenCL runtimes: the checking interpreter's bits."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.codegen.opencl import render
from homebox.engine.codegen.opencl_prelude import build_options
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from tests.opencl.both import (
    COMMON,
    PLAIN,
    Function,
    Run,
    checker,
    each,
    mapped,
    numbers,
    opened,
    run_map,
    through,
)

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found


@pytest.fixture
def check(cl_entry: "Found") -> Run:
    """Return a function that runs a kernel on both and requires equal buffers."""
    return checker(cl_entry)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("dtype", [dt.f32, dt.f64, dt.f16, dt.bf16], ids=repr)
def test_floats(check: Run, dtype: DType, lanes: int) -> None:
    run_map(check, [dtype, dtype], lanes, each(*COMMON), count=512)


def both_roundings(b: Builder, x: Value, y: Value) -> list[Value]:
    return [b.alu("div", x, y), b.alu("sqrt", x)]


@pytest.mark.parametrize("rounding", ["integer", "double"])
@pytest.mark.parametrize("dtype", [dt.f32, dt.f64, dt.f16], ids=repr)
def test_quotients_and_roots(check: Run, dtype: DType, rounding: str) -> None:
    options = build_options(rounding=rounding)
    for lanes in (1, 2):
        run_map(check, [dtype] * 2, lanes, both_roundings, count=512, options=options)
    if dtype is dt.f32:  # close to ties, and results of all sizes
        r = np.random.default_rng(3)
        given = [
            (1 + r.integers(0, most, 2048) / 2**23) * 2.0 ** r.integers(-149, 127, 2048)
            for most in (1 << 23, 64)
        ]
        inputs = [x.astype(np.float32) for x in given]
        run_map(check, [dtype] * 2, 1, both_roundings, inputs, 2048, options=options)


def test_the_device_rounds_quotients_itself_where_it_says_so(check: Run, cl_entry: "Found") -> None:
    import pyopencl as cl

    if not cl_entry.device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT:
        pytest.skip("this runtime does not claim correctly rounded quotients and roots")
    options = build_options(rounding="native")
    run_map(check, [dt.f32] * 2, 1, both_roundings, count=512, options=options)


def test_fma_rounds_once_and_a_product_with_a_sum_twice(check: Run) -> None:
    def both(b: Builder, x: Value, y: Value, z: Value) -> list[Value]:
        return [b.alu("fma", x, y, z), b.alu("add", b.alu("mul", x, y), z)]

    for dtype in (dt.f32, dt.f64):
        for lanes in (1, 8):
            run_map(check, [dtype] * 3, lanes, both)
    given = [np.random.default_rng(i).standard_normal(512).astype(np.float32) for i in range(3)]
    run_map(check, [dt.f32] * 3, 1, both, given, 512)


def test_control_compilers_contract_unless_they_are_told(cl_entry: "Found") -> None:
    import pyopencl as cl

    context, queue = opened(cl_entry.device)
    given = [np.random.default_rng(i).standard_normal(64).astype(np.float32) for i in range(3)]
    flags, results = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, []
    kernel = mapped([dt.f32], 1, lambda b, x: x)
    told = render(kernel, "entry", PLAIN).splitlines()[0]
    for first in (told, ""):
        sums = "int i = get_global_id(0); c[i] = a[i] * b[i] + c[i];"
        names = ", ".join(f"__global float *{name}" for name in "abc")
        program = cl.Program(context, f"{first}\n__kernel void entry({names}) {{ {sums} }}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entry = program.build(cache_dir=False).entry
        blocks = [cl.Buffer(context, flags, hostbuf=array) for array in given]
        entry(queue, (64,), None, *blocks)
        results.append(np.empty(64, np.float32))
        cl.enqueue_copy(queue, results[-1], blocks[2])
    assert results[0].tobytes() == (given[0] * given[1] + given[2]).tobytes()
    assert results[0].tobytes() != results[1].tobytes()


INTEGERS = [dt.i8, dt.u8, dt.i32, dt.u32, dt.i64]


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("dtype", INTEGERS, ids=repr)
def test_integers(check: Run, dtype: DType, lanes: int) -> None:
    run_map(check, [dtype, dtype], lanes, each(*COMMON, "and", "or", "xor"))
    a, b = numbers(dtype, 64 * lanes, lanes), numbers(dtype, 64 * lanes, 9)
    top = np.iinfo(dtype.to_numpy()).max
    run_map(check, [dtype, dtype], lanes, each("idiv", "mod"), [a & top, np.maximum(b & top, 1)])
    run_map(check, [dtype, dtype], lanes, each("shr", "shl"), [a, b & (8 * dtype.size - 1)])


@pytest.mark.parametrize("lanes", [1, 4])
def test_bools(check: Run, lanes: int) -> None:
    kinds = (dt.f32, dt.i8, dt.i64, dt.f16, dt.bf16, dt.f64)

    def to_numbers(b: Builder, c: Value) -> list[Value]:
        return [b.cast(c, kind) for kind in kinds]

    def from_numbers(b: Builder, *values: Value) -> list[Value]:
        return [b.cast(value, dt.boolean) for value in values]

    def chosen(b: Builder, c: Value, d: Value, *values: Value) -> list[Value]:
        true = b.const(True, dt.boolean, lanes)
        some = [b.alu("where", c, c, d), b.alu("xor", d, true)]
        return some + [b.alu("where", c, value, b.const(0, value.dtype, lanes)) for value in values]

    run_map(check, [dt.boolean] * 2, lanes, each("and", "or", "xor", "lt", "eq"))
    run_map(check, [dt.boolean], lanes, to_numbers)
    run_map(check, list(kinds), lanes, from_numbers)
    run_map(check, [dt.boolean] * 2 + list(kinds), lanes, chosen)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("source", [d for d in dt.ALL if d is not dt.boolean], ids=repr)
def test_casts(check: Run, source: DType, lanes: int) -> None:
    targets = [d for d in dt.ALL if d is not dt.boolean and {d, source} != {dt.f64, dt.bf16}]

    def casts(kinds: list[DType]) -> Function:
        return lambda b, x: [b.cast(x, kind) for kind in kinds if kind is not source]

    floats = [d for d in targets if d.is_float]
    if not source.is_float:
        run_map(check, [source], lanes, casts(targets), count=256)
        return
    run_map(check, [source], lanes, casts(floats), count=256)
    for kind, low, high in (("i", -120.0, 120.0), ("u", 0.0, 200.0)):
        inside = np.random.default_rng(1).uniform(low, high, 256 * lanes).astype(np.float32)
        if source is dt.bf16:
            given = (inside.view(np.uint32) >> 16).astype(np.uint16)
        else:
            given = inside.astype(source.to_numpy())
        function = casts([d for d in targets if d.kind == kind])
        run_map(check, [source], lanes, function, [given], 256)


def test_rounding_to_16_bits_is_to_nearest_even(check: Run) -> None:
    bits = np.arange(2048, dtype=np.uint32) * np.uint32(0x00180123) + np.uint32(0x8000)

    def narrowed(b: Builder, x: Value) -> list[Value]:
        return [b.cast(x, dt.bf16), b.cast(x, dt.f16)]

    run_map(check, [dt.f32], 1, narrowed, [bits.view(np.float32)], 2048)
    every = np.arange(0, 65536, 13, dtype=np.uint16)[:5040]
    for kind in (dt.bf16, dt.f16):
        given = [every.view(kind.to_numpy())]
        run_map(check, [kind], 1, lambda b, x: b.cast(x, dt.f32), given, 5040)


def test_bitcasts_between_lane_counts(check: Run) -> None:
    run_map(
        check, [dt.f32, dt.u32, dt.i64], 1,
        lambda b, x, y, z: [
            through(b, x, dt.i32),
            through(b, y, dt.u8, dt.bf16, dt.i8, dt.u32),
            through(b, z, dt.f64),
        ],
    )  # fmt: skip
    halves = np.arange(256, dtype=np.uint32) * np.uint32(0x00030001) & np.uint32(0x7BFF7BFF)
    run_map(
        check, [dt.u32, dt.u32], 4,
        lambda b, x, y: [
            through(b, x, dt.u8, dt.i64, dt.f64, dt.f32),
            through(b, y, dt.f16, dt.u8, dt.f16, dt.u32),
        ],
        [numbers(dt.u32, 256, 1), halves],
    )  # fmt: skip


def test_lanes(check: Run) -> None:
    def moved(b: Builder, x: Value, y: Value) -> list[Value]:
        one = b.emit("shuffle", dt.f32, 1, (x, x), (6,))
        return [
            b.alu("add", y, b.lane(4)),
            b.emit("shuffle", dt.f32, 4, (x, x), (3, 4, 0, 5)),
            b.splat(one, 4),
        ]

    run_map(check, [dt.f32, dt.i32], 4, moved)
    kinds = [dt.f32, dt.i32, dt.u8, dt.bf16, dt.f16]
    for how in ("add", "max", "mul"):
        run_map(
            check, kinds, 16,
            lambda b, *values, how=how: [
                b.splat(b.emit("tree", v.dtype, 1, (v,), how), 16) for v in values
            ],
        )  # fmt: skip


@pytest.mark.parametrize("variant", ["scalar", "khr"])
def test_dot4(check: Run, cl_entry: "Found", variant: str) -> None:
    if variant == "khr" and "cl_khr_integer_dot_product" not in cl_entry.device.extensions:
        pytest.skip("this runtime has no integer dot product")
    r = np.random.default_rng(2)
    options = build_options(dot4=variant, standard="CL3.0" if variant == "khr" else None)
    for lanes, most in ((1, 15), (1, 255), (4, 255)):

        def dot(b: Builder, acc: Value, x: Value, y: Value, most: int = most) -> Value:
            pair = (b.bitcast(x, dt.u8), b.bitcast(y, dt.i8))
            return b.emit("dot4", dt.i32, x.lanes, (acc, *pair), most)

        given = [
            numbers(dt.i32, 64 * lanes, 1),
            r.integers(0, most + 1, 256 * lanes).astype(np.uint8).view(np.uint32),
            r.integers(-128, 128, 256 * lanes).astype(np.int8).view(np.uint32),
        ]
        run_map(check, [dt.i32, dt.u32, dt.u32], lanes, dot, given, options=options)


def test_dot_of_bf16(check: Run) -> None:
    def dot(b: Builder, acc: Value, x: Value, y: Value) -> Value:
        pair = (b.bitcast(x, dt.bf16), b.bitcast(y, dt.bf16))
        return b.emit("dotbf16", dt.f32, x.lanes, (acc, *pair))

    for lanes in (1, 2):
        run_map(check, [dt.f32, dt.u32, dt.u32], lanes, dot)

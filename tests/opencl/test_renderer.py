"""Every operation of the linear IR on OpenCL runtimes: the checking interpreter's bits."""

import shutil
import subprocess
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.codegen.opencl import render
from homebox.engine.codegen.opencl_prelude import build_options
from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.ops import Node, Op, Sym, numel_max
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.plan import order_regions
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import Simt
from homebox.engine.verify.interpret import format_kernel, run_simt

if TYPE_CHECKING:
    from homebox.engine.runtime.opencl_platform import Found

ITEMS = 16  # work-items per group in these tests
CLANGS = [*(f"/usr/lib/llvm-{n}/bin/clang" for n in (22, 21, 20, 19, 18)), "clang-19", "clang-18"]
PLAIN = Simt()
NONE = np.zeros(1, np.int32)
Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]
Function = Callable[..., Value | list[Value]]


@cache
def opened(device: Any) -> tuple[Any, Any]:
    """Return a context and a queue of a device."""
    import pyopencl as cl

    context = cl.Context([device])
    return context, cl.CommandQueue(context)


def run_opencl(
    found: "Found",
    kernel: Kernel,
    buffers: list[Array],
    values: Array,
    grid: tuple[int, ...],
    target: Simt,
    options: list[str],
    **known: Any,
) -> list[Array]:
    """Return what the buffers hold after a launch; they lie 64 bytes into blocks of memory."""
    import pyopencl as cl

    source = render(kernel, "entry", target, grid, **known)
    context, queue = opened(found.device)
    try:
        with warnings.catch_warnings():  # compilers say that they have compiled
            warnings.simplefilter("ignore")
            program = cl.Program(context, source).build(options, cache_dir=False)
    except cl.RuntimeError as error:
        raise AssertionError(f"{error}\n{source}") from error
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    entry, arguments, blocks = program.entry, [], []
    for array in [*buffers, values]:
        data = np.concatenate([np.full(64, 0xA5, np.uint8), array.reshape(-1).view(np.uint8)])
        blocks.append(cl.Buffer(context, flags, hostbuf=data))
        arguments += [blocks[-1], np.uint64(64)]
    sides = tuple(n * side for n, side in zip(grid, kernel.group, strict=True))
    entry(queue, sides, kernel.group, *arguments)
    results = []
    for array, block in zip(buffers, blocks, strict=False):
        data = np.empty(64 + array.nbytes, np.uint8)
        cl.enqueue_copy(queue, data, block)
        assert (data[:64] == 0xA5).all()
        results.append(data[64:].copy().view(array.dtype).reshape(array.shape))
    queue.finish()
    return results


def same(got: Array, want: Array, dtype: DType) -> None:
    """Require equal bits, except that any NaN is as good as another."""
    if dtype is dt.bf16:
        nans = [(x & 0x7FFF) > 0x7F80 for x in (got, want)]
    elif dtype.is_float:
        nans = [np.isnan(x) for x in (got, want)]
    else:
        nans = [np.zeros(x.shape, bool) for x in (got, want)]
    width = np.dtype(f"uint{8 * got.itemsize}")
    bits = [np.where(nan, 0, x.view(width)) for nan, x in zip(nans, (got, want), strict=True)]
    np.testing.assert_array_equal(nans[0], nans[1])
    wrong = np.flatnonzero(bits[0] != bits[1])
    assert not len(wrong), (wrong[:4], got.reshape(-1)[wrong[:4]], want.reshape(-1)[wrong[:4]])


@pytest.fixture
def check(cl_entry: "Found") -> Run:
    """Return a function that runs a kernel on both and requires equal buffers."""

    def checked(
        kernel: Kernel,
        buffers: list[Array],
        grid: tuple[int, ...] = (1,),
        values: Array = NONE,
        target: Simt = PLAIN,
        options: list[str] | None = None,
        **known: Any,
    ) -> list[Array]:
        want = [b.copy() for b in buffers]
        run_simt(kernel, want, values, grid)
        chosen = build_options() if options is None else options
        got = run_opencl(cl_entry, kernel, buffers, values, grid, target, chosen, **known)
        for param, a, b in zip(kernel.params, got, want, strict=True):
            try:
                same(a, b, param.dtype)
            except AssertionError as error:
                text = render(kernel, "entry", target, grid, **known)
                raise AssertionError(f"{error}\n{format_kernel(kernel)}\n{text}") from error
        return got

    return checked


# -- numbers --------------------------------------------------------------------------------------


SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    np.inf,
    -np.inf,
    np.nan,
    1e-40,
    -1e-45,
    3.4e38,
    1.17549435e-38,
]


def numbers(dtype: DType, count: int, seed: int) -> Array:
    """Return numbers of all sizes; floats with the special ones and denormals."""
    r = np.random.default_rng(seed)
    kind = dtype.to_numpy()
    if dtype.kind == "b":
        return r.integers(0, 2, count).astype(np.uint8)
    if not dtype.is_float:
        info = np.iinfo(kind)
        found = r.integers(info.min, info.max, count, kind, endpoint=True)
        found[: count // 4] = r.integers(0, 100, count // 4)
        return found
    if dtype is dt.f64:
        found = (r.standard_normal(count) * 2.0 ** r.integers(-300, 300, count)).astype(kind)
        return np.where(r.random(count) < 0.2, r.choice(SPECIAL, count), found)
    bits = r.integers(0, 1 << (8 * dtype.size), count).astype(f"u{dtype.size}")
    near = r.standard_normal(count)
    special = r.choice(np.array(SPECIAL), count)
    values = np.where(r.random(count) < 0.5, near, special).astype(np.float32)
    if dtype is dt.bf16:
        return np.where(r.random(count) < 0.5, bits, values.view(np.uint32) >> 16).astype(kind)
    with np.errstate(all="ignore"):
        mixed = np.where(r.random(count) < 0.5, bits.view(kind), values.astype(kind))
    return mixed.astype(kind)


def mapped(dtypes: list[DType], lanes: int, function: Function, count: int = 64) -> Kernel:
    """Return a kernel that maps `lanes` elements per work-item to one or several results."""
    b = Builder()
    given = [b.param(dt.u8 if d is dt.boolean else d, count * lanes, False) for d in dtypes]
    number = b.add(b.mul(b.emit("group", dt.i64, 1, (), 0), b.int(ITEMS)), local(b))
    place = b.mul(number, b.int(lanes))
    values = []
    for pointer, dtype in zip(given, dtypes, strict=True):
        value = b.load(pointer, place, lanes)
        if dtype is dt.boolean:
            value = b.alu("lt", b.const(0, dt.u8, lanes), value)
        values.append(value)
    found = function(b, *values)
    for value in found if isinstance(found, list) else [found]:
        if value.dtype is dt.boolean:
            value = b.alu("where", value, b.const(1, dt.u8, lanes), b.const(0, dt.u8, lanes))
        b.store(b.param(value.dtype, count * lanes, True), place, value)
    return b.kernel((ITEMS,))


def local(b: Builder, axis: int = 0) -> Value:
    return b.emit("local", dt.i64, 1, (), axis)


def run_map(
    check: Run,
    dtypes: list[DType],
    lanes: int,
    function: Function,
    given: list[Array] | None = None,
    count: int = 64,
    **more: Any,
) -> None:
    """Run such a kernel on random numbers, or on those given."""
    kernel = mapped(dtypes, lanes, function, count)
    if given is None:
        given = [numbers(d, count * lanes, 7 * i + lanes) for i, d in enumerate(dtypes)]
    results = [np.zeros(count * lanes, p.dtype.to_numpy()) for p in kernel.params if p.written]
    check(kernel, [*given, *results], (count // ITEMS,), **more)


def each(*ops: str) -> Function:
    """Return a function that gives the results of several operations."""
    return lambda b, *values: [b.alu(op, *values) for op in ops]


COMMON = ("add", "sub", "mul", "max", "min", "lt", "eq")


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


def through(b: Builder, x: Value, *kinds: DType) -> Value:
    """Return a value that was bitcast again and again."""
    for kind in kinds:
        x = b.bitcast(x, kind)
    return x


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


# -- memory ---------------------------------------------------------------------------------------


MEMORY = [dt.f32, dt.f16, dt.bf16, dt.u8, dt.i64, dt.boolean]


def stored(dtype: DType, count: int) -> Array:
    """Return numbers as they lie in memory; halves without NaN, which need not keep their bits."""
    kind = np.dtype(bool) if dtype is dt.boolean else dtype.to_numpy()
    found = numbers(dtype, count, 1).astype(kind)
    return np.nan_to_num(found) if dtype is dt.f16 else found


@pytest.mark.parametrize("lanes", [1, 2, 4, 16])
def test_loads_and_stores(check: Run, lanes: int) -> None:
    b, memory, count = Builder(), [], 16 * lanes + 1
    place = b.mul(local(b), b.int(lanes))
    for dtype in MEMORY:
        source = b.param(dtype, count, False)
        memory.append(stored(dtype, count))
        for aligned in (False, True):
            at, out = place if aligned else b.add(place, b.int(1)), b.param(dtype, count, True)
            b.store(out, at, b.load(source, at, lanes, aligned=aligned), aligned=aligned)
            memory.append(np.zeros_like(memory[-1]))
    got = check(b.kernel((16,)), memory)
    np.testing.assert_array_equal(got[1][1:], got[0][1:])


@pytest.mark.parametrize("lanes", [1, 4])
def test_masks(check: Run, lanes: int) -> None:
    b, memory, count = Builder(), [], 16 * lanes - 2
    place = b.mul(local(b), b.int(lanes))
    at = b.alu("add", b.splat(b.cast(place, dt.i32), lanes), b.lane(lanes))
    mask = b.alu("lt", at, b.const(count, dt.i32, lanes))
    for dtype in MEMORY:
        source, out = b.param(dtype, count, False), b.param(dtype, count, True)
        b.store(out, place, b.load(source, place, lanes, mask), mask)
        memory += [stored(dtype, count), np.zeros_like(stored(dtype, count))]
    check(b.kernel((16,)), memory)


def test_gather_and_scatter(check: Run) -> None:
    b, memory = Builder(), []
    start = b.mul(local(b), b.int(4))
    for index in (dt.i32, dt.i64):
        for masked in (False, True):
            places, source = b.param(index, 64, False), b.param(dt.f32, 64, False)
            at = b.load(places, start, 4)
            mask = b.alu("lt", at, b.const(40, index, 4)) if masked else None
            b.store(b.param(dt.f32, 64, True), at, b.load(source, at, 4, mask), mask)
            permuted = np.random.default_rng(1).permutation(64).astype(index.to_numpy())
            memory += [permuted, numbers(dt.f32, 64, 2), np.zeros(64, np.float32)]
    check(b.kernel((16,)), memory)


def test_views_of_memory_that_is_written(check: Run) -> None:
    b = Builder()
    source, out = b.param(dt.f32, 64, False), b.param(dt.u32, 64, True)
    words = b.emit("shared", dt.f32, 1, (), 64)
    kept = b.emit("stack", dt.u32, 1, (), 4)
    place = b.mul(local(b), b.int(4))
    b.store(words, place, b.load(source, place, 4), aligned=True)
    b.emit("barrier", dt.i64)
    other = b.alu("xor", place, b.int(4))
    with b.loop(b.int(0), b.int(4)) as i:
        bits = b.load(b.view(words, dt.u32), b.add(other, i))
        b.store(kept, i, bits)
    pairs = b.load(b.view(kept, dt.bf16), b.int(0), 8)
    b.store(b.view(out, dt.bf16), b.mul(place, b.int(2)), pairs, aligned=True)
    check(b.kernel((16,)), [numbers(dt.f32, 64, 1), np.zeros(64, np.uint32)])


def test_half_in_local_and_private_memory(check: Run) -> None:
    b = Builder()
    source, out = b.param(dt.f16, 64, False), b.param(dt.f16, 64, True)
    tile = b.emit("shared", dt.f16, 1, (), 64)
    kept = b.emit("stack", dt.f16, 1, (), 4)
    place = b.mul(local(b), b.int(4))
    b.store(tile, place, b.load(source, place, 4, aligned=True), aligned=True)
    b.emit("barrier", dt.i64)
    other = b.alu("xor", place, b.int(4))
    b.store(kept, b.int(0), b.load(tile, other, 4))
    with b.loop(b.int(0), b.int(4)) as i:
        b.store(out, b.add(place, i), b.load(kept, i))
    check(b.kernel((16,)), [np.nan_to_num(numbers(dt.f16, 64, 1)), np.zeros(64, np.float16)])


def test_a_group_reads_what_it_has_written_to_global_memory(check: Run) -> None:
    b = Builder()
    data = b.param(dt.i32, 128, True)
    start = b.mul(b.emit("group", dt.i64, 1, (), 0), b.int(16))
    mine = b.add(start, local(b))
    b.store(data, mine, b.cast(mine, dt.i32))
    b.emit("barrier", dt.i64)
    other = b.load(data, b.add(start, b.alu("sub", b.int(15), local(b))))
    b.store(data, b.add(mine, b.int(64)), other)
    check(b.kernel((16,)), [np.zeros(128, np.int32)], (4,))


# -- control --------------------------------------------------------------------------------------


def test_loops_registers_and_variables(check: Run) -> None:
    b = Builder()
    out = b.param(dt.i64, 32, True)
    size = b.emit("var", dt.i64, 1, (), 1)
    total = b.reg(b.int(5))
    with b.loop(local(b), size, 3) as i, b.when(b.alu("lt", b.int(4), i)):
        old = b.get(total)
        b.set(total, b.alu("add", b.alu("mul", old, b.int(1000003)), i))
        b.set(total, b.alu("xor", b.get(total), old))
    b.store(out, local(b), b.get(total))
    check(b.kernel((32,)), [np.zeros(32, np.int64)], values=np.array([-3, 41], np.int32))


def test_two_axes(check: Run) -> None:
    b = Builder()
    out = b.param(dt.i32, 6 * 32, True)
    row = b.add(b.mul(b.emit("group", dt.i64, 1, (), 1), b.int(2)), local(b, 1))
    column = b.add(b.mul(b.emit("group", dt.i64, 1, (), 0), b.int(16)), local(b))
    place = b.add(b.mul(row, b.int(32)), column)
    b.store(out, place, b.cast(b.add(place, b.int(100)), dt.i32))
    got = check(b.kernel((16, 2)), [np.zeros(6 * 32, np.int32)], (2, 3))
    assert got[0].tolist() == list(range(100, 292))


@pytest.mark.parametrize("grid", [(2,), ()])
def test_index_arithmetic_beyond_32_bits(check: Run, grid: tuple[int, ...]) -> None:
    b = Builder()
    out = b.param(dt.i64, 32, True)
    size = b.emit("var", dt.i64, 1, (), 0)
    group = b.emit("group", dt.i64, 1, (), 0)
    far = b.alu("mul", b.add(b.mul(size, size), local(b)), b.int(2))
    near = b.alu("mod", b.alu("idiv", far, b.int(7)), b.int(1000))
    back = b.alu("sub", b.alu("add", far, b.alu("min", near, group)), far)
    b.store(out, b.add(b.mul(group, b.int(16)), local(b)), b.alu("add", far, near))
    with b.when(b.alu("lt", back, b.int(0))):
        b.store(out, back, far)
    biggest = np.array([2**31 - 1], np.int32)
    check(b.kernel((16,)), [np.zeros(32, np.int64)], (2,), values=biggest)


def test_indices_that_wrap_on_their_way(check: Run) -> None:
    b = Builder()
    source, out = b.param(dt.i32, 64, False), b.param(dt.i32, 16, True)
    far = b.alu("mul", b.emit("var", dt.i64, 1, (), 0), b.emit("var", dt.i64, 1, (), 1))
    place = b.alu("sub", b.add(far, b.add(local(b), b.int(7))), far)
    b.store(out, local(b), b.load(source, place))
    text = render(b.kernel((16,)), "entry", Simt())
    assert "long" not in text.replace("ulong o", "")
    given = [np.arange(64, dtype=np.int32), np.zeros(16, np.int32)]
    got = check(b.kernel((16,)), given, values=np.array([2**31 - 1, -(2**31)], np.int32))
    assert got[1].tolist() == list(range(7, 23))


STEPS = "add sub mul min max idiv mod shr shl and or xor where cast".split()


def index_arithmetic(r: np.random.Generator) -> Kernel:
    """Return a kernel that stores the values of random index arithmetic, at wrapping places."""
    b = Builder()
    out = b.param(dt.i64, 64 * 16, True)
    group = b.emit("group", dt.i64, 1, (), 0)
    values = [group, local(b), *(b.emit("var", dt.i64, 1, (), i) for i in range(3))]
    values += [b.int(int(c)) for c in (3, 16, 1 << 33, -7)]
    for _ in range(24):
        op = str(r.choice(STEPS))
        x, y = (values[int(r.integers(len(values)))] for _ in range(2))
        if op == "cast":
            values.append(b.cast(b.cast(x, dt.i32), dt.i64))
        elif op == "where":
            values.append(b.alu("where", b.alu("lt", x, y), x, y))
        elif op in ("shr", "shl"):
            values.append(b.alu(op, x, b.alu("and", y, b.int(63 if r.random() < 0.3 else 7))))
        elif op in ("idiv", "mod"):  # defined for what is not negative
            values.append(b.alu(op, b.alu("max", x, b.int(0)), b.alu("max", y, b.int(1))))
        else:
            values.append(b.alu(op, x, y))
    item = b.add(b.mul(group, b.int(16)), local(b))
    for i, value in enumerate(values[-32:]):
        far = values[int(r.integers(len(values)))]
        place = b.add(b.mul(item, b.int(32)), b.int(i))
        b.store(out, b.alu("sub", b.alu("add", far, place), far), value)
    return b.kernel((16,))


@pytest.mark.parametrize("seed", range(6))
def test_random_index_arithmetic(check: Run, seed: int) -> None:
    r = np.random.default_rng(seed)
    kernel = index_arithmetic(r)
    numbers_known = [(0, 500), (-9, 9), (2**31 - 99, 2**31 - 1)]
    values = np.array([r.integers(*bounds) for bounds in numbers_known], np.int32)
    known = {"variables": numbers_known} if seed % 2 else {}
    check(kernel, [np.zeros(1024, np.int64)], (2,), values, **known)


# -- units ----------------------------------------------------------------------------------------


HALF = Simt(units=frozenset({"half"}))


@pytest.mark.parametrize("lanes", [1, 4])
def test_half_arithmetic(check: Run, cl_entry: "Found", lanes: int) -> None:
    if "cl_khr_fp16" not in cl_entry.device.extensions:
        pytest.skip("this runtime does not compute in half precision")

    def more(b: Builder, x: Value, y: Value) -> list[Value]:
        some = [b.alu("div", x, y), b.alu("sqrt", x), b.alu("fma", x, y, y)]
        casts = [b.cast(x, kind) for kind in (dt.f32, dt.bf16)]
        return [*some, *casts, b.cast(b.cast(y, dt.f32), dt.f16), b.const(0.1, dt.f16, lanes)]

    run_map(check, [dt.f16] * 2, lanes, each(*COMMON), count=512, target=HALF)
    run_map(check, [dt.f16] * 2, lanes, more, count=512, target=HALF)
    if lanes == 1:
        halves = np.arange(64, dtype=np.uint32) * np.uint32(0x00030001) & np.uint32(0x7BFF7BFF)
        run_map(
            check, [dt.u32], 1,
            lambda b, x: through(b, x, dt.f16, dt.u8, dt.f16, dt.u32), [halves], target=HALF,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [dt.f32, dt.i64, dt.u8, dt.bf16, dt.f16, dt.f64], ids=repr)
def test_exchange(cl_entry: "Found", dtype: DType) -> None:
    if "cl_khr_subgroup_shuffle" not in cl_entry.device.extensions:
        pytest.skip("this runtime has no exchange in sub-groups")
    b = Builder()
    source, out = b.param(dtype, 64, False), b.param(dtype, 192, True)
    values = b.load(source, local(b))
    for i, mask in enumerate((1, 4, 15)):
        other = b.emit("exchange", dtype, 1, (values,), mask)
        b.store(out, b.add(local(b), b.int(64 * i)), other)
    given = np.nan_to_num(numbers(dtype, 64, 1)) if dtype is dt.f16 else numbers(dtype, 64, 1)
    target = Simt(64, 16, units=frozenset({"subgroup"}))
    options = [*build_options(standard="CL3.0"), "-DHB_REQUIRE_SUB_GROUP=16"]
    memory = [given, np.zeros(192, given.dtype)]
    got = run_opencl(cl_entry, b.kernel((64,)), memory, NONE, (1,), target, options)[1]
    items = np.arange(64)
    same(got, np.concatenate([given[items ^ mask] for mask in (1, 4, 15)]), dtype)


# What each vendor's variant must become; no such card is needed to compile for it.
VENDORS = [
    ("nvptx64-nvidia-nvcl", ("-Xclang", "-target-cpu", "-Xclang", "sm_80"), "ptx", "ptx", "dp4a"),
    ("nvptx64-nvidia-nvcl", ("-Xclang", "-target-cpu", "-Xclang", "sm_80"), "ptx", "ptx", "shfl"),
    ("amdgcn-amd-amdhsa", ("-mcpu=gfx1100",), "amd_sudot4", "amd", "v_dot4_i32_iu8"),
    ("amdgcn-amd-amdhsa", ("-mcpu=gfx1201",), "amd_sudot4", "amd", "ds_bpermute"),
    ("amdgcn-amd-amdhsa", ("-mcpu=gfx1030",), "amd_sdot4", "amd", "v_dot4"),
    ("amdgcn-amd-amdhsa", ("-mcpu=gfx1100",), "amd_sudot4", "amd", "global_load_b128"),
    ("nvptx64-nvidia-nvcl", ("-Xclang", "-target-cpu", "-Xclang", "sm_80"), "ptx", "ptx", ".v4"),
]


@pytest.mark.parametrize("triple, flags, dot4, shuffle, wanted", VENDORS)
def test_variants_of_vendors_compile(
    tmp_path: Path, triple: str, flags: tuple[str, ...], dot4: str, shuffle: str, wanted: str
) -> None:
    clang = next(filter(None, map(shutil.which, CLANGS)), None)
    if clang is None:
        pytest.skip("there is no clang of version 18 or later to compile for graphics cards")
    b = Builder()
    words, out = b.param(dt.u32, 1024, False), b.param(dt.i32, 256, True)
    pair = b.load(words, b.mul(local(b), b.int(4)), 4, aligned=True)
    lanes = [b.emit("shuffle", dt.u32, 1, (pair, pair), (k,)) for k in range(4)]
    factors = (b.bitcast(lanes[0], dt.u8), b.bitcast(lanes[1], dt.i8))
    acc = b.bitcast(b.alu("xor", lanes[2], lanes[3]), dt.i32)
    total = b.emit("dot4", dt.i32, 1, (acc, *factors), 15)
    b.store(out, local(b), b.emit("exchange", dt.i32, 1, (total,), 4))
    target = Simt(64, 32, units=frozenset({"subgroup", "dot4"}))
    source, made = tmp_path / "kernel.cl", tmp_path / "kernel.s"
    source.write_text(render(b.kernel((64,)), "entry", target))
    options = build_options(dot4=dot4, shuffle=shuffle, standard="CL2.0")
    words_of = [clang, "-x", "cl", "-Xclang", "-finclude-default-header", "-nogpulib", "-O2", "-S"]
    command = [*words_of, "-target", triple, *flags, *options, str(source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unable to create target" in done.stderr or "unknown target triple" in done.stderr:
        pytest.skip(f"{clang} was built without {triple}")
    assert done.returncode == 0, done.stderr
    assert wanted in made.read_text()


# -- whole kernels --------------------------------------------------------------------------------


RANDOM = np.random.default_rng(7)
SMALL = Simt(group=16, sub_group=16, local_memory=4096)
MIDDLE = Simt(group=64, sub_group=32, local_memory=16384)


def normal(*shape: int) -> Tensor:
    return Tensor.from_numpy(RANDOM.standard_normal(shape).astype(np.float32))


def graphs() -> dict[str, list[Tensor]]:
    """Return maps, rows, stores and contractions that lower to each kind of kernel."""
    rows, x = np.array([3, 9, -1, 10, 3], np.int32), normal(3, 16)
    q, k, v = normal(2, 3, 5, 8), normal(2, 3, 7, 8), normal(2, 3, 7, 16)
    index = Tensor.from_numpy(rows)
    return {
        "gemm": [(normal(19, 21) @ normal(21, 37) + normal(37)).maximum(0.0) * normal(19, 37)],
        "segments": [normal(1, 1030) @ normal(1030, 16)],
        "transposed": [
            normal(21, 10).transpose() @ normal(21, 16),
            normal(1, 30).linear(normal(20, 30)),
        ],
        "attention": [(q @ k.transpose() * 0.35).softmax() @ v],
        "rows": [
            (normal(3, 40) * 3.0).softmax(),
            x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt(),
        ],
        "maps": [
            normal(4, 18).transpose().exp() < 1.5,
            normal(9, 20).sum(0),
            normal(4, 3).pad(1, 2, 3),
        ],
        "half": [
            normal(5, 9).cast(dt.f16).contiguous().cast(dt.f32) * 2.0,
            normal(5, 9).cast(dt.bf16),
        ],
        "stores": [
            normal(10, 7).gather(index) * 2.0,
            Tensor.zeros((10, 16)).store(normal(5, 16).softmax(), index, add=True),
        ],
    }


GRAPHS = ["gemm", "segments", "transposed", "attention", "rows", "maps", "half", "stores"]


@pytest.mark.parametrize("name", GRAPHS)
def test_kernels_of_graphs(check: Run, name: str) -> None:
    target = SMALL if name in ("segments", "maps", "half") else MIDDLE
    run_graph(check, graphs()[name], target, [], {})


@pytest.mark.parametrize("n", [1, 37])
def test_kernels_with_sizes_known_at_run_time(check: Run, n: int) -> None:
    size = Sym("n", 1, 40)
    roots = [
        normal(3, 40).slice(1, 0, size).softmax(),
        normal(40, 8).slice(0, 0, size) @ normal(8, 16),
        normal(3, 40).slice(1, 0, size) @ normal(40, 16).slice(0, 0, size),
    ]
    run_graph(check, roots, MIDDLE, [size], {"n": n})


def run_graph(
    check: Run, roots: list[Tensor], target: Simt, syms: list[Sym], values: dict[str, int]
) -> None:
    """Run the kernels of a graph in order, each on both from equal memory."""
    tensors = [t if t.node.op is Op.STORE else t.contiguous() for t in roots]
    cut = partition([t.node for t in tensors], resident=False)
    memory: dict[Node, Array] = {}
    variables = np.array([values[s.name] for s in syms] or [0], np.int32)
    for region in order_regions(cut):
        low = lower_simt(region, cut.realised, syms, target)
        for node in low.memory:
            if node not in memory:
                kind = dt.u8 if node.dtype is dt.boolean else node.dtype
                memory[node] = np.full(numel_max(node.shape), 77, kind.to_numpy())
                if node.op is Op.BUFFER:
                    memory[node] = node.arg.array.view(kind.to_numpy()).reshape(-1).copy()
        buffers = [memory[node] for node in low.memory]
        if min(low.groups(values)):
            bounds = [(s.lo, s.hi) for s in syms]
            got = check(
                low.kernel, buffers, low.groups(values), variables, target, variables=bounds
            )
            memory.update(zip(low.memory, got, strict=True))

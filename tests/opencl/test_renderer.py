"""Every operation of the linear IR on OpenCL runtimes: the checking interpreter's bits."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.codegen.opencl import render
from homebox.engine.codegen.opencl_prelude import build_options
from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.ops import Sym, size_max
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.plan import order_regions
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import LoweredSimt, Simt
from homebox.engine.verify.interpret import format_kernel, run_simt

if TYPE_CHECKING:
    from homebox.engine.runtime.opencl_platform import Found

ITEMS = 16  # work-items per group in these tests
NONE = np.zeros(1, np.int32)
ROUNDINGS = ("integer", "double")
Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]


def run_opencl(
    found: "Found",
    kernel: Kernel,
    buffers: list[Array],
    variables: Array,
    grid: tuple[int, ...],
    target: Simt,
    options: list[str],
    **known: Any,
) -> list[Array]:
    """Return what the buffers hold after a launch; they lie 64 bytes into blocks of memory."""
    import pyopencl as cl

    source = render(kernel, "entry", target, grid, **known)
    context = cl.Context([found.device])
    queue = cl.CommandQueue(context)
    try:
        program = cl.Program(context, source).build(options)
    except cl.RuntimeError as error:
        raise AssertionError(f"{error}\n{source}") from error
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    entry, arguments, blocks = program.entry, [], []
    for array in [*buffers, variables]:
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


@pytest.fixture(params=ROUNDINGS)
def rounding(request: pytest.FixtureRequest) -> str:
    """Return how quotients and roots are rounded."""
    return str(request.param)


@pytest.fixture
def check(cl_entry: "Found") -> Run:
    """Return a function that runs a kernel on both and requires equal buffers."""

    def checked(
        kernel: Kernel,
        buffers: list[Array],
        grid: tuple[int, ...] = (1,),
        variables: Array = NONE,
        target: Simt = Simt(),
        options: list[str] | None = None,
        **known: Any,
    ) -> list[Array]:
        want = [b.copy() for b in buffers]
        run_simt(kernel, want, variables, grid)
        chosen = build_options() if options is None else options
        got = run_opencl(cl_entry, kernel, buffers, variables, grid, target, chosen, **known)
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


def mapped(
    dtypes: list[DType], result: DType, lanes: int, function: Callable[..., Value], count: int = 64
) -> Kernel:
    """Return a kernel that maps `lanes` elements per work-item."""
    b = Builder()
    given = [b.param(dt.u8 if d is dt.boolean else d, count * lanes, False) for d in dtypes]
    shown = dt.u8 if result is dt.boolean else result
    out = b.param(shown, count * lanes, True)
    number = b.add(b.mul(b.emit("group", dt.i64, 1, (), 0), b.int(ITEMS)), local(b))
    place = b.mul(number, b.int(lanes))
    values = []
    for pointer, dtype in zip(given, dtypes, strict=True):
        value = b.load(pointer, place, lanes)
        if dtype is dt.boolean:
            value = b.alu("lt", b.const(0, dt.u8, lanes), value)
        values.append(value)
    found = function(b, *values)
    if result is dt.boolean:
        found = b.alu("where", found, b.const(1, dt.u8, lanes), b.const(0, dt.u8, lanes))
    b.store(out, place, found)
    return b.kernel((ITEMS,))


def local(b: Builder, axis: int = 0) -> Value:
    return b.emit("local", dt.i64, 1, (), axis)


def run_map(
    check: Run,
    dtypes: list[DType],
    result: DType,
    lanes: int,
    function: Callable[..., Value],
    given: list[Array] | None = None,
    count: int = 64,
    **more: Any,
) -> None:
    kernel = mapped(dtypes, result, lanes, function, count)
    if given is None:
        given = [numbers(d, count * lanes, 7 * i + lanes) for i, d in enumerate(dtypes)]
    held = kernel.params[-1].dtype.to_numpy()
    check(kernel, [*given, np.zeros(count * lanes, held)], (count // ITEMS,), **more)


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64, dt.f16, dt.bf16], ids=repr)
@pytest.mark.parametrize("op", ["add", "sub", "mul", "max", "min", "lt", "eq"])
def test_floats(check: Run, dtype: DType, op: str) -> None:
    result = dt.boolean if op in ("lt", "eq") else dtype
    for lanes in (1, 4):
        run_map(check, [dtype, dtype], result, lanes, lambda b, x, y: b.alu(op, x, y), count=512)


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64, dt.f16], ids=repr)
def test_quotients_and_roots(check: Run, dtype: DType, rounding: str) -> None:
    options = build_options(rounding=rounding)
    for lanes in (1, 4):
        for function in (
            lambda b, x, y: b.alu("div", x, y),
            lambda b, x, y: b.alu("sqrt", x),
        ):
            run_map(check, [dtype] * 2, dtype, lanes, function, count=2048, options=options)


def test_quotients_near_ties(check: Run, rounding: str) -> None:
    r = np.random.default_rng(3)
    a = (1 + r.integers(0, 1 << 23, 4096) / 2**23) * 2.0 ** r.integers(-149, 127, 4096)
    b = (1 + r.integers(0, 64, 4096) / 2**23) * 2.0 ** r.integers(-149, 127, 4096)
    given = [a.astype(np.float32), b.astype(np.float32)]
    options = build_options(rounding=rounding)
    for op in ("div", "sqrt"):
        run_map(
            check, [dt.f32] * 2, dt.f32, 1,
            lambda b, x, y: b.alu("div", x, y) if op == "div" else b.alu("sqrt", x),
            given, 4096, options=options,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64], ids=repr)
def test_fma(check: Run, dtype: DType) -> None:
    for lanes in (1, 8):
        run_map(check, [dtype] * 3, dtype, lanes, lambda b, x, y, z: b.alu("fma", x, y, z))


def test_a_product_and_a_sum_stay_two_roundings(check: Run) -> None:
    run_map(
        check,
        [dt.f32] * 3,
        dt.f32,
        1,
        lambda b, x, y, z: b.alu("add", b.alu("mul", x, y), z),
        [np.random.default_rng(i).standard_normal(512).astype(np.float32) for i in range(3)],
        512,
    )


INTEGERS = [dt.i8, dt.u8, dt.i32, dt.u32, dt.i64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=repr)
@pytest.mark.parametrize("op", ["add", "sub", "mul", "max", "min", "and", "or", "xor", "lt", "eq"])
def test_integers(check: Run, dtype: DType, op: str) -> None:
    result = dt.boolean if op in ("lt", "eq") else dtype
    for lanes in (1, 4):
        run_map(check, [dtype, dtype], result, lanes, lambda b, x, y: b.alu(op, x, y))


@pytest.mark.parametrize("dtype", INTEGERS, ids=repr)
@pytest.mark.parametrize("op", ["idiv", "mod", "shr", "shl"])
def test_integer_division_and_shifts(check: Run, dtype: DType, op: str) -> None:
    for lanes in (1, 4):
        given = [numbers(dtype, 64 * lanes, lanes), numbers(dtype, 64 * lanes, 9)]
        if op in ("idiv", "mod"):
            top = np.iinfo(dtype.to_numpy()).max
            given = [given[0] & top, np.maximum(given[1] & top, 1)]
        else:
            given[1] = given[1] & (8 * dtype.size - 1)
        run_map(check, [dtype, dtype], dtype, lanes, lambda b, x, y: b.alu(op, x, y), given)


@pytest.mark.parametrize("lanes", [1, 2, 16])
def test_bools(check: Run, lanes: int) -> None:
    for op in ("and", "or", "xor", "lt", "eq"):
        run_map(check, [dt.boolean] * 2, dt.boolean, lanes, lambda b, x, y: b.alu(op, x, y))
    for dtype in (dt.f32, dt.i8, dt.i64, dt.f16, dt.bf16, dt.f64):
        run_map(
            check, [dt.boolean, dtype, dtype], dtype, lanes,
            lambda b, c, x, y: b.alu("where", c, x, y),
        )  # fmt: skip
        run_map(check, [dt.boolean], dtype, lanes, lambda b, c: b.cast(c, dtype))
        run_map(check, [dtype], dt.boolean, lanes, lambda b, x: b.cast(x, dt.boolean))
    run_map(check, [dt.boolean] * 3, dt.boolean, lanes, lambda b, c, x, y: b.alu("where", c, x, y))
    run_map(
        check, [dt.boolean], dt.boolean, lanes,
        lambda b, c: b.alu("and", c, b.const(True, dt.boolean, lanes)),
    )  # fmt: skip


def casts() -> list[tuple[DType, DType]]:
    kinds = [d for d in dt.ALL if d is not dt.boolean]
    skipped = {(dt.f64, dt.bf16)}
    return [(a, b) for a in kinds for b in kinds if a is not b and (a, b) not in skipped]


@pytest.mark.parametrize("source", [d for d in dt.ALL if d is not dt.boolean], ids=repr)
def test_casts(check: Run, source: DType) -> None:
    for a, b in casts():
        if a is not source:
            continue
        for lanes in (1, 4):
            given = numbers(a, 256 * lanes, 5)
            if a.is_float and not b.is_float:  # what does not fit is undefined
                low, high = (0, 200) if b.kind == "u" else (-120, 120)
                small = np.random.default_rng(1).uniform(low, high, 256 * lanes)
                given = small.astype(np.float32)
                given = (
                    (given.view(np.uint32) >> 16).astype(np.uint16)
                    if a is dt.bf16
                    else given.astype(a.to_numpy())
                )
            run_map(check, [a], b, lanes, lambda e, x: e.cast(x, b), [given], 256)


def test_rounding_to_16_bits_is_to_nearest_even(check: Run) -> None:
    bits = (np.arange(4096, dtype=np.uint32) * 0x00080123 + 0x8000) & 0xFFFFFFFF
    for target in (dt.bf16, dt.f16):
        run_map(
            check,
            [dt.f32],
            target,
            1,
            lambda b, x: b.cast(x, target),
            [bits.view(np.float32)],
            4096,
        )
    halves = np.arange(65536, dtype=np.uint16)
    run_map(check, [dt.bf16], dt.f32, 1, lambda b, x: b.cast(x, dt.f32), [halves], 65536)
    run_map(
        check, [dt.f16], dt.f32, 1, lambda b, x: b.cast(x, dt.f32), [halves.view(np.float16)], 65536
    )


def test_bitcasts_between_lane_counts(check: Run) -> None:
    def through(*kinds: DType) -> Callable[[Builder, Value], Value]:
        def function(b: Builder, x: Value) -> Value:
            for kind in kinds:
                x = b.bitcast(x, kind)
            return x

        return function

    run_map(check, [dt.f32], dt.i32, 1, through(dt.i32))
    run_map(check, [dt.u32], dt.u32, 1, through(dt.u8, dt.bf16, dt.i8, dt.u32))
    run_map(check, [dt.u32], dt.f32, 4, through(dt.u8, dt.i64, dt.f64, dt.f32))
    half = [np.arange(256, dtype=np.uint32) * 0x00030001 & 0x7BFF7BFF]
    run_map(check, [dt.u32], dt.u32, 4, through(dt.f16, dt.u8, dt.f16, dt.u32), half)
    run_map(check, [dt.i64], dt.f64, 1, through(dt.f64))


def test_lanes(check: Run) -> None:
    run_map(check, [dt.i32], dt.i32, 8, lambda b, x: b.alu("add", x, b.lane(8)))
    run_map(
        check, [dt.f32], dt.f32, 4, lambda b, x: b.emit("shuffle", dt.f32, 4, (x, x), (3, 4, 0, 5))
    )
    run_map(
        check, [dt.f32], dt.f32, 4,
        lambda b, x: b.splat(b.emit("tree", dt.f32, 1, (x,), "add"), 4),
    )  # fmt: skip
    for how in ("add", "max", "mul"):
        for dtype in (dt.f32, dt.i32, dt.u8, dt.bf16, dt.f16):
            run_map(
                check, [dtype], dtype, 16,
                lambda b, x: b.splat(b.emit("tree", dtype, 1, (x,), how), 16),
            )  # fmt: skip


@pytest.mark.parametrize("variant", ["scalar", "khr"])
@pytest.mark.parametrize("most", [15, 255])
def test_dot4(check: Run, cl_entry: "Found", variant: str, most: int) -> None:
    if variant == "khr" and "cl_khr_integer_dot_product" not in cl_entry.device.extensions:
        pytest.skip("this runtime has no integer dot product")
    r = np.random.default_rng(2)
    options = build_options(dot4=variant, standard="CL3.0" if variant == "khr" else None)
    for lanes in (1, 2, 4):
        b = Builder()
        acc, left, right = (b.param(d, 64 * lanes, False) for d in (dt.i32, dt.u32, dt.u32))
        out = b.param(dt.i32, 64 * lanes, True)
        place = b.mul(local(b), b.int(lanes))
        x, y = b.load(left, place, lanes), b.load(right, place, lanes)
        factors = (b.bitcast(x, dt.u8), b.bitcast(y, dt.i8))
        total = b.emit("dot4", dt.i32, lanes, (b.load(acc, place, lanes), *factors), most)
        b.store(out, place, total)
        given = [
            numbers(dt.i32, 64 * lanes, 1),
            r.integers(0, most + 1, 256 * lanes).astype(np.uint8).view(np.uint32),
            r.integers(-128, 128, 256 * lanes).astype(np.int8).view(np.uint32),
            np.zeros(64 * lanes, np.int32),
        ]
        check(b.kernel((64,)), given, options=options)


def test_dot_of_bf16(check: Run) -> None:
    def dot(b: Builder, acc: Value, x: Value, y: Value) -> Value:
        pair = (b.bitcast(x, dt.bf16), b.bitcast(y, dt.bf16))
        return b.emit("dotbf16", dt.f32, x.lanes, (acc, *pair))

    run_map(check, [dt.f32, dt.u32, dt.u32], dt.f32, 1, dot)


# -- memory ---------------------------------------------------------------------------------------


MEMORY = [dt.f32, dt.f16, dt.bf16, dt.u8, dt.i64, dt.boolean]


@pytest.mark.parametrize("dtype", MEMORY, ids=repr)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("lanes", [1, 2, 4, 16])
def test_loads_and_stores(check: Run, dtype: DType, aligned: bool, lanes: int) -> None:
    b, count = Builder(), 16 * lanes + (0 if aligned else 1)
    source, out = b.param(dtype, count, False), b.param(dtype, count, True)
    place = b.mul(local(b), b.int(lanes))
    if not aligned:
        place = b.add(place, b.int(1))
    b.store(out, place, b.load(source, place, lanes, aligned=aligned), aligned=aligned)
    given = numbers(dtype, count, 1)
    kind = np.dtype(bool) if dtype is dt.boolean else dtype.to_numpy()
    if dtype is dt.f16:
        given = np.nan_to_num(given)
    got = check(b.kernel((16,)), [given.astype(kind), np.zeros(count, kind)])
    assert lanes > 1 or got[1][-1] == given.astype(kind)[-1]


@pytest.mark.parametrize("dtype", MEMORY, ids=repr)
@pytest.mark.parametrize("lanes", [1, 4])
def test_masks(check: Run, dtype: DType, lanes: int) -> None:
    b, count = Builder(), 16 * lanes - 2
    source, out = b.param(dtype, count, False), b.param(dtype, count, True)
    place = b.mul(local(b), b.int(lanes))
    at = b.alu("add", b.splat(b.cast(place, dt.i32), lanes), b.lane(lanes))
    mask = b.alu("lt", at, b.const(count, dt.i32, lanes))
    b.store(out, place, b.load(source, place, lanes, mask), mask)
    kind = np.dtype(bool) if dtype is dt.boolean else dtype.to_numpy()
    given = numbers(dtype, count, 1).astype(kind)
    if dtype is dt.f16:
        given = np.nan_to_num(given)
    check(b.kernel((16,)), [given, np.zeros(count, kind)])


@pytest.mark.parametrize("index", [dt.i32, dt.i64], ids=repr)
@pytest.mark.parametrize("masked", [False, True])
def test_gather_and_scatter(check: Run, index: DType, masked: bool) -> None:
    b = Builder()
    places, source = b.param(index, 64, False), b.param(dt.f32, 64, False)
    out = b.param(dt.f32, 64, True)
    start = b.mul(local(b), b.int(4))
    at = b.load(places, start, 4)
    mask = b.alu("lt", at, b.const(40, index, 4)) if masked else None
    b.store(out, at, b.load(source, at, 4, mask), mask)
    permuted = np.random.default_rng(1).permutation(64).astype(index.to_numpy())
    check(b.kernel((16,)), [permuted, numbers(dt.f32, 64, 2), np.zeros(64, np.float32)])


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
    other = b.sub_place(place) if hasattr(b, "sub_place") else b.alu("xor", place, b.int(4))
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
    check(b.kernel((32,)), [np.zeros(32, np.int64)], variables=np.array([-3, 41], np.int32))


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
    far = b.alu("mul", b.add(b.mul(size, size), local(b)), b.int(3))
    near = b.alu("mod", b.alu("idiv", far, b.int(7)), b.int(1000))
    back = b.alu("sub", b.alu("add", far, b.alu("min", near, group)), far)
    b.store(out, b.add(b.mul(group, b.int(16)), local(b)), b.alu("add", far, near))
    with b.when(b.alu("lt", back, b.int(0))):
        b.store(out, back, far)
    biggest = np.array([2**31 - 1], np.int32)
    check(b.kernel((16,)), [np.zeros(32, np.int64)], (2,), variables=biggest)


def test_indices_that_wrap_on_their_way(check: Run) -> None:
    b = Builder()
    source, out = b.param(dt.i32, 64, False), b.param(dt.i32, 16, True)
    far = b.alu("mul", b.emit("var", dt.i64, 1, (), 0), b.emit("var", dt.i64, 1, (), 1))
    place = b.alu("sub", b.add(far, b.add(local(b), b.int(7))), far)
    b.store(out, local(b), b.load(source, place))
    text = render(b.kernel((16,)), "entry", Simt())
    assert "long" not in text.replace("ulong o", "")
    given = [np.arange(64, dtype=np.int32), np.zeros(16, np.int32)]
    got = check(b.kernel((16,)), given, variables=np.array([2**31 - 1, -(2**31)], np.int32))
    assert got[1].tolist() == list(range(7, 23))


# -- whole kernels --------------------------------------------------------------------------------


RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> Tensor:
    return Tensor.from_numpy(RANDOM.standard_normal(shape).astype(np.float32))

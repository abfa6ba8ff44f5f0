"""Runs a kernel on an OpenCL runtime and on the checking interpreter, and requires equal bits."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.codegen.opencl import render
from homebox.engine.codegen.opencl_prelude import build_options
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.simt.target import Simt
from homebox.engine.verify.interpret import format_kernel, run_simt

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found

ITEMS = 16  # work-items per group in these tests
PLAIN = Simt()
COMMON = ("add", "sub", "mul", "max", "min", "lt", "eq")
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


def checker(cl_entry: "Found") -> Run:
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


def through(b: Builder, x: Value, *kinds: DType) -> Value:
    """Return a value that was bitcast again and again."""
    for kind in kinds:
        x = b.bitcast(x, kind)
    return x

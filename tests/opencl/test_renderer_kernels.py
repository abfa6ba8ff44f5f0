"""Memory, control, units and whole kernels on OpenCL runtimes: the interpreter's bits."""

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

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
from tests.opencl.both import (
    COMMON,
    NONE,
    Array,
    Run,
    checker,
    each,
    local,
    numbers,
    run_map,
    run_opencl,
    same,
    through,
)

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found


@pytest.fixture
def check(cl_entry: "Found") -> Run:
    """Return a function that runs a kernel on both and requires equal buffers."""
    return checker(cl_entry)


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


CLANGS = [*(f"/usr/lib/llvm-{n}/bin/clang" for n in (22, 21, 20, 19, 18)), "clang-19", "clang-18"]

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

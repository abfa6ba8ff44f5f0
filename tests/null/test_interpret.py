"""The interpreter of the linear IR: right results, and a violation of each rule is reported."""

import math

import numpy as np
import pytest

from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.graph.dtype import DType, bf16, boolean, f32, i8, i32, i64, u8
from homebox.engine.verify.arithmetic import fma
from homebox.engine.verify.check import check_kernel
from homebox.engine.verify.interpret import format_kernel, run, run_simt
from homebox.errors import EngineError

NONE = np.zeros(0, np.int32)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def saxpy(count: int, limit: int | None = None, *, masked: bool = True) -> Kernel:
    """y += 2.5 x in vectors of 16; the last one is masked at `limit` (default: the count)."""
    b = Builder()
    x, y = b.param(f32, count, False), b.param(f32, count, True)
    factor = b.const(2.5, f32, 16)
    with b.loop(b.emit("lo", i64), b.emit("hi", i64)) as unit:
        start = b.mul(unit, b.int(16))
        index = b.alu("add", b.splat(b.cast(start, i32), 16), b.lane(16))
        end = b.const(count if limit is None else limit, i32, 16)
        mask = b.alu("lt", index, end) if masked else None
        total = b.alu("fma", factor, b.load(x, start, 16, mask), b.load(y, start, 16, mask))
        b.store(y, start, total, mask)
    return b.kernel()


def test_saxpy_with_a_masked_tail() -> None:
    x, y = numbers(45), numbers(45, seed=1)
    want = (np.float64(2.5) * x + y).astype(np.float32)
    run(saxpy(45), [x, y], NONE, (0, 3))
    assert np.array_equal(y, want)


@pytest.mark.parametrize("kernel", [saxpy(45, limit=46), saxpy(45, masked=False)])
def test_access_beyond_the_end_is_reported(kernel: Kernel) -> None:
    with pytest.raises(EngineError, match=r"instruction \d+, `%.* = load .*element 45 of p0"):
        run(kernel, [numbers(45), numbers(45)], NONE, (0, 3))


@pytest.mark.parametrize("verb", ["load", "store"])
@pytest.mark.parametrize("start", [-1, 0, 4, 5])
def test_the_first_and_the_last_element_are_the_limits(verb: str, start: int) -> None:
    b = Builder()
    data, out = b.param(f32, 8, True), b.param(f32, 4, True)
    if verb == "load":
        b.store(out, b.int(0), b.load(data, b.int(start), 4))
    else:
        b.store(data, b.int(start), b.const(1.0, f32, 4))
    memory = [np.zeros(9, np.float32), np.zeros(4, np.float32)]
    if start in (0, 4):
        run(b.kernel(), memory, NONE)
    else:
        with pytest.raises(EngineError, match=f"element {start if start < 0 else 8} of p0"):
            run(b.kernel(), memory, NONE)


def test_a_loaded_vector_is_a_value() -> None:
    b = Builder()
    data = b.param(f32, 8, True)
    low, high = b.load(data, b.int(0), 4), b.load(data, b.int(4), 4)
    b.store(data, b.int(0), high)
    b.store(data, b.int(4), low)
    memory = np.arange(8, dtype=np.float32)
    run(b.kernel(), [memory], NONE)
    assert memory.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_units_may_be_run_in_parts() -> None:
    x, y = numbers(64), numbers(64, seed=1)
    whole = y.copy()
    run(saxpy(64), [x, whole], NONE, (0, 4))
    for unit in (2, 0, 3, 1):
        run(saxpy(64), [x, y], NONE, (unit, unit + 1))
    assert np.array_equal(whole, y)


def row_sum(lanes: int, how: str = "add") -> Kernel:
    """y[unit] = the tree sum of a row of 4 * lanes elements."""
    b = Builder()
    x, y = b.param(f32, 3 * 4 * lanes, False), b.param(f32, 3, True)
    unit = b.emit("lo", i64)
    total = b.reg(b.const(0.0, f32, lanes))
    with b.loop(b.int(0), b.int(4)) as i:
        place = b.mul(b.add(b.mul(unit, b.int(4)), i), b.int(lanes))
        b.set(total, b.alu(how, b.get(total), b.load(x, place, lanes)))
    b.store(y, unit, b.emit("tree", f32, 1, (b.get(total),), how))
    return b.kernel()


def test_tree_halves() -> None:
    x, y = numbers(3, 4, 16), np.zeros(3, np.float32)
    run(row_sum(16), [x, y], NONE, (0, 3))
    lanes = ((x[:, 0] + x[:, 1]) + x[:, 2]) + x[:, 3]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    assert np.array_equal(y, lanes[:, 0])


def test_tree_of_max_ignores_nothing() -> None:
    x, y = numbers(3, 4, 8), np.zeros(3, np.float32)
    run(row_sum(8, "max"), [x, y], NONE, (0, 3))
    assert np.array_equal(y, np.maximum(x.max(axis=(1, 2)), 0))


def gemm(m: int, n: int, k: int, rows: int = 4, vectors: int = 2) -> Kernel:
    """C = A B with tiles of rows x vectors registers; a unit is one tile."""
    b = Builder()
    left, right = b.param(f32, m * k, False), b.param(f32, k * n, False)
    out = b.param(f32, m * n, True)
    across = n // (16 * vectors)
    with b.loop(b.emit("lo", i64), b.emit("hi", i64)) as unit:
        row = b.mul(b.alu("idiv", unit, b.int(across)), b.int(rows))
        column = b.mul(b.alu("mod", unit, b.int(across)), b.int(16 * vectors))
        zero = b.const(0.0, f32, 16)
        tile = [[b.reg(zero) for _ in range(vectors)] for _ in range(rows)]
        with b.loop(b.int(0), b.int(k)) as i:
            base = b.add(b.mul(i, b.int(n)), column)
            panel = [b.load(right, b.add(base, b.int(16 * v)), 16) for v in range(vectors)]
            for r in range(rows):
                place = b.add(b.mul(b.add(row, b.int(r)), b.int(k)), i)
                value = b.splat(b.load(left, place), 16)
                for v in range(vectors):
                    b.set(tile[r][v], b.alu("fma", value, panel[v], b.get(tile[r][v])))
        for r in range(rows):
            start = b.add(b.mul(b.add(row, b.int(r)), b.int(n)), column)
            for v in range(vectors):
                b.store(out, b.add(start, b.int(16 * v)), b.get(tile[r][v]))
    return b.kernel()


def test_gemm_matches_a_sequence_of_fmas() -> None:
    m, n, k = 32, 64, 48
    left, right = numbers(m, k), numbers(k, n, seed=1)
    out = np.full((m, n), np.nan, np.float32)
    run(gemm(m, n, k), [left, right, out], NONE, (0, 16))
    want = np.zeros((m, n), np.float32)
    for i in range(k):
        want = fma(*np.broadcast_arrays(left[:, i : i + 1], right[i], want), f32)
    assert np.array_equal(out, want)
    assert np.allclose(out, left.astype(np.float64) @ right, rtol=0, atol=1e-5)


def exponential(b: Builder, x: Value) -> Value:
    """exp(x) of x <= 0 as 2**n * 2**f with a Taylor polynomial for f in -1/2..1/2."""
    power = b.alu("mul", x, b.const(math.log2(math.e), f32))
    whole = b.cast(b.alu("sub", power, b.const(0.5, f32)), i32)
    rest = b.alu("sub", power, b.cast(whole, f32))
    total = b.const(math.log(2) ** 7 / math.factorial(7), f32)
    for n in range(6, -1, -1):
        total = b.alu("fma", total, rest, b.const(math.log(2) ** n / math.factorial(n), f32))
    scale = b.alu("shl", b.alu("add", whole, b.const(127, i32)), b.const(23, i32))
    return b.alu("mul", total, b.bitcast(scale, f32))


def softmax(columns: int, items: int, *, barriers: bool = True) -> Kernel:
    """One group a row: each item strides over it; maxima and sums meet in shared memory."""
    b = Builder()
    x, y = b.param(f32, 2 * columns, False), b.param(f32, 2 * columns, True)
    group, local = b.emit("group", i64, 1, (), 0), b.emit("local", i64, 1, (), 0)
    shared = b.emit("shared", f32, 1, (), items)
    start = b.mul(group, b.int(columns))

    def wait() -> None:
        if barriers:
            b.emit("barrier", i64)

    def combine(mine: Value, how: str) -> Value:
        b.store(shared, local, mine)
        wait()
        half = items // 2
        while half:
            with b.when(b.alu("lt", local, b.int(half))):
                other = b.load(shared, b.add(local, b.int(half)))
                b.store(shared, local, b.alu(how, b.load(shared, local), other))
            wait()
            half //= 2
        return b.load(shared, b.int(0))

    def weight(i: Value, highest: Value) -> Value:
        gap = b.alu("sub", b.load(x, b.add(start, i)), highest)
        return exponential(b, gap)

    most = b.reg(b.const(float("-inf"), f32))
    with b.loop(local, b.int(columns), items) as i:
        b.set(most, b.alu("max", b.get(most), b.load(x, b.add(start, i))))
    highest = combine(b.get(most), "max")
    wait()
    total = b.reg(b.const(0.0, f32))
    with b.loop(local, b.int(columns), items) as i:
        b.set(total, b.alu("add", b.get(total), weight(i, highest)))
    whole = combine(b.get(total), "add")
    with b.loop(local, b.int(columns), items) as i:
        b.store(y, b.add(start, i), b.alu("div", weight(i, highest), whole))
    return b.kernel((items,))


def test_simt_row_with_shared_memory_and_barriers() -> None:
    x, y = numbers(2, 37), np.zeros((2, 37), np.float32)
    run_simt(softmax(37, 8), [x, y], NONE, (2,))
    weights = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    assert np.allclose(y, weights / weights.sum(axis=1, keepdims=True), rtol=1e-6)


def test_missing_barriers_are_reported() -> None:
    with pytest.raises(EngineError, match=r"race|nothing has written"):
        run_simt(softmax(37, 8, barriers=False), [numbers(2, 37), numbers(2, 37)], NONE, (2,))


def exchange(*, barrier: bool, shared: bool, write_first: bool = True) -> Kernel:
    """Each of four items writes its element and reads its neighbour's (or the other way)."""
    b = Builder()
    out = b.param(f32, 4, True)
    memory = b.param(f32, 4, True)
    local = b.emit("local", i64, 1, (), 0)
    neighbour = b.alu("mod", b.add(local, b.int(1)), b.int(4))
    if shared:
        memory = b.emit("shared", f32, 1, (), 4)
        b.store(memory, local, b.const(0.0, f32))
        b.emit("barrier", i64)
    number = b.cast(local, f32)
    if write_first:
        b.store(memory, local, number)
    else:
        number = b.load(memory, neighbour)
    if barrier:
        b.emit("barrier", i64)
    if write_first:
        number = b.load(memory, neighbour)
    else:
        b.store(memory, local, b.const(1.0, f32))
    b.store(out, local, number)
    return b.kernel((4,))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("write_first", [False, True])
def test_items_share_elements_only_across_a_barrier(shared: bool, write_first: bool) -> None:
    out, memory = np.zeros(4, np.float32), np.zeros(4, np.float32)
    kernel = exchange(barrier=True, shared=shared, write_first=write_first)
    run_simt(kernel, [out, memory], NONE, (1,))
    assert out.tolist() == ([1, 2, 3, 0] if write_first else [0, 0, 0, 0])
    kernel = exchange(barrier=False, shared=shared, write_first=write_first)
    with pytest.raises(EngineError, match=r"work-item . of group 0 .*race with work-item"):
        run_simt(kernel, [out, memory], NONE, (1,))


def test_two_items_writing_one_element_is_a_race() -> None:
    b = Builder()
    out = b.param(f32, 4, True)
    local = b.emit("local", i64, 1, (), 0)
    b.store(out, b.alu("idiv", local, b.int(2)), b.const(1.0, f32))
    with pytest.raises(EngineError, match="work-item 1 of group 0 writes element 0 of p0, race"):
        run_simt(b.kernel((4,)), [np.zeros(4, np.float32)], NONE, (1,))


@pytest.mark.parametrize("readers", [1, 2, 4])
@pytest.mark.parametrize("writer", [0, 3])
def test_writing_what_others_have_read_is_a_race(readers: int, writer: int) -> None:
    b = Builder()
    out, memory = b.param(f32, 4, True), b.param(f32, 1, True)
    local = b.emit("local", i64, 1, (), 0)
    with b.when(b.alu("lt", local, b.int(readers))):
        b.store(out, local, b.load(memory, b.int(0)))
    with b.when(b.alu("eq", local, b.int(writer))):
        b.store(memory, b.int(0), b.const(1.0, f32))
    buffers = [np.zeros(4, np.float32), np.zeros(1, np.float32)]
    if readers == 1 and writer == 0:
        run_simt(b.kernel((4,)), buffers, NONE, (1,))
    else:
        with pytest.raises(EngineError, match="element 0 of p1, race with"):
            run_simt(b.kernel((4,)), buffers, NONE, (1,))


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("writer", [0, 1])
def test_groups_must_not_write_what_other_groups_read(readers: int, writer: int) -> None:
    b = Builder()
    out, memory = b.param(f32, 2, True), b.param(f32, 1, True)
    group = b.emit("group", i64, 1, (), 0)
    with b.when(b.alu("lt", group, b.int(readers))):
        b.store(out, group, b.load(memory, b.int(0)))
    b.emit("barrier", i64)
    with b.when(b.alu("eq", group, b.int(writer))):
        b.store(memory, b.int(0), b.const(1.0, f32))
    buffers = [np.zeros(2, np.float32), np.zeros(1, np.float32)]
    if readers == 1 and writer == 0:
        run_simt(b.kernel((1,)), buffers, NONE, (2,))
    else:
        with pytest.raises(EngineError, match=r"element 0 of p1, race with"):
            run_simt(b.kernel((1,)), buffers, NONE, (2,))


def test_no_barrier_orders_two_groups() -> None:
    with pytest.raises(EngineError, match="race with work-item 0 of group 0"):
        run_simt(
            exchange(barrier=True, shared=False),
            [np.zeros(4, np.float32), np.zeros(4, np.float32)],
            NONE,
            (2,),
        )


@pytest.mark.parametrize("in_loop", [False, True])
def test_barrier_that_some_items_miss_is_reported(in_loop: bool) -> None:
    b = Builder()
    out = b.param(f32, 4, True)
    local = b.emit("local", i64, 1, (), 0)
    if in_loop:
        with b.loop(b.int(0), local):
            b.emit("barrier", i64)
    else:
        with b.when(b.alu("lt", local, b.int(2))):
            b.emit("barrier", i64)
    b.store(out, local, b.const(1.0, f32))
    with pytest.raises(EngineError, match="`barrier`: barrier divergence: work-item 0"):
        run_simt(b.kernel((4,)), [np.zeros(4, np.float32)], NONE, (1,))


def test_items_must_wait_at_the_same_barrier() -> None:
    b = Builder()
    local = b.emit("local", i64, 1, (), 0)
    for half in range(2):
        with b.when(b.alu("eq", b.alu("idiv", local, b.int(2)), b.int(half))):
            b.emit("barrier", i64)
    with pytest.raises(EngineError, match=r"work-item 0 of group 0 waits at .*, work-item 2"):
        run_simt(b.kernel((4,)), [], NONE, (1,))


def test_items_must_wait_in_the_same_round() -> None:
    b = Builder()
    local = b.emit("local", i64, 1, (), 0)
    with b.loop(b.int(0), b.int(4)) as i, b.when(b.alu("eq", i, local)):
        b.emit("barrier", i64)
    with pytest.raises(EngineError, match=r"in rounds \[0\], work-item 1 .* in rounds \[1\]"):
        run_simt(b.kernel((4,)), [], NONE, (1,))


def test_uniform_barriers_in_loops_and_conditions_are_fine() -> None:
    b = Builder()
    out = b.param(f32, 4, True)
    local = b.emit("local", i64, 1, (), 0)
    with b.loop(b.int(0), b.int(3)) as i, b.when(b.alu("lt", i, b.int(2))):
        b.emit("barrier", i64)
        place = b.alu("mod", b.add(local, i), b.int(4))
        b.store(out, place, b.cast(local, f32))
    out_array = np.zeros(4, np.float32)
    run_simt(b.kernel((4,)), [out_array], NONE, (1,))
    assert out_array.tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("verb", ["write", "read"])
def test_units_must_not_meet(verb: str) -> None:
    b = Builder()
    out = b.param(f32, 8, True)
    unit = b.emit("lo", i64)
    if verb == "write":
        b.store(out, unit, b.const(1.0, f32, 2))
    else:
        b.store(out, unit, b.load(out, b.alu("mod", b.add(unit, b.int(1)), b.int(2))))
    with pytest.raises(EngineError, match=r"unit 1 (wri|rea).* of p0, race with unit 0, which"):
        run(b.kernel(), [np.zeros(8, np.float32)], NONE, (0, 2))
    run(b.kernel(), [np.zeros(8, np.float32)], NONE, (0, 1))


def test_two_params_over_one_buffer_are_one_memory() -> None:
    b = Builder()
    source, out = b.param(f32, 4, False), b.param(f32, 4, True)
    unit = b.emit("lo", i64)
    b.store(out, unit, b.load(source, b.alu("mod", b.add(unit, b.int(1)), b.int(4))))
    kernel, data = b.kernel(), np.arange(4, dtype=np.float32)
    with pytest.raises(EngineError, match="race"):
        run(kernel, [data, data], NONE, (0, 4))
    data, result = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    run(kernel, [data, result], NONE, (0, 4))
    assert result.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("op", ["stack", "shared"])
@pytest.mark.parametrize("written", [3, 4])
def test_reading_what_nothing_wrote_is_reported(op: str, written: int) -> None:
    b = Builder()
    out = b.param(f32, 4, True)
    memory = b.emit(op, f32, 1, (), 4)
    with b.loop(b.int(0), b.int(written)) as i:
        b.store(memory, i, b.const(7.0, f32))
    b.store(out, b.int(0), b.load(memory, b.int(0), 4))
    data = np.zeros(4, np.float32)
    kernel = b.kernel((1,) if op == "shared" else ())

    def launch() -> None:
        if op == "shared":
            run_simt(kernel, [data], NONE, (1,))
        else:
            run(kernel, [data], NONE)

    if written == 4:
        launch()
        assert data.tolist() == [7] * 4
    else:
        with pytest.raises(EngineError, match=r"element 3 of the .* which nothing has written"):
            launch()


def test_gather_and_scatter_with_masks() -> None:
    b = Builder()
    table, out = b.param(f32, 8, False), b.param(f32, 8, True)
    indices = b.param(i32, 4, False)
    where = b.load(indices, b.int(0), 4)
    mask = b.alu("lt", where, b.const(8, i32, 4))
    got = b.load(table, where, 4, mask)
    b.store(out, b.lane(4), got)
    b.store(out, b.const(6, i32, 4), got, mask)
    data = np.zeros(8, np.float32)
    index = np.array([5, 99, 0, 2], np.int32)
    run(b.kernel(), [np.arange(8, dtype=np.float32), data, index], NONE)
    assert data.tolist() == [5, 0, 0, 2, 0, 0, 2, 0]  # the last lane stays at 6
    index[1] = -1
    with pytest.raises(EngineError, match=r"gather .*element -1 of p0"):
        run(b.kernel(), [np.arange(8, dtype=np.float32), data, index], NONE)


def test_variables_are_read_and_bounded() -> None:
    b = Builder()
    out = b.param(i64, 1, True)
    b.store(out, b.int(0), b.emit("var", i64, 1, (), 1))
    data = np.zeros(1, np.int64)
    run(b.kernel(), [data], np.array([3, -9], np.int32))
    assert data[0] == -9
    with pytest.raises(EngineError, match="there are 1 variables"):
        run(b.kernel(), [data], np.array([3], np.int32))


def test_buffers_must_fit_their_params() -> None:
    kernel = saxpy(32)
    good = np.zeros(32, np.float32)
    frozen = good.copy()
    frozen.flags.writeable = False
    for buffers, reason in [
        ([good], "has 2 params, got 1"),
        ([good, good.astype(np.float64)], "p1 is f32"),
        ([good[:31], good.copy()], "p0 needs 32"),
        ([good, frozen], "read-only"),
    ]:
        with pytest.raises(EngineError, match=reason):
            run(kernel, buffers, NONE, (0, 2))
    with pytest.raises(EngineError, match="needs run_simt"):
        run(softmax(8, 2), [good, good], NONE)
    with pytest.raises(EngineError, match="a grid of 1 axes"):
        run_simt(kernel, [good, good.copy()], NONE, (1,))


@pytest.mark.parametrize("kernel", [saxpy(45), row_sum(16), gemm(32, 64, 48), softmax(37, 8)])
def test_well_formed_kernels_pass_and_print(kernel: Kernel) -> None:
    check_kernel(kernel)
    lines = format_kernel(kernel).splitlines()
    assert len(lines) == 1 + len(kernel.params) + len(kernel.body)


def test_listing_reads_well() -> None:
    assert format_kernel(row_sum(16)).splitlines()[:4] == [
        f"kernel (CPU), {len(row_sum(16).body)} instructions",
        "  p0: f32[192]",
        "  p1: f32[3] written",
        "    0  %0: f32 = param 0",
    ]
    assert "= fma %" in format_kernel(gemm(32, 64, 48))
    assert any(line.strip().endswith("{") for line in format_kernel(saxpy(45)).splitlines())


def block_of(owner: DType, *, stack: bool = False) -> Kernel:
    """Write a float and 4 bytes as one block of 8, read it as elements of `owner`."""
    b = Builder()
    out = b.param(owner, 8 // owner.size, True)
    block = b.emit("stack", owner, 1, (), 8 // owner.size) if stack else out
    b.store(b.view(block, f32), b.int(0), b.const(1.5, f32))
    b.store(b.view(block, i8), b.int(4), b.const(-3, i8, 4))
    b.store(out, b.int(0), b.load(block, b.int(0), 8 // owner.size))
    return b.kernel()


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("owner", [u8, i32])
def test_memory_may_be_seen_as_several_types(owner: DType, stack: bool) -> None:
    out = np.zeros(8 // owner.size, owner.to_numpy())
    run(block_of(owner, stack=stack), [out], NONE)
    assert out.tobytes() == np.float32(1.5).tobytes() + b"\xfd" * 4


@pytest.mark.parametrize("kind", [f32, bf16, i8])
@pytest.mark.parametrize("beyond", [False, True])
def test_a_view_has_the_limits_of_its_memory(kind: DType, beyond: bool) -> None:
    b = Builder()
    data, out = b.param(u8, 7, False), b.param(kind, 1, True)
    place = 7 // kind.size - (not beyond)
    b.store(out, b.int(0), b.load(b.view(data, kind), b.int(place)))
    memory = [np.zeros(16, np.uint8), np.zeros(1, kind.to_numpy())]
    if beyond:
        with pytest.raises(EngineError, match=f"element {place} of p0 as"):
            run(b.kernel(), memory, NONE)
    else:
        run(b.kernel(), memory, NONE)


@pytest.mark.parametrize(("written", "read", "fine"), [(4, 0, True), (3, 0, False), (0, 0, False)])
def test_a_read_needs_every_byte_to_be_written(written: int, read: int, fine: bool) -> None:
    b = Builder()
    out, memory = b.param(i32, 1, True), b.emit("stack", i32, 1, (), 2)
    if written:
        b.store(b.view(memory, i8), b.int(0), b.const(1, i8, written))
    b.store(out, b.int(0), b.load(memory, b.int(read)))
    result = np.zeros(1, np.int32)
    if fine:
        run(b.kernel(), [result], NONE)
        assert result[0] == 0x01010101
    else:
        with pytest.raises(EngineError, match=r"element 0 of the stack memory .*nothing has writ"):
            run(b.kernel(), [result], NONE)


@pytest.mark.parametrize("apart", [False, True])
def test_a_race_is_seen_through_views(apart: bool) -> None:
    """One unit writes byte 3, the next one a word: of the same place, or of the one after it."""
    b = Builder()
    data = b.param(u8, 8, True)
    unit = b.emit("lo", i64)
    with b.when(b.alu("eq", unit, b.int(0))):
        b.store(data, b.int(3), b.const(1, u8))
    with b.when(b.alu("eq", unit, b.int(1))):
        b.store(b.view(data, i32), b.int(int(apart)), b.const(7, i32))
    memory = np.zeros(8, np.uint8)
    if apart:
        run(b.kernel(), [memory], NONE, (0, 2))
        assert memory.tolist() == [0, 0, 0, 1, 7, 0, 0, 0]
    else:
        with pytest.raises(EngineError, match="unit 1 writes element 0 of p0 as int32, race with"):
            run(b.kernel(), [memory], NONE, (0, 2))


def test_params_of_two_types_at_one_address_share_their_watch() -> None:
    b = Builder()
    bytes_, words = b.param(u8, 8, True), b.param(i32, 2, True)
    unit = b.emit("lo", i64)
    with b.when(b.alu("eq", unit, b.int(0))):
        b.store(bytes_, b.int(7), b.const(1, u8))
    with b.when(b.alu("eq", unit, b.int(1))):
        b.store(words, b.int(1), b.const(7, i32))
    memory = np.zeros(8, np.uint8)
    with pytest.raises(EngineError, match="race"):
        run(b.kernel(), [memory, memory.view(np.int32)], NONE, (0, 2))
    run(b.kernel(), [memory, np.zeros(2, np.int32)], NONE, (0, 2))


def kept(*, guarded: bool) -> Kernel:
    """y[unit] = 2 x[unit], where 2 lies in memory that a thread keeps."""
    b = Builder()
    x, y = b.param(f32, 5, False), b.param(f32, 5, True)
    memory, unit = b.emit("keep", f32, 1, (), 1), b.emit("lo", i64)
    begins = b.emit("first", boolean)
    if not guarded:
        begins = b.alu("eq", unit, b.int(0))
    with b.when(begins):
        b.store(memory, b.int(0), b.const(2.0, f32))
    b.store(y, unit, b.alu("mul", b.load(memory, b.int(0)), b.load(x, unit)))
    return b.kernel()


def test_a_thread_keeps_memory_from_its_first_call_on() -> None:
    x, y = numbers(5), np.zeros(5, np.float32)
    run(kept(guarded=True), [x, y], NONE, (0, 5))
    assert np.array_equal(y, 2 * x)
    with pytest.raises(EngineError, match="unit 1 reads element 0 of the keep memory"):
        run(kept(guarded=False), [x, y], NONE, (0, 5))  # another thread has not seen unit 0


def dots(op: str, most: int | None = None) -> Kernel:
    b = Builder()
    acc_kind, left, right = (i32, u8, i8) if op == "dot4" else (f32, bf16, bf16)
    lanes = 64 // left.size
    out = b.param(acc_kind, 16, True)
    a, c = b.param(left, lanes, False), b.param(right, lanes // 16, False)
    word = b.load(b.view(c, i32), b.int(0))
    factor = b.bitcast(b.splat(word, 16), right)
    acc = b.load(out, b.int(0), 16)
    total = b.emit(op, acc_kind, 16, (acc, b.load(a, b.int(0), lanes), factor), most)
    b.store(out, b.int(0), total)
    return b.kernel()


def test_dot4_is_exact_and_wraps() -> None:
    rng = np.random.default_rng(2)
    a, c = rng.integers(0, 256, 64).astype(np.uint8), np.array([-128, 127, -1, -128], np.int8)
    a[:4] = 255
    acc = rng.integers(-(1 << 31), 1 << 31, 16).astype(np.int32)
    acc[0] = -(1 << 31)
    want = acc.astype(np.int64) + a.astype(np.int64).reshape(16, 4) @ c
    run(dots("dot4", 255), [acc, a, c], NONE)
    assert np.array_equal(acc, want.astype(np.int32))
    assert want[0] < -(1 << 31)
    with pytest.raises(EngineError, match="multiplies 255, which was said to be at most 15"):
        run(dots("dot4", 15), [acc, a, c], NONE)


def test_dotbf16_rounds_after_each_product() -> None:
    big, small = 1.0, 2.0**-24
    as_bits = (np.array([1.0, small], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    a = np.tile(as_bits, 16)
    one = np.full(2, np.float32(big).view(np.uint32) >> 16, np.uint16)
    acc = np.full(16, small, np.float32)
    run(dots("dotbf16"), [acc, a, one], NONE)
    assert np.array_equal(acc, np.ones(16, np.float32))  # in one sum it would be 1 + 2**-23


def test_shuffle_picks_from_both() -> None:
    b = Builder()
    data, out = b.param(f32, 8, False), b.param(f32, 6, True)
    low, high = b.load(data, b.int(0), 4), b.load(data, b.int(4), 4)
    picked = b.emit("shuffle", f32, 4, (low, high), (7, 0, 0, 4))
    b.store(out, b.int(0), picked)
    b.store(out, b.int(4), b.emit("shuffle", f32, 2, (high, low), (1, 6)))
    result = np.zeros(6, np.float32)
    run(b.kernel(), [np.arange(8, dtype=np.float32), result], NONE)
    assert result.tolist() == [7, 0, 0, 4, 5, 2]

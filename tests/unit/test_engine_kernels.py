"""Every kind of kernel against the oracle, and to the bit against the checking interpreter."""

from collections.abc import Callable

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Sym
from homebox.engine.graph.tensor import Tensor
from homebox.engine.verify.oracle import narrow
from tests.unit.engine_checks import check, in_bf16, program_of, random, tensor

SIZES = (1, 2, 3, 15, 16, 17, 31, 33)


def ints(*shape: int, low: int = 0, high: int = 10, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).integers(low, high, shape)
    return tensor(values.astype(np.int32))


# -- elementwise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, *SIZES])
def test_sizes_around_the_lanes(size: int) -> None:
    x, y = tensor(random(size)), tensor(random(size, seed=1))
    check((x + y) * 2.0 - x.maximum(y), (x < y).where(x, 0.5))


def test_functions_on_special_values() -> None:
    values = random(64, spread=4.0)
    values[:14] = [
        *(np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, -1e-45),
        *(1e-38, 3e38, -3e38, 127.9, -149.5, 128.0, -151.0),
    ]
    x = tensor(values)
    check(x.exp2(), x.log2(), x.sqrt(), x.recip(), rtol=1e-6, atol=1e-45)
    check(x.maximum(0.0), x.equal(x), x < 0.0, x.cast(dt.boolean), rtol=0, atol=0)
    check(tensor(random(64, spread=300.0)).sin(), atol=1e-5)
    check((x * 0.01).sigmoid(), x.silu(), x.exp(), rtol=1e-5, atol=1e-44)


def test_powers_of_two_below_the_smallest_number_are_zero() -> None:
    least = np.float32(-150.0)
    more = np.nextafter(least, np.float32(0))
    values = np.float32([least, np.nextafter(least, -np.inf), -1e30, -np.inf, more, -149.0])
    (found,) = check(tensor(values).exp2(), rtol=0, atol=2e-45)
    assert found.tolist() == [0.0, 0.0, 0.0, 0.0, 2.0**-149, 2.0**-149]


def test_tanh_is_odd_and_within_three_units() -> None:
    near = np.exp(np.linspace(np.log(1e-30), np.log(20.0), 3000)).astype(np.float32)
    edge = np.float32([0.0, 1e-45, 0.625, np.nextafter(np.float32(0.625), np.float32(0))])
    values = np.concatenate([near, edge, np.float32([3e38, np.inf, np.nan])])
    (found,) = check(tensor(values).tanh(), rtol=1e-6, atol=0)
    exact = np.tanh(values[:-1].astype(np.float64))
    with np.errstate(invalid="ignore"):
        units = np.abs(found[:-1] - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() < 3.0
    assert np.isnan(found[-1])
    (negative,) = check(tensor(-values).tanh(), rtol=1e-6, atol=0)
    assert (negative[:-1] == -found[:-1]).all() and np.signbit(negative[:-1]).all()


def test_gelu_by_tanh() -> None:
    x = random(500, spread=3.0)
    (found,) = check(tensor(x).gelu_tanh(), rtol=2e-6, atol=1e-6)
    wide = x.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    np.testing.assert_allclose(found, 0.5 * wide * (1 + np.tanh(inner)), rtol=2e-5, atol=1e-6)


def test_integers_of_every_type() -> None:
    for dtype in (np.int32, np.uint32, np.int8, np.uint8, np.int64):
        limits = np.iinfo(dtype)
        edge = [limits.max, limits.max // 2 + 1, limits.max - 1, 1, 0]
        a = tensor(np.array([*edge, *range(2, 37)], dtype))
        b = tensor(np.array([*range(2, 37), *edge[::-1]], dtype) // 2 + 1)
        check(a // b, a % b, a.maximum(b), a < b, a.equal(b), a & b, a ^ b, a >> 3, rtol=0, atol=0)
        check(a + b, a * b, a.max(), a.sum(), b.prod(), a.cast(dt.f32), a.cast(dt.i64), rtol=1e-6)


def test_integer_division_by_lanes_beyond_the_edge_does_not_stop_the_machine() -> None:
    x = ints(19, low=1)
    check((Tensor.iota(19) // x) % x, (ints(3, 19) // x.reshape((1, 19))).sum(0))


def test_bool() -> None:
    a, b = tensor(random(40) > 0), tensor(random(40, seed=1) > 0)
    check(a & b, a ^ b, a.logical_not(), a.equal(b), a.cast(dt.f32), a.cast(dt.i32))
    check(a.where(1.0, 2.0), a.where(b, a), a.cat(b), a.reshape((5, 8)).max(1), a.pad(0, 3, 20))
    check(a.slice(0, 39, 40, -1).reshape((8, 5)).transpose())
    kept = tensor(np.zeros(40, bool))
    check(kept.store(a & b))
    check(kept.store(b.slice(0, 3, 5), ints(5, high=40)))
    for refused in (lambda: a + b, lambda: a * b, lambda: a.maximum(b), a.sum):
        with pytest.raises(TypeError, match="bool; cast to i32 first"):
            refused()


@pytest.mark.parametrize("shape", [(1,), (17,), (3, 33)])
def test_narrow_floats_are_stored_and_loaded(shape: tuple[int, ...]) -> None:
    values = random(*shape)
    half, brain = tensor(values.astype(np.float16)), in_bf16(values)
    check(half.cast(dt.f32) * 2.0, brain.cast(dt.f32) + 1.0, brain.cast(dt.f32).sum(-1))
    x = tensor(values)
    check(x.cast(dt.f16), x.cast(dt.bf16), half.cast(dt.bf16), brain.cast(dt.f16), rtol=0, atol=0)
    check(brain.cast(dt.i32), brain.transpose(0, -1), half.pad(0, 1, 1), brain.cat(brain, axis=0))
    wide = x.reshape((1, -1)) if x.ndim == 1 else x
    check(wide.cast(dt.f16).cast(dt.f32) @ wide.cast(dt.bf16).cast(dt.f32).transpose())
    check((x > 0).where(brain, 0.1), (x > 0).where(half, 0.1), rtol=0, atol=0)
    with pytest.raises(TypeError, match="for storage; cast to f32 first"):
        half + half
    with pytest.raises(TypeError, match="for storage; cast to f32 first"):
        brain.sum()


def test_rounding_to_bf16_keeps_denormals_and_ties() -> None:
    step = np.arange(0, 2**32, 65537, dtype=np.uint64)
    near = [np.arange(start, start + 300) for start in (0, 0x7F7FFF00, 0x7F800000, 0x00008000)]
    bits = np.concatenate([step, *near, 0x80000000 + np.arange(300)]).astype(np.uint32)
    values = bits.view(np.float32)
    program = program_of([tensor(values).cast(dt.bf16)])
    program.run()
    np.testing.assert_array_equal(program.output(0), narrow(values))


def test_double_precision_is_for_arithmetic_only() -> None:
    x = tensor(random(3, 20).astype(np.float64))
    check(x * x + 1.0, x.sum(1), x.max(0), x.sqrt(), x.recip(), x.cast(dt.f32), rtol=1e-12)
    with pytest.raises(TypeError, match="computed in f32"):
        x.exp2()


# -- movement -------------------------------------------------------------------------------------


def test_movement_chains() -> None:
    x = tensor(random(6, 4, 10))
    check(
        x.permute(2, 0, 1).reshape((10, 24)).transpose() * 1.5,
        x.reshape((8, 30)).slice(1, 29, 30, -1).reshape((6, 40)),
        x.slice(2, 3, 5).pad(2, 2, 1).pad(0, 0, 3).reshape((3, 3, 32)),
        x.reshape((24, 10)).pad(0, 3, 5).reshape((4, 80)).pad(1, 1, 1) * 2.0,
        x.sum(1, keepdim=True).expand((6, 17, 10)).permute(1, 2, 0),
        x.slice(0, 5, 6, -1).slice(0, 1, 3).reshape((120,)),
    )
    check(Tensor.iota(40).reshape((5, 8)).permute(1, 0) % 3, Tensor.iota(3), Tensor.iota(40) // 7)


def test_flipped_axes_that_are_joined_and_split_again() -> None:
    """Going backwards, parts of an index are negative, and machines divide towards zero."""
    x = tensor(random(33, 32))
    back = x.slice(0, 32, 33, -1).reshape((4, 264)).slice(1, 263, 264, -1).reshape((1056,))
    check(back, back.reshape((66, 16)).sum(1), back.reshape((3, 352)).transpose() * 2.0)
    y = tensor(random(4, 6)).reshape((8, 3)).slice(0, 7, 8, -1).reshape((24,))
    check(y.gather(ints(40, low=-2, high=26)), y.slice(0, 23, 24, -1).reshape((2, 12)))


def test_padding_keeps_reads_inside() -> None:
    x = tensor(random(3, 1)).expand((3, 20))
    check(x.pad(1, 2, 20).pad(0, 1, 1) + 1.0, x.pad(0, 2, 2).pad(1, 1, 1).sum(0))
    y, index = tensor(random(7, 5)), ints(30, low=-3, high=10)
    check(y.gather(index).pad(1, 3, 20).pad(0, 2, 2) + 0.5)
    check(y.gather(index).pad(0, 2, 2).pad(1, 30, 0).max(1))
    z = tensor(random(5)).reshape((5, 1)).expand((5, 16)).reshape((80,))
    check(z.pad(0, 16, 16).reshape((7, 16)) * 2.0)


def test_sums_under_padding_do_not_read_outside() -> None:
    x, y = tensor(random(4, 16)), tensor(random(8, 16, seed=1))
    wide = x.sum(1, keepdim=True).expand((4, 16)).reshape((64,))
    check(
        wide.pad(0, 32, 32).reshape((8, 16)) * y, (wide + 1.0).pad(0, 16, 48).reshape((8, 16)) * y
    )
    check(x.max(1).reshape((2, 2)).pad(0, 1, 1).reshape((8,)).reshape((8, 1)) * y)


def test_joining_parts_also_empty_ones() -> None:
    parts = [tensor(random(3, k, seed=k)) for k in (1, 5, 16, 17)]
    check(parts[0].cat(*parts[1:]), parts[0].cat(*parts[1:]).sum(1))
    check(tensor(random(0)).cat(tensor(random(2)), axis=0), tensor(random(0, 3)).pad(0, 2, 0))


def test_shapes_without_elements() -> None:
    x = tensor(random(0, 5))
    check(x + 1.0, x.sum(0), x.sum(1), x.max(0), x.prod(), x.reshape((5, 0)), x.transpose())
    for m, n, k in ((0, 3, 4), (3, 0, 4), (3, 4, 0), (20, 20, 0), (1, 20, 0), (0, 20, 20)):
        check(tensor(random(m, k)) @ tensor(random(k, n)))


# -- reductions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("columns", [1, 16, 17, 33])
def test_reductions_of_rows_columns_and_all(rows: int, columns: int) -> None:
    x = tensor(random(rows, columns))
    check(x.sum(1), x.sum(0), x.sum(), x.max(1), x.max(0))
    check((x * 0.3).prod(0), x.transpose().sum(0) * 2.0, (x * x).sum(1).sqrt())


def test_reductions_over_several_axes() -> None:
    x = tensor(random(5, 3, 4, 6))
    check(
        x.sum((1, 2)),
        x.sum((0, 3)),
        x.max((0, 1, 2)),
        x.sum((1, 3)).sum(0),
        x.permute(3, 1, 0, 2).sum((0, 2)),
    )
    check(ints(5, 20).sum(1), ints(5, 20).sum(0), ints(5, 20, low=-9).max(1), ints(5, 4).prod(1))


@pytest.mark.parametrize("columns", [1, 7, 16, 100])
def test_fused_rows(columns: int) -> None:
    x, g = tensor(random(5, columns)), tensor(random(columns, seed=1))
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    check(
        x.softmax(),
        x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt() * g,
        centred * ((centred * centred).mean(-1, keepdim=True) + 1e-5).rsqrt() * g,
        x.logsumexp(),
        (g > 0.5).where(x, -1e30).softmax(),
    )


def test_softmax_along_other_axes() -> None:
    x = tensor(random(4, 17, 6))
    check(x.softmax(1), x.softmax(0), x.permute(2, 0, 1).softmax())


# -- contractions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 7, 13, 16])
@pytest.mark.parametrize("n", [1, 5, 16, 33])
def test_contractions_with_ragged_edges(m: int, n: int) -> None:
    for k in (1, 3, 17):
        a, b = tensor(random(m, k)), tensor(random(k, n, seed=1))
        check(a @ b)
        check(
            tensor(random(k, m)).transpose() @ tensor(random(n, k)).transpose(), interpret_too=False
        )


def test_tall_contractions_use_several_units() -> None:
    for m, n, k in ((200, 48, 9), (97, 64, 16), (193, 80, 5)):
        check(tensor(random(m, k)) @ tensor(random(k, n, seed=1)))


def test_long_sums_run_in_segments() -> None:
    for m, n, k in ((2, 16, 1025), (1, 40, 2048), (3, 5, 3001)):
        a, b = tensor(random(m, k, spread=0.1)), tensor(random(k, n, seed=1, spread=0.1))
        check(a @ b, atol=1e-4)


def test_batches_and_groups() -> None:
    a, b = tensor(random(3, 5, 7)), tensor(random(3, 7, 20, seed=1))
    check(a @ b, a @ tensor(random(7, 33, seed=2)), tensor(random(2, 1, 5, 7)) @ b)
    query = tensor(random(2, 3, 4, 8))  # (kv heads, groups, T, dim)
    keys, values = tensor(random(2, 1, 16, 8, seed=1)), tensor(random(2, 1, 16, 8, seed=2))
    check((query @ keys.transpose()).softmax() @ values)


def test_prologues_and_epilogues() -> None:
    x, w, b = tensor(random(9, 24)), tensor(random(40, 24, seed=1)), tensor(random(40, seed=2))
    scale, residual = tensor(random(9, 1, seed=3)), tensor(random(9, 40, seed=4))
    check(
        (x.linear(w) + b).silu(),
        (x * scale).linear(w) * 2.0 + residual,
        x.exp().linear(w.transpose().transpose()),
        x.linear(w).reshape((9, 5, 8)).permute(1, 0, 2) + 1.0,
        x.linear(w).cast(dt.bf16).cast(dt.f32),
        (x.linear(w) > 0).where(residual, 0.0),
        x.linear(w).sum(1),
        rtol=1e-4,
        atol=1e-4,
    )
    total = tensor(random(9, 40, seed=5))
    check(total.store(x.linear(w)))
    check(total.store(x.linear(w) + total))
    check(total.store(x.linear(w) * 0.5, add=True))


def test_sums_over_two_axes_that_cannot_be_joined() -> None:
    a, b = tensor(random(4, 5, 6)), tensor(random(6, 5, 18, seed=1))
    left = a.permute(2, 0, 1).reshape((6, 4, 1, 5)).permute(1, 2, 0, 3)  # (4, 1, 6, 5)
    right = b.permute(2, 0, 1).reshape((1, 18, 6, 5))
    shape = (4, 18, 6, 5)
    check((left.expand(shape) * right.expand(shape)).sum((2, 3)))


def test_products_that_are_no_contractions() -> None:
    x, y = tensor(random(6, 20)), tensor(random(6, 20, seed=1))
    check((x * y).sum(1), (x * x).sum(), (x * y).sum(0), (x * tensor(random(20))).sum(1))


# -- sizes known at run time ----------------------------------------------------------------------

N = Sym("n", 1, 40)


@pytest.mark.parametrize("n", [1, 5, 16, 40])
def test_run_time_rows_columns_and_sums(n: int) -> None:
    rows = tensor(random(40, 18), (N, 18))
    columns = tensor(random(6, 40, seed=1), (6, N))
    fine = {"values": {"n": n}}
    check(rows * 2.0, rows.sum(0), rows.sum(1), rows.softmax(), rows.transpose().softmax(), **fine)
    check(columns.sum(1), columns.max(1), columns.softmax(), columns.sum(0), **fine)
    check(rows.linear(tensor(random(20, 18, seed=2))), **fine)  # m
    check(columns @ tensor(random(40, 32, seed=3), (N, 32)), **fine)  # k
    keys = tensor(random(3, 18, 16, seed=4)).permute(0, 2, 1).reshape((48, 18)).slice(0, 0, N)
    scores = tensor(random(5, 18, seed=5)).linear(keys)  # n, in panels
    check(scores, scores.softmax(), (Tensor.iota(N) < 3).where(scores, -1e30).softmax(), **fine)
    plain = tensor(random(48, 18, seed=6)).slice(0, 0, N)
    check(tensor(random(5, 18, seed=5)).linear(plain), **fine)  # n, in no panels


def test_run_time_offsets_and_values() -> None:
    start, x = Sym("s", 0, 12), tensor(random(20, 9))
    for s in (0, 3, 12):
        cut = x.slice(0, start, 8)
        late = Tensor.iota(20) < Tensor.variable(start)
        check(cut * 2.0, cut.sum(0), cut @ tensor(random(9, 16)), values={"s": s})
        check(late.reshape((20, 1)).where(x, 0.0), Tensor.variable(start) * 3, values={"s": s})


# -- memory ---------------------------------------------------------------------------------------


def test_gather_reads_zero_outside() -> None:
    index = ints(29, low=-3, high=12)
    check(tensor(random(9)).gather(index), tensor(random(9, 20)).gather(index) * 2.0)
    check(tensor(random(9, 3)).gather(index.slice(0, 0, 6).reshape((2, 3))), ints(9).gather(index))
    check((tensor(random(9, 2, 5)) + 1.0).gather(index).sum(0))
    check(tensor(random(9, 20)).gather(index).transpose().reshape((29, 20)))


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("rest", [(), (3,), (20,), (2, 17)])
@pytest.mark.parametrize("rows", [(1,), (3,), (40,), (4, 5)])
def test_indexed_stores_in_order(rows: tuple[int, ...], rest: tuple[int, ...], add: bool) -> None:
    index = ints(*rows, low=-2, high=12)  # of 10 rows: duplicates, and some outside
    table, value = tensor(random(10, *rest)), tensor(random(*rows, *rest, seed=1))
    written = table.store(value * 2.0, index, add=add)
    check(written, written + 1.0, table.sum())


def test_stores_that_read_their_own_memory() -> None:
    w, x = tensor(random(32, 32)), tensor(random(32, 32, seed=1))
    index = ints(40, low=-2, high=34)
    values: list[Callable[[], Tensor]] = [
        lambda: w * 0.9 + x,
        lambda: w.slice(0, 31, 32, -1),
        lambda: w.transpose() + w,
        lambda: w * w.sum(),
        w.softmax,
        lambda: w - w.sum(0, keepdim=True),
        lambda: x @ w,
        lambda: w * 0.5 + x @ x,
        lambda: w * 0.5 + w @ x,
    ]
    for value in values:
        check(w.store(value()), atol=1e-4)
    narrow_w = tensor(random(5, 9))
    check(narrow_w.store(narrow_w.softmax()), narrow_w.sum(1))
    check(w.store(w.gather(index) + 1.0, index))
    flat = tensor(random(40))
    check(flat.store(flat.slice(0, 39, 40, -1)), flat.exp())


def test_parts_share_memory_with_the_whole() -> None:
    stack = tensor(random(3, 4, 16))
    parts = [stack.part(i) for i in range(3)]
    check(parts[0] + parts[2], stack.store(stack * 0.5), parts[1] @ parts[2].transpose())
    check(parts[1].store(parts[0] * 2.0), stack.sum())
    check(stack.store(parts[0].reshape((1, 4, 16)).expand((3, 4, 16)) + stack))


def test_writes_come_after_reads_of_the_old_contents() -> None:
    w, x = tensor(random(8, 32)), tensor(random(5, 8, seed=1))
    moment = tensor(random(8, 32, seed=2))
    m = moment.store(moment * 0.9 + w * 0.1)
    check(x @ w, w.store(w - m * 0.5), m, w.sum(1), x @ (w * 2.0))

"""Maps, rows, stores and PACK for work-items, on the checking interpreter: the CPU's bits."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, BF16, Q4, Q8, Format, pack
from homebox.engine.graph.ops import Op, Sym, node
from homebox.engine.graph.tensor import Tensor
from homebox.engine.simt import simt
from homebox.engine.simt.target import Flat, LoweredSimt, Packing, Rows, Simt
from homebox.engine.verify import interpret
from homebox.errors import EngineError
from homebox.model.decoder.paged_cache import PagedCache
from homebox.model.training.optimiser import Scalars, adamw, clip_factor, global_norm
from tests.null.test_simt import MIDDLE, SMALL, Execution, check, kinds, normal, without_barrier

RANDOM = np.random.default_rng(5)


def packing(x: Tensor) -> Tensor:
    """Return float32 (m, k) as bytes of format a8."""
    rows, width = (d if isinstance(d, int) else d.hi for d in x.shape)
    return Tensor(node(Op.PACK, dt.u8, (rows, A8.panel_bytes(width)), (x.node,), A8))


def same_bytes(x: Tensor, target: Simt) -> LoweredSimt:
    """Require the bytes of the CPU's kernel; return the kernel of the PACK."""
    packed = packing(x)
    device, cpu = Execution([packed], [], {}, target), Execution([packed], [], {}, None)
    (got,), (want,) = device.results(), cpu.results()
    assert got.tobytes() == want.tobytes()
    low = device.lowered[-1]
    assert isinstance(low, LoweredSimt) and isinstance(low.schedule, Packing)
    return low


# -- PACK ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [SMALL, MIDDLE, Simt()], ids=["16", "64", "256"])
@pytest.mark.parametrize("width", [32, 40, 96])
def test_rows_are_packed(width: int, target: Simt) -> None:
    x = normal(3, width) * 3.0
    low = same_bytes(x, target)
    assert isinstance(low.schedule, Packing) and not low.schedule.by_rows
    assert low.kernel.group[0] <= target.group


def test_a_block_of_zeros_is_packed() -> None:
    same_bytes(Tensor.from_numpy(np.zeros((2, 64), np.float32)), MIDDLE)


@pytest.mark.parametrize("width", [64, 300])
def test_rows_that_are_normed_on_the_way(width: int) -> None:
    x = normal(3, width)
    scale = ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt()
    low = same_bytes((x * scale).maximum(-1.0), MIDDLE)
    assert low.schedule == Packing(16 if width == 64 else 64, True)


# -- long rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [SMALL, MIDDLE, Simt()], ids=["16", "64", "256"])
@pytest.mark.parametrize("size", [257, 512, 1100])
def test_long_rows_are_summed_by_a_group(size: int, target: Simt) -> None:
    x = normal(2, size)
    lowered = check((x * 2.0).softmax(), target=target, tolerance=1e-4)
    (schedule,) = [low.schedule for low in lowered]
    assert isinstance(schedule, Rows) and (schedule.width > 16) == (target is not SMALL)


def test_sums_alone_of_long_rows() -> None:
    x = normal(3, 700)
    check(x.sum(-1), x.max(-1), (x * x).mean(-1, keepdim=True).rsqrt(), target=MIDDLE)
    check(normal(2, 3, 400).sum((0, 2)), target=MIDDLE, tolerance=1e-4)
    whole = Tensor.from_numpy(RANDOM.integers(-90, 90, (2, 600)).astype(np.int32))
    check(whole.max(1), whole.sum(1), target=MIDDLE)


def test_long_rows_in_pieces() -> None:
    little = Simt(64, 32, 2048)  # half of it holds 256 numbers
    check(normal(2, 900).softmax(), target=little, tolerance=1e-4)


@pytest.mark.parametrize("n", [1, 300, 600])
def test_long_rows_of_run_time_size(n: int) -> None:
    size = Sym("n", 1, 600)
    check(normal(2, 600).slice(1, 0, size).softmax(), target=MIDDLE, syms=[size], n=n)


def test_rows_of_a_log_sum_exp() -> None:
    check(normal(2, 500).logsumexp(), target=MIDDLE)


@pytest.mark.parametrize("case", range(2))
def test_no_barrier_can_be_left_out(case: int) -> None:
    x = normal(2, 520)
    root = [x.softmax().contiguous(), packing((x * x.sum(-1, keepdim=True)).maximum(0.0))][case]
    execution = Execution([root], [], {}, MIDDLE)
    low = execution.lowered[-1]
    assert isinstance(low, LoweredSimt)
    buffers = [execution.array(n) for n in low.memory]
    count = sum(inst.op == "barrier" for inst in low.kernel.body)
    for number in range(count):
        broken = without_barrier(low.kernel, number)
        with pytest.raises(EngineError, match=r"race with|which nothing has written"):
            interpret.run_simt(broken, buffers, execution.variables, low.groups({}))
            raise AssertionError(f"barrier {number} of {count} is not needed")


# -- stores and maps ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dt.f32, dt.f16, dt.bf16, "q8"], ids=str)
def test_keys_and_values_go_into_their_pages(kind: Any) -> None:
    config: Any = SimpleNamespace(num_kv_heads=2, head_dim=32, num_layers=1)
    cache = PagedCache(config, 3, kind)
    places = Tensor.from_numpy(np.array([70, -1, 5], np.int32))
    root = cache.append(0, normal(3, 2, 32), normal(3, 2, 32), places)
    device, cpu = Execution([root], [], {}, MIDDLE), Execution([root], [], {}, None)
    (got,), (want,) = device.results(), cpu.results()
    assert got.tobytes() == want.tobytes() and got.any()
    low = device.lowered[-1]
    assert isinstance(low, LoweredSimt) and isinstance(low.schedule, Flat)


@pytest.mark.parametrize("form", [Q8, Q4, BF16], ids=str)
def test_rows_of_a_packed_table(form: Format) -> None:
    stored = Tensor.from_numpy(pack(form, RANDOM.standard_normal((40, 64)).astype(np.float32)))
    table = Tensor.packed(form, 40, 64, stored)
    ids = Tensor.from_numpy(np.array([3, 39, 0, 40], np.int32))
    assert kinds(check(table.gather(ids) * 2.0, target=MIDDLE)) == [Flat]


def test_an_update_of_adamw() -> None:
    weight, gradient = normal(9, 16), normal(9, 16)
    moments = normal(9, 16), (normal(9, 16) * 0.1).maximum(0.0)
    second = Tensor.from_numpy(np.abs(RANDOM.standard_normal((9, 16))).astype(np.float32))
    scalars = Scalars.of(Tensor.from_numpy(np.array([1e-3, 0, 1.1, 1.2], np.float32)))
    factor = clip_factor(global_norm([gradient]), 1.0)
    roots = adamw(weight, gradient * factor, (moments[0], second), scalars, (0.9, 0.99), 0.1)
    device, cpu = Execution(roots, [], {}, MIDDLE), Execution(roots, [], {}, None)
    for got, want in zip(device.results(), cpu.results(), strict=True):
        assert got.tobytes() == want.tobytes()


def test_a_store_into_places_that_differ_needs_no_order() -> None:
    (low,) = check(Tensor.zeros((10, 16)).store(normal(5, 16), Tensor.iota(5) + 3), target=MIDDLE)
    assert low.groups({}) == (2,)  # 80 elements in groups of 64, and no loop over the rows
    again = Tensor.from_numpy(np.array([3, 4, 3], np.int32))
    (low,) = check(Tensor.zeros((10, 16)).store(normal(3, 16), again), target=MIDDLE)
    assert low.groups({}) == (1,) and any(i.op == "loop" for i in low.kernel.body)


def test_places_counted_from_iota_join_four_neighbours(many: None) -> None:
    place = Tensor.iota(16).reshape((1, 16))
    hit = place.equal(Tensor.from_numpy(np.array([[3], [9], [15]], np.int32)))
    assert widths(check(hit.where(normal(3, 16), 1.0), target=MIDDLE)) == [4]


# -- several elements to a work-item ------------------------------------------------------------


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few elements count as many."""
    monkeypatch.setattr(simt, "MANY", 1)


def widths(lowered: list[LoweredSimt]) -> list[int]:
    return [low.schedule.each for low in lowered if isinstance(low.schedule, Flat)]


@pytest.mark.usefixtures("many")
def test_neighbours_are_read_at_once() -> None:
    x, bias = normal(9, 16), normal(16)
    assert widths(check((x.silu() * x + bias) * normal(9, 1), target=MIDDLE)) == [4]
    assert widths(check((x < 0.5).where(x.exp(), bias), x < 0.1, target=MIDDLE)) == [4, 4]
    narrow = check(x.cast(dt.f16).contiguous().cast(dt.f32) * 2.0, x.cast(dt.bf16), target=MIDDLE)
    assert widths(narrow) == [4, 4, 4]
    assert widths(check(x.slice(1, 4, 8) + 1.0, x.slice(0, 3, 3) + 1.0, target=MIDDLE)) == [4, 4]
    table, rows = normal(10, 16), Tensor.from_numpy(np.array([3, 9, -1, 10, 3], np.int32))
    assert widths(check(table.gather(rows) * 2.0, target=MIDDLE)) == [4]


@pytest.mark.usefixtures("many")
def test_neighbours_that_lie_apart_are_read_one_by_one() -> None:
    x = normal(8, 12)
    assert widths(check(x.transpose() * 2.0, target=MIDDLE)) == [1]
    assert widths(check(x.pad(1, 2, 2) * 2.0, target=MIDDLE)) == [1]
    assert widths(check(normal(8, 11) * normal(11), target=MIDDLE)) == [1]
    check(x.slice(1, 1, 8) + 1.0, target=MIDDLE)  # side by side, but at no multiple of four


@pytest.mark.usefixtures("many")
def test_an_update_of_adamw_with_neighbours() -> None:
    test_an_update_of_adamw()


@pytest.mark.parametrize("rows", [3, 8, 17])
def test_columns_are_read_ahead(rows: int) -> None:
    check(normal(rows, 20).sum(0), normal(rows, 5, 7).max(0), target=MIDDLE)

"""Attention for work-groups, on the checking interpreter: the oracle's values, the CPU's bits."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Op
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.plan import order_regions
from homebox.engine.simt.attend import lower_attend
from homebox.engine.simt.attend_shape import attention_schedule, local_bytes, sizes_of
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import Attention, LoweredSimt, Simt
from homebox.engine.verify import interpret
from homebox.errors import EngineError
from homebox.model.decoder.masked_attention import masked_attention, visible
from homebox.model.decoder.paged_cache import Kind, PagedCache
from tests.null.test_simt import MIDDLE, SMALL, Execution, check, normal, without_barrier

RANDOM = np.random.default_rng(11)


def attentions(lowered: list[LoweredSimt]) -> list[Attention]:
    return [low.schedule for low in lowered if isinstance(low.schedule, Attention)]


def cache_of(heads: int, dim: int, pages: int, kind: Kind) -> PagedCache:
    """Return a cache whose pages hold random numbers (scales that are small, in q8)."""
    config: Any = SimpleNamespace(num_kv_heads=heads, head_dim=dim, num_layers=1)
    cache = PagedCache(config, pages, kind)
    buffer = cache.memory[0].buffer
    numbers = RANDOM.standard_normal(buffer.count).astype(np.float32)
    if kind == "q8":
        stored = RANDOM.integers(0, 256, buffer.count).astype(np.uint8)
        pieces = stored.reshape(-1, 64 * 36)
        scales = (np.abs(RANDOM.standard_normal((len(pieces), 64))) / 100).astype(np.float32)
        pieces[:, :256] = scales.view(np.uint8)
        buffer.write(stored)
    elif kind is dt.bf16:
        buffer.write((numbers.view(np.uint32) >> 16).astype(np.uint16))
    else:
        buffer.write(numbers.astype(kind.to_numpy()) if isinstance(kind, dt.DType) else numbers)
    return cache


def paged(
    kind: Kind,
    positions: list[list[int]],
    pages: int,
    dim: int = 16,
    groups: int = 2,
    window: int | None = None,
    cap: float | None = None,
    sinks: bool = False,
) -> Tensor:
    """Return attention over pages: one sequence for each list of positions, two kv heads."""
    batch, rows = len(positions), len(positions[0])
    cache = cache_of(2, dim, batch * pages + 1, kind)
    order = RANDOM.permutation(batch * pages + 1)[: batch * pages]
    tables = Tensor.from_numpy(order.reshape(batch, pages).astype(np.int32))
    at = Tensor.from_numpy(np.array(positions, np.int32))
    q = normal(batch, rows, 2 * groups, dim)
    sink = normal(2 * groups) if sinks else None
    return cache.attend(0, cache.memory[0], q, at, tables, window, cap, sink)


@pytest.mark.parametrize("kind", [dt.f32, dt.f16, dt.bf16, "q8"], ids=str)
def test_decoding_over_pages(kind: Kind) -> None:
    lowered = check(paged(kind, [[70]], 2, dim=32), target=MIDDLE)
    (schedule,) = attentions(lowered)
    assert schedule.rows == 2 and schedule.blocks == 2


@pytest.mark.parametrize("target", [SMALL, MIDDLE, Simt()], ids=["16", "64", "256"])
def test_several_sequences_one_of_which_sees_nothing(target: Simt) -> None:
    small = Simt(target.group, target.sub_group, 16384)
    check(paged(dt.f16, [[5], [-1], [127]], 2), target=small)


def test_splits_are_written_apart_and_joined_by_the_graph() -> None:
    lowered = check(paged(dt.f16, [[300], [40]], 5), target=MIDDLE)
    assert len(attentions(lowered)) == 1


def test_splits_of_many_rows_are_joined_by_the_kernel() -> None:
    positions = [list(range(250, 262))]
    lowered = check(paged(dt.f32, positions, 5, groups=1), target=MIDDLE)
    assert [s.rows for s in attentions(lowered)] == [16]


def test_a_window() -> None:
    check(paged(dt.f32, [[3, 90, 91, -1]], 2, groups=1, window=9), target=MIDDLE)


def test_a_cap_and_sinks() -> None:
    few = paged(dt.f32, [[3, 90, -1]], 2, groups=1, window=9, cap=2.0, sinks=True)
    lowered = check(few, target=MIDDLE)
    assert len(attentions(lowered)) == 1
    check(paged(dt.f16, [[70], [-1]], 2, dim=32, cap=1.5, sinks=True), target=MIDDLE)


def test_sinks_of_splits() -> None:
    check(paged(dt.f16, [[300], [40]], 5, cap=2.0, sinks=True), target=MIDDLE)
    positions = [[*range(250, 262), -1]]
    check(paged(dt.f32, positions, 5, groups=1, cap=2.0, sinks=True), target=MIDDLE)


def test_channels_that_fill_no_panel() -> None:
    check(paged(dt.f16, [[3, 66]], 2, dim=12), target=MIDDLE)
    check(paged(dt.f32, [[3, 66]], 2, dim=6), target=MIDDLE)


def test_rows_of_training_with_a_mask_of_documents() -> None:
    length, dim = 64, 16
    q, k = normal(1, 1, 2, length, dim), normal(1, 1, 1, length, dim)
    v = normal(1, 1, 1, length, dim)
    place = Tensor.iota(length)
    first = Tensor.from_numpy(np.where(np.arange(length) < 40, 0, 40).astype(np.int32))
    key = place.reshape((1, length))
    seen = (key >= first.reshape((length, 1))) & (key <= place.reshape((length, 1)))
    check(masked_attention(q, k, v, seen.reshape((1, 1, 1, length, length))), target=MIDDLE)


def test_a_mask_that_is_no_bound() -> None:
    length, dim, rows = 64, 16, 5
    q, k, v = normal(1, 2, 1, rows, dim), normal(1, 2, 1, length, dim), normal(1, 2, 1, length, dim)
    even = (Tensor.iota(length) % 2).equal(0).reshape((1, 1, 1, 1, length))
    at = Tensor.from_numpy(np.array([[0, 9, 63, -1, 30]], np.int32))
    check(masked_attention(q, k, v, visible(at, length) & even), target=MIDDLE)


def test_queries_that_are_normed_on_the_way() -> None:
    length, dim, rows = 64, 32, 3
    x, k, v = normal(1, 1, 2, rows, dim), normal(1, 1, 1, length, dim), normal(1, 1, 1, length, dim)
    q = x * ((x * x).mean(-1, keepdim=True) + 1e-6).rsqrt()
    at = Tensor.from_numpy(np.array([[0, 9, 63]], np.int32))
    check(masked_attention(q, k, v, visible(at, length)), target=MIDDLE)


# -- controls and limits ------------------------------------------------------------------------


@pytest.mark.parametrize("sinks", [False, True])
def test_no_barrier_can_be_left_out(sinks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOFUSE", "R4")  # the kernel joins splits itself
    root = paged(dt.f32, [[252, 260]], 5, 6, 1, window=80, sinks=sinks).contiguous()
    execution = Execution([root], [], {}, Simt(64, 32, 1024))  # room for one block at a time
    (low,) = [x for x in execution.lowered if isinstance(x.schedule, Attention)]
    assert isinstance(low, LoweredSimt)
    buffers = [execution.array(n) for n in low.memory]
    count = sum(inst.op == "barrier" for inst in low.kernel.body)
    for number in range(count):
        broken = without_barrier(low.kernel, number)
        message = r"race with|which nothing has written"
        with pytest.raises(EngineError, match=message):
            interpret.run_simt(broken, buffers, execution.variables, (1,))
            raise AssertionError(f"barrier {number} of {count} is not needed")


@pytest.mark.parametrize("target", [Simt(), Simt(1024, 64, 65536), Simt(64, 16, 16384)])
@pytest.mark.parametrize("dim", [64, 256])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_kernels_keep_to_the_limits_of_the_target(target: Simt, dim: int, rows: int) -> None:
    positions = Tensor.zeros((1, rows), dt.i32)
    config: Any = SimpleNamespace(num_kv_heads=2, head_dim=dim, num_layers=1)
    cache = PagedCache(config, 32, dt.f16)
    tables, q = Tensor.zeros((1, 32), dt.i32), Tensor.zeros((1, rows, 4, dim))
    sinks = Tensor.zeros((4,)) if rows == 8 else None
    out = cache.attend(0, cache.memory[0], q, positions, tables, sinks=sinks).contiguous()
    cut = partition([out.node], resident=False)
    (region,) = [r for r in order_regions(cut) if r.root.op is Op.ATTEND]
    low = lower_simt(region, cut.realised, [], target)
    shared = [inst for inst in low.kernel.body if inst.op == "shared"]
    size = sum(inst.arg * inst.dtype.size for inst in shared)
    schedule = attention_schedule(target, sizes_of(region.root))
    assert size == local_bytes(schedule.rows, schedule.blocks, sizes_of(region.root))
    assert size <= target.local_memory and low.kernel.group[0] <= target.group


def test_too_little_local_memory_is_said() -> None:
    root = paged(dt.f32, [[3]], 2).contiguous()
    cut = partition([root.node], resident=False)
    (region,) = [r for r in order_regions(cut) if r.root.op is Op.ATTEND]
    with pytest.raises(EngineError, match="local memory"):
        lower_attend(region.root, cut.realised - {region.root}, [], Simt(64, 32, 256))

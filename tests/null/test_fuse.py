"""Which kernels a graph is cut into: how many, what is written when, and the work of deciding."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from homebox.engine.fusion import fuse
from homebox.engine.fusion.fuse import DEEPEST, partition
from homebox.engine.fusion.hazards import overlaps
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import indexing, rewrite
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.ops import Node, Op, toposort
from homebox.engine.graph.tensor import Tensor
from homebox.engine.kernels.lower import lower
from homebox.engine.runtime.plan import order_regions, place, size_in_bytes
from homebox.errors import EngineError


def floats(*shape: int, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(shape)
    return Tensor.from_numpy(values.astype(np.float32))


def kernels(*tensors: Tensor) -> list[Node]:
    """Return the roots of the regions of a program with these outputs, in their order."""
    roots = [t.node if t.node.op is Op.STORE else t.contiguous().node for t in tensors]
    return [region.root for region in order_regions(partition(roots))]


def rms_norm(x: Tensor) -> Tensor:
    return x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt()


# -- counts ---------------------------------------------------------------------------------------


def test_number_of_kernels() -> None:
    x, w, b, g = floats(5, 64), floats(48, 64, seed=1), floats(48, seed=2), floats(64, seed=3)
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    layer_norm = centred * ((centred * centred).mean(-1, keepdim=True) + 1e-5).rsqrt() * g
    cases: list[tuple[str, Tensor, int]] = [
        ("elementwise", (x * 2.0 + g).silu() - x.exp(), 1),
        ("rms norm", rms_norm(x) * g, 1),
        ("layer norm", layer_norm, 1),
        ("softmax", x.softmax(), 1),
        ("log softmax", x - x.logsumexp(), 1),
        ("softmax of a masked row", (g > 0).where(x, float("-inf")).softmax(), 1),
        ("sum of rows", x.sum(1), 1),
        ("sum of columns", x.sum(0), 1),
        ("sum of all", (x * x).sum(), 1),
        # The weight is packed into panels first; that happens once for a frozen one.
        ("linear", x.linear(w), 2),
        ("linear, bias, silu", (x.linear(w) + b).silu(), 2),
        ("linear, residual, transposed", (x.linear(w) + b).transpose() * 2.0, 2),
        ("norm, then linear", rms_norm(x).linear(w), 3),  # the scale of a row, panels, product
        ("gated linear", x.linear(w).silu() * x.linear(floats(48, 64, seed=5)), 4),
        ("gather", x.gather(Tensor.iota(3)) + 1.0, 1),
    ]
    found = {name: len(kernels(t)) for name, t, _ in cases}
    assert found == {name: wanted for name, _, wanted in cases}


def test_a_long_sum_that_every_row_needs_is_computed_once() -> None:
    x = floats(64, 512)
    assert len(kernels(x * (x * x).sum())) == 2


def test_switching_off_row_residency_makes_kernels_of_reductions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = floats(5, 64)
    assert len(kernels(x.softmax())) == 1
    monkeypatch.setenv("NOFUSE", "R1")
    assert len(kernels(x.softmax())) == 4  # maximum, exponentials, sum, quotient


def test_a_value_that_several_kernels_need_is_computed_again_only_if_cheap() -> None:
    x = floats(40, 40)
    cheap, dear = x * 2.0, x.exp()
    assert len(kernels(cheap + 1.0, cheap * 3.0)) == 2
    assert len(kernels(dear + 1.0, dear * 3.0)) == 3


# -- stores ---------------------------------------------------------------------------------------


def test_in_place_updates_need_no_copy() -> None:
    w, g = floats(6, 32), floats(6, 32, seed=1)
    assert len(kernels(w.store(w * 0.9 + g))) == 1
    moment = floats(6, 32, seed=2)
    m = moment.store(moment * 0.9 + g)
    assert [n.op for n in kernels(m, w.store(w - m * 0.1))] == [Op.STORE, Op.STORE]


@pytest.mark.parametrize(
    "value",
    [
        lambda w: w.slice(0, 31, 32, -1),
        lambda w: w.transpose() + w,
        lambda w: w.softmax(),
        lambda w: w @ w,
        lambda w: w.pad(0, 1, 0).slice(0, 0, 32),
    ],
)
def test_a_store_that_would_read_what_it_has_written_waits(
    value: Callable[[Tensor], Tensor],
) -> None:
    w = floats(32, 32)
    found = kernels(w.store(value(w)))
    assert found[-1].op is Op.STORE and len(found) >= 2
    assert found[-1].src[1] in found  # its value is complete in memory of its own


def test_indexed_stores_wait_for_a_value_from_the_same_memory() -> None:
    table, index = floats(9, 20), Tensor.from_numpy(np.array([1, 1, 3], np.int32))
    assert len(kernels(table.store(table.gather(index) + 1.0, index))) == 2
    assert len(kernels(table.store(floats(3, 20), index))) == 1


def test_parts_of_one_memory_overlap_with_the_whole_only() -> None:
    whole = floats(3, 32)
    first, second = whole.part(0), whole.part(1)
    assert overlaps(whole.node, first.node) and overlaps(second.node, whole.node)
    assert not overlaps(first.node, second.node)
    assert not overlaps(whole.node, floats(3, 32).node)
    assert len(kernels(whole.store(first.reshape((1, 32)).expand((3, 32)) + 1.0))) == 2


def test_old_contents_are_read_before_they_are_overwritten() -> None:
    w, x = floats(4, 32), floats(5, 4, seed=1)
    out = x @ w
    update = w.store(w * 0.5)
    for outputs in ((out, update), (update, out)):
        order = kernels(*outputs)
        writes = next(i for i, n in enumerate(order) if n.op is Op.STORE)
        reads = [i for i, n in enumerate(order) if n.op is not Op.STORE]
        assert max(reads) < writes


def test_contradictory_stores_are_refused() -> None:
    w = floats(4, 32)
    with pytest.raises(EngineError, match="overwrites memory that a later value still needs"):
        kernels(w.store(w * 2.0), w.store(w * 3.0))
    first = w.store(w * 2.0)
    with pytest.raises(EngineError, match="copy the old value first"):
        kernels(first.store(w + 1.0))  # w is gone when the second store runs
    assert len(kernels(first.store(first + 1.0))) == 2


def test_memory_is_shared_only_by_values_that_do_not_live_together() -> None:
    x = floats(8, 64)
    t = x
    for _ in range(6):
        t = (t @ floats(64, 64, seed=3)).contiguous()
    cut = partition([t.contiguous().node])
    regions = order_regions(cut)
    offsets, size = place(regions, cut.realised, {})
    assert size < sum(map(size_in_bytes, offsets)) and size >= 2 * 8 * 64 * 4
    born = {r.root: i for i, r in enumerate(regions)}
    last: dict[Node, int] = {}
    for i, region in enumerate(regions):
        for n in toposort([region.root]):
            if n in offsets and any(n in u.src for u in toposort([region.root], cut.realised)):
                last[n] = i
    for a in offsets:
        for b in offsets:
            if a is b or born[a] > last.get(b, born[b]) or born[b] > last.get(a, born[a]):
                continue
            apart = offsets[a] + size_in_bytes(a) <= offsets[b]
            assert apart or offsets[b] + size_in_bytes(b) <= offsets[a]


# -- depth and work -------------------------------------------------------------------------------


def test_deep_graphs_are_cut_so_that_kernels_can_be_written() -> None:
    x = t = floats(40)
    for _ in range(20000):
        t = t + x
    found = kernels(t)
    assert 20000 // DEEPEST <= len(found) <= 2 + 20000 // DEEPEST
    cut = partition([t.contiguous().node])
    limit = sys.getrecursionlimit()
    for region in cut.regions[:2]:
        lower(region, cut.realised, [], "generic")
    assert sys.getrecursionlimit() == limit


def decoder(layers: int) -> list[Tensor]:
    """Return the loss and the gradients of a chain of attention-like layers."""
    x = floats(6, 32)
    weights = [floats(32, 32, seed=i) for i in range(3 * layers)]
    t = x
    for i in range(layers):
        q, k, o = weights[3 * i : 3 * i + 3]
        n = rms_norm(t)
        scores = (n @ q) @ (n @ k).transpose()
        t = t + (scores * 0.1).softmax() @ (n @ o).silu()
    loss = (t * t).sum()
    return [loss, *[g.contiguous() for g in gradient(loss, weights)]]


def test_work_is_linear_in_the_size_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in rules tried, nodes followed and regions cut, not in seconds."""
    counts: dict[str, int] = {}

    def counted(module: Any, name: str, label: str) -> None:
        original = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[label] = counts.get(label, 0) + 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counted(rewrite.Rules, "apply", "rules applied")
    counted(indexing, "through", "movements followed")
    counted(fuse._Plan, "cone", "cones walked")
    counted(fuse._Plan, "_chain", "chains walked")

    def work(layers: int) -> dict[str, int]:
        counts.clear()
        cut = partition([t.contiguous().node for t in decoder(layers)])
        order_regions(cut)
        return {**counts, "regions": len(cut.regions)}

    small, large = work(6), work(12)
    assert small.keys() == large.keys() and min(small.values()) > 0
    for label, number in small.items():
        assert large[label] < 2.2 * number, (label, number, large[label])


def test_regions_of_equal_layers_have_equal_kernels() -> None:
    cut = partition([t.contiguous().node for t in decoder(3)])
    texts = [lower(r, cut.realised, [], "avx2").kernel for r in order_regions(cut)]
    assert len(set(texts)) < 0.6 * len(texts)


def test_the_type_of_a_reduction_decides_where_it_starts() -> None:
    for dtype in (dt.f32, dt.f64, dt.i32, dt.u32, dt.i8, dt.u8, dt.i64):
        for how in ("sum", "max", "prod"):
            t = getattr(Tensor.full((3, 5), 1, dtype).contiguous(), how)(1)
            assert len(kernels(t)) == 2

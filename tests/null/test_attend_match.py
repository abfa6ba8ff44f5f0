"""Which graphs are attention, what a mask says about keys, and which places a store writes."""

from types import SimpleNamespace
from typing import Any

import pytest

from homebox.engine.fusion.attend import Attend
from homebox.engine.fusion.fuse import optimise
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Counters
from homebox.engine.graph.ops import Node, Op, toposort
from homebox.engine.graph.symbolic import Index, Loaded, of
from homebox.engine.graph.tensor import Tensor
from homebox.engine.kernels.attend_append import lower_unique, place_of
from homebox.model.decoder.masked_attention import UNSEEN, masked_attention, visible
from homebox.model.decoder.paged_cache import PagedCache

BATCH, HEADS, GROUPS, ROWS, LENGTH, DIM = 2, 2, 3, 4, 128, 16


def operands() -> tuple[Tensor, Tensor, Tensor]:
    keys = (BATCH, HEADS, 1, LENGTH, DIM)
    return Tensor.zeros((BATCH, HEADS, GROUPS, ROWS, DIM)), Tensor.zeros(keys), Tensor.zeros(keys)


def positions() -> Tensor:
    return Tensor.zeros((BATCH, ROWS), dt.i32)


def found(out: Tensor) -> list[Node]:
    return [n for n in toposort(optimise([out.node])) if n.op is Op.ATTEND]


def options(seen: Tensor) -> tuple[str, ...]:
    """Return what is left of a mask in the one attention of a graph."""
    (node,) = found(masked_attention(*operands(), seen))
    arg: Attend = node.arg
    assert len(node.src) == 3 + len(arg.options)
    return arg.options


def test_comparisons_with_the_place_are_bounds() -> None:
    place = Tensor.iota(LENGTH).reshape((1, 1, 1, 1, LENGTH))
    rows = positions().reshape((BATCH, 1, 1, ROWS, 1))
    assert options(visible(positions(), LENGTH)) == ("upper",)
    assert options(visible(positions(), LENGTH, window=9)) == ("upper", "lower")
    assert options(place < rows) == ("upper",)
    assert options(rows < place) == ("lower",)
    assert options(rows <= place) == ("lower",)


def test_what_is_no_bound_stays_a_mask() -> None:
    place = Tensor.iota(LENGTH).reshape((1, 1, 1, 1, LENGTH))
    rows = positions().reshape((BATCH, 1, 1, ROWS, 1))
    seen = visible(positions(), LENGTH)
    assert options(seen & place.equal(rows)) == ("upper", "mask")
    assert options(seen & (place < rows)) == ("upper", "mask")  # one bound of a side is taken
    assert options(place * 2 < rows) == ("mask",)
    assert options((seen & (rows < place)).logical_not()) == ("mask",)


def test_other_graphs_are_left_alone() -> None:
    q, k, v = operands()
    seen = visible(positions(), LENGTH)
    scores = seen.where(q @ k.transpose(), UNSEEN)
    top = scores.max(-1, keepdim=True)

    def out(weights: Tensor, least: float = 1.0) -> Tensor:
        return (weights @ v) * weights.sum(-1, keepdim=True).maximum(least).recip()

    weights = seen.where((scores - top).exp(), 0.0)
    assert len(found(out(weights))) == 1
    assert not found(out(weights, least=0.5))
    assert not found(out((scores - top).exp()))
    assert not found(out(seen.where((scores - top).exp2(), 0.0)))
    assert not found(out(seen.where((scores - scores.max(-2, keepdim=True)).exp(), 0.0)))
    other = visible(positions(), LENGTH, window=3)
    assert not found(out(other.where((scores - top).exp(), 0.0)))
    low = seen.where(q @ k.transpose(), -1.0)
    assert not found(out(seen.where((low - low.max(-1, keepdim=True)).exp(), 0.0)))


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = masked_attention(*operands(), visible(positions(), LENGTH))
    assert found(graph)
    monkeypatch.setenv("NOFUSE", "R2,R3")
    assert not found(graph)


def test_a_place_is_taken_apart() -> None:
    counters = Counters()
    row, lane = counters.loop(4), counters.loop(16)
    index = (of(row), of(lane))
    start = Tensor.zeros((4, 1), dt.i32)
    channel = Tensor.iota(16).reshape((1, 16))
    at = (start < 0).where(-1, start * 64 + channel * 3 + 7).broadcast((4, 16))
    place = place_of(at.node, index)
    assert place is not None
    (guard,) = place.guards
    assert guard[0].op is Op.LT and guard[2] is False
    read = of(Loaded(start.node, (of(row), Index(0))))
    assert place.flat == read * 64 + of(lane) * 3 + 7
    assert place_of((start + channel * channel).node, index) is None
    assert place_of((channel < 3).where(start, channel).node, index) is None


def test_keys_and_values_take_the_short_way() -> None:
    config: Any = SimpleNamespace(num_kv_heads=2, head_dim=32, num_layers=1)
    cache = PagedCache(config, 3, dt.f16)
    k, v = Tensor.zeros((5, 2, 32)), Tensor.zeros((5, 2, 32))
    (root,) = optimise([cache.append(0, k, v, Tensor.zeros((5,), dt.i32)).node])
    lowered = lower_unique(root, frozenset(), [])
    assert lowered is not None
    assert lowered.units.most() == 2 * 5 * 2
    written = [i.op for i in lowered.kernel.body if i.op in ("store", "scatter")]
    assert sorted(written) == ["scatter", "store"]  # keys far apart, values side by side

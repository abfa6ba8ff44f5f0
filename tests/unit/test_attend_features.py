"""Soft caps and sinks of attention: against float64, one kernel, and the same bits however cut."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from homebox.engine.fusion.fuse import optimise
from homebox.engine.graph.ops import Op, toposort
from homebox.engine.graph.tensor import Tensor
from homebox.model.decoder.masked_attention import masked_attention, visible
from tests.unit.engine_checks import check, program_of, random, same_bits, tensor

Array = npt.NDArray[Any]
BATCH, HEADS, GROUPS, DIM = 2, 2, 3, 16
HIDDEN = -1


def exact(
    q: Array, k: Array, v: Array, seen: Array, cap: float | None, sinks: Array | None
) -> Array:
    """Attention in float64; a row that sees nothing gives zeros."""
    scores = q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64)
    if cap is not None:
        scores = cap * np.tanh(scores / cap)
    scores = np.where(seen, scores, -np.inf)
    if sinks is not None:
        wide = np.broadcast_to(sinks[None, :, :, None, None], (*scores.shape[:-1], 1))
        scores = np.concatenate([scores, wide.astype(np.float64)], -1)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(-1, keepdims=True)
    shares = weights / np.where(total > 0, total, 1.0)
    return shares[..., : k.shape[-2]] @ v.astype(np.float64)


class Case:
    """Random queries, keys and values; queries stand at `positions`, one list for the batch."""

    def __init__(
        self,
        positions: list[int],
        length: int,
        cap: float | None = None,
        sinks: float | None = None,
        window: int | None = None,
        spread: float = 3.0,
    ) -> None:
        rows = len(positions)
        self.q = random(BATCH, HEADS, GROUPS, rows, DIM, seed=1, spread=spread)
        self.k = random(BATCH, HEADS, 1, length, DIM, seed=2)
        self.v = random(BATCH, HEADS, 1, length, DIM, seed=3)
        self.sinks = None if sinks is None else random(HEADS, GROUPS, seed=4) + np.float32(sinks)
        self.at = np.array([positions] * BATCH, np.int32)
        self.cap, self.window, self.length = cap, window, length
        self.tensors = [tensor(x) for x in (self.q, self.k, self.v, self.at)]
        self.sink_tensor = None if self.sinks is None else tensor(self.sinks)

    def graph(self) -> Tensor:
        q, k, v, at = self.tensors
        seen = visible(at, self.length, self.window)
        return masked_attention(q, k, v, seen, self.cap, self.sink_tensor)

    def wanted(self) -> Array:
        place, rows = np.arange(self.length), self.at[:, None, None, :, None]
        seen = place <= rows
        if self.window is not None:
            seen = seen & (place > rows - self.window)
        return exact(self.q, self.k, self.v, seen, self.cap, self.sinks)


def bits(graph: Tensor) -> Array:
    program = program_of([graph])
    program.run({})
    return program.output(0, {}).copy()


CASES = {
    "a cap": Case([3, 60, HIDDEN], 64, cap=5.0),
    "a cap of 1": Case([3, 60, HIDDEN], 64, cap=1.0),
    "sinks": Case([3, 60, HIDDEN], 64, sinks=0.0),
    "cap, sinks and a window": Case([3, 40, 63, HIDDEN], 128, cap=7.0, sinks=1.0, window=9),
    "a chunk": Case(list(range(50, 70)), 128, cap=30.0, sinks=2.0),
    "a decode step in splits": Case([700], 768, cap=10.0, sinks=1.0),
    "splits that see nothing": Case([767, HIDDEN], 768, sinks=1.0, window=64),
    "a chunk in splits": Case([*range(300, 310), HIDDEN], 320, cap=10.0, sinks=1.0),
    "sinks far below": Case([3, 63, HIDDEN], 64, sinks=-300.0),
    "sinks far above": Case([3, 63, HIDDEN], 64, sinks=300.0),
    "sinks above all, splits": Case([700, HIDDEN], 768, sinks=1e9),
    "sinks below all, splits": Case([700, HIDDEN], 768, sinks=-1e9),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    case = CASES[name]
    (found,) = check(case.graph(), interpret_too=case.length <= 128)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, case.wanted(), rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("name", ["a cap", "cap, sinks and a window", "sinks above all, splits"])
def test_values_without_the_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOFUSE", "R3")
    case = CASES[name]
    (found,) = check(case.graph(), interpret_too=False)
    np.testing.assert_allclose(found, case.wanted(), rtol=3e-5, atol=3e-5)


def test_a_mask_with_a_cap_and_sinks() -> None:
    case = CASES["cap, sinks and a window"]
    q, k, v, at = case.tensors
    place = np.arange(case.length)
    even = tensor(place % 2 == 0).reshape((1, 1, 1, 1, case.length))
    seen = visible(at, case.length) & even
    (found,) = check(masked_attention(q, k, v, seen, case.cap, case.sink_tensor))
    allowed = (place <= case.at[:, None, None, :, None]) & (place % 2 == 0)
    wanted = exact(case.q, case.k, case.v, allowed, case.cap, case.sinks)
    np.testing.assert_allclose(found, wanted, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("name", ["a cap", "cap, sinks and a window", "a decode step in splits"])
def test_control_values_differ_without_the_features(name: str) -> None:
    case = CASES[name]
    q, k, v, at = case.tensors
    plain = bits(masked_attention(q, k, v, visible(at, case.length, case.window)))
    assert np.abs(plain - case.wanted()).max() > 0.01


def test_splits_are_interpreted() -> None:
    check(Case([270], 320, cap=10.0, sinks=1.0).graph(), interpret_too=True)
    check(Case([*range(268, 277)], 320, cap=10.0, sinks=1.0).graph(), interpret_too=True)


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_one_kernel(name: str) -> None:
    nodes = toposort(optimise([CASES[name].graph().node]))
    (node,) = [n for n in nodes if n.op is Op.ATTEND]
    assert node.arg.cap == CASES[name].cap
    if not node.arg.parts:
        assert ("sinks" in node.arg.options) == (CASES[name].sinks is not None)
    assert "mask" not in node.arg.options


def test_graphs_that_only_look_like_it_are_left_alone() -> None:
    case = CASES["cap, sinks and a window"]
    q, k, v, at = case.tensors
    seen = visible(at, case.length)
    sink = tensor(random(1, HEADS, GROUPS, 1, 1))
    other = tensor(random(1, HEADS, GROUPS, 1, 1, seed=9))

    def attend(scores: Tensor, first: Tensor, second: Tensor, factor: float = 1.0) -> int:
        masked = seen.where(scores, -1e30)
        top = masked.max(-1, keepdim=True).maximum(first)
        weights = seen.where((masked - top).exp(), 0.0)
        total = weights.sum(-1, keepdim=True) + (second - top).exp() * factor
        out = (weights @ v) * total.maximum(1.0).recip()
        return sum(n.op is Op.ATTEND for n in toposort(optimise([out.node])))

    plain = q @ k.transpose()
    assert attend(plain, sink, sink) == 1
    assert attend((plain * 0.2).tanh() * 5.0, sink, sink) == 1
    assert attend(plain, sink, other) == 0
    assert attend(plain, sink, sink, factor=2.0) == 0
    assert attend((plain * 0.2).tanh() * 4.0, sink, sink) == 0


@pytest.mark.parametrize("sinks", [0.5, 40.0, -40.0, 1e9])
def test_splits_and_rows_do_not_change_bits(sinks: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row alone in splits, without R4, and among many rows: the same bits."""
    case = Case([*range(500, 520), HIDDEN], 768, cap=20.0, sinks=sinks)
    many = bits(case.graph())
    q, k, v, at = case.tensors
    alone = masked_attention(
        q.slice(3, 4, 1).contiguous(),
        k,
        v,
        visible(at.slice(1, 4, 1), case.length),
        case.cap,
        case.sink_tensor,
    )
    split = bits(alone)
    monkeypatch.setenv("NOFUSE", "R4")
    whole = bits(alone)
    assert same_bits(split, whole)
    assert same_bits(split, np.ascontiguousarray(many[:, :, :, 4:5]))


def test_a_window_is_two_bounds_and_costs_no_keys() -> None:
    """Keys outside of the window may hold anything, NaN included."""
    case = Case([200, 230], 256, sinks=0.0, window=20)
    clean = bits(case.graph())
    q, _, _, at = case.tensors
    spoilt = [x.copy() for x in (case.k, case.v)]
    for x in spoilt:
        x[:, :, :, :128] = np.nan
    seen = visible(at, case.length, case.window)
    dirty = masked_attention(q, tensor(spoilt[0]), tensor(spoilt[1]), seen, None, case.sink_tensor)
    assert same_bits(clean, bits(dirty))


@pytest.mark.parametrize(
    ("groups", "dim", "window", "sink"),
    [
        (1, 80, None, 0.5),
        (2, 96, 1, -np.inf),
        (1, 256, 300, 3e38),
        (8, 64, 4096, 0.5),
        (16, 64, 1, 0.5),
    ],
)
@pytest.mark.parametrize("positions", [[700], [*range(250, 265), HIDDEN]])
def test_shapes_of_real_models(
    groups: int, dim: int, window: int | None, sink: float, positions: list[int]
) -> None:
    """Wide heads, many queries to a key, windows of one key and beyond all, sinks without bound."""
    length, rows = 768, len(positions)
    q = random(1, 2, groups, rows, dim, seed=1, spread=3.0 / dim**0.5)
    k, v = (random(1, 2, 1, length, dim, seed=s) for s in (2, 3))
    sinks = np.full((2, groups), sink, np.float32)
    at = np.array([positions], np.int32)
    seen = visible(tensor(at), length, window)
    graph = masked_attention(tensor(q), tensor(k), tensor(v), seen, 20.0, tensor(sinks))
    assert sum(n.op is Op.ATTEND for n in toposort(optimise([graph.node]))) == 1
    place, row = np.arange(length), at[:, None, None, :, None]
    allowed = (place <= row) & (place > row - (window or length))
    wanted = exact(q, k, v, allowed, 20.0, sinks)
    np.testing.assert_allclose(bits(graph), wanted, rtol=3e-5, atol=3e-5)

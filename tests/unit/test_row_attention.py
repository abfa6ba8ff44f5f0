"""Attention of training with every feature: values and gradients against float64 numpy."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from homebox.engine.fusion.fuse import optimise
from homebox.engine.graph.ops import Op, toposort
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import evaluate
from homebox.model.config import LayerShape, ModelConfig, Rope
from homebox.model.decoder.rope import rope_tables
from homebox.model.training import row_attention
from homebox.model.training.packed_rows import Rotary, Rows
from homebox.model.training.row_attention import Block, RowAttention, visible
from tests.unit.engine_checks import interpreted, random, same_bits, tensor

Array = npt.NDArray[Any]
HEADS, SHARED, DIM = 4, 2, 16
GROUPS = HEADS // SHARED
ROPE = Rope(10_000.0, DIM)
PLAIN = ModelConfig(
    vocab_size=8,
    hidden_size=64,
    intermediate_size=64,
    num_heads=HEADS,
    num_kv_heads=SHARED,
    head_dim=DIM,
    max_positions=512,
    rms_eps=1e-5,
    tied=True,
    layers=(LayerShape(ROPE),),
)


def windowed(window: int) -> ModelConfig:
    return replace(PLAIN, layers=(LayerShape(ROPE, window),))


FEATURES = {
    "plain": PLAIN,
    "a cap": replace(PLAIN, attention_cap=2.0),
    "sinks": replace(PLAIN, sinks=True),
    "a window": windowed(9),
    "a wide window": windowed(100),
    "partial rotation": replace(PLAIN, layers=(LayerShape(replace(ROPE, dim=8)),)),
    "no rotation": replace(PLAIN, layers=(LayerShape(None),)),
    "norms of heads": replace(PLAIN, qk_norm="head"),
    "norms of everything": replace(PLAIN, qk_norm="whole"),
    "a scale": replace(PLAIN, attention_scale=0.4),
    "growth of queries": replace(PLAIN, query_growth=(0.3, 16)),
    "everything": replace(
        windowed(30),
        attention_cap=3.0,
        sinks=True,
        qk_norm="head",
        attention_scale=0.4,
        query_growth=(0.3, 16),
    ),
}


class Case:
    """Two rows: one document and padding; three documents."""

    def __init__(self, config: ModelConfig, length: int) -> None:
        self.config, self.length = config, length
        first, second = length * 5 // 6, length // 5
        third = length - 2 * second
        self.segment = np.array(
            [
                [1] * first + [0] * (length - first),
                [1] * second + [2] * third + [3] * second,
            ],
            np.int32,
        )
        self.position = np.array(
            [
                [*range(first), *[0] * (length - first)],
                [*range(second), *range(third), *range(second)],
            ],
            np.int32,
        )
        count = 2 * length
        self.q = random(count, HEADS * DIM, seed=1, spread=1.5)
        self.k, self.v = (random(count, SHARED * DIM, seed=i) for i in (2, 3))
        self.g = random(count, HEADS * DIM, seed=4)
        widths = {"": 0, "head": (DIM, DIM), "whole": (HEADS * DIM, SHARED * DIM)}
        sizes: Any = widths[config.qk_norm]
        self.norms = [random(n, seed=5) * np.float32(0.2) + 1 for n in sizes] if sizes else None
        self.sinks = random(HEADS, seed=6) + np.float32(0.5) if config.sinks else None

    def attention(self) -> RowAttention:
        rope = self.config.layers[0].rope
        rotary = None if rope is None else Rotary(rope, self.length)
        segment = tensor(self.segment)
        rows = Rows(segment, segment, tensor(self.position))
        norms = None if self.norms is None else (tensor(self.norms[0]), tensor(self.norms[1]))
        sinks = None if self.sinks is None else tensor(self.sinks)
        return RowAttention(self.config, 0, rotary, rows, norms, sinks)

    def inputs(self) -> list[Tensor]:
        return [tensor(x) for x in (self.q, self.k, self.v)]

    # -- the same in float64 --------------------------------------------------------------------

    def exact(self, q: Array, k: Array, v: Array) -> Array:
        """Return the attention of q, k, v (N, heads * dim) in float64."""
        c, length = self.config, self.length
        query = self._heads(q, 0) * c.score_scale
        if c.query_growth is not None:
            factor, places = c.query_growth
            growth = 1 + factor * np.log(1 + self.position // places)
            query = query * growth[:, :, None, None]
        key = np.repeat(self._heads(k, 1), GROUPS, 2)
        value = np.repeat(v.reshape(2, length, SHARED, DIM), GROUPS, 2)
        scores = np.einsum("rthd,rshd->rhts", query, key)
        if c.attention_cap is not None:
            scores = c.attention_cap * np.tanh(scores / c.attention_cap)
        place = np.arange(length)
        seen = (place[None, :] <= place[:, None])[None]
        seen = seen & (self.segment[:, :, None] == self.segment[:, None, :])
        window = c.windows[0]
        if window is not None:
            seen = seen & (place[None, :] > place[:, None] - window)[None]
        scores = np.where(seen[:, None], scores, -np.inf)
        if self.sinks is not None:
            sinks = np.broadcast_to(self.sinks[None, :, None, None], (2, HEADS, length, 1))
            scores = np.concatenate([scores, sinks.astype(np.float64)], -1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        out = np.einsum("rhts,rshd->rthd", weights[..., :length], value)
        return out.reshape(2 * length, HEADS * DIM)

    def _heads(self, x: Array, which: int) -> Array:
        c, weight = self.config, None
        if self.norms is not None:
            weight = self.norms[which].astype(np.float64)
        if weight is not None and c.qk_norm == "whole":
            x = _normed(x, weight)
        x = x.reshape(2, self.length, -1, DIM)
        if weight is not None and c.qk_norm == "head":
            x = _normed(x, weight)
        rope = c.layers[0].rope
        if rope is None:
            return x
        cos, sin = (t.astype(np.float64)[self.position] for t in rope_tables(rope, self.length))
        cos, sin, half = cos[:, :, None], sin[:, :, None], rope.dim // 2
        a, b, rest = x[..., :half], x[..., half : rope.dim], x[..., rope.dim :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def slope(self, which: int, direction: Array) -> float:
        """Return the derivative of sum(out * g) along a direction of q, k or v."""
        step, wide = 1e-4, [x.astype(np.float64) for x in (self.q, self.k, self.v)]
        values = []
        for sign in (1, -1):
            moved = list(wide)
            moved[which] = wide[which] + sign * step * direction
            values.append(float((self.exact(*moved) * self.g).sum()))
        return (values[0] - values[1]) / (2 * step)


def _normed(x: Array, weight: Array) -> Array:
    scaled: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + PLAIN.rms_eps) * weight
    return scaled


def both(case: Case) -> list[Array]:
    """Return the output and the gradients of q, k, v."""
    attention, inputs = case.attention(), case.inputs()
    out = attention.forward(*inputs).contiguous()
    return evaluate([out, *attention.backward(*inputs, out, tensor(case.g))])


SIZES = [(name, 48) for name in FEATURES]
SIZES += [(name, 288) for name in ("plain", "a wide window", "everything")]


@pytest.mark.parametrize(("name", "length"), SIZES)
def test_values_and_gradients(name: str, length: int) -> None:
    case = Case(FEATURES[name], length)
    out, *gradients = both(case)
    wanted = case.exact(*(x.astype(np.float64) for x in (case.q, case.k, case.v)))
    np.testing.assert_allclose(out, wanted, rtol=3e-5, atol=3e-5)
    generator = np.random.default_rng(7)
    for which, found in enumerate(gradients):
        for _ in range(3):
            direction = generator.standard_normal(found.shape)
            slope = case.slope(which, direction)
            np.testing.assert_allclose((found * direction).sum(), slope, rtol=2e-4, atol=2e-3)
        # One place at a time: random sums would hide a place that is left out.
        for row in (0, length - 1, length + length // 2):
            direction = np.zeros(found.shape)
            direction[row] = generator.standard_normal(found.shape[1])
            slope = case.slope(which, direction)
            np.testing.assert_allclose((found * direction).sum(), slope, rtol=2e-3, atol=2e-4)


def denormal(x: Array) -> int:
    return int(((x != 0) & (np.abs(x) < np.finfo(np.float32).tiny)).sum())


@pytest.mark.parametrize("name", ["plain", "sinks"])
def test_what_weighs_nothing_makes_no_denormal_numbers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(FEATURES[name], 48)
    case.q *= 20  # some scores are a hundred below the highest
    case.g *= np.float32(1e-9)
    found = both(case)[1:]
    assert [denormal(x) for x in found] == [0, 0, 0]
    monkeypatch.setattr(row_attention, "NOTHING", -1000.0)
    kept = both(case)[1:]
    assert sum(denormal(x) for x in kept) > 0
    for less, more in zip(found, kept, strict=True):
        assert np.abs(less - more).max() <= 1e-12 * np.abs(more).max()


@pytest.mark.parametrize("name", [n for n in FEATURES if n not in ("plain", "a wide window")])
def test_control_every_feature_changes_values(name: str) -> None:
    out, plain = both(Case(FEATURES[name], 48))[0], both(Case(PLAIN, 48))[0]
    assert np.abs(out - plain).max() > 1e-2


def test_gradients_are_interpreted() -> None:
    case = Case(FEATURES["everything"], 16)
    attention, inputs = case.attention(), case.inputs()
    out = attention.forward(*inputs).contiguous()
    tensors = [out, *attention.backward(*inputs, out, tensor(case.g))]
    stepped = interpreted(tensors, {})
    assert stepped is not None
    for found, same in zip(both(case), stepped, strict=True):
        assert same_bits(found, same)


def test_keys_before_the_window_are_not_worked_on() -> None:
    assert Block.at(128, 512, None) == Block(0, 128, 256)
    assert Block.at(0, 512, 100) == Block(0, 0, 128)
    assert Block.at(256, 512, 100) == Block(144, 256, 384)  # 157, down to a panel
    assert Block.at(384, 400, 1) == Block(384, 384, 400)
    case = Case(windowed(9), 48)
    seen = visible(case.attention().rows, 9)
    (node,) = [
        n
        for n in toposort(optimise([case.attention().forward(*case.inputs()).node]))
        if n.op is Op.ATTEND
    ]
    assert node.arg.options == ("upper", "lower")
    (found,) = evaluate([seen])
    place = np.arange(48)
    assert not found[:, 0, 0][:, place[None, :] <= place[:, None] - 9].any()
    assert found[:, 0, 0][:, place, place].all()

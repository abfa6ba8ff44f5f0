"""Launches on cards: what a decoding step takes, and that merged kernels give the same numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bench.gpu_kernels import CARD, NoLaunches, Offline
from homebox.engine.fusion.attend import joined
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.formats import BF16, Q4, Q8, WEIGHTS, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.inspection.graph_html import repetition
from homebox.engine.runtime import capture
from homebox.engine.runtime.program_plan import Launch
from homebox.engine.simt.target import LoweredSimt, Packing, Simt, Stream
from homebox.model.architectures.config_file import parse_config
from homebox.model.decoder.activations import Activations
from homebox.model.decoder.stages import Kind
from homebox.model.decoder.transformer import Transformer
from homebox.model.lora import init_adapter
from tests.null.test_simt import Execution
from tests.unit.model_files import CONFIG, QWEN3, ArrayWeights, random_weights

TARGETS = {
    "smallest": Simt(16, 16, 4096),
    "middle": Simt(64, 32, 16384, frozenset({"dot4"})),
    "usual": Simt(256, 32, 32768, frozenset({"dot4", "subgroup"})),
}
RANDOM = np.random.default_rng(23)


def frozen(*shape: int) -> Tensor:
    return Tensor.from_numpy(RANDOM.standard_normal(shape).astype(np.float32), frozen=True)


def weight(form: Format, n: int, k: int) -> Tensor:
    stored = formats.pack(form, RANDOM.standard_normal((n, k)).astype(np.float32))
    return Tensor.packed(form, n, k, Tensor.from_numpy(stored, frozen=True))


def rounded(x: Tensor, kind: str) -> Tensor:
    if kind == "int8":
        return x.quantised()
    return x.cast(dt.bf16).cast(dt.f32) if kind == "bf16" else x


def scale_of(x: Tensor) -> Tensor:
    return ((x * x).mean(-1, keepdim=True) + 1e-6).rsqrt()


def feed_forward(kind: str, form: Format, rows: int, wide: int, inner: int) -> list[Tensor]:
    """Return a residual, a norm, gate and up, and the product that reads them."""
    x, given = frozen(rows, wide), frozen(rows, inner)
    hidden = x + rounded(given, kind).linear(weight(form, wide, inner))
    operand = rounded(hidden * frozen(wide), kind)
    gate, up = (operand.linear(weight(form, inner, wide)) for _ in range(2))
    scale = scale_of(hidden)
    middle = ((gate * scale).silu() * (up * scale)).contiguous()
    last = hidden + rounded(middle, kind).linear(weight(form, wide, inner))
    return [last.contiguous()]


def both(
    roots: Sequence[Tensor], target: Simt, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[np.ndarray], list[np.ndarray], list[LoweredSimt], list[LoweredSimt]]:
    """Return results and kernels, merged and one by one."""
    monkeypatch.delenv("NOFUSE", raising=False)
    merged = Execution(list(roots), [], {}, target)
    monkeypatch.setenv("NOFUSE", "R5")
    apart = Execution(list(roots), [], {}, target)
    lows = [[low for low in e.lowered if isinstance(low, LoweredSimt)] for e in (merged, apart)]
    for low in lows[0]:
        shared = [inst for inst in low.kernel.body if inst.op == "shared"]
        assert sum(inst.arg * inst.dtype.size for inst in shared) <= target.local_memory
    return merged.results(), apart.results(), lows[0], lows[1]


@pytest.mark.parametrize(
    ("kind", "form", "rows", "target"),
    [
        ("int8", Q8, 1, "usual"),
        ("int8", Q4, 3, "middle"),
        ("int8", Q8, 2, "smallest"),
        ("bf16", BF16, 2, "usual"),
        ("bf16", Q8, 1, "middle"),
        ("f32", Q8, 1, "usual"),
        ("f32", BF16, 2, "smallest"),
    ],
)
def test_a_layers_second_half(
    kind: str, form: Format, rows: int, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = feed_forward(kind, form, rows, 64, 96)
    got, want, merged, apart = both(roots, TARGETS[target], monkeypatch)
    first = 0 if kind == "f32" else 1  # what rounds the given numbers
    first += kind == "bf16" and form.quantised  # gate and up do not share a kernel
    assert len(merged) == first + 3
    assert len(apart) == first + {"int8": 6, "bf16": 6, "f32": 5}[kind]
    assert all(isinstance(low.schedule, Stream) for low in merged[-3:])
    if kind == "int8" and target == "smallest":  # two panels a group leave fewer slices of k
        np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-2 * np.abs(want[0]).max())
    else:
        np.testing.assert_array_equal(got[0], want[0])


def test_rows_are_packed_with_their_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows: what packs a row writes 1 / rms of it too; the products are tiles."""
    x = frozen(12, 48).contiguous()
    product = (x * frozen(48)).quantised().linear(weight(Q8, 32, 48)) * scale_of(x)
    for target in (TARGETS["smallest"], TARGETS["usual"]):
        got, want, merged, apart = both([product.contiguous()], target, monkeypatch)
        assert [len(merged), len(apart)] == [3, 4]
        assert any(isinstance(m.schedule, Packing) and m.schedule.by_rows for m in merged)
        np.testing.assert_array_equal(got[0], want[0])


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_splits_of_attention_meet_where_they_are_rounded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, heads, splits, dim = 2, 3, 4, 32
    parts = RANDOM.standard_normal((rows, heads, splits * (dim + 2))).astype(np.float32)
    parts[..., splits * dim : splits * (dim + 1)] = RANDOM.integers(-3, 3, (rows, heads, splits))
    parts[..., splits * (dim + 1) :] = RANDOM.uniform(0.5, 2, (rows, heads, splits))
    parts[0, 1, -1] = 0  # a split that saw nothing
    attended = joined(Tensor.from_numpy(parts), splits, dim).reshape((rows, heads * dim))
    out = rounded(attended, kind).linear(weight(Q8, 64, heads * dim)).contiguous()
    got, want, merged, apart = both([out], TARGETS["usual"], monkeypatch)
    assert [len(merged), len(apart)] == [2, 3]
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-2 * np.abs(want[0]).max())


# -- a layer --------------------------------------------------------------------------------------

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "max_position_embeddings": 2048,
}
# Launches of one layer: of a decoding step, of one with an adapter, of a chunk of 64 rows.
LAYER = {"int8": (7, 12, 10), "bf16": (7, 12, 11), "f32": (7, 11, 11)}


@pytest.mark.parametrize("activations", LAYER)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_launches_of_a_layer(
    architecture: str, activations: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in the plan that a card would get; nothing is compiled."""
    monkeypatch.delenv("NOFUSE", raising=False)
    monkeypatch.setattr(capture, "backend_of", lambda _: Offline(CARD))
    plans: list[list[str]] = []

    def launches(self: Offline, found: Sequence[Launch], *rest: object) -> NoLaunches:
        plans.append([f"{each.kernel} {each.title}" for each in found])
        return NoLaunches()

    monkeypatch.setattr(Offline, "launches", launches)
    config = parse_config({**(QWEN3 if architecture == "qwen3" else CONFIG), **SHAPE})
    form = "bf16" if activations == "bf16" else "q8"
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])
    cache = "f32" if activations == "f32" else "f16"
    model = Transformer(config, weights, 2048, 1, 3, 16, activations, cache)
    model.program(Kind(1, 1, 0, False))
    model.program(Kind(1, 64, 0, False))
    model.set_adapter(1, init_adapter(config, 4, 0), 1.0)
    model.program(Kind(1, 1, 1, False))
    periods = []
    for plan in plans:
        found = repetition(plan)
        assert found is not None and found[2] in (3, 4), "a layer is one period of the launch list"
        periods.append(found[1])
    decoded, chunk, adapted = periods
    most = LAYER[activations]
    assert decoded <= most[0] and adapted <= most[1] and chunk <= most[2]

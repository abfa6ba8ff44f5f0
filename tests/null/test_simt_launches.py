"""Launches on cards: what a decoding step takes, and that merged kernels give the same numbers."""

from collections.abc import Sequence

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.formats import BF16, Q4, Q8, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.simt.target import LoweredSimt, Simt, Stream
from tests.null.test_simt import Execution

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

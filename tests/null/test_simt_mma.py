"""Products on matrix units, run on the checking interpreter: right within rounding, and in bounds."""

from functools import cache

import numpy as np
import pytest

from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import WEIGHTS, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.simt.mma_choice import fragments_schedule, local_words
from homebox.engine.simt.target import Fragments, LoweredSimt, Simt
from homebox.engine.verify import interpret, oracle
from homebox.errors import EngineError
from tests.null.test_simt import Execution

Array = np.ndarray
RANDOM = np.random.default_rng(11)
UNITS = frozenset({"mma_bf16", "mma_s8"})
SMALL = Simt(group=64, sub_group=16, units=UNITS, team=16)
NVIDIA = Simt(group=64, units=UNITS)
PLAIN = Simt(group=64)


@cache
def packed(form: Format, n: int, k: int) -> Tensor:
    values = np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)
    return Tensor.packed(form, n, k, Tensor.from_numpy(formats.pack(form, values)))


def rows(m: int, k: int, kind: str) -> Tensor:
    x = Tensor.from_numpy(RANDOM.standard_normal((m, k)).astype(np.float32))
    return x.quantised() if kind == "int8" else x.cast(dt.bf16).cast(dt.f32)


def run(root: Tensor, target: Simt, tolerance: float = 1e-4) -> list[LoweredSimt]:
    """Run a graph on the interpreter and compare it with the oracle; return its kernels."""
    root = root.contiguous()
    done = Execution([root], [], {}, target)
    (truth,) = oracle.evaluate([root.node], {})
    (got,) = done.results()
    np.testing.assert_allclose(got, truth, rtol=tolerance, atol=tolerance * np.abs(truth).max())
    return [low for low in done.lowered if isinstance(low, LoweredSimt)]


def fragments(lowered: list[LoweredSimt]) -> list[Fragments]:
    return [low.schedule for low in lowered if isinstance(low.schedule, Fragments)]


@pytest.mark.parametrize("form", [formats.Q8, formats.Q4], ids=repr)
@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 64), (33, 40, 96)])
def test_int8(form: Format, m: int, n: int, k: int) -> None:
    lowered = run(rows(m, k, "int8").linear(packed(form, n, k)), NVIDIA)
    assert len(fragments(lowered)) == 1


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
def test_bf16(form: Format) -> None:
    weight = packed(form, 40, 64)
    tolerance = 1e-4 if form is formats.BF16 else 1e-2  # weights are rounded to bf16
    assert len(fragments(run(rows(20, 64, "bf16").linear(weight), NVIDIA, tolerance))) == 1


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
def test_bf16_summed_over_the_weights_rows(form: Format) -> None:
    product = rows(17, 48, "bf16") @ packed(form, 48, 64)
    tolerance = 1e-4 if form is formats.BF16 else 1e-2
    assert len(fragments(run(product, SMALL, tolerance))) == 1

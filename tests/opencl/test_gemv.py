"""Few rows times packed weights on OpenCL: the interpreter's bits, and right where it is slow."""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from homebox.engine.graph.device import using
from homebox.engine.graph.formats import F32, WEIGHTS, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import capture
from tests.null.test_simt import Execution
from tests.null.test_simt_gemv import KINDS, Activations, Weight, random
from tests.opencl.moved import Moved

if TYPE_CHECKING:
    from homebox.engine.opencl.backend import OpenClDevice


def on_device(device: "OpenClDevice", root: Tensor) -> np.ndarray:
    """Compute a graph on a device."""
    (moved,) = Moved(device).tensors([root])
    with using(device):
        program = capture(lambda: [moved], name="test")
    program.run({})
    return np.array(program.output(0, {}))


@pytest.mark.parametrize(("kind", "form"), KINDS, ids=str)
def test_products_have_the_interpreters_bits(
    kind: str, form: Format, cl_device: "OpenClDevice"
) -> None:
    x, w = Activations(kind, random(3, 98)), Weight(form, 20, 98)
    root = x.tensor.linear(w.tensor)
    (want,) = Execution([root.contiguous()], [], {}, cl_device.backend.target).results()
    assert on_device(cl_device, root).tobytes() == want.tobytes()


@pytest.mark.parametrize(("kind", "form"), KINDS, ids=str)
def test_large_products(kind: str, form: Format, cl_device: "OpenClDevice") -> None:
    m, n, k = 1 if form.name in ("f32", "q4") else 8, 200, 2180
    x, w = Activations(kind, random(m, k)), Weight(form, n, k)
    root = x.tensor.linear(w.tensor)
    got = on_device(cl_device, root)
    want = x.truth @ w.truth.T
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()
    if kind == "f32":
        program = capture(lambda: [root], name="test")
        program.run({})
        assert got.tobytes() == np.ascontiguousarray(program.output(0, {})).tobytes()


@pytest.mark.parametrize("m", [1, 7])
def test_gate_and_up_with_adapters(m: int, cl_device: "OpenClDevice") -> None:
    n, k, rank = 200, 1024, 24
    x, u = Activations("int8", random(m, k)), Activations("f32", random(m, rank))
    pairs = [(Weight(WEIGHTS["q4"], n, k), Weight(F32, n, rank)) for _ in range(2)]
    gate, up = (x.tensor.linear(w.tensor) + u.tensor.linear(b.tensor) for w, b in pairs)
    left, right = (x.truth @ w.truth.T + u.truth @ b.truth.T for w, b in pairs)
    want = left / (1 + np.exp(-left)) * right
    got = on_device(cl_device, gate.silu() * up)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())

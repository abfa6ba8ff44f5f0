"""Tiled products on OpenCL: the bits of the CPU's machine code at sizes that fill many tiles."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from homebox.engine.graph.device import using
from homebox.engine.graph.formats import A8, WEIGHTS, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import capture
from homebox.engine.simt.target import Simt
from tests.null.test_simt import Execution
from tests.null.test_simt_gemm import numbers, packed, rounded, rows
from tests.opencl.moved import Moved

if TYPE_CHECKING:
    from homebox.engine.opencl.backend import OpenClDevice

FORMS = list(WEIGHTS.values())
QUANTISED = [WEIGHTS["q8"], WEIGHTS["q4"]]


def on_host(root: Tensor) -> np.ndarray:
    """Compute a graph in the CPU's machine code."""
    program = capture(lambda: [root], name="test")
    program.run({})
    return np.array(program.output(0, {}))


def on_device(device: "OpenClDevice", root: Tensor) -> np.ndarray:
    """Compute a graph on a device."""
    (moved,) = Moved(device).tensors([root])
    with using(device):
        program = capture(lambda: [moved], name="test")
    program.run({})
    return np.array(program.output(0, {}))


def same(device: "OpenClDevice", root: Tensor) -> None:
    assert on_device(device, root).tobytes() == on_host(root).tobytes()


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_float32(form: Format, cl_device: "OpenClDevice") -> None:
    same(cl_device, rows(70, 1100).linear(packed(form, 200, 1100)))


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_turned(form: Format, cl_device: "OpenClDevice") -> None:
    same(cl_device, rows(70, 1090) @ packed(form, 1090, 192))


@pytest.mark.parametrize("form", QUANTISED, ids=repr)
def test_int8(form: Format, cl_device: "OpenClDevice") -> None:
    if cl_device.backend.target.units & {"mma_s8"}:
        pytest.skip("matrix units sum in an order of their own")
    same(cl_device, packed(A8, 70, 2080).linear(packed(form, 200, 2080)))


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_bf16_activations(form: Format, cl_device: "OpenClDevice") -> None:
    for root in (
        rounded(70, 1090).linear(packed(form, 200, 1090)),
        rounded(70, 1090) @ packed(form, 1090, 192),
    ):
        truth = on_host(root)
        loose = 1e-5 if form.name == "bf16" else 2e-2  # the CPU rounds such weights to bf16
        got = on_device(cl_device, root)
        assert np.abs(got - truth).max() <= loose * np.abs(truth).max()


def test_gate_and_up_with_adapters(cl_device: "OpenClDevice") -> None:
    x, u = rows(40, 128), rows(40, 16, seed=4)
    w = [packed(WEIGHTS["f32"], 96, 128, seed=s) for s in (5, 6)]
    b = [packed(WEIGHTS["f32"], 96, 16, seed=s) for s in (7, 8)]
    gate, up = (x.linear(w[i]) + u.linear(b[i]) for i in range(2))
    same(cl_device, gate.silu() * up + Tensor.from_numpy(numbers(40, 96)))


PLAIN: list[Callable[[], Tensor]] = [
    lambda: rows(130, 1056) @ rows(1056, 144),
    lambda: rows(1056, 132).transpose() @ rows(1056, 144),
    lambda: rows(33, 77) @ rows(77, 37),
    lambda: rows(77, 33).transpose() @ rows(77, 48),
]


@pytest.mark.parametrize("made", PLAIN)
def test_plain_products(made: Callable[[], Tensor], cl_device: "OpenClDevice") -> None:
    same(cl_device, made())


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_the_interpreter_computes_the_same(form: Format, cl_device: "OpenClDevice") -> None:
    target: Simt = cl_device.backend.target
    root = rounded(17, 70).linear(packed(form, 24, 70))
    if target.units & {"mma_bf16"}:
        pytest.skip("matrix units round as they do")
    (want,) = Execution([root.contiguous()], [], {}, target).results()
    assert on_device(cl_device, root).tobytes() == want.tobytes()

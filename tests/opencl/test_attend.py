"""Attention, PACK, long rows, stores and maps on OpenCL: the bits of the CPU's kernels."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import using
from homebox.engine.graph.formats import A8, BF16, Q4, Q8, Format, pack
from homebox.engine.graph.ops import Op, node
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import capture
from homebox.model.decoder.masked_attention import masked_attention, visible
from homebox.model.decoder.paged_cache import PagedCache
from homebox.model.training.optimiser import Scalars, adamw
from tests.null.test_simt_attend import cache_of, paged
from tests.opencl.moved import Moved
from tests.unit import test_row_attention as training

if TYPE_CHECKING:
    from homebox.engine.opencl.backend import OpenClDevice

RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> Tensor:
    return Tensor.from_numpy(RANDOM.standard_normal(shape).astype(np.float32))


def results(tensors: Sequence[Tensor]) -> list[bytes]:
    program = capture(lambda: list(tensors), name="test")
    program.run({})
    return [np.ascontiguousarray(program.output(i, {})).tobytes() for i in range(len(tensors))]


def same(device: "OpenClDevice", *tensors: Tensor) -> None:
    """Require that a device computes the CPU's bits."""
    moved = Moved(device).tensors(tensors)
    wanted = results(tensors)
    with using(device):
        found = results(moved)
    for i, (got, want) in enumerate(zip(found, wanted, strict=True)):
        if got != want:
            a, b = (np.frombuffer(each, np.uint8) for each in (got, want))
            raise AssertionError(f"output {i}: {np.mean(a != b):.1%} of the bytes differ")


@pytest.mark.parametrize("kind", [dt.f32, dt.f16, dt.bf16, "q8"], ids=str)
@pytest.mark.parametrize("dim", [64, 128])
def test_decoding(cl_device: "OpenClDevice", kind: Any, dim: int) -> None:
    same(cl_device, paged(kind, [[90], [-1], [3]], 2, dim=dim))
    same(cl_device, paged(kind, [[700]], 12, dim=dim))


@pytest.mark.parametrize("kind", [dt.f32, dt.f16, "q8"], ids=str)
def test_a_chunk_of_many_rows(cl_device: "OpenClDevice", kind: Any) -> None:
    same(cl_device, paged(kind, [list(range(280, 330))], 6, dim=64))
    same(cl_device, paged(kind, [list(range(20, 60))], 2, dim=32, groups=3, window=17))


def test_odd_heads_and_masks(cl_device: "OpenClDevice") -> None:
    same(cl_device, paged(dt.f16, [[3, 66]], 2, dim=12), paged(dt.f32, [[3, 66]], 2, dim=6))
    length, dim = 64, 16
    q, k, v = normal(1, 2, 1, 5, dim), normal(1, 2, 1, length, dim), normal(1, 2, 1, length, dim)
    even = (Tensor.iota(length) % 2).equal(0).reshape((1, 1, 1, 1, length))
    at = Tensor.from_numpy(np.array([[0, 9, 63, -1, 30]], np.int32))
    same(cl_device, masked_attention(q, k, v, visible(at, length) & even))


@pytest.mark.parametrize("positions", [[[90], [-1]], [[700]], [list(range(280, 300))]], ids=len)
def test_caps_and_sinks(cl_device: "OpenClDevice", positions: list[list[int]]) -> None:
    same(cl_device, paged(dt.f16, positions, 12, dim=64, cap=2.0, sinks=True))
    same(cl_device, paged("q8", positions, 12, dim=32, cap=20.0, sinks=True, window=128))


@pytest.mark.parametrize("name", ["a window", "everything"])
def test_attention_of_training(cl_device: "OpenClDevice", name: str) -> None:
    case = training.Case(training.FEATURES[name], 48)
    attention, inputs = case.attention(), case.inputs()
    out = attention.forward(*inputs).contiguous()
    same(cl_device, out, *attention.backward(*inputs, out, Tensor.from_numpy(case.g)))


@pytest.mark.parametrize("kind", [dt.f32, dt.f16, dt.bf16, "q8"], ids=str)
def test_appending(cl_device: "OpenClDevice", kind: Any) -> None:
    cache: PagedCache = cache_of(2, 64, 3, kind)
    places = Tensor.from_numpy(np.array([70, -1, 5], np.int32))
    same(cl_device, cache.append(0, normal(3, 2, 64), normal(3, 2, 64), places))


def packing(x: Tensor) -> Tensor:
    rows, width = x.shape
    assert isinstance(rows, int) and isinstance(width, int)
    return Tensor(node(Op.PACK, dt.u8, (rows, A8.panel_bytes(width)), (x.node,), A8))


SMALL: dict[str, Callable[[], Tensor]] = {
    "pack": lambda: packing(normal(5, 1000) * 3.0),
    "pack of normed rows": lambda: packing(
        (x := normal(3, 1024)) * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt()
    ),
    "softmax": lambda: normal(7, 3000).softmax(),
    "log sum exp": lambda: normal(3, 9001).logsumexp(),
    "largest": lambda: normal(3, 9001).max(1),
    "columns": lambda: normal(300, 70).sum(0),
    "everything": lambda: normal(30, 700).sum(),
    "head norms": lambda: (x := normal(50, 128)) * ((x * x).mean(-1, keepdim=True)).rsqrt(),
    "silu": lambda: (x := normal(66, 700)).silu() * x + normal(700),
    "ragged": lambda: normal(33, 701).exp().log() + normal(33, 1),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_kernels(cl_device: "OpenClDevice", name: str) -> None:
    same(cl_device, SMALL[name]())


@pytest.mark.parametrize("form", [Q8, Q4, BF16], ids=str)
def test_rows_of_a_packed_table(cl_device: "OpenClDevice", form: Format) -> None:
    stored = Tensor.from_numpy(pack(form, RANDOM.standard_normal((40, 128)).astype(np.float32)))
    ids = Tensor.from_numpy(np.array([3, 39, 0, 40], np.int32))
    same(cl_device, Tensor.packed(form, 40, 128, stored).gather(ids))


def test_an_update_of_adamw(cl_device: "OpenClDevice") -> None:
    weight, gradient, first = normal(40, 100), normal(40, 100), normal(40, 100)
    second = Tensor.from_numpy(np.abs(RANDOM.standard_normal((40, 100))).astype(np.float32))
    scalars = Scalars.of(Tensor.from_numpy(np.array([1e-3, 0, 1.1, 1.2], np.float32)))
    same(cl_device, *adamw(weight, gradient, (first, second), scalars, (0.9, 0.99), 0.1))

"""Grouped products for work-items, on the checking interpreter: in bounds, with the CPU's bits."""

import mmap
import sys

import numpy as np
import pytest

from homebox.engine.codegen.linear import Kernel
from homebox.engine.codegen.ranges import analyse
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.formats import WEIGHTS, Format
from homebox.engine.graph.ops import Node, Op, memory_of, node
from homebox.engine.graph.tensor import Tensor
from homebox.engine.simt.product import ProductSimt
from homebox.engine.simt.target import Columns, Fragments, LoweredSimt, Simt, Stream, Tile
from homebox.engine.verify import oracle
from homebox.errors import EngineError
from tests.null.test_simt import Execution

MAP_NORESERVE = 0x4000  # of Linux
SMALL = Simt(group=16, sub_group=16, local_memory=4096)
USUAL = Simt(group=64, units=frozenset({"dot4"}))
MATRICES = Simt(group=64, units=frozenset({"mma_bf16", "mma_s8"}))
N, K = 16, 64
CHOSEN = (2, -1, 0, 3)  # of three weights
RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def weights(form: Format, n: int = N) -> Tensor:
    stored = formats.pack(form, normal(3 * n, K))
    return Tensor.packed(form, 3 * n, K, Tensor.from_numpy(stored)).reshape((3, n, K))


def blocks(rows: int, kind: str, width: int = K) -> Tensor:
    x = Tensor.from_numpy(normal(len(CHOSEN) * rows, width))
    if kind == "bf16":
        x = x.cast(dt.bf16).cast(dt.f32)
    return (x.quantised() if kind == "int8" else x).reshape((len(CHOSEN), rows, width))


def expert() -> Tensor:
    return Tensor.from_numpy(np.array(CHOSEN, np.int32) + 1) + -1


def run(root: Tensor, target: Simt, *, bits: bool = True) -> list[LoweredSimt]:
    """Run on both interpreters and compare with the oracle; return the products' kernels."""
    root = root.contiguous()
    done = Execution([root], [], {}, target)
    (got,) = done.results()
    (truth,) = oracle.evaluate([root.node], {})
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-4)
    for b, i in enumerate(CHOSEN):
        assert 0 <= i < 3 or not got[b].any()
    if bits:
        assert got.tobytes() == Execution([root], [], {}, None).results()[0].tobytes()
    kinds = (Stream, Tile, Columns, Fragments)
    found = [low for low in done.lowered if isinstance(low, LoweredSimt)]
    return [low for low in found if isinstance(low.schedule, kinds)]


@pytest.mark.parametrize(
    ("kind", "form"),
    [("int8", "q4"), ("int8", "q8"), ("f32", "q8"), ("f32", "bf16"), ("bf16", "bf16")],
)
@pytest.mark.parametrize(("rows", "target"), [(1, SMALL), (3, USUAL), (9, USUAL)], ids=str)
def test_products(rows: int, kind: str, form: str, target: Simt) -> None:
    root = blocks(rows, kind).grouped_linear(weights(WEIGHTS[form]), expert())
    exact = kind == "f32" or (kind == "int8" and rows > 8)
    (low,) = run(root, target, bits=exact)
    assert isinstance(low.schedule, Stream if rows <= 8 else Tile)


@pytest.mark.parametrize("form", ["f32", "q4"])
def test_turned(form: str) -> None:
    (low,) = run(blocks(3, "f32", N).grouped_matmul(weights(WEIGHTS[form]), expert()), SMALL)
    assert isinstance(low.schedule, Tile)


@pytest.mark.parametrize(("kind", "form"), [("int8", "q8"), ("bf16", "bf16")])
def test_matrix_units(kind: str, form: str) -> None:
    root = blocks(16, kind).grouped_linear(weights(WEIGHTS[form]), expert())
    (low,) = run(root, MATRICES, bits=kind == "int8")
    assert isinstance(low.schedule, Fragments)


@pytest.mark.parametrize("rows", [1, 5])
def test_plain_weights(rows: int) -> None:
    plain = Tensor.from_numpy(normal(3, 20, 33), frozen=True)
    (low,) = run(blocks(rows, "f32", 33).grouped_linear(plain, expert()), SMALL)
    assert isinstance(low.schedule, Columns if rows == 1 else Tile)


def test_gate_and_up_share_a_kernel() -> None:
    x, number = blocks(1, "int8"), expert()
    gate, up = (x.grouped_linear(weights(WEIGHTS["q8"]), number) for _ in range(2))
    lowered = run(gate.silu() * up, USUAL, bits=False)
    assert len(lowered) == 1


@pytest.mark.parametrize("rows", [1, 3])
def test_results_are_packed_by_the_kernel_that_makes_them(rows: int) -> None:
    n, x, number = 96, blocks(rows, "int8"), expert()
    gate, up = (x.grouped_linear(weights(WEIGHTS["q8"], n), number) for _ in range(2))
    between = (gate.silu() * up).reshape((len(CHOSEN) * rows, n)).contiguous()
    (values,) = Execution([between], [], {}, USUAL).results()
    done = Execution([Tensor(between.quantised().node.src[0])], [], {}, USUAL)
    (packed,) = done.results()
    assert packed.tobytes() == formats.pack(formats.A8, values).tobytes()
    last = done.lowered[-1]
    assert isinstance(last, LoweredSimt) and isinstance(last.schedule, Stream)


def test_a_weight_that_is_not_there_would_be_read_beyond_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: numbers that are not brought within bounds are found."""
    monkeypatch.setattr(ProductSimt, "within", lambda self, flat, group: flat)
    root = blocks(9, "f32").grouped_linear(weights(WEIGHTS["q8"]), expert())
    with pytest.raises(EngineError, match="reaches element"):
        run(root, USUAL)


class InPlace(Execution):
    """Reads buffers where they lie, however large they are."""

    def array(self, n: Node) -> np.ndarray:
        owner = memory_of(n)
        return owner.arg.array if owner.op is Op.BUFFER else super().array(n)


@pytest.mark.skipif(sys.platform != "linux", reason="memory that is only named is Linux's")
@pytest.mark.parametrize("rows", [1, 9])
def test_weights_beyond_31_bits(rows: int) -> None:
    """The last of more than 2^31 numbers are found, with places of 64 bits."""
    one = formats.pack(WEIGHTS["f32"], normal(N, K))
    count = 2**33 // one.nbytes + 2
    # A page that nobody writes takes no memory.
    flags = mmap.MAP_PRIVATE | MAP_NORESERVE
    memory = np.frombuffer(mmap.mmap(-1, count * one.nbytes, flags=flags), np.uint8)
    memory[-one.nbytes :] = one
    stored = node(Op.BUFFER, dt.u8, (memory.size,), (), Buffer.over(memory, dt.u8))
    every = Tensor.packed(WEIGHTS["f32"], count * N, K, Tensor(stored)).reshape((count, N, K))
    alone = Tensor.packed(WEIGHTS["f32"], N, K, Tensor.from_numpy(one)).reshape((1, N, K))
    x = Tensor.from_numpy(normal(1, rows, K))
    chosen, first = (Tensor.from_numpy(np.array([i], np.int32)) for i in (count - 1, 0))
    done = InPlace([x.grouped_linear(every, chosen).contiguous()], [], {}, USUAL)
    want = Execution([x.grouped_linear(alone, first).contiguous()], [], {}, USUAL)
    assert done.results()[0].tobytes() == want.results()[0].tobytes()
    (low,) = (low for low in done.lowered if stored in low.memory)
    assert isinstance(low, LoweredSimt)
    places = places_in(low.kernel, low.memory.index(stored))
    widths = analyse(low.kernel, low.most_groups()).width
    assert places and all(widths[place] == "long" for place in places)


def places_in(kernel: Kernel, param: int) -> list[int]:
    """Return the instructions that say where a parameter is read."""
    pointers: set[int] = set()
    found = []
    for i, inst in enumerate(kernel.body):
        same = inst.op == "param" and inst.arg == param
        if same or (inst.op == "view" and inst.args[0] in pointers):
            pointers.add(i)
        elif inst.op == "load" and inst.args[0] in pointers:
            found.append(inst.args[1])
    return found

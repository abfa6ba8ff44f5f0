"""The lowering for work-items, run on the checking interpreter: right, with the CPU's bits."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from homebox.engine.codegen.linear import Kernel
from homebox.engine.fusion.fuse import partition
from homebox.engine.fusion.schedule import Lowered
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Node, Op, Sym, memory_of, numel_max, size_max
from homebox.engine.graph.tensor import Tensor
from homebox.engine.kernels.lower import lower
from homebox.engine.runtime.plan import order_regions
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import Columns, Flat, LoweredSimt, Rows, Simt, Span, Tile
from homebox.engine.verify import interpret, oracle
from homebox.errors import EngineError

SMALL = Simt(group=16, sub_group=16, local_memory=4096)
MIDDLE = Simt(group=64, sub_group=32, local_memory=16384)
RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> Tensor:
    return Tensor.from_numpy(RANDOM.standard_normal(shape).astype(np.float32))


def on_cpu(
    low: Lowered | LoweredSimt,
    buffers: list[np.ndarray],
    variables: np.ndarray,
    values: Mapping[str, int],
) -> None:
    assert isinstance(low, Lowered)
    interpret.run(low.kernel, buffers, variables, (0, low.units.count(dict(values))))


def on_simt(
    low: Lowered | LoweredSimt,
    buffers: list[np.ndarray],
    variables: np.ndarray,
    values: Mapping[str, int],
) -> None:
    assert isinstance(low, LoweredSimt)
    interpret.run_simt(low.kernel, buffers, variables, low.groups(values))


class Execution:
    """Kernels of a graph, run in order on an interpreter over memory of their own."""

    def __init__(
        self, roots: list[Tensor], syms: list[Sym], values: Mapping[str, int], target: Simt | None
    ) -> None:
        cut = partition([t.node for t in roots], resident=target is None)
        self.roots, self.values, self.memory = cut.roots, values, {}
        self.variables = np.array([values[s.name] for s in syms] or [0], np.int32)
        self.lowered: list[Lowered | LoweredSimt] = [
            lower(r, cut.realised, syms, "avx512")
            if target is None
            else lower_simt(r, cut.realised, syms, target)
            for r in order_regions(cut)
        ]
        for low in self.lowered:
            (on_cpu if target is None else on_simt)(
                low, [self.array(n) for n in low.memory], self.variables, values
            )

    def array(self, n: Node) -> np.ndarray:
        owner = memory_of(n)
        if owner not in self.memory:
            kind = dt.u8 if owner.dtype is dt.boolean else owner.dtype
            fresh = np.full(numel_max(owner.shape), 77, kind.to_numpy())
            if owner.op is Op.BUFFER:
                fresh = owner.arg.array.view(kind.to_numpy()).copy()
            self.memory[owner] = fresh
        return self.memory[owner]

    def results(self) -> list[np.ndarray]:
        found = []
        for root in self.roots:
            shape = tuple(size_max(d) for d in root.shape)
            cut = tuple(
                slice(0, self.values[d.name]) if isinstance(d, Sym) else slice(None)
                for d in root.shape
            )
            found.append(self.array(root)[: numel_max(root.shape)].reshape(shape)[cut])
        return found


def check(
    *roots: Tensor,
    target: Simt = SMALL,
    syms: list[Sym] | None = None,
    tolerance: float = 1e-5,
    **values: int,
) -> list[LoweredSimt]:
    """Require the oracle's values within rounding and the CPU kernels' bits; return the kernels."""
    tensors = [t if t.node.op is Op.STORE else t.contiguous() for t in roots]
    simt = Execution(tensors, syms or [], values, target)
    cpu = Execution(tensors, syms or [], values, None)
    truth = oracle.evaluate([t.node for t in tensors], values)
    for got, same, want in zip(simt.results(), cpu.results(), truth, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        assert got.tobytes() == same.tobytes()
    lowered = [low for low in simt.lowered if isinstance(low, LoweredSimt)]
    assert all(low.kernel.group for low in lowered)
    return lowered


# -- contractions and rows ----------------------------------------------------------------------


def kinds(lowered: list[LoweredSimt]) -> list[type]:
    return [type(low.schedule) for low in lowered]


@pytest.mark.parametrize("target", [SMALL, MIDDLE])
def test_gemm_with_ragged_edges_and_an_epilogue(target: Simt) -> None:
    product = normal(19, 21) @ normal(21, 37)
    lowered = check((product + normal(37)).maximum(0.0) * normal(19, 37), target=target)
    assert kinds(lowered) == [Flat, Tile]  # packing b into panels, and all the rest in one kernel


def test_gemm_beyond_one_segment() -> None:
    lowered = check(normal(2, 1040) @ normal(1040, 16), tolerance=1e-4)
    assert kinds(lowered) == [Tile]


def test_gemm_with_a_transposed_operand() -> None:
    lowered = check(normal(21, 10).transpose() @ normal(21, 16))
    assert kinds(lowered) == [Tile]


def test_contraction_over_axes_that_cannot_be_joined() -> None:
    a, b = normal(6, 5, 9), normal(6, 9, 16)
    left = a.permute(1, 0, 2).reshape((5, 6, 1, 9)).expand((5, 6, 16, 9))
    right = b.permute(0, 2, 1).reshape((1, 6, 16, 9)).expand((5, 6, 16, 9))
    assert Tile in kinds(check((left * right).sum((1, 3))))


def test_batched_attention() -> None:
    q, k, v = normal(2, 3, 5, 8), normal(2, 3, 7, 8), normal(2, 3, 7, 16)
    lowered = check((q @ k.transpose() * 0.35).softmax() @ v)
    assert kinds(lowered).count(Tile) == 2 and Rows in kinds(lowered)


def test_gemv_in_segments() -> None:
    lowered = check(normal(1, 1100) @ normal(1100, 16), tolerance=1e-4)
    assert [low.schedule for low in lowered] == [Columns(16, 1)]


def test_gemv_whose_segments_are_shared_out() -> None:
    lowered = check(normal(1, 1100) @ normal(1100, 16), target=MIDDLE, tolerance=1e-4)
    assert [low.schedule for low in lowered] == [Columns(16, 2)]


def test_gemv_with_ragged_columns_and_batches() -> None:
    lowered = check(normal(3, 1, 40) @ normal(3, 40, 48) + 1.0, target=MIDDLE)
    assert [low.schedule for low in lowered] == [Columns(64, 1)]
    assert kinds(check(normal(1, 30).linear(normal(20, 30)))) == [Flat, Columns]


@pytest.mark.parametrize("target", [SMALL, MIDDLE])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 40, 200])
def test_softmax(size: int, target: Simt) -> None:
    lowered = check((normal(3, size) * 3.0).softmax(), target=target)
    assert kinds(lowered) == [Rows if size > 1 else Flat]


def test_rmsnorm_and_logsumexp() -> None:
    x = normal(5, 33)
    scale = ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt()
    assert kinds(check(x * scale * normal(33), target=MIDDLE)) == [Rows]
    check(x.logsumexp(), target=MIDDLE)


# -- sizes and places known only at run time ----------------------------------------------------


@pytest.mark.parametrize("n", [1, 16, 37])
def test_run_time_sizes(n: int) -> None:
    size = Sym("n", 1, 40)
    row = Tensor.iota(40) < Tensor.variable(size).reshape((1,)).expand((40,))
    x = normal(3, 40)
    check(row.broadcast((3, 40)).where(x, -1e9).softmax(), syms=[size], n=n)
    check(x.slice(1, 0, size).softmax(), syms=[size], n=n)
    check(normal(40, 9).slice(0, 0, size).softmax(), target=MIDDLE, syms=[size], n=n)
    check(normal(40, 8).slice(0, 0, size) @ normal(8, 16), syms=[size], n=n)
    check(normal(3, 40).slice(1, 0, size) @ normal(40, 16).slice(0, 0, size), syms=[size], n=n)
    wide = Sym("n", 1, 48)
    check(normal(3, 8) @ normal(8, 48).slice(1, 0, wide), syms=[wide], n=n)


def test_grid_follows_run_time_sizes() -> None:
    size = Sym("n", 1, 40)
    assert Span((3, size), 16).count({"n": 11}) == 3
    (low,) = check((normal(40, 8).slice(0, 0, size) * 2.0), syms=[size], n=3)
    assert low.groups({"n": 3}) == (2,) and low.groups({"n": 0}) == (0,)


# -- maps, reductions, indexed memory -----------------------------------------------------------


def test_maps_and_reductions() -> None:
    x = normal(4, 18)
    check(x.transpose().exp() < 1.5)
    check(x.cat(normal(4, 3)).slice(1, 20, 21, -1))
    check(x.pad(1, 2, 3).sum(1), normal(4, 5, 18).sum((0, 2)))
    assert kinds(check(normal(9, 20).sum(0))) == [Flat]  # down columns: in order, no barrier
    check(normal(9, 20).sum(0) * normal(3, 7).sum())
    check(Tensor.from_numpy(np.arange(60, dtype=np.int32).reshape(3, 20)).max(1))


def test_gather_and_indexed_stores() -> None:
    table, rows = normal(10, 7), np.array([3, 9, -1, 10, 3], np.int32)
    check(table.gather(Tensor.from_numpy(rows)) * 2.0)
    check(Tensor.zeros((10, 7)).store(normal(2, 7), Tensor.from_numpy(rows[:2])))
    index = Tensor.from_numpy(rows)
    check(Tensor.zeros((10, 7)).store(normal(5, 7), index, add=True))
    check(Tensor.zeros((10, 16)).store(normal(5, 16).softmax(), index, add=True))


def test_updates_in_place() -> None:
    for update in (
        (y := normal(6, 16)).store(y + normal(6, 8) @ normal(8, 16)),
        (z := normal(10)).store(normal(5), Tensor.from_numpy(np.array([3, 9, 3, 10, 3], np.int32))),
        z.store(normal(3), Tensor.from_numpy(np.array([4, 4, 4], np.int32)), add=True),
    ):
        (got,) = Execution([update], [], {}, SMALL).results()
        (want,) = oracle.evaluate([update.node])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# -- controls and limits ------------------------------------------------------------------------


def without_barrier(kernel: Kernel, number: int) -> Kernel:
    """Return the kernel with one of its barriers made a constant."""
    places = [i for i, inst in enumerate(kernel.body) if inst.op == "barrier"]
    body = list(kernel.body)
    body[places[number]] = replace(body[places[number]], op="const", arg=0)
    return replace(kernel, body=tuple(body))


def barrier_graphs() -> list[tuple[Tensor, Simt]]:
    index, x = Tensor.from_numpy(np.array([3, 1, 3], np.int32)), normal(3, 16)
    return [
        (normal(3, 40).softmax(), SMALL),
        (normal(4, 21) @ normal(21, 16), SMALL),
        (normal(1, 1030) @ normal(1030, 16), MIDDLE),
        (Tensor.zeros((4, 16)).store(x * (x * x).sum(1, keepdim=True), index), SMALL),
    ]


@pytest.mark.parametrize("case", range(4))
def test_no_barrier_can_be_left_out(case: int) -> None:
    root, target = barrier_graphs()[case]
    root = root if root.node.op is Op.STORE else root.contiguous()
    execution = Execution([root], [], {}, target)
    low = execution.lowered[-1]
    assert isinstance(low, LoweredSimt)
    buffers = [execution.array(n) for n in low.memory]
    count = sum(inst.op == "barrier" for inst in low.kernel.body)
    assert count
    interpret.run_simt(low.kernel, buffers, execution.variables, low.groups({}))
    for number in range(count):
        broken = without_barrier(low.kernel, number)
        with pytest.raises(EngineError, match=r"race with|which nothing has written"):
            interpret.run_simt(broken, buffers, execution.variables, low.groups({}))


def test_targets_that_cannot_be() -> None:
    with pytest.raises(EngineError, match="power of two"):
        Simt(group=48)
    with pytest.raises(EngineError, match="too small"):
        Simt(group=8)
    with pytest.raises(EngineError, match="local memory"):
        Execution([(normal(20, 9) @ normal(9, 16)).contiguous()], [], {}, Simt(64, 32, 64))


@pytest.mark.parametrize("target", [SMALL, MIDDLE, Simt(), Simt(1024, 64, 65536)])
def test_kernels_keep_to_the_limits_of_the_target(target: Simt) -> None:
    roots = [
        (normal(300, 64) @ normal(64, 304)).contiguous(),
        (normal(1, 9000) @ normal(9000, 16)).contiguous(),
        normal(70, 300).softmax().contiguous(),
        (normal(90, 90) * 2.0).contiguous(),
    ]
    for root in roots:
        cut = partition([root.node])
        for region in order_regions(cut):
            low = lower_simt(region, cut.realised, [], target)
            shared = [inst for inst in low.kernel.body if inst.op == "shared"]
            assert int(np.prod(low.kernel.group)) <= target.group
            assert sum(inst.arg * inst.dtype.size for inst in shared) <= target.local_memory

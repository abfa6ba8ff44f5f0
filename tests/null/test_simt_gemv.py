"""Few rows times packed weights for work-items: right in any group, beside any other product."""

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.formats import A8, F32, WEIGHTS, Format
from homebox.engine.graph.ops import Op, Sym
from homebox.engine.graph.tensor import Tensor
from homebox.engine.simt.gemv_schedule import slices_of, stream_schedule
from homebox.engine.simt.target import LoweredSimt, Simt, Stream
from homebox.engine.verify import interpret
from homebox.engine.verify.oracle import narrow, widen
from homebox.errors import EngineError
from tests.null.test_simt import Execution, without_barrier

TARGETS = {
    "smallest": Simt(16, 16, 4096),
    "middle": Simt(64, 32, 16384, frozenset({"dot4"})),
    "usual": Simt(256, 32, 32768, frozenset({"dot4", "subgroup"})),
    "wide": Simt(256, 64, 65536, frozenset({"subgroup"})),
}
RANDOM = np.random.default_rng(11)


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


class Activations:
    """Rows as a product's operand, and the float64 numbers they stand for."""

    def __init__(self, kind: str, x: np.ndarray) -> None:
        m, k = x.shape
        self.tensor, self.truth = Tensor.from_numpy(x), x.astype(np.float64)
        if kind == "int8":
            stored = formats.pack(A8, x)
            self.tensor = Tensor.packed(A8, m, k, Tensor.from_numpy(stored))
            self.truth = formats.unpack(A8, stored, m, k).astype(np.float64)
        elif kind == "bf16":
            self.tensor = self.tensor.cast(dt.bf16).cast(dt.f32)
            self.truth = widen(narrow(self.truth)).astype(np.float64)


class Weight:
    """A packed matrix and the float64 numbers it stands for."""

    def __init__(self, form: Format, n: int, k: int) -> None:
        stored = formats.pack(form, random(n, k))
        self.tensor = Tensor.packed(form, n, k, Tensor.from_numpy(stored))
        self.truth = formats.unpack(form, stored, n, k).astype(np.float64)


def run(
    root: Tensor, target: Simt | None, syms: list[Sym] | None = None, **values: int
) -> tuple[np.ndarray, list[Stream]]:
    """Compute a graph on an interpreter; return the result and the schedules of its products."""
    root = root if root.node.op is Op.STORE else root.contiguous()
    execution = Execution([root], syms or [], values, target)
    plans = []
    for low in execution.lowered:
        if isinstance(low, LoweredSimt) and isinstance(low.schedule, Stream):
            plans.append(low.schedule)
            shared = [inst for inst in low.kernel.body if inst.op == "shared"]
            assert target and int(np.prod(low.kernel.group)) <= target.group
            assert sum(inst.arg * inst.dtype.size for inst in shared) <= target.local_memory
    return execution.results()[0].copy(), plans


KINDS = [(kind, form) for kind in ("int8", "bf16", "f32") for form in WEIGHTS.values()]
KINDS = [(kind, form) for kind, form in KINDS if kind != "int8" or form.quantised]
SHAPES = {
    "smallest": (3, 33, 70),
    "middle": (8, 20, 130),
    "usual": (1, 40, 194),
    "wide": (3, 17, 98),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("kind", "form"), KINDS, ids=str)
def test_products(kind: str, form: Format, name: str) -> None:
    m, n, k = SHAPES[name]
    x, w = Activations(kind, random(m, k)), Weight(form, n, k)
    root = x.tensor.linear(w.tensor)
    got, plans = run(root, TARGETS[name])
    assert len(plans) == 1
    want = x.truth @ w.truth.T
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()
    if kind == "f32":
        same, _ = run(root, None)
        assert got.tobytes() == same.tobytes()


# -- more than one segment, more than one product -------------------------------------------------


@pytest.mark.parametrize(
    ("m", "k", "form", "target"),
    [
        (1, 2048, "f32", Simt()),  # two segments side by side
        (3, 1100, "q8", Simt()),  # the second one is short
        (2, 2060, "bf16", Simt(64)),  # two rounds, the second one with a single short segment
        (1, 1100, "q4", TARGETS["smallest"]),  # one after the other
    ],
)
def test_ordered_sums_have_the_bits_of_a_cpu(m: int, k: int, form: str, target: Simt) -> None:
    root = Tensor.from_numpy(random(m, k)).linear(Weight(WEIGHTS[form], 9, k).tensor)
    got, _ = run(root, target)
    assert got.tobytes() == run(root, None)[0].tobytes()


@pytest.mark.parametrize("name", ["middle", "usual"])
@pytest.mark.parametrize(("kind", "form"), [("int8", "q8"), ("int8", "q4"), ("bf16", "bf16")])
def test_a_row_has_the_same_bits_in_any_batch(kind: str, form: str, name: str) -> None:
    x, w = random(8, 290), Weight(WEIGHTS[form], 20, 290).tensor
    together, _ = run(Activations(kind, x).tensor.linear(w), TARGETS[name])
    for rows in ([5], [0, 7, 3]):
        alone, _ = run(Activations(kind, x[rows]).tensor.linear(w), TARGETS[name])
        assert alone.tobytes() == together[rows].tobytes()


def test_many_slices_meet_in_rounds() -> None:
    x, w = Activations("int8", random(8, 2048)), Weight(WEIGHTS["q4"], 16, 2048)
    got, (plan,) = run(x.tensor.linear(w.tensor), TARGETS["usual"])
    assert plan == Stream(1, 64, (64,))  # for 8 rows more than local memory holds
    want = x.truth @ w.truth.T
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()


@pytest.mark.parametrize("m", [1, 5])
def test_gate_and_up_meet_in_one_kernel(m: int) -> None:
    x = Activations("int8", random(m, 96))
    gate, up = (Weight(WEIGHTS["q4"], 72, 96) for _ in range(2))
    scale = random(m, 1)
    factor = Tensor.from_numpy(scale)
    root = (x.tensor.linear(gate.tensor) * factor).silu() * (x.tensor.linear(up.tensor) * factor)
    got, plans = run(root, TARGETS["usual"])
    assert [len(p.split) for p in plans] == [2]
    left, right = (x.truth @ w.truth.T * scale for w in (gate, up))
    want = left / (1 + np.exp(-left)) * right
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5 * np.abs(want).max())


def test_products_beside_each_other_keep_their_bits() -> None:
    """A product's sum does not depend on what its kernel computes besides."""
    x, other = Activations("int8", random(2, 320)), random(2, 40)
    w, b = Weight(WEIGHTS["q8"], 40, 320), Weight(F32, 40, 40)
    zero = Tensor.from_numpy(np.zeros_like(other)).linear(b.tensor)
    alone, _ = run(x.tensor.linear(w.tensor), TARGETS["usual"])
    beside, plans = run(x.tensor.linear(w.tensor) + zero, TARGETS["usual"])
    assert alone.tobytes() == beside.tobytes()
    assert sorted(plans[-1].split) == [0, 8]


@pytest.mark.parametrize("name", ["smallest", "usual"])
@pytest.mark.parametrize("slot", [0, 2])
def test_adapters_in_slots(slot: int, name: str) -> None:
    """W x + B A x, where the adapter's slot is known at run time only."""
    m, n, k, rank, slots = 2, 40, 70, 8, 3
    x, w = random(m, k), Weight(WEIGHTS["q8"], n, k)
    down, up = random(slots, 16, k), random(slots, 48, rank)
    down[:, rank:], up[:, n:] = 0, 0
    sym = Sym("slot", 0, slots - 1)

    def product(rows: Tensor, stacked: np.ndarray, outputs: int) -> Tensor:
        height, columns = stacked.shape[1:]
        stored = Tensor.from_numpy(formats.pack(F32, stacked.reshape(-1, columns)))
        whole = Tensor.packed(F32, slots * height, columns, stored)
        each = whole.reshape((slots, height, columns)).slice(0, sym, 1)
        return rows.linear(each.reshape((height, columns)).slice(0, 0, outputs))

    rounded = Activations("int8", x)
    narrow_ = product(Tensor.from_numpy(x), down, rank)
    root = rounded.tensor.linear(w.tensor) + product(narrow_, up, n)
    got, plans = run(root, TARGETS[name], [sym], slot=slot)
    assert [len(p.split) for p in plans] == [1, 2]
    want = rounded.truth @ w.truth.T + x @ down[slot, :rank].T @ up[slot, :n].T
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_epilogues_add_and_store() -> None:
    m, n, k = 3, 40, 64
    x, w, rest = Activations("int8", random(m, k)), Weight(WEIGHTS["q8"], n, k), random(m, n)
    product = x.tensor.linear(w.tensor)
    want = x.truth @ w.truth.T
    residual, plans = run(product * 0.5 + Tensor.from_numpy(rest), TARGETS["usual"])
    assert len(plans) == 1
    np.testing.assert_allclose(residual, want * 0.5 + rest, rtol=1e-5, atol=1e-4)
    stored, plans = run(Tensor.from_numpy(rest).store(product), TARGETS["usual"])
    assert len(plans) == 1
    np.testing.assert_allclose(stored, want, rtol=1e-5, atol=1e-4)
    added, plans = run(Tensor.from_numpy(rest).store(product, add=True), TARGETS["usual"])
    assert len(plans) == 1
    np.testing.assert_allclose(added, want + rest, rtol=1e-5, atol=1e-4)


def test_rows_that_stand_in_several_axes() -> None:
    x, w = random(6, 64), Weight(WEIGHTS["bf16"], 20, 64)
    rows = Tensor.from_numpy(x).cast(dt.bf16).cast(dt.f32).reshape((2, 3, 64))
    got, plans = run(rows.linear(w.tensor), TARGETS["middle"])
    assert len(plans) == 1
    want = widen(narrow(x)).astype(np.float64) @ w.truth.T
    np.testing.assert_allclose(got.reshape(6, 20), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


# -- schedules and controls -----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(1024, 1024), (1024, 12288), (12288, 4096), (151936, 1024)])
def test_enough_work_items_stream_a_matrix(n: int, k: int) -> None:
    blocks, units = n // 16, k // 32
    plan = stream_schedule(Simt(), blocks, [units], 0)
    (slices,) = plan.split
    assert plan.group <= 256 and 8 <= slices <= units
    assert 4 * slices * blocks >= 32768 or slices in (64, units)  # as far as groups and k reach
    assert blocks / plan.panels >= 64
    beside = stream_schedule(Simt(), blocks, [0, units, units], 4096)
    assert beside.split == (0, slices, slices)


def test_slices_stay_within_the_target() -> None:
    assert slices_of(Simt(16, 16, 4096), 1, 1000) == 4
    assert slices_of(Simt(1024, 32, 4096), 1, 1000) == 32  # local memory holds no more
    assert slices_of(Simt(), 1, 5) == 4 and slices_of(Simt(), 1, 1) == 1


@pytest.mark.parametrize("case", ["meeting", "pair", "ordered", "segments"])
def test_no_barrier_can_be_left_out(case: str) -> None:
    x, w = Activations("int8", random(2, 96)), Weight(WEIGHTS["q8"], 16, 96)
    root, target = x.tensor.linear(w.tensor), TARGETS["middle"]
    if case == "pair":
        root = root + Activations("f32", random(2, 40)).tensor.linear(Weight(F32, 16, 40).tensor)
    if case == "ordered":
        root = Tensor.from_numpy(random(2, 40)).linear(Weight(F32, 16, 40).tensor)
        target = TARGETS["smallest"]
    if case == "segments":
        root = Tensor.from_numpy(random(1, 1040)).linear(Weight(F32, 16, 1040).tensor)
    execution = Execution([root.contiguous()], [], {}, target)
    low = execution.lowered[-1]
    assert isinstance(low, LoweredSimt) and isinstance(low.schedule, Stream)
    buffers = [execution.array(n) for n in low.memory]
    places = [i for i, inst in enumerate(low.kernel.body) if inst.op == "barrier"]
    assert places
    interpret.run_simt(low.kernel, buffers, execution.variables, low.groups({}))
    for number in range(len(places)):
        broken = without_barrier(low.kernel, number)
        with pytest.raises(EngineError, match=r"race with|which nothing has written"):
            interpret.run_simt(broken, buffers, execution.variables, low.groups({}))

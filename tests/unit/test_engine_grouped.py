"""Products of blocks of rows with one of several weights each: the bits of that weight alone."""

import mmap
import sys

import numpy as np
import pytest

from homebox.engine.codegen.cpu import VECTORS, available, target_of
from homebox.engine.fusion.fuse import partition
from homebox.engine.fusion.packed import Packed
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.formats import WEIGHTS, Format
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.ops import Op, node, numel_max, toposort
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import evaluate
from homebox.errors import EngineError
from tests.unit.engine_checks import Array, check, interpreted, random, same_bits, tensor
from tests.unit.test_dot_ops import call
from tests.unit.test_packed_products import run_kernels

MAP_NORESERVE = 0x4000  # of Linux
KINDS = ("f32", "bf16", "int8", "turned")
# weights, rows and columns of one, the number of each block's weight, rows of a block
SHAPES = [
    (1, 16, 33, (0,), 1),
    (3, 48, 70, (2, 0, 2, -1, 1), 1),
    (5, 32, 128, (4, 4, 1), 3),
    (2, 64, 64, (1, -1), 16),
    (4, 16, 96, (3, 7, 0, 0), 13),
]


def packed(form: Format, count: int, n: int, k: int, seed: int = 0) -> Tensor:
    """Return weights (count, n, k), one below the other in one packed matrix."""
    stored = formats.pack(form, random(count * n, k, seed=n + seed))
    return Tensor.packed(form, count * n, k, Tensor.from_numpy(stored)).reshape((count, n, k))


def alone(form: Format, count: int, n: int, k: int, i: int) -> Tensor:
    """Return weight i of the same as a matrix of its own."""
    rows = random(count * n, k, seed=n)[i * n : (i + 1) * n]
    return Tensor.packed(form, n, k, Tensor.from_numpy(formats.pack(form, rows)))


def activations(rows: Array, kind: str) -> Tensor:
    """Return blocks of rows (blocks, rows, k) in one kind of arithmetic."""
    blocks, count, k = rows.shape
    x = tensor(rows.reshape(blocks * count, k))
    if kind == "bf16":
        x = x.cast(dt.bf16).cast(dt.f32)
    return (x.quantised() if kind == "int8" else x).reshape((blocks, count, k))


def product(
    form: Format, shape: tuple[int, int, int, tuple[int, ...], int], kind: str
) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """Return a grouped product, and for each used block the product with its weight alone."""
    count, n, k, chosen, rows = shape
    expert = tensor(np.array(chosen, np.int32) + 1) + -1  # computed at run time
    given = random(len(chosen), rows, n if kind == "turned" else k, seed=4)
    x, weights = activations(given, kind), packed(form, count, n, k)
    single = []
    for b, i in enumerate(chosen):
        if 0 <= i < count:
            mine = activations(given[b : b + 1], kind).reshape(given.shape[1:])
            one = alone(form, count, n, k, i)
            single.append((b, mine @ one if kind == "turned" else mine.linear(one)))
    if kind == "turned":
        return x.grouped_matmul(weights, expert), single
    return x.grouped_linear(weights, expert), single


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", range(len(SHAPES)))
def test_products(form: Format, kind: str, at: int) -> None:
    count, n, k, chosen, rows = SHAPES[at]
    if kind == "bf16" and k % 2:
        k += 1
    if kind == "turned":
        k = -(-k // 64) * 64
    made, single = product(form, (count, n, k, chosen, rows), kind)
    loose = kind == "bf16" and form.name != "bf16"
    (found,) = check(
        made,
        rtol=1e-4,
        atol=0.3 if loose else 1e-4,
        interpret_too=kind != "bf16" and (at < 2 or form.name in ("f32", "q4")),
    )
    for (b, _), want in zip(single, evaluate([t for _, t in single]), strict=True):
        assert same_bits(found[b], want)
    used = {b for b, _ in single}
    for b in range(len(chosen)):
        assert b in used or not found[b].any()


def mixture(form: Format, rows: int, block: int) -> Tensor:
    """Return the results of some rows' experts, chosen by numbers in memory."""
    count, hidden, inner, top = 4, 64, 96, 3
    x = tensor(random(rows, hidden, seed=9))
    keys = random(rows, top, seed=10).view(np.int32)
    expert = (tensor(keys).contiguous() & 3).reshape((rows * top,))
    bias = Tensor.from_numpy(random(count, inner, seed=11), frozen=True)

    def rounded(x: Tensor) -> Tensor:
        return x.quantised() if form.quantised else x

    if block == 1:  # every row once for each of its experts
        given = rounded(x).reshape((rows, 1, hidden)).expand((rows, top, hidden))
        given = given.reshape((rows * top, 1, hidden))
    else:
        pairs = np.random.default_rng(0).integers(-1, rows, rows * top * block).astype(np.int32)
        given = rounded(x.gather(tensor(pairs)).contiguous()).reshape((-1, block, hidden))
    gate = given.grouped_linear(packed(form, count, inner, hidden), expert)
    gate = gate + bias.gather(expert).reshape((-1, 1, inner))
    up = given.grouped_linear(packed(form, count, inner, hidden, seed=1), expert)
    between = (gate.silu() * up).reshape((-1, inner))
    between = rounded(between).reshape((-1, block, inner))
    found = between.grouped_linear(packed(form, count, hidden, inner), expert)
    return found * tensor(random(rows * top * block, 1, seed=12)).reshape((-1, block, 1))


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
@pytest.mark.parametrize(("rows", "block"), [(1, 1), (3, 1), (2, 5)])
def test_a_mixture_of_experts(form: Format, rows: int, block: int) -> None:
    """Gate and up share a kernel where both read panels as they lie; their input is read twice."""
    made = mixture(form, rows, block)
    check(
        made,
        rtol=1e-4,
        atol=2e-4 if not form.quantised else 2.0,
        interpret_too=form.name in ("q8", "f32"),
    )
    cut = partition([made.contiguous().node])
    products = [r for r in cut.regions if r.core is not None]
    assert [len(r.cores) for r in products] == [2, 1]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("at", range(len(SHAPES)))
def test_plain_weights_are_not_gathered_into_memory(at: int, turned: bool) -> None:
    count, n, k, chosen, rows = SHAPES[at]
    n += 1  # no whole panels
    values = random(count, n, k, seed=2)
    weights = Tensor.from_numpy(values, frozen=True)
    expert = tensor(np.array(chosen, np.int32) + 1) + -1
    given = random(len(chosen), rows, n if turned else k, seed=3)
    x = tensor(given)
    made = x.grouped_matmul(weights, expert) if turned else x.grouped_linear(weights, expert)
    (found,) = check(made, interpret_too=at < 3)
    for b, i in enumerate(chosen):
        if not 0 <= i < count:
            assert not found[b].any()
            continue
        one = Tensor.from_numpy(values[i], frozen=True)
        mine = tensor(given[b])
        (want,) = evaluate([mine @ one if turned else mine.linear(one)])
        assert same_bits(found[b], want)
    large = [r.root for r in partition([made.contiguous().node]).regions if r.core is None]
    assert all(Op.GATHER not in {n.op for n in toposort([root])} for root in large)


@pytest.mark.parametrize("kind", ["f32", "int8", "turned"])
@pytest.mark.parametrize("rows", [1, 17])
def test_long_sums_are_made_of_the_same_segments(kind: str, rows: int) -> None:
    n, k = (1104, 64) if kind == "turned" else (32, 1090)
    form = WEIGHTS["q4" if rows == 1 else "q8"]
    made, single = product(form, (2, n, k, (-1, 1, 0), rows), kind)
    (found,) = check(made, rtol=1e-4, atol=1e-3, interpret_too=rows == 1)
    for (b, _), want in zip(single, evaluate([t for _, t in single]), strict=True):
        assert same_bits(found[b], want)
    assert not found[0].any()


@pytest.mark.parametrize("kind", ["f32", "int8", "turned"])
@pytest.mark.parametrize("rows", [1, 9])
def test_every_level_has_the_same_bits(kind: str, rows: int) -> None:
    made, _ = product(WEIGHTS["q8"], (3, 32, 64, (2, -1, 0), rows), kind)
    want = interpreted([made], {}, level=VECTORS[0])
    assert want is not None
    for level in available():
        assert same_bits(run_kernels(made, target_of(level), call), want[0]), level


def test_the_gradient_is_a_grouped_product_too() -> None:
    form, chosen = WEIGHTS["q8"], (1, 0, -1, 1)
    weights = packed(form, 2, 32, 64)
    x, g = tensor(random(4, 3, 64, seed=6)), tensor(random(4, 3, 32, seed=7))
    expert = tensor(np.array(chosen, np.int32) + 1) + -1
    (dx,) = gradient((x.grouped_linear(weights, expert) * g).sum(), [x])
    (found,) = check(dx, kernels=1)
    (want,) = evaluate([g.grouped_matmul(weights, expert)])
    assert same_bits(found, want)


@pytest.mark.parametrize("form", [WEIGHTS["f32"], WEIGHTS["q8"]], ids=repr)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_choice_may_serve_both_ways_round(form: Format, rows: int) -> None:
    """Columns that cannot be turned round are unpacked, which leaves the other way as it is."""
    weights, expert = packed(form, 3, 48, 96), tensor(np.array([2, 0, -1, 1], np.int32))
    there = tensor(random(4, rows, 96)).grouped_linear(weights, expert).contiguous()
    back = there.grouped_matmul(weights, expert)
    check(back, rtol=1e-4, atol=1e-3)
    cut = partition([back.contiguous().node])
    assert sum(r.core is not None for r in cut.regions) == 2
    assert all(n.op is not Op.GATHER for n in cut.realised)


@pytest.mark.skipif(sys.platform != "linux", reason="memory that is only named is Linux's")
@pytest.mark.parametrize("name", ["q8", "f32"])
def test_weights_beyond_31_bits(name: str) -> None:
    """Bytes of q8 and numbers of f32 are counted beyond 2^31; only the last weight is written."""
    form, n, k = WEIGHTS[name], 64, 96
    one = formats.pack(form, random(n, k, seed=1))
    count = 2**31 * (4 if name == "f32" else 1) // one.nbytes + 2
    size = count * one.nbytes
    # A page that nobody writes takes no memory.
    memory = np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | MAP_NORESERVE), np.uint8)
    memory[-one.nbytes :] = one
    stored = Tensor(node(Op.BUFFER, dt.u8, (size,), (), Buffer.over(memory, dt.u8)))
    matrix = Tensor.packed(form, count * n, k, stored)
    alone = Tensor.packed(form, n, k, Tensor.from_numpy(one))
    expert = tensor(np.array([count - 1, 0], np.int32))
    weights, x, g = matrix.reshape((count, n, k)), random(2, 3, k), random(2, 3, n)
    rows = tensor(np.array([count * n - 1, 0], np.int32))
    found = [
        tensor(x).grouped_linear(weights, expert),
        tensor(g).grouped_matmul(weights, expert),  # no whole panels of columns: unpacked
        matrix.gather(rows).reshape((2, 1, k)),
    ]
    wanted = [
        tensor(x[0]).linear(alone),
        tensor(g[0]) @ alone,
        alone.gather(tensor(np.array([n - 1], np.int32))),
    ]
    for have, want in zip(evaluate(found), evaluate(wanted), strict=True):
        np.testing.assert_allclose(have[0], want, rtol=1e-5, atol=1e-5)
        assert not have[1].any()


def test_the_weight_is_not_unpacked_into_memory() -> None:
    """One launch for each product, and beside it none that writes what is as large as a weight."""
    for form in WEIGHTS.values():
        for kind in ("f32", "turned", "int8", *([] if form.quantised else [form.name])):
            made, _ = product(form, (4, 64, 64, (3, 0), 1), kind)
            cut = partition([made.contiguous().node])
            assert sum(r.core is not None for r in cut.regions) == 1
            assert all(numel_max(r.root.shape) < 64 * 64 for r in cut.regions)


@pytest.mark.parametrize("form", [WEIGHTS["f32"], WEIGHTS["q8"]], ids=repr)
def test_an_expert_beyond_the_weights_is_never_read(form: Format) -> None:
    """The control: without the question whether a weight exists, the interpreter finds the read."""
    made, _ = product(form, (2, 32, 64, (1, 9), 1), "f32")
    check(made, interpret_too=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Packed, "exists", property(lambda self: ()))
        with pytest.raises(EngineError, match="reaches element"):
            interpreted([made], {})


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed: int) -> None:
    """Any number of weights, blocks and rows, numbers beyond both ends, epilogues of rows."""
    rng = np.random.default_rng(seed)
    count, blocks, rows = (int(x) for x in rng.integers(1, (6, 7, 25)))
    n, k = 16 * int(rng.integers(1, 9)), int(rng.integers(1, 150))
    form = list(WEIGHTS.values())[seed % 4]
    kind = KINDS[int(rng.integers(4))]
    if (kind == "bf16" and form.name != "bf16") or (kind == "int8" and not form.quantised):
        kind = "f32"
    if kind == "turned":
        k = -(-k // 64) * 64
    k += k % 2 if kind == "bf16" else 0
    chosen = tuple(int(x) for x in rng.integers(-2, count + 2, blocks))
    made, single = product(form, (count, n, k, chosen, rows), kind)
    # The interpreter does not round products of bf16 as this machine does.
    stepped = False if kind == "bf16" else None
    (found,) = check(made, rtol=1e-4, atol=1e-3, interpret_too=stepped)
    for (b, _), want in zip(single, evaluate([t for _, t in single]), strict=True):
        assert same_bits(found[b], want), (form, kind, count, chosen, rows, n, k)
    scale = tensor(random(blocks * rows, 1, seed=8)).reshape((blocks, rows, 1))
    scaled = (made * scale).reshape((blocks * rows, -1)).silu()
    (found,) = check(scaled, rtol=1e-3, atol=1e-2, interpret_too=stepped)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("n", "k", "kind"), [(16, 48, "turned"), (24, 64, "f32"), (20, 33, "int8")]
)
def test_shapes_that_have_no_kernel_are_right_too(n: int, k: int, kind: str) -> None:
    """Rows that are no whole panels, or columns that cannot be turned round, are unpacked."""
    form, chosen = WEIGHTS["q8"], (1, -1, 0)
    stored = Tensor.from_numpy(formats.pack(form, random(2 * n, k)))
    weights = Tensor.packed(form, 2 * n, k, stored).reshape((2, n, k))
    x = activations(random(3, 2, n if kind == "turned" else k, seed=4), kind)
    expert = tensor(np.array(chosen, np.int32) + 1) + -1
    check(
        x.grouped_matmul(weights, expert) if kind == "turned" else x.grouped_linear(weights, expert)
    )

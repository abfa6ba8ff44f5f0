"""Products of blocks of rows with one of several weights each: the bits of that weight alone."""

import numpy as np
import pytest

from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.formats import WEIGHTS, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import evaluate
from tests.unit.engine_checks import Array, check, random, same_bits, tensor

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

"""Gradients against finite differences of the float64 oracle, and compiled against both."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import RULES, gradient
from homebox.engine.graph.ops import Op
from homebox.engine.graph.tensor import Tensor
from homebox.engine.verify.oracle import evaluate as oracle
from homebox.errors import EngineError
from homebox.model.decoder.masked_attention import masked_attention, visible
from tests.unit.engine_checks import check, random, tensor

Build = Callable[[Sequence[Tensor]], Tensor]

INDEX = np.array([3, 0, 3, 1, -1, 9, 2], np.int32)
SEEN = visible(tensor(np.array([[2, 7, 0, 5]], np.int32)), 8, window=4)


def mixed(t: Tensor) -> Tensor:
    """Return a scalar to which every element contributes differently."""
    weights = tensor(random(*(d if isinstance(d, int) else d.hi for d in t.shape), seed=77))
    return (t * weights).sum()


CASES: dict[str, tuple[list[tuple[int, ...]], Build]] = {
    "add, mul, broadcast": ([(3, 4), (4,), (3, 1)], lambda v: v[0] * v[1] + v[2] * v[0] + v[1]),
    "max": ([(3, 5), (3, 5)], lambda v: v[0].maximum(v[1])),
    "where": ([(6,), (6,)], lambda v: (Tensor.iota(6) < 3).where(v[0] * v[1], v[1])),
    "exp, log": ([(4, 3)], lambda v: (v[0].exp() + 1.0).log()),
    "tanh": ([(4, 3)], lambda v: v[0].tanh() * v[0]),
    "gelu by tanh": ([(4, 3)], lambda v: (v[0] * 2.0).gelu_tanh()),
    "sin, sqrt, recip": ([(4, 3)], lambda v: (v[0].sin() + 2.0).sqrt() * (v[0] * v[0] + 1).recip()),
    "division": ([(3, 3), (3, 3)], lambda v: v[0] / (v[1] * v[1] + 0.5)),
    "silu, rsqrt": ([(7,)], lambda v: v[0].silu() * (v[0] * v[0] + 0.1).rsqrt()),
    "reshape, permute": ([(2, 6)], lambda v: v[0].reshape((2, 3, 2)).permute(2, 0, 1)),
    "expand": ([(3, 1)], lambda v: v[0].expand((3, 5)) * Tensor.iota(5).cast(dt.f32)),
    "slice": ([(5, 6)], lambda v: v[0].slice(0, 1, 3).slice(1, 4, 3, -1)),
    "pad": ([(3, 4)], lambda v: v[0].pad(0, 1, 2).pad(1, 3, 0)),
    "cat": ([(2, 3), (2, 5)], lambda v: v[0].cat(v[1])),
    "sum": ([(3, 4)], lambda v: v[0].sum(0) + v[0].sum() * 0.5),
    "max of rows": ([(3, 8)], lambda v: v[0].max(1)),
    "product of rows": ([(3, 5)], lambda v: v[0].prod(1)),
    "softmax": ([(3, 6)], lambda v: v[0].softmax()),
    "logsumexp": ([(3, 6)], lambda v: v[0].logsumexp()),
    "rms norm": (
        [(3, 6), (6,)],
        lambda v: v[0] * ((v[0] * v[0]).mean(-1, keepdim=True) + 1e-3).rsqrt() * v[1],
    ),
    "matmul": ([(3, 5), (5, 4)], lambda v: v[0] @ v[1]),
    "linear": ([(2, 3, 5), (4, 5)], lambda v: v[0].linear(v[1])),
    "batched matmul": ([(2, 3, 4), (2, 4, 5)], lambda v: v[0] @ v[1]),
    "attention": (
        [(2, 3, 4, 6), (2, 1, 5, 6), (2, 1, 5, 6)],
        lambda v: (v[0] @ v[1].transpose()).softmax() @ v[2],
    ),
    "attention with a cap and sinks": (
        [(1, 2, 3, 4, 6), (1, 2, 1, 8, 6), (1, 2, 1, 8, 6), (2, 3)],
        lambda v: masked_attention(v[0], v[1], v[2], SEEN, cap=2.0, sinks=v[3]),
    ),
    "gather": ([(6, 3)], lambda v: v[0].gather(tensor(INDEX)) * 2.0),
    "gather of numbers": ([(6,)], lambda v: v[0].gather(tensor(INDEX))),
    "gather of a product": ([(6, 3), (3,)], lambda v: (v[0] * v[1]).gather(tensor(INDEX))),
    "two gathers of one table": (
        [(6, 3)],
        lambda v: v[0].gather(tensor(INDEX)) + v[0].gather(tensor(INDEX[::-1].copy())).sin(),
    ),
    "casts": ([(4,)], lambda v: (v[0].cast(dt.f64) * 2.0).cast(dt.f32)),
    "a copy": ([(4,)], lambda v: (v[0] * v[0]).contiguous() * 3.0),
}


def differences(build: Build, leaves: list[Tensor], step: float = 1e-5) -> list[np.ndarray]:
    """Return central differences of the loss in float64."""
    loss = mixed(build(leaves)).node
    kept = {t.buffer: t.buffer.array.astype(np.float64) for t in leaves}
    out = []
    for t in leaves:
        flat = kept[t.buffer]
        slopes = np.zeros_like(flat)
        for i in range(flat.size):
            both = []
            for sign in (1.0, -1.0):
                moved = flat.copy()
                moved[i] += sign * step
                both.append(
                    float(oracle([loss], buffers={**kept, t.buffer: moved}, precise=True)[0])
                )
            slopes[i] = (both[0] - both[1]) / (2 * step)
        out.append(slopes.reshape(tuple(int(d) for d in t.shape)))  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    shapes, build = CASES[name]
    leaves = [tensor(random(*shape, seed=i)) for i, shape in enumerate(shapes)]
    grads = gradient(mixed(build(leaves)), leaves)
    exact = oracle([g.node for g in grads], precise=True)
    for have, want in zip(exact, differences(build, leaves), strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-6)
    check(*grads, rtol=1e-4, atol=1e-4)


def test_every_rule_is_tested() -> None:
    seen = set()
    for shapes, build in CASES.values():
        loss = mixed(build([tensor(random(*shape)) for shape in shapes])).node
        stack = [loss]
        while stack:
            each = stack.pop()
            seen.add(each.op)
            stack.extend(each.src)
    assert set(RULES) <= seen


def test_detached_values_and_strangers_get_no_gradient() -> None:
    x, y = tensor(random(4)), tensor(random(4, seed=1))
    first, second = gradient((x.detach() * x).sum(), [x, y])
    found = check(first, second)
    np.testing.assert_array_equal(found[0], x.buffer.array)
    assert not found[1].any()
    inner = x * 2.0
    (through,) = gradient((inner * inner).sum(), [inner])  # a computed node may be asked for too
    np.testing.assert_allclose(check(through)[0], 4.0 * x.buffer.array, rtol=1e-6)


def test_a_seed_scales_the_gradient() -> None:
    x = tensor(random(3, 4))
    seed = tensor(random(3, 4, seed=1))
    (grad,) = gradient(x * x, [x], seed)
    np.testing.assert_allclose(
        check(grad)[0], 2.0 * (x.buffer.array * seed.buffer.array).reshape(3, 4), rtol=1e-6
    )


def test_maxima_that_tie_share_the_gradient() -> None:
    x = tensor(np.array([[1.0, 3.0, 3.0, 2.0]], np.float32))
    (grad,) = gradient(x.max(1).sum(), [x])
    np.testing.assert_array_equal(check(grad)[0], [[0.0, 0.5, 0.5, 0.0]])


def test_operations_without_a_gradient_say_so() -> None:
    x, w = tensor(random(4)), tensor(random(4))
    with pytest.raises(EngineError, match="STORE has no gradient"):
        gradient((w.store(x) * 2.0).sum(), [x])
    assert Op.STORE not in RULES and Op.IDIV not in RULES

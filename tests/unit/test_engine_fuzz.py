"""Random graphs: oracle, interpreter and machine agree, however much is fused."""

import math
import random as dice_module

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.ops import Op, toposort
from homebox.engine.graph.tensor import Tensor, size_of
from homebox.engine.kernels import loops
from homebox.engine.verify.oracle import evaluate as oracle
from tests.unit.engine_checks import check, in_bf16, program_of, random, tensor

DIMS = (1, 1, 2, 3, 5, 7, 15, 16, 17, 31, 32, 33)
Dice = dice_module.Random


def sizes(t: Tensor) -> list[int]:
    return [size_of(d) for d in t.shape]


def leaf(dice: Dice, shape: tuple[int, ...]) -> Tensor:
    """Return values of a shape from memory, in one of the types that memory has."""
    seed = dice.randrange(1000)
    values = random(*shape, seed=seed)
    kind = dice.choice("fffffhbig")
    if kind == "h":
        return tensor(values.astype(np.float16)).cast(dt.f32)
    if kind == "b":
        return in_bf16(values).cast(dt.f32)
    if kind == "i":
        return tensor((values * 3).astype(np.int32)).cast(dt.f32)
    if kind == "g" and shape:
        index = np.random.default_rng(seed).integers(-1, 6, shape[0]).astype(np.int32)
        return tensor(random(5, *shape[1:], seed=seed)).gather(tensor(index))
    return tensor(values)


def like(dice: Dice, t: Tensor) -> Tensor:
    """Return a new leaf that broadcasts to a tensor's shape."""
    shape = tuple(d if dice.random() < 0.7 else 1 for d in sizes(t))
    return leaf(dice, shape[dice.randint(0, len(shape)) :] if dice.random() < 0.3 else shape)


def unary(dice: Dice, t: Tensor) -> Tensor:
    scale = dice.choice([0.5, -0.25, 1.0])
    return dice.choice(
        [
            (t * scale).exp,
            t.silu,
            (t * t + 0.5).log2,
            (t * t + 0.5).rsqrt,
            t.sin,
            lambda: t * scale + 1.0,
            lambda: t.maximum(0.0),
            t.contiguous,
        ]
    )()


def binary(dice: Dice, t: Tensor) -> Tensor:
    other = like(dice, t)
    index = Tensor.iota(sizes(t)[-1]) if t.ndim else Tensor.iota(1)
    shifted = (index * 5 + 2) % 7 < 3
    return dice.choice(
        [
            lambda: t + other,
            lambda: t * other,
            lambda: t.maximum(other),
            lambda: t - other * 0.5,
            lambda: shifted.where(t, other),
            lambda: (other.broadcast(t.shape) > 0).where(t, -1.0) if sizes(other) else t * 2.0,
        ]
    )()


def moved(dice: Dice, t: Tensor) -> Tensor:
    shape = sizes(t)
    if not shape:
        return t.reshape((1, 1))
    axis = dice.randrange(len(shape))
    size = shape[axis]
    kind = dice.choice(["permute", "slice", "flip", "pad", "split", "join", "repeat", "cat"])
    if kind == "permute":
        order = list(range(len(shape)))
        dice.shuffle(order)
        return t.permute(*order)
    if kind == "slice":
        start = dice.randrange(size)
        return t.slice(axis, start, dice.randint(1, size - start))
    if kind == "flip":
        return t.slice(axis, size - 1, size, -1)
    if kind == "pad":
        return t.pad(axis, dice.randint(0, 3), dice.randint(0, 17))
    if kind == "split":
        factor = next((f for f in (4, 3, 2, 5) if size % f == 0), 1)
        return t.reshape((*shape[:axis], factor, size // factor, *shape[axis + 1 :]))
    if kind == "join" and len(shape) > 1 and axis:
        return t.reshape((*shape[: axis - 1], shape[axis - 1] * size, *shape[axis + 1 :]))
    if kind == "repeat" and size == 1:
        return t.expand(
            tuple(dice.choice([2, 5, 16]) if i == axis else d for i, d in enumerate(shape))
        )
    if kind == "cat":
        return t.cat(like(dice, t).broadcast(t.shape), axis=axis)
    return t


def reduced(dice: Dice, t: Tensor) -> Tensor:
    shape = sizes(t)
    if not shape:
        return t
    axis = dice.randrange(len(shape))
    keep = dice.random() < 0.5
    axes = (axis,) if dice.random() < 0.7 else tuple({axis, 0})
    count = math.prod(shape[a] for a in axes)
    return dice.choice(
        [
            lambda: t.sum(axes, keepdim=keep) * (1.0 / count),
            lambda: t.max(axis, keepdim=keep),
            lambda: t.softmax(axis),
            lambda: t - t.mean(axis, keepdim=True),
            lambda: (t.sin() * 0.1 + 1.0).prod(axis, keepdim=keep),
        ]
    )()


def contracted(dice: Dice, t: Tensor) -> Tensor:
    if t.ndim < 2:
        return t
    k, n = sizes(t)[-1], dice.choice([1, 5, 16, 33])
    scale = 1.0 / math.sqrt(k)
    other = leaf(dice, (k, n)) if dice.random() < 0.5 else leaf(dice, (n, k)).transpose()
    return (t @ other) * scale


def random_graph(dice: Dice) -> list[Tensor]:
    """Return one or two outputs of a random graph of moderate values and at most 6000 elements."""
    shape = tuple(dice.choice(DIMS) for _ in range(dice.choice([1, 2, 2, 2, 3])))
    pool = [leaf(dice, shape)]
    for _ in range(dice.randint(2, 7)):
        step = dice.choice([unary, binary, binary, moved, moved, reduced, contracted])
        made = step(dice, pool[-1] if dice.random() < 0.8 else dice.choice(pool))
        if math.prod(sizes(made)) <= 6000 and made.ndim <= 5:
            pool.append(made)
    return [pool[-1]] if dice.random() < 0.6 else [pool[-1], dice.choice(pool)]


@pytest.mark.parametrize("seed", range(70))
def test_random_graphs(seed: int) -> None:
    dice = Dice(seed)
    for _ in range(2):
        check(*random_graph(dice), rtol=3e-4, atol=3e-4)


@pytest.mark.parametrize("seed", range(25))
def test_gradients_of_random_graphs(seed: int) -> None:
    output, *_ = random_graph(Dice(500 + seed))
    count = math.prod(sizes(output))
    loss = (output * tensor(random(*sizes(output), seed=77))).sum() * (1.0 / count)
    memory = [n for n in toposort([loss.node]) if n.op is Op.BUFFER and n.dtype is dt.f32]
    grads = gradient(loss, [Tensor(n) for n in memory[:4]])
    check(*grads, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rules", ["R1", "R2", "R1,R2"])
def test_rules_switched_off_change_no_more_than_rounding(
    monkeypatch: pytest.MonkeyPatch, rules: str
) -> None:
    dice = Dice(7)
    graphs = [random_graph(dice) for _ in range(12)]
    x, w = tensor(random(9, 32)), tensor(random(24, 32, seed=1))
    normed = x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt()
    graphs.append([normed.linear(w).softmax(), normed.linear(w).silu()])
    kernels = sum(len(program_of(graph).kernels) for graph in graphs)
    monkeypatch.setenv("NOFUSE", rules)
    others = 0
    for graph in graphs:
        check(*graph, rtol=3e-4, atol=3e-4)
        others += len(program_of(graph).kernels)
    if "R1" in rules:
        assert others > kernels  # the switch does something


def test_the_oracle_notices_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself: with one wrong operation it fails."""
    x = tensor(random(5, 20))
    check(x + 1.0)
    monkeypatch.setitem(loops.ALU, Op.ADD, "mul")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(x + 2.0)
    assert oracle([(x + 2.0).node])[0].shape == (5, 20)

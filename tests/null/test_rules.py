"""Graph rules: they change how a graph is written, never (beyond rounding) what it means."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from homebox.engine.fusion.fuse import optimise
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.ops import MOVEMENT, Node, Op, Sym, toposort
from homebox.engine.graph.rewrite import Rules, rewrite, substitute, with_sources
from homebox.engine.graph.rules import factors, hoisting, scalar, simplify, varies
from homebox.engine.graph.tensor import Tensor, const
from homebox.engine.verify.oracle import evaluate
from homebox.errors import EngineError


def floats(*shape: int, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(shape)
    return Tensor.from_numpy(values.astype(np.float32))


def count(roots: list[Node], *ops: Op) -> int:
    return sum(n.op in ops for n in toposort(roots))


def only(t: Tensor) -> Node:
    (node,) = rewrite([t.node], simplify)
    return node


# -- the rewriter ---------------------------------------------------------------------------------


def test_rules_that_undo_each_other_are_named() -> None:
    rules = Rules()

    @rules.on(Op.ADD)
    def swap_there(n: Node) -> Node:
        return with_sources(n, (n.src[1], n.src[0]))

    with pytest.raises(EngineError, match=r"never came to rest.*swap_there"):
        rewrite([(floats(3) + floats(3, seed=1)).node], rules)


def test_a_rule_that_grows_the_graph_in_every_pass_is_stopped() -> None:
    rules = Rules()

    @rules.on(Op.BUFFER)
    def wrap(n: Node) -> Node:
        return (Tensor(n) * 1.0).node

    with pytest.raises(EngineError, match="after 7 passes; most fired: wrap"):
        rewrite([floats(3).node], rules, passes=7)


def test_a_graph_at_rest_is_returned_as_it_is() -> None:
    x = floats(4, 5)
    root = (x.exp() + x.sum(1, keepdim=True)).node
    assert rewrite([root], simplify)[0] is root
    fired = simplify.fired.total()
    rewrite([root], simplify)
    assert simplify.fired.total() == fired


def test_finished_nodes_and_what_lies_below_are_left_alone() -> None:
    x = floats(4)
    below = x * 1.0
    root = (below + 2.0).node
    assert rewrite([root], simplify, {below.node})[0] is root
    assert rewrite([root], simplify)[0] is (x + 2.0).node


def test_deep_graphs_do_not_recurse() -> None:
    x = t = floats(3)
    for _ in range(20000):
        t = t + x
    (same,) = rewrite([t.node], simplify)
    assert same is t.node
    (other,) = substitute([t.node], {x.node: floats(3, seed=1).node})
    assert len(toposort([other])) == 20001


def test_work_of_rewriting_is_linear() -> None:
    def visits(length: int) -> int:
        x = t = floats(3)
        for _ in range(length):
            t = (t + x) * 1.0
        rules, seen = Rules(), []

        @rules.on(*Op)
        def note(n: Node) -> None:
            seen.append(n)

        rewrite([t.node], rules)
        return len(seen)

    assert visits(400) < 2.1 * visits(200)


# -- single rules ---------------------------------------------------------------------------------


def test_neutral_elements_vanish() -> None:
    x = floats(3, 4)
    for same in (
        x + 0.0,
        x * 1.0,
        0.0 + x,
        1.0 * x,
        x.cast(dt.f32),
        x.reshape((12,)).reshape((3, 4)),
    ):
        assert only(same) is x.node
    assert only(x.permute(1, 0).permute(1, 0)) is x.node
    assert only(x.slice(0, 0, 3)) is x.node
    assert only(floats(3, 1).sum(1, keepdim=True)).op is Op.BUFFER
    assert only(Tensor.full((3,), 2.0).equal(2.0).where(floats(3), 0.0)).op is Op.BUFFER


def test_constants_fold_with_the_rounding_of_their_type() -> None:
    third = Tensor(const(1.0 / 3.0, dt.f32))
    folded = scalar(only(third * 3.0 + third))
    assert folded == float(np.float32(np.float32(1.0 / 3.0) * np.float32(3.0)) + np.float32(1 / 3))
    big = Tensor(const(2**31 - 1, dt.i32))
    assert scalar(only(big + 1)) == -(2**31)
    assert scalar(only(Tensor(const(255, dt.u8)) + 1)) == 0
    assert scalar(only(Tensor(const(2.75, dt.f32)).cast(dt.i32))) == 2
    assert scalar(only(Tensor(const(-2.75, dt.f32)).cast(dt.i32))) == -2
    assert scalar(only(Tensor(const(0.1, dt.f32)).cast(dt.f16))) == float(
        np.float16(np.float32(0.1))
    )
    assert scalar(only(Tensor(const(0.1, dt.f32)).cast(dt.bf16))) == 0.10009765625
    assert only(Tensor(const(float("inf"), dt.f32)).cast(dt.i32)).op is Op.CAST
    nan, one = Tensor(const(float("nan"), dt.f32)), Tensor(const(1.0, dt.f32))
    assert scalar(only(nan.maximum(one))) == 1.0  # a > b ? a : b
    assert scalar(only(one < 2.0)) is True


def test_constants_stand_on_the_right() -> None:
    x = floats(3)
    two = Tensor.full((3,), 2.0)
    assert only(two * x) is only(x * two) is only(x * 2.0)


def test_slices_of_repeated_elements_are_smaller_repeats() -> None:
    x = floats(4, 1)
    cut = only(x.expand((4, 9)).slice(1, 3, 5).slice(0, 1, 2))
    assert cut.op is Op.EXPAND and count([cut], Op.SLICE) == 1


def test_scales_leave_the_sum() -> None:
    x, w, s = floats(5, 32), floats(8, 32, seed=1), floats(5, 1, seed=2)
    (root,) = optimise([((x * s) @ w.transpose()).node])
    assert root.op in (Op.MUL, Op.RESHAPE)
    reduce = next(n for n in toposort([root]) if n.op is Op.REDUCE)
    assert s.node not in toposort([reduce])
    inside = (x * floats(1, 32, seed=3)) @ w.transpose()
    assert optimise([inside.node])[0].op in (Op.REDUCE, Op.RESHAPE)  # varies with k: it stays


def test_a_sum_of_products_becomes_two_contractions() -> None:
    x, y, a, b = floats(5, 8), floats(5, 8, seed=1), floats(3, 8, seed=2), floats(3, 8, seed=3)
    wide = (5, 3, 8)
    total = x.reshape((5, 1, 8)).expand(wide) * a.reshape((1, 3, 8)).expand(wide)
    total = total + y.reshape((5, 1, 8)).expand(wide) * b.reshape((1, 3, 8)).expand(wide)
    assert count(optimise([total.sum(2).node]), Op.REDUCE) == 2


def test_products_of_many_factors_are_taken_apart_only_so_far() -> None:
    t = floats(4)
    for _ in range(40):  # 2**40 factors
        t = t * t
    assert len(factors(t.node)) <= 33
    assert len(optimise([t.sum().node])) == 1
    x = t = floats(4)
    for _ in range(5000):
        t = t * x
    assert len(optimise([t.sum().node])) == 1


def test_what_varies_along_an_axis() -> None:
    x = floats(3, 1, 4)
    wide = x.expand((3, 5, 4))
    assert [varies(wide.node, a) for a in range(3)] == [True, False, True]
    assert [varies(wide.permute(1, 2, 0).node, a) for a in range(3)] == [False, True, True]
    split = wide.reshape((3, 5, 2, 2))
    assert [varies(split.node, a) for a in range(4)] == [True, False, True, True]
    assert varies(wide.reshape((15, 4)).node, 0)  # a mixture counts as varying
    assert not varies(Tensor.full((3, 4), 1.0).node, 1)
    n = Sym("n", 1, 9)
    assert not varies(floats(3, 1).expand((3, n)).node, 1)


def test_memory_that_is_written_is_not_shared_with_an_equal_copy() -> None:
    """Two embeddings' gradients both start from zeros of the same shape."""
    index = Tensor.from_numpy(np.array([1, 1, 3], np.int32))
    first, second = floats(5, 4), floats(5, 4, seed=1)
    loss = (first.gather(index) * second.gather(index)).sum()
    grads = gradient(loss, [first, second])
    roots = optimise([g.node for g in grads])
    targets = [r.src[0] for r in roots]
    assert all(t.op is Op.COPY for t in targets) and targets[0] is not targets[1]
    wanted = evaluate([g.node for g in grads])
    for have, want in zip(evaluate(roots), wanted, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6)
    control = [Tensor(t).node.arg for t in targets]
    assert len(set(control)) == 2 and None not in control


# -- all rules on random graphs -------------------------------------------------------------------


STEPS: list[Callable[[Tensor, Tensor, tuple[int, int]], Tensor]] = [
    lambda a, b, shape: a * b * 0.5,
    lambda a, b, shape: a + b,
    lambda a, b, shape: a + 0.0 + a * 1.0 - 2.0,
    lambda a, b, shape: a.maximum(b),
    lambda a, b, shape: (a.transpose() + 1.0).transpose(),
    lambda a, b, shape: a.reshape(shape[::-1]).reshape(shape),
    lambda a, b, shape: a.sum(1, keepdim=True).expand(shape) * 0.3,
    lambda a, b, shape: (a @ b.transpose()).sum(1, keepdim=True).expand(shape) * 0.1,
    lambda a, b, shape: ((a * b) @ b.transpose()) @ b * 0.01,
    lambda a, b, shape: a.pad(0, 1, 1).slice(0, 1, shape[0]) + b,
    lambda a, b, shape: a.slice(1, shape[1] - 1, shape[1], -1).slice(0, 0, shape[0]),
    lambda a, b, shape: a.detach() + b,
]


def random_graph(dice: random.Random) -> Tensor:
    """Return a graph of elementwise operations, movements, sums and products, all below 100."""
    rows, columns = dice.choice([1, 3, 4, 6]), dice.choice([1, 2, 5, 8])
    pool = [floats(rows, columns, seed=dice.randrange(99)) for _ in range(2)]
    pool += [floats(rows, 1, seed=3).expand((rows, columns)), Tensor.full((rows, columns), 0.5)]
    for _ in range(dice.randint(3, 9)):
        step = dice.choice(STEPS)
        pool.append(step(dice.choice(pool), dice.choice(pool), (rows, columns)))
    return pool[-1] + pool[-2] * 0.5


@pytest.mark.parametrize("seed", range(8))
def test_optimised_graphs_mean_the_same(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(25):
        t = random_graph(dice)
        want = evaluate([t.node], precise=True)[0]
        have = evaluate(optimise([t.node]), precise=True)[0]
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-6)


def test_without_scale_hoisting_sums_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, s = floats(5, 32), floats(8, 32, seed=1), floats(5, 1, seed=2)
    product = ((x * s) @ w.transpose()).node
    hoisted = optimise([product])
    monkeypatch.setenv("NOFUSE", "R2")
    plain = optimise([product])
    assert plain != hoisted
    np.testing.assert_allclose(evaluate(plain)[0], evaluate(hoisted)[0], rtol=1e-5, atol=1e-5)
    assert hoisting.by_op.keys() == {Op.REDUCE}
    assert all(op not in simplify.by_op for op in (Op.GATHER, Op.STORE, Op.COPY))
    assert MOVEMENT - set(simplify.by_op) == {Op.PAD}

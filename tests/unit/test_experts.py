"""Mixtures of experts against plain numpy, finite differences, and each row against itself."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BF16, F32, Q4, Q8, Format, pack, unpack
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Spec, capture
from homebox.model.config import Experts
from homebox.model.decoder.activations import Activations, rounded
from homebox.model.decoder.experts import Mixture
from homebox.model.decoder.routing import Routing, Slots, block_of, most_blocks
from tests.unit.engine_checks import check

Array = np.ndarray
Weights = Mapping[str, Array]

QWEN = Experts(8, 2, 16, True)
PLAIN = Experts(5, 3, 32, False)
GPT_OSS = Experts(8, 4, 16, True, True, True, "clamped", limit=1.0)
KINDS = {"normalised": QWEN, "not normalised": PLAIN, "clamped, biases": GPT_OSS}
MATRICES = ("expert_gate", "expert_up", "expert_down")
HIDDEN = 32
ROWS = (1, 3, 8, 14, 40)  # apart, and together in blocks of any size


def weights_of(e: Experts, hidden: int = HIDDEN, seed: int = 0) -> dict[str, Array]:
    """Return random weights by name, float32."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    found = {
        "router": normal(e.count, hidden) * 2,
        "expert_gate": normal(e.count * e.inner, hidden),
        "expert_up": normal(e.count * e.inner, hidden),
        "expert_down": normal(e.count * hidden, e.inner),
    }
    if e.router_bias:
        found["router_bias"] = normal(e.count)
    if e.bias:
        found["expert_gate_bias"] = normal(e.count, e.inner) * 4
        found["expert_up_bias"] = normal(e.count, e.inner) * 4
        found["expert_down_bias"] = normal(e.count, hidden) * 4
    return found


def activated(e: Experts, gate: Array, up: Array) -> Array:
    """Return what goes into the down matrix."""
    if e.activation == "silu":
        return gate / (1 + np.exp(-gate)) * up
    gate, up = np.minimum(gate, e.limit), np.clip(up, -e.limit, e.limit)
    return (up + 1) * gate / (1 + np.exp(-e.alpha * gate))


def choice(e: Experts, logits: Array) -> tuple[Array, Array]:
    """Return the chosen experts and their weights, both (N, k)."""
    chosen = np.argsort(-logits, 1, kind="stable")[:, : e.per_token]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found = np.take_along_axis(powers, chosen, 1)
    return chosen, found / (found if e.normalised else powers).sum(1, keepdims=True)


def mixture(e: Experts, w: Weights, x: Array) -> Array:
    """Return the layer's result for x (N, H), a pair at a time in float64."""
    w = {name: array.astype(np.float64) for name, array in w.items()}
    gate, up, down = (
        w[f"expert_{n}"].reshape(e.count, -1, w[f"expert_{n}"].shape[1])
        for n in ("gate", "up", "down")
    )
    none = np.zeros((e.count, 1))
    gate_bias, up_bias, down_bias = (
        w.get(f"expert_{n}_bias", none) for n in ("gate", "up", "down")
    )
    chosen, weights = choice(e, x @ w["router"].T + w.get("router_bias", 0.0))
    out = np.zeros(x.shape)
    for row, (experts, shares) in enumerate(zip(chosen, weights, strict=True)):
        for i, share in zip(experts, shares, strict=True):
            g, u = gate[i] @ x[row] + gate_bias[i], up[i] @ x[row] + up_bias[i]
            out[row] += share * (down[i] @ activated(e, g, u) + down_bias[i])
    return out


def rows(count: int, hidden: int = HIDDEN, seed: int = 1) -> Array:
    """Return normally distributed hidden states."""
    return np.random.default_rng(seed).standard_normal((count, hidden)).astype(np.float32)


def unrounded(x: Tensor) -> Tensor:
    """Round nothing."""
    return x


def layer(
    e: Experts,
    w: Weights,
    rounding: Callable[[Tensor], Tensor] = unrounded,
    form: Format | None = None,
) -> Mixture:
    """Return the layer, its experts packed if a format is given."""
    tensors = {name: Tensor.from_numpy(array, frozen=True) for name, array in w.items()}
    for name in MATRICES:
        if form is not None:
            memory = Tensor.from_numpy(pack(form, w[name]), frozen=True)
            tensors[name] = Tensor.packed(form, *w[name].shape, memory)
    return Mixture(e, tensors.__getitem__, rounding)


def decoded(w: Weights, form: Format | None) -> Weights:
    """Return the weights as a format holds them."""
    if form is None:
        return w
    return {**w, **{name: unpack(form, pack(form, w[name]), *w[name].shape) for name in MATRICES}}


def run(mixed: Mixture, x: Array) -> Array:
    """Return what the layer makes of x."""
    found: Array = capture(mixed.forward, {"x": Spec(x.shape)}, [])(x=x)[0]
    return found


@pytest.mark.parametrize(
    ("count", "off"), [*((count, "") for count in ROWS), (3, "R1,R2,R3,R4"), (40, "R1,R2,R3,R4")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_numpy(
    kind: str, count: int, off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOFUSE", off)
    e, x = KINDS[kind], rows(count)
    w = weights_of(e)
    np.testing.assert_allclose(run(layer(e, w), x), mixture(e, w, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "count", "form"),
    [
        *((kind, count, None) for kind in KINDS for count in (3, 20)),
        ("not normalised", 2, F32),
        ("clamped, biases", 20, Q8),
    ],
    ids=str,
)
def test_gradients_are_finite_differences(kind: str, count: int, form: Format | None) -> None:
    e, x, g = KINDS[kind], rows(count), rows(count, seed=2)
    w = weights_of(e)
    mixed = layer(e, w, form=form)
    w = decoded(w, form)

    def both(x: Tensor, g: Tensor) -> list[Tensor]:
        y, kept = mixed.forward_kept(x)
        return [y, mixed.backward(kept, g)]

    y, slope = capture(both, {"x": Spec(x.shape), "g": Spec(g.shape)}, [])(x=x, g=g)
    assert np.array_equal(y, run(mixed, x))
    wanted, step = np.zeros(x.shape), 1e-6
    for column in range(HIDDEN):  # rows are independent, so all of them at once
        moved = np.zeros(HIDDEN)
        moved[column] = step
        change = mixture(e, w, x + moved) - mixture(e, w, x - moved)
        wanted[:, column] = (change * g).sum(1) / (2 * step)
    np.testing.assert_allclose(slope, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("activations", "form", "within"),
    [
        ("f32", None, 2e-5),
        ("f32", Q8, 2e-5),
        ("bf16", BF16, 0.05),
        ("int8", Q8, 0.1),
        ("int8", Q4, 0.1),
    ],
    ids=str,
)
def test_a_row_has_the_same_bits_alone_and_in_a_block(
    activations: Activations, form: Format | None, within: float
) -> None:
    e, x = Experts(20, 2, 32, form is None, True, True), rows(40, 64)
    w = weights_of(e, 64)
    mixed = layer(e, w, lambda x: rounded(x, activations), form)
    whole = run(mixed, x)
    for some in (slice(0, 1), slice(7, 8), slice(20, 24), slice(20, 37)):
        assert np.array_equal(run(mixed, x[some]), whole[some])
    np.testing.assert_allclose(whole, mixture(e, decoded(w, form), x), atol=within, rtol=0)


def routed(logits: Array, e: Experts) -> tuple[Array, Array, Array, Array, Array]:
    """Return chosen and weights of rows, and expert, pair and place of the slots."""

    def parts(logits: Tensor) -> list[Tensor]:
        routing = Routing.of(logits, e)
        slots = Slots.of(routing)
        return [routing.chosen, routing.weights, slots.expert, slots.pair, slots.place]

    chosen, weights, expert, pair, place = capture(parts, {"logits": Spec(logits.shape)}, [])(
        logits=logits
    )
    return chosen, weights, expert, pair, place


def require_consistent(e: Experts, found: tuple[Array, ...]) -> None:
    """Check that each pair has one slot, in a block of its expert, in the order of rows."""
    chosen, _, expert, pair, place = found
    count = chosen.size
    assert sorted(pair[pair >= 0]) == list(range(count))
    assert np.array_equal(pair[place.reshape(-1)], np.arange(count))
    block = len(pair) // len(expert)
    assert np.array_equal(expert[place.reshape(-1) // block], chosen.reshape(-1))
    assert all(len(set(each)) == e.per_token for each in chosen)
    assert chosen.min() >= 0 and chosen.max() < e.count
    empty = (pair.reshape(-1, block) < 0).all(1)
    assert np.array_equal(expert < 0, empty)
    if block > 1:
        for i in range(e.count):
            mine = pair.reshape(-1, block)[expert == i]
            listed = mine[mine >= 0]
            assert np.array_equal(listed, np.sort(listed))
            assert len(mine) == -(-len(listed) // block)


@pytest.mark.parametrize(
    ("count", "experts", "each", "block"),
    [
        (1, 4, 1, 1),
        (9, 128, 8, 1),
        (4, 6, 6, 4),
        (17, 7, 3, 8),
        (40, 7, 3, 16),
        (300, 32, 4, 16),
    ],
)
def test_every_pair_has_one_slot_in_a_block_of_its_expert(
    count: int, experts: int, each: int, block: int
) -> None:
    e = Experts(experts, each, 16, True)
    assert block_of(count * each, experts) == block
    logits = rows(count, experts)
    found = routed(logits, e)
    require_consistent(e, found)
    chosen, weights = choice(e, logits.astype(np.float64))
    assert np.array_equal(found[0], chosen)
    np.testing.assert_allclose(found[1], weights, rtol=1e-5)


@pytest.mark.parametrize("count", [4, 50])
def test_equal_logits_choose_lower_experts(count: int) -> None:
    e = Experts(6, 2, 16, True)
    logits = np.zeros((count, 6), np.float32)
    logits[1, 4] = 1.0
    found = routed(logits, e)
    require_consistent(e, found)
    assert found[0].tolist()[:3] == [[0, 1], [4, 0], [0, 1]]
    np.testing.assert_allclose(found[1][0], [0.5, 0.5])


@pytest.mark.parametrize("spread", [False, True])
def test_blocks_suffice_however_rows_are_spread(spread: bool) -> None:
    """All rows with the same experts, or each expert with one row more than fills its blocks."""
    e = Experts(4, 1, 16, True)
    count = 4 * 17 if spread else 80
    logits = np.zeros((count, 4), np.float32)
    logits[np.arange(count), np.arange(count) % 4 if spread else 2] = 1.0
    found = routed(logits, e)
    require_consistent(e, found)
    used = found[2] >= 0
    assert used.sum() == (8 if spread else 5)
    assert len(used) == most_blocks(count, 4, 16) and found[2][used][0] == (0 if spread else 2)


@pytest.mark.parametrize("count", [5, 40])
def test_rows_that_are_not_numbers_stay_alone(count: int) -> None:
    e, x = QWEN, rows(count)
    w = weights_of(e)
    mixed = layer(e, w)
    good = run(mixed, x)
    spoilt = x.copy()
    spoilt[2], spoilt[4, 3] = np.nan, np.inf
    found = run(mixed, spoilt)
    others = [i for i in range(count) if i not in (2, 4)]
    assert np.array_equal(found[others], good[others])
    assert np.isnan(found[2]).all()
    logits = np.full((count, 8), np.nan, np.float32)
    logits[1] = -logits[0]
    logits[3] = -np.inf
    require_consistent(e, routed(logits, e))


@pytest.mark.parametrize("count", [2, 6])
def test_kernels_keep_to_their_memory(count: int) -> None:
    """Choice, places, results and gradients, interpreted, and on other devices where asked."""
    e = Experts(4, 2, 16, False, True, True)
    x, g = (Tensor.from_numpy(rows(count, 16, seed)) for seed in (1, 2))
    mixed = layer(e, weights_of(e, 16), form=F32)
    result, kept = mixed.forward_kept(x)
    slots = kept.slots
    parts = (kept.routing.chosen, slots.expert, slots.pair, slots.place)
    named = (part.contiguous() for part in parts)
    check(*named, result.contiguous(), mixed.backward(kept, g).contiguous(), interpret_too=True)


def test_training_keeps_rounded_products() -> None:
    e, x = QWEN, rows(20)
    mixed = layer(e, weights_of(e), lambda x: x.cast(dt.bf16).cast(dt.f32))

    def both(x: Tensor, g: Tensor) -> list[Tensor]:
        _, kept = mixed.forward_kept(x, lambda t: t.cast(dt.bf16).contiguous())
        assert kept.gate.dtype is dt.bf16
        return [mixed.backward(kept, g), mixed.backward(kept.again("later"), g)]

    found = capture(both, {"x": Spec(x.shape), "g": Spec(x.shape)}, [])(x=x, g=rows(20, seed=2))
    exact = layer(e, weights_of(e))

    def alone(x: Tensor, g: Tensor) -> Tensor:
        return exact.backward(exact.forward_kept(x)[1], g)

    wanted = capture(alone, {"x": Spec(x.shape), "g": Spec(x.shape)}, [])(x=x, g=rows(20, seed=2))
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - wanted[0]).max() < 0.05 * np.abs(wanted[0]).max()

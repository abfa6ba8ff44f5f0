"""Gradients of adapters through frozen weights of every format, against one graph in float64."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph import formats
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.runtime_cpu import pool
from homebox.engine.verify.oracle import evaluate as oracle
from homebox.errors import ConfigError
from homebox.model.config import ModelConfig, same_layers
from homebox.model.lora import init_adapter
from homebox.model.training.batches import OPINION, Teaching
from homebox.model.training.cross_entropy import chunk_rows
from homebox.model.training.packed_rows import Rotary, Rows, hidden_states
from homebox.model.training.pretraining import first_weights, log_probabilities
from homebox.model.training.trainer import Batch, LoraTrainer
from tests.unit.held import held

RANK, ALPHA, ROWS, LENGTH = 4, 8.0, 2, 24
CONFIG = ModelConfig(
    vocab_size=80,
    hidden_size=64,
    intermediate_size=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_positions=64,
    rms_eps=1e-5,
    layers=same_layers(2, 10000.0, 16),
    tied=True,
)
STACKED = {"qkv": ("q", "k", "v")}


class Base:
    """A base with packed matrices; `weights` are the numbers that they stand for."""

    def __init__(
        self, form: str, config: ModelConfig = CONFIG, stacked: bool = False, seed: int = 3
    ) -> None:
        self.config = config
        self.weights: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        first = first_weights(config, seed, 0.3, 0.5)
        for name, value in first.items():
            if value.ndim == 1:
                self.weights[name] = value = value + np.linspace(0, 0.5, value.size, dtype="f4")
                self.tensors[name] = Tensor.from_numpy(value, frozen=True)
        matrices = {n: v for n, v in first.items() if v.ndim == 2}
        if form == "plain":
            self.weights |= matrices
            self.tensors |= {n: Tensor.from_numpy(v, frozen=True) for n, v in matrices.items()}
            return
        if stacked:
            for layer in range(config.num_layers):
                for stack, members in STACKED.items():
                    parts = [matrices.pop(f"layers.{layer}.{m}") for m in members]
                    matrices[f"layers.{layer}.{stack}"] = np.concatenate(parts)
        for name, value in matrices.items():
            self._pack(formats.WEIGHTS[form], name, value)
        for name in first:
            if name not in self.weights:
                self.weights[name] = self._unstacked(name)

    def _pack(self, form: formats.Format, name: str, value: Any) -> None:
        stored = formats.pack(form, value)
        memory = Tensor.from_numpy(stored, frozen=True)
        self.weights[name] = formats.unpack(form, stored, *value.shape)
        self.tensors[name] = Tensor.packed(form, *value.shape, memory)

    def _unstacked(self, name: str) -> Any:
        prefix, kind = name.rsplit(".", 1)
        stack = next(s for s, members in STACKED.items() if kind in members)
        sizes = [self.config.projection_shape(m)[0] for m in STACKED[stack]]
        parts = np.split(self.weights[f"{prefix}.{stack}"], np.cumsum(sizes)[:-1])
        return parts[STACKED[stack].index(kind)]

    def base_tensors(self) -> dict[str, Tensor]:
        return self.tensors


def batch_of(seed: int = 2) -> Batch:
    """Two rows: one document of 20 and padding; two documents of 10 and 14."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    segment = np.array([[1] * 20 + [0] * 4, [1] * 10 + [2] * 14], np.int32)
    position = np.array([[*range(20), 0, 0, 0, 0], [*range(10), *range(14)]], np.int32)
    weight = (rng.random((ROWS, LENGTH)) * (segment > 0) / 40).astype(np.float32)
    return Batch(ids, segment, position, np.roll(ids, -1, axis=1), weight)


def grown_adapter(config: ModelConfig = CONFIG) -> dict[str, Any]:
    """An adapter whose B is not zero, so that every part of the gradient is alive."""
    rng = np.random.default_rng(1)
    return {
        name: rng.normal(0, 0.2, t.shape).astype(np.float32) if name.endswith("B") else t
        for name, t in init_adapter(config, RANK, 1).items()
    }


def trainer_of(base: Base, **options: Any) -> LoraTrainer:
    trainer = LoraTrainer(base, RANK, ALPHA, ROWS, LENGTH, 5, **options)
    trainer.parameters.load(grown_adapter(base.config))
    return trainer


def plain_gradients(weights: Mapping[str, Any], batch: Batch) -> tuple[float, dict[str, Any]]:
    """Return the loss and gradients of the whole step as one graph, in float64."""
    frozen = {n: Tensor.from_numpy(w) for n, w in weights.items()}
    adapter = {n: Tensor.from_numpy(t) for n, t in grown_adapter().items()}
    rotary = Rotary(CONFIG.ropes[0], LENGTH)
    inputs = [Tensor.from_numpy(x) for x in (batch.ids, batch.segment, batch.position)]

    def adapted(name: str, x: Tensor) -> Tensor:
        low = x.linear(adapter[f"{name}.A"]).linear(adapter[f"{name}.B"])
        return x.linear(frozen[name]) + low * (ALPHA / RANK)

    hidden = hidden_states(CONFIG, frozen.__getitem__, adapted, rotary, Rows(*inputs))
    student = hidden.linear(frozen["embed"])
    target = Tensor.from_numpy(batch.target.reshape(-1))
    total, hit = log_probabilities(student, target)
    loss = ((total - hit) * Tensor.from_numpy(batch.weight.reshape((ROWS * LENGTH, 1)))).sum()
    if batch.teaching is not None:
        loss = loss + distillation(student - total, batch.teaching)
    grads = gradient(loss, list(adapter.values()))
    value, *found = oracle([loss.node, *(g.node for g in grads)], precise=True)
    return float(value), dict(zip(adapter, found, strict=True))


def distillation(log_q: Tensor, teaching: Teaching) -> Tensor:
    """The weighted divergence from a teacher's top and tail, for a student's (N, V)."""
    flat = [getattr(teaching, name).reshape((ROWS * LENGTH, -1)) for name in OPINION]
    ids, p, share, anchor = (Tensor.from_numpy(x) for x in flat)
    rows, vocabulary = ROWS * LENGTH, CONFIG.vocab_size
    at = Tensor.iota(rows).reshape((rows, 1)) * vocabulary + ids.maximum(0)
    top = log_q.reshape((rows * vocabulary,)).gather(at)
    named = (ids >= 0).where(top.exp(), 0.0)
    left, rest = (x.sum(-1, keepdim=True) * -1.0 + 1.0 for x in (p, named))
    top = (p > 0.0).where(p * (p.maximum(1e-30).log() - top), 0.0)
    apart = top.sum(-1, keepdim=True) + left * (left.log() - rest.log())
    return (apart * (share + anchor)).sum()


def assert_close(have: Mapping[str, Any], want: Mapping[str, Any], tolerance: float) -> None:
    assert set(have) == set(want)
    for name, value in want.items():
        error = np.linalg.norm(have[name] - value) / np.linalg.norm(value)
        assert error < tolerance, (name, error)


@pytest.mark.parametrize("form", ["f32", "bf16", "q8", "q4"])
def test_gradients_through_packed_weights_are_those_of_one_plain_graph(form: str) -> None:
    base = Base(form, stacked=form == "q8")
    batch = held(batch_of(), base)
    trainer = trainer_of(base, taught=True)
    loss, kl = trainer.accumulate(batch)
    wanted, grads = plain_gradients(base.weights, batch)
    assert np.isclose(loss, wanted, rtol=1e-5) and kl > 0
    assert_close(trainer.parameters.gradient(), grads, 2e-5)


def test_a_program_from_the_disk_takes_the_weights_that_it_is_given() -> None:
    batch = batch_of()
    first = trainer_of(Base("bf16"))
    other = Base("bf16", seed=4)
    second = trainer_of(other)
    second.accumulate(batch)
    wanted, grads = plain_gradients(other.weights, batch)
    assert_close(second.parameters.gradient(), grads, 2e-5)
    assert not np.isclose(first.accumulate(batch)[0], wanted, rtol=1e-3)


@pytest.mark.parametrize("form", ["bf16", "q4"])
def test_rounded_activations_change_gradients_a_little(form: str) -> None:
    base, batch = Base(form), batch_of()
    trainer = trainer_of(base, numerics="bf16")
    loss, kl = trainer.accumulate(batch)
    wanted, grads = plain_gradients(base.weights, batch)
    assert np.isclose(loss, wanted, rtol=2e-3) and kl == 0
    assert_close(trainer.parameters.gradient(), grads, 6e-2)
    with pytest.raises(AssertionError):  # the control: rounding is there
        assert_close(trainer.parameters.gradient(), grads, 1e-4)


@pytest.mark.parametrize("numerics", ["f32", "bf16"])
def test_what_is_kept_changes_memory_and_no_bit(numerics: str) -> None:
    # With two layers the logits take as much as what is kept.
    config = replace(CONFIG, layers=CONFIG.layers[:1] * 3)
    base, batch = Base("f32", config), batch_of()
    found, sizes = [], []
    for policy in ("none", "matmul", "layer"):
        trainer = trainer_of(base, numerics=numerics, checkpoint=policy)
        loss = trainer.accumulate(batch)
        gradients = b"".join(g.tobytes() for g in trainer.parameters.gradient().values())
        found.append((loss, gradients))
        sizes.append(trainer.program.arena.nbytes)
    assert found[0] == found[1] == found[2]
    assert sizes[0] >= sizes[1] > sizes[2]


def test_a_layer_more_costs_what_it_keeps() -> None:
    """Growth of the temporaries with the number of layers, in bytes a place."""

    def growth(policy: str) -> float:
        sizes = []
        for layers in (2, 3):
            config = replace(CONFIG, layers=CONFIG.layers[:1] * layers)
            trainer = LoraTrainer(
                Base("plain", config),
                RANK,
                ALPHA,
                ROWS,
                LENGTH,
                5,
                checkpoint=policy,
            )
            sizes.append(trainer.program.arena.nbytes)
        return (sizes[1] - sizes[0]) / (ROWS * LENGTH)

    low = 4 * RANK * (3 + 1 + 2 + 1)  # A x of all projections
    panels = 600  # of the adapter's own matrices, which do not grow with the batch
    assert growth("layer") <= 4 * 64 + panels
    assert growth("matmul") <= 4 * (64 + 128 + 64 + 64 + 2 * 128) + low + panels
    assert growth("none") > growth("matmul") + 4 * 24  # at least the probabilities


def test_logits_in_chunks_are_the_same_loss() -> None:
    base, batch = Base("f32"), batch_of()
    whole, parts = trainer_of(base), trainer_of(base, logits_bytes=16 * 80 * 4)
    one, other = whole.accumulate(batch), parts.accumulate(batch)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert_close(parts.parameters.gradient(), whole.parameters.gradient(), 1e-5)
    np.testing.assert_allclose(parts.evaluate(batch), other, rtol=1e-6)


@pytest.mark.parametrize(
    ("count", "vocabulary", "rows"),
    [(512, 151936, 48), (512, 49152, 128), (1024, 49152, 160), (48, 80, 48), (5, 80, 5)],
)
def test_a_chunk_fills_the_buffer_evenly(count: int, vocabulary: int, rows: int) -> None:
    assert chunk_rows(count, vocabulary) == rows
    assert chunk_rows(count, vocabulary) * vocabulary * 4 <= 32 << 20


def test_threads_do_not_change_a_bit() -> None:
    base, batch = Base("q8"), batch_of()
    found = []
    try:
        for threads in (1, 2, 3):
            pool(threads)
            trainer = trainer_of(base)
            results = [trainer.step(batch, 1e-2) for _ in range(2)]
            found.append((results, b"".join(t.tobytes() for t in trainer.adapter().values())))
    finally:
        pool(1)
    assert found[0] == found[1] == found[2]


def test_micro_batches_add_up() -> None:
    base = Base("f32")
    trainer, other = trainer_of(base), trainer_of(base)
    first = [trainer.accumulate(batch_of(seed))[0] for seed in (2, 3)]
    both = trainer.parameters.gradient()
    parts = []
    for seed in (2, 3):
        other.accumulate(batch_of(seed))
        parts.append(other.parameters.gradient())
        other.update(0.0)
        other.parameters.load(grown_adapter())
    assert first[0] != first[1]
    assert_close(both, {name: parts[0][name] + parts[1][name] for name in both}, 1e-5)


def test_unknown_names_are_refused() -> None:
    base = Base("f32")
    with pytest.raises(ConfigError, match="f64"):
        trainer_of(base, numerics="f64")
    with pytest.raises(ConfigError, match="some"):
        trainer_of(base, checkpoint="some")

"""Training against the numpy decoder: the loss, its parts, and the direction of the first step."""

from typing import Any

import numpy as np

from homebox.engine.graph.grad import gradient
from homebox.engine.runtime.capture import capture
from homebox.model.config import ModelConfig, same_layers
from homebox.model.lora import init_adapter
from homebox.model.training.distillation import TOP
from homebox.model.training.pretraining import Optimisation, Pretrainer, first_weights
from homebox.model.training.trainer import Batch, LoraTrainer, StepResult
from tests.unit.held import held
from tests.unit.reference_llama import ReferenceLlama

CONFIG = ModelConfig(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    rms_eps=1e-5,
    layers=same_layers(2, 10000.0, 8),
    tied=True,
)
ROWS, LENGTH = 2, 24
NUMBERS = Optimisation(0.3, 0.5, 0.95, 5, 0.01, (0.9, 0.95), 1e-8, 0.0, 1.0)


class Base:
    """As much of a model as a trainer needs."""

    def __init__(self) -> None:
        from homebox.engine.graph.tensor import Tensor

        self.config = CONFIG
        self.weights = first_weights(CONFIG, 3, NUMBERS.embedding, NUMBERS.residual)
        self.tensors = {n: Tensor.from_numpy(w, frozen=True) for n, w in self.weights.items()}

    def base_tensors(self) -> dict[str, Any]:
        return self.tensors


def batch_of(seed: int) -> Batch:
    """Two rows: one document of 20 and padding; two documents of 10 and 14."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    segment = np.array([[1] * 20 + [0] * 4, [1] * 10 + [2] * 14], np.int32)
    position = np.array([[*range(20), 0, 0, 0, 0], [*range(10), *range(14)]], np.int32)
    target = np.roll(ids, -1, axis=1)
    weight = (rng.random((ROWS, LENGTH)) * (segment > 0) / 40).astype(np.float32)
    return Batch(ids, segment, position, target, weight)


def documents(batch: Batch) -> list[tuple[int, slice]]:
    return [(0, slice(0, 20)), (1, slice(0, 10)), (1, slice(10, 24))]


def log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def reference_loss(weights: Any, adapter: Any, scale: float, batch: Batch) -> tuple[float, float]:
    """Cross-entropy plus KL to the base's top and tail, and that alone, in float64."""
    student = ReferenceLlama(CONFIG, weights, LENGTH)
    student.set_adapter(1, adapter, scale)
    cross = kl = 0.0
    for row, where in documents(batch):
        ids = batch.ids[row, where]
        q = log_softmax(student.all_logits(ids, 1).astype(np.float64))
        hit = q[np.arange(len(ids)), batch.target[row, where]]
        cross -= float((hit * batch.weight[row, where]).sum())
        if batch.teaching is not None:
            p = np.exp(log_softmax(student.all_logits(ids, 0).astype(np.float64)))
            anchor = batch.teaching.anchor[row, where]
            kl += float((top_and_tail(p, np.exp(q), TOP) * anchor).sum())
    return cross + kl, kl


def top_and_tail(p: Any, q: Any, top: int) -> Any:
    """KL(p || q) of each row, where all but the `top` most probable ids of p are one."""
    order = np.argsort(-p, axis=1, kind="stable")
    p, q = np.take_along_axis(p, order, 1), np.take_along_axis(q, order, 1)
    p, q = (np.concatenate([x[:, :top], x[:, top:].sum(1, keepdims=True)], 1) for x in (p, q))
    return (p * np.log(p / q)).sum(1)


def grown_adapter(seed: int) -> dict[str, Any]:
    """An adapter whose B is not zero, so that every part of the gradient is alive."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.2, t.shape).astype(np.float32) if name.endswith("B") else t
        for name, t in init_adapter(CONFIG, 4, seed).items()
    }


def trainer_with(adapter: dict[str, Any], base: Base) -> LoraTrainer:
    trainer = LoraTrainer(base, 4, 8.0, ROWS, LENGTH, 5, taught=True)  # type: ignore[arg-type]
    trainer.parameters.load(adapter)
    return trainer


def test_a_step_reports_the_loss_of_the_numpy_decoder() -> None:
    base, adapter = Base(), grown_adapter(1)
    batch = held(batch_of(2), base)
    result = trainer_with(adapter, base).step(batch, 1e-3)
    loss, kl = reference_loss(base.weights, adapter, 2.0, batch)
    assert np.isclose(result.loss, loss, rtol=1e-4)
    assert np.isclose(result.kl, kl, rtol=1e-3)


def test_kl_is_zero_where_the_adapter_does_nothing() -> None:
    base = Base()
    trainer = trainer_with(init_adapter(CONFIG, 4, 1), base)
    batch = held(batch_of(2), base)
    result = trainer.step(batch, 1e-3)
    assert abs(result.kl) < 1e-5
    assert trainer.step(batch, 1e-3).kl > 1e-7  # the control: after a step it does something


def test_the_first_step_goes_down_along_finite_differences() -> None:
    """AdamW's first step is rate * sign of the (clipped) gradient, up to eps."""
    base, adapter = Base(), grown_adapter(1)
    batch = held(batch_of(2), base)
    trainer = trainer_with(adapter, base)
    trainer.step(batch, 1e-3)
    after = trainer.adapter()
    rng = np.random.default_rng(0)
    checked = 0
    for name, tensor in adapter.items():
        for place in rng.integers(0, tensor.size, 2):
            step = 0.02
            losses = []
            for sign in (1.0, -1.0):
                moved = tensor.copy()
                moved.reshape(-1)[place] += sign * step
                losses.append(reference_loss(base.weights, {**adapter, name: moved}, 2.0, batch)[0])
            slope = (losses[0] - losses[1]) / (2 * step)
            if abs(slope) < 3e-4:
                continue
            change = after[name].reshape(-1)[place] - tensor.reshape(-1)[place]
            assert np.isclose(change, -1e-3 * np.sign(slope), rtol=2e-2), (name, place, slope)
            checked += 1
    assert checked >= 20


def test_the_same_batches_give_the_same_bits() -> None:
    def trained() -> tuple[StepResult, bytes]:
        trainer = trainer_with(grown_adapter(1), Base())
        result = [trainer.step(batch_of(i), 1e-2) for i in range(4)][-1]
        return result, b"".join(t.tobytes() for t in trainer.adapter().values())

    assert trained() == trained()


def test_padding_and_other_documents_do_not_matter() -> None:
    """Changing what stands in the padding changes nothing; changing a document does."""
    base, adapter, batch = Base(), grown_adapter(1), batch_of(2)
    first = trainer_with(adapter, base).step(batch, 1e-3)
    noisy = batch.ids.copy()
    noisy[0, 20:] = 7
    padded = Batch(noisy, batch.segment, batch.position, batch.target, batch.weight)
    assert trainer_with(adapter, base).step(padded, 1e-3) == first
    noisy[0, 3] = (noisy[0, 3] + 1) % CONFIG.vocab_size
    assert trainer_with(adapter, base).step(padded, 1e-3) != first


def test_pretraining_learns_a_batch_by_heart() -> None:
    trainer = Pretrainer(CONFIG, ROWS, LENGTH, 16, 0, NUMBERS)
    batch = batch_of(4)
    places = np.flatnonzero(batch.segment.reshape(-1))[:16].astype(np.int32)
    arrays = {
        "ids": batch.ids,
        "segment": batch.segment,
        "position": batch.position,
        "place": places,
        "target": batch.target.reshape(-1)[places],
        "weight": np.full(16, 1 / 16, np.float32),
    }
    losses = [trainer.step(arrays, 1e-2, 0.05) for _ in range(30)]
    start = first_weights(CONFIG, 0, NUMBERS.embedding, NUMBERS.residual)
    reference = ReferenceLlama(CONFIG, start, LENGTH)
    expected = 0.0
    for row, where in documents(batch):
        scores = log_softmax(reference.all_logits(batch.ids[row, where]).astype(np.float64))
        first = row * LENGTH + where.start
        for offset, place in enumerate(range(first, row * LENGTH + where.stop)):
            if place in places:
                expected -= scores[offset, batch.target.reshape(-1)[place]] / 16
    assert np.isclose(losses[0], expected, rtol=1e-4)
    assert losses[-1] < 0.2 * losses[0]


def test_a_gradient_flows_through_memory_that_is_shared() -> None:
    from homebox.engine.graph.tensor import Tensor

    stack = Tensor.from_numpy(np.arange(32, dtype=np.float32).reshape(2, 16))
    parts = [stack.part(i) for i in range(2)]
    loss = (parts[0] * parts[1]).sum()
    program = capture(lambda: gradient(loss, parts))
    first, second = program()
    assert first.tolist() == list(range(16, 32))
    assert second.tolist() == list(range(16))

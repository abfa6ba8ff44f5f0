"""Distillation from a teacher's top and tail: values, gradients, and what stays as it was."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Spec, capture
from homebox.model.training.batches import OPINION, Batch, Teaching
from homebox.model.training.cross_entropy import Chunk, Shares
from homebox.model.training.distillation import TOP, Taught
from tests.unit.test_lora_gradients import CONFIG, LENGTH, ROWS, Base, assert_close, trainer_of
from tests.unit.test_lora_gradients import batch_of as plain_batch
from tests.unit.torch_losses import FILE

Array = np.ndarray[Any, np.dtype[Any]]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def opinion(rng: np.random.Generator, rows: int, vocabulary: int, sharp: float) -> Teaching:
    """The top of a random teacher; shapes (rows, TOP), share (rows,)."""
    p = softmax(rng.normal(0, sharp, (rows, vocabulary)))
    ids = np.argsort(-p, axis=1, kind="stable")[:, :TOP].astype(np.int32)
    top = np.take_along_axis(p, ids, 1).astype(np.float32)
    share, anchor = (rng.random(rows).astype(np.float32) for _ in range(2))
    return Teaching(ids, top, share, anchor)


def distilled(logits: Array, teaching: Teaching) -> float:
    """The formula in float64, whatever the student's tail."""
    total = 0.0
    shares = teaching.share + teaching.anchor
    for row, ids, p, share in zip(logits, teaching.ids, teaching.probabilities, shares):
        q = softmax(row.astype(np.float64))
        p = p.astype(np.float64)
        inside = ids >= 0
        left = max(0.0, 1.0 - p.sum())
        rest = np.delete(q, ids[inside]).sum()
        loss = (p[inside] * (np.log(p[inside]) - np.log(q[ids[inside]]))).sum()
        if left > 0:
            loss += left * (np.log(left) - np.log(rest))
        total += float(share) * loss
    return total


def chunk_of(logits: Array, teaching: Teaching) -> tuple[float, Array]:
    """Return the engine's loss and gradient of logits; the target weighs nothing."""
    rows = len(logits)
    zero, target = Tensor.from_numpy(np.zeros(rows, "f4")), Tensor.from_numpy(np.zeros(rows, "i4"))
    fields = (getattr(teaching, name) for name in OPINION)
    shares = Shares(target, zero, Taught(*map(Tensor.from_numpy, fields)))

    def both(student: Tensor) -> list[Tensor]:
        chunk = Chunk(student.contiguous(), shares)
        return [chunk.loss(), chunk.d_logits()]

    loss, gradient = capture(both, {"student": Spec(logits.shape)})(student=logits)
    return float(loss), gradient


@pytest.mark.parametrize(("vocabulary", "sharp"), [(60, 1.0), (500, 4.0), (33, 9.0)])
def test_loss_and_gradient_are_those_of_the_formula(vocabulary: int, sharp: float) -> None:
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(0, 2, (6, vocabulary)).astype(np.float32)
    teaching = opinion(rng, 6, vocabulary, sharp)
    loss, gradient = chunk_of(logits, teaching)
    assert np.isclose(loss, distilled(logits, teaching), rtol=2e-5)
    step = 1e-5
    for row in range(6):
        for j in {0, 1, int(teaching.ids[row, 0]), int(teaching.ids[row, -1]), vocabulary - 1}:
            around = []
            for sign in (1, -1):
                moved = logits.astype(np.float64)
                moved[row, j] += sign * step
                around.append(distilled(moved, teaching))
            assert np.isclose(gradient[row, j], (around[0] - around[1]) / (2 * step), atol=3e-5)
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-5)


def test_a_student_that_agrees_learns_nothing() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (4, 90)).astype(np.float32)
    p = softmax(logits.astype(np.float64))
    ids = np.argsort(-p, axis=1)[:, :TOP].astype(np.int32)
    top = np.take_along_axis(p, ids, 1).astype(np.float32)
    loss, gradient = chunk_of(logits, Teaching(ids, top, *np.ones((2, 4), np.float32)))
    assert abs(loss) < 1e-5 and np.abs(gradient).max() < 1e-6


def test_a_student_that_is_sure_of_its_top_has_a_tail_all_the_same() -> None:
    """1 - sum q_k is 0 here in float32; the sum of the tail is not."""
    rng = np.random.default_rng(2)
    logits = np.full((2, 64), -40.0, np.float32)
    teaching = opinion(rng, 2, 64, 1.0)
    for row in range(2):
        logits[row, teaching.ids[row]] = 0.0
    loss, gradient = chunk_of(logits, teaching)
    assert np.isclose(loss, distilled(logits, teaching), rtol=1e-4)
    outside = np.ones((2, 64), bool)
    for row in range(2):
        outside[row, teaching.ids[row]] = False
    left = np.maximum(0, 1 - teaching.probabilities.sum(-1)) * (teaching.share + teaching.anchor)
    np.testing.assert_allclose((gradient * outside).sum(-1), -left, rtol=1e-4)


def test_fewer_ids_than_there_are_places_for() -> None:
    logits = np.zeros((1, 8), np.float32)
    ids = np.full((1, TOP), -1, np.int32)
    p = np.zeros((1, TOP), np.float32)
    ids[0, :2], p[0, :2] = (3, 5), (0.75, 0.25)  # nothing is left for a tail
    loss, gradient = chunk_of(logits, Teaching(ids, p, *np.full((2, 1), 0.5, np.float32)))
    wanted = np.full(8, 1 / 8)
    wanted[[3, 5]] -= (0.75, 0.25)
    np.testing.assert_allclose(gradient[0], wanted, atol=1e-6)
    assert np.isclose(loss, 0.75 * np.log(6) + 0.25 * np.log(2), rtol=1e-5)


def test_loss_and_gradient_are_those_of_pytorch() -> None:
    said = json.loads(FILE.read_text())["distillation"]
    ids, top, share = (np.array(said[name]) for name in ("ids", "top", "share"))
    anchor = np.zeros_like(share)
    teaching = Teaching(ids.astype("i4"), *(x.astype("f4") for x in (top, share, anchor)))
    loss, gradient = chunk_of(np.array(said["student"], np.float32), teaching)
    assert loss == pytest.approx(said["loss"], rel=2e-6)
    np.testing.assert_allclose(gradient, said["gradient"], atol=2e-7, rtol=2e-5)


def taught(batch: Batch, seed: int = 4) -> Batch:
    rng = np.random.default_rng(seed)
    flat = opinion(rng, ROWS * LENGTH, CONFIG.vocab_size, 2.0)
    shape = (ROWS, LENGTH)
    share, anchor = (
        (x.reshape(shape) * (batch.weight > 0) / 80).astype(np.float32)
        for x in (flat.share, flat.anchor)
    )
    ids, p = (x.reshape((*shape, TOP)) for x in (flat.ids, flat.probabilities))
    return replace(batch, teaching=Teaching(ids, p, share, anchor))


def test_a_batch_without_teaching_learns_what_it_did_to_the_bit() -> None:
    base, batch = Base("f32"), plain_batch()
    plain, other = trainer_of(base), trainer_of(base, taught=True)
    assert other.accumulate(batch) == plain.accumulate(batch)
    for name, value in plain.parameters.gradient().items():
        assert np.array_equal(other.parameters.gradient()[name], value), name
    plain.accumulate(taught(batch))  # the control: what has no input for it ignores it
    before = other.losses()[0]
    assert other.accumulate(taught(batch))[0] > before


def test_gradients_of_the_adapter_are_finite_differences_of_the_loss() -> None:
    base = Base("f32")
    batch = taught(plain_batch())
    parts = trainer_of(base, taught=True, logits_bytes=16 * 80 * 4)
    whole = trainer_of(base, taught=True)
    parts.accumulate(batch), whole.accumulate(batch)
    found = whole.parameters.gradient()
    assert_close(parts.parameters.gradient(), found, 1e-5)
    adapter = whole.adapter()
    rng = np.random.default_rng(7)
    direction = {n: rng.normal(0, 1, t.shape).astype(np.float32) for n, t in adapter.items()}
    step, around = 1e-3, []
    for sign in (1, -1):
        moved = {n: t + sign * step * direction[n] for n, t in adapter.items()}
        whole.parameters.load(moved)
        around.append(whole.evaluate(batch)[0])
    slope = sum(float((found[n] * direction[n]).sum()) for n in found)
    assert np.isclose((around[0] - around[1]) / (2 * step), slope, rtol=2e-2)


def test_training_follows_the_teacher() -> None:
    batch = plain_batch()
    only = replace(taught(batch), weight=np.zeros_like(batch.weight))
    trainer = trainer_of(Base("f32"), taught=True)
    losses = [trainer.step(only, 1e-2).loss for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]

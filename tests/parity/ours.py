"""What homebox says about a model of the cases: logits, greedy ids, the gradient of an adapter."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from homebox.model import GenerationRequest, SamplingParams, load
from homebox.model.lora import adapter_shapes
from homebox.model.model import Model
from homebox.model.training.trainer import Batch, LoraTrainer
from tests.parity.cases import ALPHA, CHUNK, CONTEXT, NEW, PROMPTS, RANK, Case
from tests.parity.weights import adapter_values, tokens

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


def opened(path: Path, weights: str = "f32", activations: str = "f32") -> Model:
    """Load a model for three sequences that do not stop, with prompts taken in by small chunks."""
    model = load(
        path, context=CONTEXT, slots=3, adapters=2, weights=weights, activations=activations
    )
    model.transformer.prefill_chunk = model.transformer.shared_chunk = CHUNK  # type: ignore[attr-defined]
    model.stop_ids = frozenset()  # of the vocabulary, which the peers do not ask
    return model


def prompts(case: Case) -> list[Int32]:
    """Return the prompts of a batch."""
    return [tokens(case.seed, f"prompt {i}", count) for i, count in enumerate(PROMPTS)]


def greedy(model: Model, starts: list[Int32]) -> list[list[int]]:
    """Return the likeliest ids after several prompts that run together."""
    params = SamplingParams(max_tokens=NEW)
    running = [model.start(GenerationRequest([int(i) for i in start], params)) for start in starts]
    found: list[list[int]] = [[] for _ in running]
    while not all(sequence.finished for sequence in running):
        at = [i for i, sequence in enumerate(running) if not sequence.finished]
        for i, outcome in zip(at, model.step([running[i] for i in at]), strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                found[i] += outcome.token_ids
    return found


def gradient(
    model: Model, seed: int, ids: Int32, targets: Int32
) -> tuple[float, dict[str, Float32]]:
    """Return the mean cross-entropy and its gradient by the names of an adapter's tensors."""
    rows, length = ids.shape
    trainer = LoraTrainer(model, RANK, ALPHA, rows, length, 0)
    shapes = adapter_shapes(model.config, RANK)
    trainer.parameters.load({n: adapter_values(seed, n, shape) for n, shape in shapes.items()})
    loss, _ = trainer.accumulate(
        Batch(
            ids=ids,
            segment=np.ones(ids.shape, np.int32),
            position=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
            target=targets,
            weight=np.full(ids.shape, 1 / ids.size, np.float32),
        )
    )
    return loss, trainer.parameters.gradient()

"""Prints digests of programs' outputs: `python -m tests.unit.engine_bits THREADS`.

What it prints must not depend on the number of threads or on the level of the CPU.
"""

import hashlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import evaluate
from homebox.engine.runtime.runtime_cpu import pool
from homebox.model.architectures.config_file import parse_config
from homebox.model.decoder.transformer import Transformer
from homebox.model.training.pretraining import Optimisation, Pretrainer
from homebox.model.training.trainer import Batch, LoraTrainer
from tests.unit.engine_checks import random, tensor
from tests.unit.model_files import CONFIG, ArrayWeights, random_weights

ONE_LAYER = parse_config({**CONFIG, "num_hidden_layers": 1})
ROWS, LENGTH, TARGETS = 2, 24, 11


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Return the sha256 of arrays; NaNs count as one."""
    total = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), np.float32("nan"), array)
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def kernels() -> list[np.ndarray]:
    """Return outputs of kernels that are long enough for several threads."""
    x, w = tensor(random(300, 70)), tensor(random(90, 70, seed=1))
    long, tall = tensor(random(3, 3000, seed=2)), tensor(random(3000, 33, seed=3))
    table = tensor(random(50, 70, seed=4))
    index = tensor(np.random.default_rng(5).integers(-2, 52, 300).astype(np.int32))
    special = random(4096, seed=6, spread=40.0)
    special[:6] = [np.inf, -np.inf, np.nan, 1e-42, -1e-42, 0.0]
    s = tensor(special)
    outputs = [
        x.softmax().linear(w).silu(),
        x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt(),
        x.sum(0),
        x.sum(),
        (x @ x.transpose()).max(1),
        long @ tall,
        (long * long).sum(),
        table.store(x, index, add=True),
        s.exp2(),
        s.log2(),
        s.sin(),
        (s * 1e-41).cast(dt.bf16),
        s.cast(dt.f16),
        x.prod(0),
        *gradient((x.linear(w).softmax() * x.linear(w)).sum(), [x, w]),
    ]
    return evaluate(outputs)


def rows() -> dict[str, Any]:
    """Return the inputs of packed rows."""
    generator = np.random.default_rng(8)
    shape = (ROWS, LENGTH)
    return {
        "ids": generator.integers(0, 400, shape).astype(np.int32),
        "segment": np.sort(generator.integers(0, 3, shape), 1).astype(np.int32),
        "position": np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
    }


class Base:
    """Stands for a loaded model: what the trainer of adapters asks of one."""

    config = ONE_LAYER

    def base_tensors(self) -> dict[str, Tensor]:
        weights = random_weights(ONE_LAYER)
        return {name: Tensor.from_numpy(value, frozen=True) for name, value in weights.items()}


def lora_steps() -> list[np.ndarray]:
    """Return an adapter after two steps."""
    trainer = LoraTrainer(Base(), 4, 8.0, ROWS, LENGTH, 1)  # type: ignore[arg-type]
    share = np.full((ROWS, LENGTH), 1.0 / (ROWS * LENGTH), np.float32)
    for seed in range(2):
        target = np.random.default_rng(seed).integers(0, 400, (ROWS, LENGTH)).astype(np.int32)
        trainer.step(Batch(**rows(), target=target, weight=share), 1e-2)
    return list(trainer.adapter().values())


def pretraining_steps() -> list[np.ndarray]:
    """Return all weights after two steps."""
    numbers = Optimisation(0.02, 0.3, 0.95, 5, 0.01, (0.9, 0.95), 1e-8, 0.0, 1.0)
    trainer = Pretrainer(ONE_LAYER, ROWS, LENGTH, TARGETS, 1, numbers)
    for seed in range(2):
        generator = np.random.default_rng(seed)
        learned = {
            "place": generator.permutation(ROWS * LENGTH)[:TARGETS].astype(np.int32),
            "target": generator.integers(0, 400, TARGETS).astype(np.int32),
            "weight": np.full(TARGETS, 1.0 / TARGETS, np.float32),
        }
        trainer.step({**rows(), **learned}, 3e-3, 0.02)
    return list(trainer.weights().values())


def decoding() -> list[np.ndarray]:
    """Return logits of a chunk and of the steps after it."""
    weights = ArrayWeights(ONE_LAYER, random_weights(ONE_LAYER))
    model = Transformer(ONE_LAYER, weights, 64, slots=1, adapters=2, rank=4)
    ids = np.random.default_rng(3).integers(0, 400, 30).astype(np.int32)
    return [model.forward(0, a, ids[a:b], 0) for a, b in ((0, 27), (27, 28), (28, 30))]


def main(threads: int) -> None:
    """Print one digest a line: kernels with several numbers of threads, the rest with one."""
    for count in (1, 2, 3, 4, 7):
        pool(count)
        print("kernels", digest(kernels()))
    pool(threads)
    for part in (lora_steps, pretraining_steps, decoding):
        print(part.__name__, digest(part()))


if __name__ == "__main__":
    main(int(sys.argv[1]))

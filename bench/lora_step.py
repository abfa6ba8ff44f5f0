"""One LoRA step on a model directory: `python -m bench.lora_step DIR [options]`, one JSON line.

Every linear layer has an adapter, every token is learned from, as in the peers' measurements.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homebox.engine.graph import formats
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.runtime_cpu import pool
from homebox.model.config import ModelConfig
from homebox.model.training.trainer import Batch, LoraTrainer
from homebox.model.weights.packed_weights import PackedWeights, pack_model


@dataclass
class PackedBase:
    """What a trainer asks of a model, from packed weights alone."""

    weights: PackedWeights

    @property
    def config(self) -> ModelConfig:
        return self.weights.config

    def base_tensors(self) -> dict[str, Tensor]:
        return {name: self.weights.tensor(name) for name in self.weights.segments}


def batch_of(config: ModelConfig, rows: int, length: int) -> Batch:
    """Return random tokens; the next token of each but the last is learned."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size, (rows, length)).astype(np.int32)
    segment = np.ones((rows, length), np.int32)
    position = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    weight = np.full((rows, length), 1 / (rows * (length - 1)), np.float32)
    weight[:, -1] = 0.0
    return Batch(ids, segment, position, np.roll(ids, -1, 1), weight)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--type", default="bf16", choices=sorted(formats.WEIGHTS))
    parser.add_argument("--numerics", default="f32")
    parser.add_argument("--checkpoint", default="matmul")
    parser.add_argument("--shape", default="1x512")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args(arguments)
    rows, length = (int(d) for d in given.shape.split("x"))
    base = PackedBase(pack_model(given.model, formats.WEIGHTS[given.type]))
    began = time.perf_counter()
    trainer = LoraTrainer(
        base,
        given.rank,
        2.0 * given.rank,
        rows,
        length,
        0,
        numerics=given.numerics,
        checkpoint=given.checkpoint,
    )
    ready = time.perf_counter() - began
    batch = batch_of(base.config, rows, length)
    losses, seconds = [], []
    for _ in range(given.steps + 1):
        began = time.perf_counter()
        losses.append(trainer.step(batch, 1e-4).loss)
        seconds.append(time.perf_counter() - began)
    line = {
        "metric": "lora_step",
        "value": round(rows * length / statistics.median(seconds[1:]), 1),
        "unit": "tok/s",
        "shape": given.shape,
        "type": given.type,
        "numerics": given.numerics,
        "checkpoint": given.checkpoint,
        "threads": pool().threads,
        "compile_s": round(ready, 1),
        "temporaries_mb": round(trainer.program.arena.nbytes / 1e6),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "loss_first": round(losses[0], 4),
        "loss_last": round(losses[-1], 4),
    }
    print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

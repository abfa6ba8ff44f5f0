"""One training step of the built-in model against the same step in PyTorch (f32, all cores).

Both start from the same weights and train on the same packed batch with Muon and AdamW; the losses
of the first steps must agree before anything is timed.
"""

from pathlib import Path

import numpy as np

from bench.measure import alternate, report
from bench.torch_step import TorchStep
from homebox.engine.runtime.runtime_cpu import pool
from homebox.job import Training, learnable
from homebox.job_spec import read_spec

FLOOR = 1.0
SPEC = Path(__file__).parents[1] / "configs" / "tiny.toml"


def main(rounds: int = 9) -> bool:
    """Measure the step of configs/tiny.toml."""
    spec = read_spec(SPEC)
    training = Training(spec)
    trainer = training.trainer
    batches = [learnable(training.packer.batch(0.5), spec.batch.targets) for _ in range(3)]
    peer = TorchStep(trainer.config, trainer.weights(), trainer.numbers, pool().threads)
    rates = (spec.adamw.rate, spec.muon.rate)
    for batch in batches:
        ours, theirs = trainer.step(batch, *rates), peer.step(batch, *rates)
        if not np.isclose(ours, theirs, rtol=2e-3):
            raise SystemExit(f"train step: losses differ, homebox {ours}, torch {theirs}")
    batch = batches[0]
    seconds = alternate(
        {"ours": lambda: trainer.step(batch, *rates), "torch": lambda: peer.step(batch, *rates)},
        rounds,
    )
    tokens = float((batch["segment"] > 0).sum())
    return report("train_step", seconds["ours"], seconds["torch"], tokens, "tokens/s", FLOOR)

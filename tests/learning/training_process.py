"""A small training run in a process of its own, which may be told to die: prints the final hash.

    python -m tests.learning.training_process FOLDER [--die-at STEP [--after N]] [--forget]

Lessons with hints, replay and pairs of answers are all in it, and each step is suspended often.
"""

import argparse
import hashlib
import os
import signal
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homebox.engine.graph.device import HOST, Device
from homebox.engine.runtime import backend_cpu
from homebox.engine.runtime.runtime_cpu import pool
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.learning.curriculum import Curriculum
from homebox.learning.examples.example import LESSON, NEGATIVE, REPLAY, Example, Examples, asked
from homebox.learning.report import Progress
from homebox.learning.training import resume, train
from homebox.learning.training.recipes import Recipe
from homebox.model.training.parameters import Parameters
from tests.learning.test_liking import PAIRS, render
from tests.unit.test_lora_gradients import CONFIG, Base

STEPS = 12
RECIPE = Recipe(4, 8.0, 1e-2, STEPS, 4, 48, 0.3, 0.25, 1.0, 3, distil=0.5, prefer=1.0)


class Chat:
    """The chat format of the tests of opinions."""

    render_training = staticmethod(render)


class SmallModel:
    """As much of a model as a training run needs."""

    def __init__(self) -> None:
        self.base, self.config, self.chat = Base("f32"), CONFIG, Chat()
        self.base_hash = "b" * 64
        self.interrupt = StopFlag()

    def reserve(self) -> bool:
        return False

    def forget_copies(self) -> None:
        pass

    def training_devices(self) -> tuple[Device, ...]:
        return (HOST,)

    def tensors_on(self, device: Device) -> dict[str, Any]:
        return self.base.base_tensors()


class Slope:
    """A dev set that gets better for a while."""

    def figure(self, tensors: Any, alpha: float) -> Generator[None, None, float]:
        yield
        size = float(np.abs(tensors["layers.0.q.B"]).sum())
        self.figures = [*getattr(self, "figures", []), size]
        return max(0.1, 1.0 - size)


def examples(*_: Any) -> Examples:
    found = []
    for i in range(12):
        pool = (LESSON, LESSON, NEGATIVE, REPLAY)[i % 4]
        hint = f"the lesson {i}" if pool == LESSON else ""
        messages = asked(f"ask {i} and {i * 3}", f"tell {i * 5} of {i}")
        found.append(Example(tuple(messages), pool, "test", hint, pool != LESSON))
    return Examples(tuple(found))


def hash_of(tensors: Any) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


def trained(
    folder: Path | None, dev: bool = False, recipe: Recipe = RECIPE
) -> Generator[Progress, None, train.Built]:
    """Train; yields at every micro-step. Once training has begun, somebody always waits."""
    model: Any = SmallModel()
    curriculum = Curriculum(pairs=PAIRS)
    judge = Slope() if dev else None
    steps = train.train(model, curriculum, recipe, dev=judge, folder=folder)
    try:
        while True:
            progress = next(steps)
            if progress.stage == "train":
                model.interrupt.set()
            yield progress
    except StopIteration as done:
        built: train.Built = done.value
        return built
    finally:
        steps.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-at", type=int, default=-1, help="steps taken before it dies")
    parser.add_argument("--after", type=int, default=1, help="and micro-steps after those")
    parser.add_argument("--forget", action="store_true", help="go on without AdamW's moments")
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    pool(given.threads)
    backend_cpu.BRIEF = 0.001
    resume.EVERY = 0.0
    train.write_examples = examples  # type: ignore[assignment]
    if given.forget:
        restore = Parameters.restore

        def without(self: Parameters, state: Any) -> None:
            moments = {n: np.zeros_like(state[n]) for n in ("first", "second")}
            restore(self, state | moments)

        Parameters.restore = without  # type: ignore[method-assign]
    steps, first, later = trained(given.folder, dev=given.dev), -1, 0
    while True:
        try:
            progress = next(steps)
        except StopIteration as done:
            print(first, done.value.recipe.stop, hash_of(done.value.tensors))
            return
        if progress.stage != "train":
            continue
        first = progress.done if first < 0 else first
        later += progress.done >= given.die_at >= 0
        if later == given.after:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""A learning run in a process of its own, to be killed, while somebody goes on talking.

    python -m tests.crash.learn_process STATE [--die-at STAGE [--after N]] [--die-writing N]

The model answers by script, and what its trainer gives follows from every batch that it ever saw,
so a run that went on from anywhere but where it was has another hash. It prints a line for each
stage, each turn that was acknowledged, and at last what is served.
"""

import argparse
import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from homebox import learner
from homebox.config import Config
from homebox.learning.exam.paper import Paper, write_paper
from homebox.learning.examples import toy_world
from homebox.learning.gate import trial
from homebox.learning.lessons import finding
from homebox.learning.training import resume, train
from homebox.memory import durable
from homebox.memory.ledger import Ledger
from homebox.memory.state import State, open_state
from homebox.memory.turns import Message
from homebox.model.training.trainer import Batch, StepResult
from tests.learning.fake_model import FakeModel, FakeTrainer, fake_opinions

STEPS = 24
PACE = 0.004  # seconds between micro-steps, so that there is time to die in all of them
SMALL_TALK = "ok"  # too short to be a question that anchors are made of


class Minding(FakeTrainer):
    """Remembers every batch."""

    forgetful = False

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.seen = hashlib.sha256(str(self.seed).encode()).digest()

    def step(self, batch: Batch, rate: float) -> StepResult:
        told = self.seen + batch.ids.tobytes() + np.float64(rate).tobytes()
        self.seen = hashlib.sha256(told).digest()
        return super().step(batch, rate)

    def state(self) -> dict[str, np.ndarray]:
        return {**super().state(), "seen": np.frombuffer(self.seen, np.uint8)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        super().restore(state)
        if not self.forgetful:
            self.seen = state["seen"].tobytes()

    def adapter(self) -> dict[str, np.ndarray]:
        dice = np.random.default_rng(list(self.seen))
        shapes = {"layers.0.q.A": (self.rank, 8), "layers.0.q.B": (8, self.rank)}
        return {name: dice.random(shape, dtype=np.float32) for name, shape in shapes.items()}


def scripted() -> FakeModel:
    """Return a model that knows the answers of every exam, and let training be quick."""
    model = FakeModel()

    def write(*words: Any) -> Paper:
        paper = write_paper(*words)
        model.learn(paper)
        return paper

    trial.write_paper = write  # type: ignore[assignment]
    train.trainer_for = Minding  # type: ignore[assignment]
    train.opinions_of = fake_opinions
    toy_world.REPLAY = toy_world.UNTOLD = 30
    resume.EVERY = 0.0
    return model


def say(line: str) -> None:
    """Print a line in one write, so that it is there whole or not at all."""
    os.write(1, f"{line}\n".encode())


def tell(ledger: Ledger, text: str, conversation: str) -> str:
    """Write a turn; gives its id once it is durable."""
    return ledger.append(
        conversation=conversation,
        model="tiny",
        adapter="base",
        sampling={},
        messages=[Message("user", text, "owner"), Message("assistant", "Good.", "assistant")],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )


@contextlib.contextmanager
def talking(ledger: Ledger) -> Iterator[None]:
    """Let somebody talk for as long as the block lasts, and say which turns were acknowledged."""
    over = threading.Event()

    def talk() -> None:
        while not over.wait(PACE):
            say(f"told {tell(ledger, SMALL_TALK, 'small talk')}")

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def die_writing(number: int) -> None:
    """Let this process die in the middle of writing the file of that number, from 1."""
    write, count = durable._write_new, 0

    def cut(path: Path, data: tuple[bytes | memoryview, ...]) -> None:
        nonlocal count
        count += 1
        if count == number:
            whole = b"".join(data)
            path.write_bytes(whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data)

    durable._write_new = cut


def run(state: State, die_at: str, after: int) -> None:
    """Learn to the end, or die in that micro-step of a stage."""
    settings = replace(Config(), learning=replace(Config().learning, steps=STEPS))
    model: Any = scripted()
    steps = learner.run(model, state.ledger, state.store, state.lineage, settings)
    stage, count = "", 0
    while True:
        try:
            progress = next(steps)
        except StopIteration as over:
            say(f"served {over.value.weights} {over.value.reason}")
            return
        if progress.stage != stage:
            stage, count = progress.stage, 0
            say(f"stage {stage}")
        count += 1
        if stage == die_at and count >= after:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PACE)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("--die-at", default="")
    parser.add_argument("--after", type=int, default=1)
    parser.add_argument("--die-writing", type=int, default=0)
    parser.add_argument("--forget", action="store_true", help="control: go on without what it saw")
    args = parser.parse_args()
    Minding.forgetful = args.forget
    finding.read_wordings()
    with open_state(args.state) as state:
        say("begun")
        die_writing(args.die_writing)
        with talking(state.ledger):
            run(state, args.die_at, args.after)


if __name__ == "__main__":
    main()

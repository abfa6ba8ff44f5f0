"""Training that pauses between two launches learns the same, to the bit."""

import threading

import numpy as np
import pytest

from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime import backend_cpu
from homebox.engine.runtime.capture import Spec, capture
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.training.trainer import LoraTrainer, StepResult
from tests.unit.test_training import LENGTH, ROWS, Base, batch_of


def trainer() -> LoraTrainer:
    return LoraTrainer(Base(), 4, 8.0, ROWS, LENGTH, 1)


def finished(steps: object, between: object) -> tuple[StepResult, int]:
    """Run a step to its end; count its pauses."""
    pauses = 0
    while True:
        try:
            next(steps)  # type: ignore[call-overload]
        except StopIteration as done:
            return done.value, pauses
        pauses += 1
        between()  # type: ignore[operator]


def test_a_step_with_pauses_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, paused = trainer(), trainer()
    weight = Tensor.from_numpy(np.ones((64, 64), np.float32), frozen=True)
    chat = capture(lambda x: x.linear(weight).softmax(), {"x": Spec((8, 64))})
    stop = StopFlag()
    ending = threading.Event()

    def nuisance() -> None:
        while not ending.wait(0.0002):
            stop.set()

    def answer() -> None:
        chat(x=np.ones((8, 64), np.float32))
        stop.clear()

    thread = threading.Thread(target=nuisance)
    thread.start()
    try:
        for seed in range(3):
            want = whole.step(batch_of(seed), 1e-2)
            found, _ = finished(paused.steps(batch_of(seed), 1e-2, stop), answer)
            assert found == want
    finally:
        ending.set()
        thread.join()
    monkeypatch.setattr(backend_cpu, "BRIEF", 0.0)
    stop.set()  # and never cleared: one launch at a time
    want = whole.step(batch_of(3), 1e-2)
    found, count = finished(paused.steps(batch_of(3), 1e-2, stop), lambda: None)
    assert found == want and count == paused.program.launches.count - 1
    stop.clear()
    assert finished(paused.steps(batch_of(4), 1e-2, stop), lambda: None)[1] == 0
    whole.step(batch_of(4), 1e-2)
    for name, value in whole.adapter().items():
        assert paused.adapter()[name].tobytes() == value.tobytes(), name

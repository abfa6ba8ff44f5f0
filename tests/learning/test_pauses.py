"""Learning on a device that is full or lost: it waits, tries again, and says why."""

import dataclasses
import gc
import threading
import weakref
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest

from homebox.config import LearningConfig
from homebox.errors import DeviceError, DeviceLostError, LearningError, OutOfDeviceMemoryError
from homebox.learning import pauses
from homebox.learning.curriculum import Curriculum
from homebox.learning.pauses import patient
from homebox.learning.report import Progress
from homebox.learning.training import train
from homebox.learning.training.packing import Shape
from homebox.memory.state import State
from tests.learning.fake_model import FakeModel, FakeTrainer
from tests.learning.test_learner import OWNER, fakes, learn, state, tell  # noqa: F401

UNMIXED = SimpleNamespace(shape=Shape(1, 8))  # a mixer of which nothing is drawn


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "WAITS", (0.05, 0.05, 0.05))
    monkeypatch.setattr(pauses, "TURN", 0.005)


def failing(times: int, error: Exception) -> Callable[..., Any]:
    """Return what makes trainers, of which the first few fail in their third step."""

    class Failing(FakeTrainer):
        def step(self, batch: Any, rate: float) -> Any:
            if len(FakeTrainer.made) <= times and len(self.rates) == 2:
                raise error
            return super().step(batch, rate)

    return Failing


@pytest.mark.parametrize("kind", [OutOfDeviceMemoryError, DeviceLostError])
def test_learning_waits_and_gives_the_weights_that_it_would_have_given(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    kind: type[DeviceError],
) -> None:
    tell(state, *OWNER)
    model = FakeModel()
    monkeypatch.setattr(train, "trainer_for", failing(2, kind("cl:0 is full")))
    report, seen = learn(state, model, monkeypatch)
    assert report.promoted, report.reason
    assert report.data["pauses"] == ["cl:0 is full"] * 2
    waiting = [progress for progress in seen if progress.stage == "pause"]
    assert len(waiting) > 4 and all("cl:0 is full" in progress.text for progress in waiting)
    assert model.forgotten == 3  # nothing is held while it waits
    assert b"pauses" not in state.store.get(state.lineage.history(model.base_hash)[0].report)
    tensors = FakeTrainer.made[2].adapter()
    assert (
        tensors["layers.0.q.A"].tobytes()
        == FakeTrainer.made[-1].adapter()["layers.0.q.A"].tobytes()
    )


def test_learning_gives_up_and_changes_nothing(
    state: State,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell(state, *OWNER)
    monkeypatch.setattr(train, "trainer_for", failing(99, OutOfDeviceMemoryError("no room")))
    report, _ = learn(state, FakeModel(), monkeypatch)
    assert not report.promoted and report.weights == "base"
    assert "gave up after 4 tries: no room; more learning.parts" in report.reason
    assert report.data["pauses"] == ["no room"] * 4
    assert len(FakeTrainer.made) == 4


def test_other_errors_are_no_pause() -> None:
    def broken() -> Generator[Progress, None, None]:
        yield Progress("train", 0, 1, "")
        raise DeviceError("the driver miscompiles")

    reasons: list[str] = []
    steps = patient(broken, reasons)
    next(steps)
    with pytest.raises(DeviceError, match="miscompiles"):
        next(steps)
    assert reasons == []


def test_a_run_that_waits_can_be_stopped() -> None:
    def full() -> Generator[Progress, None, None]:
        yield Progress("train", 0, 1, "")
        raise OutOfDeviceMemoryError("no room")

    steps = patient(full, [])
    assert [next(steps).stage for _ in range(3)] == ["train", "pause", "pause"]
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


def test_learning_error_is_what_giving_up_raises() -> None:
    def full() -> Generator[Progress, None, None]:
        raise OutOfDeviceMemoryError("no room")
        yield

    with pytest.raises(LearningError, match="4 tries"):
        list(patient(full, []))


def test_a_run_that_is_stopped_while_it_prepares_keeps_no_copy_of_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, go_on = FakeModel(), threading.Event()

    def slow(*given: Any, **more: Any) -> None:
        go_on.wait(10)

    monkeypatch.setattr(train, "trainer_for", slow)
    monkeypatch.setattr(train, "mixed", lambda *given: UNMIXED)
    steps = train.build(model, Curriculum(), train.recipe_of(LearningConfig()))  # type: ignore[arg-type]
    assert next(steps).stage == "prepare"
    (thread,) = (t for t in threading.enumerate() if t.name == "homebox-prepare")
    steps.close()
    assert model.forgotten == 1
    go_on.set()
    thread.join(10)
    assert model.forgotten == 2


def test_answers_get_their_memory_before_training_takes_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, order = FakeModel(), []
    monkeypatch.setattr(model, "reserve", lambda: order.append("answers") or len(order) < 3)
    monkeypatch.setattr(train, "trainer_for", lambda *given, **more: order.append("training"))
    monkeypatch.setattr(train, "mixed", lambda *given: UNMIXED)
    steps = train.build(model, Curriculum(), train.recipe_of(LearningConfig()))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):  # such a trainer cannot train
        list(steps)
    assert order == ["answers"] * 3 + ["training"]


def test_a_trainer_is_gone_when_training_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        def __init__(self, *given: Any, **more: Any) -> None:
            self.program = self.adapter  # refers to the trainer, as programs do
            made.append(weakref.ref(self))

        def adapter(self) -> dict[str, Any]:
            return {}

    made: list[weakref.ref[Trainer]] = []
    monkeypatch.setattr(train, "trainer_for", Trainer)
    monkeypatch.setattr(train, "mixed", lambda *given: UNMIXED)
    recipe = dataclasses.replace(train.recipe_of(LearningConfig()), steps=0)
    gc.disable()
    try:
        list(train.build(FakeModel(), Curriculum(), recipe))  # type: ignore[arg-type]
        assert [each() for each in made] == [None]
    finally:
        gc.enable()

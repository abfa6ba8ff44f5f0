"""Training of adapters on OpenCL devices: gradients, curves, pauses, several devices."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST, Device
from homebox.engine.opencl import launches
from homebox.engine.opencl.backend import OpenClDevice
from homebox.engine.runtime.runtime_cpu import Pool
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.training.data_parallel import ParallelTrainer
from homebox.model.training.replicas import trainer_for
from homebox.model.training.trainer import LoraTrainer, StepResult
from homebox.model.weights.placed_weights import memory_of, moved
from tests.opencl.test_opencl_stages import Replicas
from tests.opencl.test_whole_model import pair as pair
from tests.unit.held import held
from tests.unit.test_data_parallel import rows_of
from tests.unit.test_lora_gradients import (
    ALPHA,
    CONFIG,
    LENGTH,
    RANK,
    ROWS,
    Base,
    assert_close,
    batch_of,
    grown_adapter,
    plain_gradients,
)

STEPS = 12
RATE = 2e-2
STEADY, STEADY_STEPS = 2e-3, 18


class Moved:
    """A base whose weights lie on a device."""

    def __init__(self, base: Base, device: Device) -> None:
        self.config = base.config
        self.tensors = moved(base.tensors, device)

    def base_tensors(self) -> dict[str, Any]:
        return dict(self.tensors)


def trainer_on(device: Device, base: Base, **options: Any) -> LoraTrainer:
    """Return a trainer of an adapter that is not at its start, all of it on a device."""
    placed: Any = base if device is HOST else Moved(base, device)
    trainer = LoraTrainer(placed, RANK, ALPHA, ROWS, LENGTH, 5, device=device, **options)
    trainer.parameters.load(grown_adapter(base.config))
    return trainer


def bits(tensors: dict[str, Any]) -> dict[str, bytes]:
    """Return arrays as bytes."""
    return {name: value.tobytes() for name, value in tensors.items()}


def curve(trainer: LoraTrainer, steps: int = STEPS, rate: float = RATE) -> list[StepResult]:
    """Train on three batches in turns."""
    return [trainer.step(batch_of(2 + i % 3), rate) for i in range(steps)]


# Gradients


def check_gradients(device: Device, form: str) -> None:
    """Compare gradients with one graph in float64, and with the CPU's to the bit."""
    base = Base(form, stacked=form == "q8")
    batch = held(batch_of(), base)
    trainer, other = (trainer_on(each, base, taught=True) for each in (device, HOST))
    assert memory_of(trainer.parameters.gradients).device is device
    loss, kl = trainer.accumulate(batch)
    wanted, grads = plain_gradients(base.weights, batch)
    assert np.isclose(loss, wanted, rtol=1e-5) and kl > 0
    assert_close(trainer.parameters.gradient(), grads, 2e-5)
    assert other.accumulate(batch) == (loss, kl)
    assert bits(other.parameters.gradient()) == bits(trainer.parameters.gradient())


def test_gradients_are_those_of_one_plain_graph(cl_device: OpenClDevice) -> None:
    check_gradients(cl_device, "q8")


@pytest.mark.whole
@pytest.mark.parametrize("form", ["f32", "bf16", "q4", "plain"])
def test_gradients_through_every_format(cl_device: OpenClDevice, form: str) -> None:
    check_gradients(cl_device, form)


@pytest.mark.whole
@pytest.mark.parametrize("form", ["bf16", "q4"])
def test_rounded_activations_change_gradients_a_little(cl_device: OpenClDevice, form: str) -> None:
    base, batch = Base(form), batch_of()
    trainer = trainer_on(cl_device, base, numerics="bf16")
    loss, kl = trainer.accumulate(batch)
    wanted, grads = plain_gradients(base.weights, batch)
    assert np.isclose(loss, wanted, rtol=2e-3) and kl == 0
    assert_close(trainer.parameters.gradient(), grads, 6e-2)
    with pytest.raises(AssertionError):  # the control: rounding is there
        assert_close(trainer.parameters.gradient(), grads, 1e-4)


# Curves


@pytest.mark.whole
@pytest.mark.parametrize("form", ["f32", "q4"])
def test_strict_training_has_the_curve_of_the_cpu_to_the_bit(
    cl_device: OpenClDevice, form: str
) -> None:
    base = Base(form)
    trainer, other = trainer_on(cl_device, base), trainer_on(HOST, base)
    found, wanted = curve(trainer), curve(other)
    assert found == wanted
    assert found[-1].loss < 0.9 * found[0].loss  # it learns
    assert bits(trainer.adapter()) == bits(other.adapter())
    assert trainer.evaluate(batch_of(9)) == other.evaluate(batch_of(9))


@pytest.mark.whole
def test_rounded_training_has_the_curve_of_the_cpu_within_a_hundredth(
    cl_device: OpenClDevice,
) -> None:
    """At a rate that learns steadily: where curves jump, a rounding soon decides how."""
    base = Base("bf16")

    def losses(device: Device, rate: float, **options: Any) -> list[float]:
        trainer = trainer_on(device, base, **options)
        return [step.loss for step in curve(trainer, STEADY_STEPS, rate)]

    found, wanted = (losses(each, STEADY, numerics="bf16") for each in (cl_device, HOST))
    np.testing.assert_allclose(found, wanted, rtol=1e-2)
    assert found[-1] < 0.5 * found[0]  # it learns
    assert losses(HOST, STEADY) != wanted  # it is another arithmetic
    with pytest.raises(AssertionError):  # the control: another rate leaves the curve
        slow = losses(cl_device, 0.9 * STEADY, numerics="bf16")
        np.testing.assert_allclose(slow, wanted, rtol=1e-2)


@pytest.mark.whole
@pytest.mark.parametrize("numerics", ["f32", "bf16"])
def test_what_is_kept_changes_memory_and_no_bit(cl_device: OpenClDevice, numerics: str) -> None:
    config = replace(CONFIG, layers=CONFIG.layers[:1] * 3)
    base, batch = Base("f32", config), batch_of()
    found, sizes = [], []
    for policy in ("none", "matmul", "layer"):
        trainer = trainer_on(cl_device, base, numerics=numerics, checkpoint=policy)
        found.append((trainer.accumulate(batch), bits(trainer.parameters.gradient())))
        sizes.append(trainer.program.arena.nbytes)
    assert found[0] == found[1] == found[2]
    assert sizes[0] >= sizes[1] > sizes[2]


# Pauses


def test_a_step_with_pauses_is_a_step(
    cl_device: OpenClDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BRIEF", 0.0), ("_PIECE", 0.0), ("_FIRST_PIECE", 1)):
        monkeypatch.setattr(launches, name, value)
    base = Base("q8", stacked=True)
    whole, paused = trainer_on(cl_device, base), trainer_on(cl_device, base)
    stop, pauses = StopFlag(), 0
    stop.set()  # and never cleared: as little as possible at a time
    steps = paused.steps(batch_of(), RATE, stop)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found = done.value
            break
        pauses += 1
        if pauses % 20 == 0:  # somebody else computes meanwhile
            whole.evaluate(batch_of(3))
    assert found == whole.step(batch_of(), RATE)
    assert pauses > 20
    assert bits(paused.adapter()) == bits(whole.adapter())


# Several devices


@pytest.mark.whole
def test_devices_of_two_makers_train_as_one(pair: Sequence[OpenClDevice]) -> None:
    results, adapters = [], []
    for devices in ((HOST,), (pair[0],), tuple(pair), (pair[1], HOST, pair[0])):
        trainer: Any = trainer_for(Replicas(*devices), 4, 8.0, 6, 24, 1, parts=3)
        assert isinstance(trainer, ParallelTrainer)
        assert [replica.device for replica in trainer.replicas] == list(devices)
        results.append([trainer.step(rows_of(i, i + 10, i + 20), 1e-2) for i in range(3)])
        adapters.append(bits(trainer.adapter()))
    for other, adapter in zip(results[1:], adapters[1:], strict=True):
        assert other == results[0]
        assert adapter == adapters[0]


# Nothing falls back


def test_training_needs_nothing_of_the_cpu(
    cl_device: OpenClDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Base("q8", stacked=True)
    placed, other = Moved(base, cl_device), trainer_on(HOST, base)

    def refuse(*given: Any) -> Any:
        raise RuntimeError("the CPU computes")

    monkeypatch.setattr(Pool, "_run", refuse)
    trainer = LoraTrainer(placed, RANK, ALPHA, ROWS, LENGTH, 5, device=cl_device)
    assert np.isfinite(trainer.step(batch_of(), RATE).loss)
    assert np.isfinite(trainer.evaluate(batch_of())[0])
    with pytest.raises(RuntimeError, match="the CPU computes"):  # the control
        other.step(batch_of(), RATE)

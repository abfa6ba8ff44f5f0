"""Training on several devices: parts of a batch, the same bits for any number of devices."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST, Device
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime import backend_cpu
from homebox.engine.runtime.devices import device_named
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import OutOfDeviceMemoryError
from homebox.model.training.batches import cut
from homebox.model.training.data_parallel import ParallelTrainer
from homebox.model.training.lanes import Work
from homebox.model.training.replicas import trainer_for
from homebox.model.training.trainer import Batch, LoraTrainer
from homebox.model.weights.placed_weights import memory_of, moved
from tests.unit.failing_device import FailingDevice
from tests.unit.test_training import CONFIG, LENGTH, Base, batch_of


class Replicas(Base):
    """The base of the training tests on some devices."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names or ("cpu",)
        self.copies: dict[str, dict[str, Tensor]] = {}

    def training_devices(self) -> tuple[Device, ...]:
        return tuple(map(device_named, self.names))

    def tensors_on(self, device: Device) -> dict[str, Any]:
        if device is HOST:
            return self.base_tensors()
        return self.copies.setdefault(device.name, moved(self.base_tensors(), device))


def rows_of(*seeds: int) -> Batch:
    """Return two rows for each seed."""
    found = [batch_of(seed) for seed in seeds]
    names = ("ids", "segment", "position", "target", "weight")
    return Batch(*(np.concatenate([getattr(b, name) for b in found]) for name in names))


def made(parts: int, *devices: str, rows: int = 6) -> Any:
    return trainer_for(Replicas(*devices), 4, 8.0, rows, LENGTH, 1, parts=parts)


def trained(trainer: Any, steps: int = 3) -> tuple[list[Any], dict[str, bytes]]:
    results = [trainer.step(rows_of(i, i + 10, i + 20), 1e-2) for i in range(steps)]
    return results, {name: value.tobytes() for name, value in trainer.adapter().items()}


def test_any_number_of_devices_gives_the_same_bits() -> None:
    wanted = trained(made(3))
    assert isinstance(made(3), ParallelTrainer)
    for devices in (("cpu:0",), ("cpu:0", "cpu:1"), ("cpu:1", "cpu", "cpu:0")):
        trainer = made(3, *devices)
        assert [r.device.name for r in trainer.replicas] == list(devices)
        assert trained(trainer) == wanted
        adapters = [r.adapter() for r in trainer.replicas]
        for other in adapters[1:]:
            for name, value in adapters[0].items():
                assert other[name].tobytes() == value.tobytes(), name


def test_an_uncut_batch_is_trained_as_ever() -> None:
    model = Replicas()
    plain = LoraTrainer(model, 4, 8.0, 6, LENGTH, 1)
    trainer = made(1, "cpu:0", "cpu:1")
    assert isinstance(trainer, LoraTrainer)
    assert trained(trainer) == trained(plain)


def test_parts_learn_what_the_whole_batch_teaches() -> None:
    (whole, _), (parts, _) = trained(made(1)), trained(made(4))  # 2 + 2 + 2 rows
    for one, other in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.kl == pytest.approx(other.kl, rel=1e-3, abs=1e-6)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)


def test_the_order_of_the_parts_decides_and_not_who_is_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = trained(made(3, "cpu:0", "cpu:1"))
    take = Work.take
    turns = threading.Barrier(2, timeout=20)

    def slow(self: Any) -> Any:
        taken = take(self)
        if taken is not None and taken[0] == 0:
            turns.wait()  # the first part begins after the second one
        elif taken is not None and taken[0] == 1:
            turns.wait()
        return taken

    monkeypatch.setattr(Work, "take", slow)
    assert trained(made(3, "cpu:0", "cpu:1")) == wanted
    # Added in another order the bits differ.
    update = ParallelTrainer._update
    monkeypatch.setattr(
        ParallelTrainer, "_update", lambda self, parts, rate: update(self, parts[::-1], rate)
    )
    assert trained(made(3, "cpu:0", "cpu:1"))[1] != wanted[1]


def test_rows_that_do_not_divide_are_padded() -> None:
    batch = rows_of(1, 2, 3)
    found = cut(batch, 2, 4)
    assert [len(part.ids) for part in found] == [4, 4]
    np.testing.assert_array_equal(np.concatenate([p.ids for p in found])[:6], batch.ids)
    assert not found[1].weight[2:].any() and not found[1].segment[2:].any()
    trainer = made(4, "cpu:0", "cpu:1", rows=6)
    assert trainer.parts == 3 and trainer.replicas[0].shape[0] == 2
    trainer = made(4, rows=7)
    assert trainer.parts == 4 and trainer.replicas[0].shape[0] == 2
    assert made(9, rows=2).parts == 2


def test_pauses_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_cpu, "BRIEF", 0.0)
    wanted = trained(made(3, "cpu:0", "cpu:1"), 1)
    trainer = made(3, "cpu:0", "cpu:1")
    stop, pauses, results = StopFlag(), 0, []
    stop.set()  # and never cleared: every turn is as short as it can be
    steps = trainer.steps(rows_of(0, 10, 20), 1e-2, stop)
    while not results:
        try:
            next(steps)
            pauses += 1
        except StopIteration as done:
            results.append(done.value)
    assert pauses > 10
    assert results == wanted[0]
    assert {name: value.tobytes() for name, value in trainer.adapter().items()} == wanted[1]


def test_each_replica_has_its_memory_on_its_device() -> None:
    trainer = made(2, "cpu:0", "cpu:1")
    for replica in trainer.replicas:
        tensors = [*replica.base.tensors.values(), replica.parameters.values]
        tensors += [replica.parameters.gradients, replica._entropy._student]
        tensors += [rotary.cos for rotary in replica.rotary.values()]
        assert len(replica.rotary) == 1
        assert {memory_of(t).device.name for t in tensors} == {replica.device.name}
    assert CONFIG.num_layers == len({n for n in trainer.adapter() if n.endswith(".q.A")})


def test_devices_that_round_differently_never_share_a_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = FailingDevice("cl:9")
    monkeypatch.setattr(type(device.backend), "identity", "another")
    device.probes = SimpleNamespace(strict=True)
    names = {"cl:9": device, "cpu:0": device_named("cpu:0")}
    monkeypatch.setattr(Replicas, "training_devices", lambda self: tuple(names.values())[::-1])
    assert [r.device.name for r in made(3).replicas] == ["cpu:0", "cl:9"]
    device.probes = SimpleNamespace(strict=False)
    assert [r.device.name for r in made(3).replicas] == ["cpu:0"]
    assert "leaves cl:9 out" in caplog.text


def test_a_further_device_without_room_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = trained(made(3, "cpu:0"))
    full = FailingDevice("cl:9")

    def allocate(nbytes: int, dense: bool) -> Any:
        raise OutOfDeviceMemoryError("cl:9 is full")

    full.allocate = allocate  # type: ignore[method-assign]
    devices = [device_named("cpu:0"), full]
    monkeypatch.setattr(Replicas, "training_devices", lambda self: tuple(devices))
    trainer = made(3)
    assert [r.device.name for r in trainer.replicas] == ["cpu:0"]
    assert trained(trainer) == wanted and "cl:9 is full" in caplog.text
    devices.reverse()
    with pytest.raises(OutOfDeviceMemoryError):
        made(3)

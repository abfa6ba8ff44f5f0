"""A model on an OpenCL device, alone and beside the CPU: the CPU's bits, serving and training."""

import gc
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST, Device
from homebox.engine.opencl.backend import OpenClDevice
from homebox.model.decoder.stages import Part
from homebox.model.training.data_parallel import ParallelTrainer
from homebox.model.training.replicas import trainer_for
from homebox.model.weights.placed_weights import memory_of, moved
from tests.parity.cases import BY_NAME
from tests.unit.test_data_parallel import rows_of
from tests.unit.test_model_transformer import BLOCKS, ids_of
from tests.unit.test_stages import LAYERS, made
from tests.unit.test_training import LENGTH, Base


def test_stages_on_mixed_devices_give_the_bits_of_the_cpu(cl_device: OpenClDevice) -> None:
    one = made(None, BLOCKS)
    mixed = made([Part(cl_device, range(2)), Part(HOST, range(2, LAYERS))], BLOCKS)
    ids = ids_of(60)
    wanted = one.all_logits(ids, 1)
    for start, end in ((0, 58), (58, 59)):
        found = mixed.forward(0, start, ids[start:end], 1)
        np.testing.assert_array_equal(found, wanted[end - 1])
    assert {memory_of(t).device.name for t in mixed.stages[0].cache.memory} == {cl_device.name}


@pytest.mark.whole
@pytest.mark.parametrize("name", ["gemma3-caps", "smollm3", "qwen3_moe-mixed"])
def test_layers_that_differ_on_mixed_devices_give_the_bits_of_the_cpu(
    cl_device: OpenClDevice, name: str
) -> None:
    """Windows, rotations and experts are those of the layer, on whichever device it is."""
    config = BY_NAME[name].config
    layers = config["num_hidden_layers"]
    one = made(None, config, layers=layers)
    ids = ids_of(60) % config["vocab_size"]
    wanted = one.all_logits(ids, 1)
    for first, last in ((cl_device, HOST), (HOST, cl_device)):
        mixed = made([Part(first, range(1)), Part(last, range(1, layers))], config, layers=layers)
        for start, end in ((0, 58), (58, 59)):
            found = mixed.forward(0, start, ids[start:end], 1)
            np.testing.assert_array_equal(found, wanted[end - 1])


@pytest.mark.whole
def test_int8_products_stay_near_those_of_the_cpu(cl_device: OpenClDevice) -> None:
    one = made(None, BLOCKS, "q8", "int8", "f16")
    other = made([Part(cl_device, range(LAYERS))], BLOCKS, "q8", "int8", "f16")
    ids = ids_of(40)
    wanted, found = one.all_logits(ids), other.all_logits(ids)
    assert np.abs(found - wanted).max() <= 2e-3 * np.abs(wanted).max()
    np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))


class Replicas(Base):
    """The base of the training tests on given devices."""

    def __init__(self, *devices: Device) -> None:
        super().__init__()
        self.devices = devices

    def training_devices(self) -> tuple[Device, ...]:
        return self.devices

    def tensors_on(self, device: Device) -> dict[str, Any]:
        return self.tensors if device is HOST else moved(self.tensors, device)


def test_training_on_two_kinds_of_devices_gives_the_bits_of_the_cpu(
    cl_device: OpenClDevice,
) -> None:
    adapters, results = [], []
    for devices in ((HOST,), (cl_device, HOST)):
        trainer = trainer_for(Replicas(*devices), 4, 8.0, 6, LENGTH, 1, parts=3)
        assert isinstance(trainer, ParallelTrainer)
        results.append([trainer.step(rows_of(i, i + 10, i + 20), 1e-2) for i in range(3)])
        adapters.append(trainer.adapter())
    assert results[0] == results[1]
    for name, value in adapters[0].items():
        assert adapters[1][name].tobytes() == value.tobytes(), name


def test_a_budget_below_the_model_is_an_error_and_the_device_goes_on(
    cl_device: OpenClDevice,
) -> None:
    from homebox.errors import OutOfDeviceMemoryError
    from homebox.model import load

    budget = cl_device.budget
    try:
        with pytest.raises(OutOfDeviceMemoryError, match=rf"needs .*; {cl_device.name} .* free"):
            load("tiny", context=128, slots=1, device=cl_device.name, memory=8)
    finally:
        cl_device.budget = budget
    gc.collect()  # what earlier tests left must not be freed meanwhile
    before = cl_device.used_bytes
    model = load("tiny", context=128, slots=1, device=cl_device.name)
    assert model.placement is not None
    taken = cl_device.used_bytes - before
    wanted = model.placement.portions[0].bytes
    assert wanted.weights <= taken <= wanted.total

"""Calls of the driver that fail in the middle of a request: that request fails, the next one runs.

The failures are made where the driver is called: a launch, an allocation, and whether the device
answers at all.
"""

import gc
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST
from homebox.engine.opencl import launches
from homebox.engine.opencl.backend import OpenClDevice, open_device
from homebox.engine.opencl.calls import sender
from homebox.engine.opencl.memory import OpenClMemory
from homebox.errors import DeviceError, DeviceLostError, OutOfDeviceMemoryError
from homebox.model.decoder.transformer import Transformer
from tests.opencl.test_memory import driver_error
from tests.opencl.test_whole_model import BLOCKS, made
from tests.unit.test_model_transformer import ids_of

FULL, RESOURCES, BROKEN = -4, -5, -36  # no memory; no resources; an invalid queue


class Driver:
    """The driver's calls, one of which fails after `after` more lists of launches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, device: OpenClDevice) -> None:
        self.code = 0
        self.after = 0
        self.gone = False
        self.failed = 0
        send = sender(device.cl._cl.__file__)
        assert send is not None
        fill = OpenClMemory._fill

        def sending(queue: int, rows: np.ndarray, first: int, end: int) -> tuple[int, int]:
            if self.code:
                if not self.after:
                    self.failed += 1
                    code, self.code = self.code, 0
                    middle = (first + end) // 2
                    send(queue, rows, first, middle)
                    return middle, code
                self.after -= 1
            return send(queue, rows, first, end)

        def filling(memory: OpenClMemory, *given: Any) -> None:
            if self.gone and memory is device:
                raise driver_error(BROKEN)
            fill(memory, *given)

        monkeypatch.setattr(launches, "sender", lambda library: sending)
        monkeypatch.setattr(OpenClMemory, "_fill", filling)
        monkeypatch.setattr(device, "commands", None)  # these bypass the list of launches

    def fail(self, code: int, after: int = 0, gone: bool = False) -> None:
        """Fail in the middle of the list after the next `after` ones; `gone`: do not answer."""
        self.code, self.after, self.gone = code, after, gone


@pytest.fixture
def driver(cl_device: OpenClDevice, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(monkeypatch, cl_device)


def request(model: Transformer, seed: int = 0) -> list[Any]:
    """Read a prompt and answer with two tokens; a request of its own."""
    ids = ids_of(22, seed)
    try:
        found = [model.forward(0, 0, ids[:20], 1)]
        found += [model.forward(0, at, ids[at : at + 1], 1) for at in (20, 21)]
    finally:
        model.release(0)
    return found


def expected(seed: int = 0) -> list[Any]:
    return request(made(HOST, BLOCKS, "f32", "f32", "f32"), seed)


def same(found: list[Any], wanted: list[Any]) -> None:
    for row, expected_row in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(row, expected_row)


@pytest.mark.parametrize("code", [FULL, pytest.param(RESOURCES, marks=pytest.mark.whole)])
def test_a_call_that_fails_costs_one_request(
    cl_device: OpenClDevice, driver: Driver, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(cl_device, BLOCKS, "f32", "f32", "f32")
    wanted = expected()
    same(request(model), wanted)
    for after in (0, 1, 2):  # in the prompt, in the first token, in the second
        driver.fail(code, after)
        with pytest.raises(OutOfDeviceMemoryError if code == FULL else DeviceError) as caught:
            request(model)
        assert not isinstance(caught.value, DeviceLostError)
        assert cl_device.title in str(caught.value) and caught.value.status == 503
        same(request(model), wanted)
    assert driver.failed == 3
    # The control: a failure that is swallowed leaves wrong numbers behind.
    monkeypatch.setattr(launches.OpenClLaunches, "_enqueue", _careless)
    driver.fail(code)
    found = request(model, seed=1)
    assert np.any(found[0] != expected(seed=1)[0])


def _careless(self: Any, first: int, end: int) -> None:
    self._send(self._device.queue.int_ptr, self.rows, first, end)


def test_other_conversations_go_on(cl_device: OpenClDevice, driver: Driver) -> None:
    model = made(cl_device, BLOCKS, "f32", "f32", "f32")
    ids, wanted = ids_of(22), expected()
    same([model.forward(1, 0, ids[:20], 1)], wanted[:1])
    driver.fail(FULL)
    with pytest.raises(OutOfDeviceMemoryError):
        request(model)
    same([model.forward(1, 20, ids[20:21], 1)], wanted[1:2])


def test_a_device_that_disappears_is_opened_anew(cl_device: OpenClDevice, driver: Driver) -> None:
    model = made(cl_device, BLOCKS, "f32", "f32", "f32")
    wanted = expected()
    same(request(model), wanted)
    driver.fail(BROKEN, 1, gone=True)
    with pytest.raises(DeviceLostError, match="was lost") as caught:
        request(model)
    assert caught.value.status == 503
    assert cl_device.lost
    same(request(model), wanted)
    (stage,) = model.stages
    assert stage.device is not cl_device
    assert stage.device is open_device(cl_device.name)
    with pytest.raises(DeviceLostError):  # the control: the old one stays lost
        cl_device.allocate(64)


@pytest.mark.whole
def test_memory_that_runs_out_while_a_program_is_made(
    cl_device: OpenClDevice, driver: Driver
) -> None:
    model = made(cl_device, BLOCKS, "f32", "f32", "f32")
    wanted, budget = expected(), cl_device.budget
    gc.collect()  # what earlier tests left must not be freed meanwhile
    cl_device.budget = cl_device.used_bytes + 4096
    try:
        with pytest.raises(OutOfDeviceMemoryError, match="has no room for"):
            request(model)
    finally:
        cl_device.budget = budget
    same(request(model), wanted)

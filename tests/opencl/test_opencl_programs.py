"""Captured programs on OpenCL devices: the CPU's bits, the disk, suspension, memory, losses."""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, Device, using
from homebox.engine.graph.ops import Sym
from homebox.engine.graph.tensor import Tensor
from homebox.engine.inspection import debug
from homebox.engine.opencl import launches
from homebox.engine.opencl.backend import OpenClDevice, open_device
from homebox.engine.opencl.platform import Found
from homebox.engine.runtime.capture import Program, Spec, capture
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import DeviceError, DeviceLostError, OutOfDeviceMemoryError

WEIGHTS = np.random.default_rng(0).standard_normal((2, 48, 48)).astype(np.float32)
ROWS = np.random.default_rng(1).standard_normal((5, 48)).astype(np.float32)


@pytest.fixture
def device(cl_device: OpenClDevice) -> Iterator[OpenClDevice]:
    """Return the device with its usual budget, which is restored."""
    budget = cl_device.budget
    yield cl_device
    cl_device.budget = budget


def made(device: Device, calls: list[int] | None = None, key: str | None = None) -> Program:
    """Return a program of several kernels with a size that is known at run time only."""
    n = Sym("n", 1, 64)
    with using(device):
        weights = [Tensor.from_numpy(each, frozen=True) for each in WEIGHTS]
        buffers = {f"w{i}": w.node.arg for i, w in enumerate(weights)}

        def function(x: Tensor) -> Tensor:
            if calls is not None:
                calls.append(1)
            for weight in weights:
                x = x.linear(weight).softmax().contiguous() * 3.0
            return x

        return capture(function, {"x": Spec((n, 48))}, [n], "made", key, buffers)


def expected() -> np.ndarray:
    return made(HOST)(x=ROWS, n=5)[0]


def test_a_program_has_the_bits_of_the_cpu(device: OpenClDevice) -> None:
    program = made(device)
    assert program.launches.count >= 4
    for _ in range(3):
        assert np.array_equal(program(x=ROWS, n=5)[0], expected())
    assert np.array_equal(program(x=ROWS[:1], n=1)[0], expected()[:1])


def test_a_program_comes_from_the_disk(
    device: OpenClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("homebox.engine.runtime.capture.sources_digest", lambda folder: "same")
    calls: list[int] = []
    first = made(device, calls, "k")(x=ROWS, n=5)[0]
    again = made(device, calls, "k")
    assert len(calls) == 1
    assert np.array_equal(again(x=ROWS, n=5)[0], first)
    made(HOST, calls, "k")
    assert len(calls) == 2, "a program for another device is another one"


def test_a_constant_that_was_not_computed_is_not_found_later(
    device: OpenClDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel fails after its launch; whoever asks next must not get what it left behind."""
    with using(device):
        weight = Tensor.from_numpy(WEIGHTS[0], frozen=True)

    def function(x: Tensor) -> Tensor:
        return x + (weight * 2.0).softmax().contiguous()

    def failing(*where: object) -> np.ndarray:
        raise DeviceError("reading failed")

    def program() -> Program:
        with using(device):
            return capture(function, {"x": Spec((48, 48))})

    monkeypatch.setattr(device, "fetch", failing)
    with pytest.raises(DeviceError, match="reading failed"):
        program()
    monkeypatch.undo()
    first = program()
    assert len(first.plan.constants) >= 1
    assert program()._placed.constants == first._placed.constants, "what was computed is shared"
    scores = np.exp(2 * WEIGHTS[0] - (2 * WEIGHTS[0]).max(1, keepdims=True))
    (got,) = first(x=np.zeros((48, 48), np.float32))
    assert np.allclose(got, scores / scores.sum(1, keepdims=True), atol=1e-6)


def test_only_rows_of_the_run_leave_the_device(
    device: OpenClDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = made(device)
    read: list[int] = []
    fetch = device.fetch
    monkeypatch.setattr(device, "fetch", lambda *where: (read.append(where[2]), fetch(*where))[1])
    assert np.array_equal(program(x=ROWS, n=5)[0], expected())
    assert read == [5 * 48 * 4]


def test_a_suspended_program_ends_with_equal_bits(
    device: OpenClDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "BRIEF", 0.0)
    monkeypatch.setattr(launches, "_PIECE", 0.0)
    monkeypatch.setattr(launches, "_FIRST_PIECE", 1)
    program, other, stop = made(device), made(device), StopFlag()
    program.set_input("x", ROWS)
    stop.set()
    assert not program.run({"n": 5}, stop)
    pauses = 0
    while program.suspended:
        pauses += 1
        assert np.array_equal(other(x=ROWS, n=5)[0], expected()), "others run meanwhile"
        program.resume(stop)
    assert pauses >= 3
    assert np.array_equal(program.output(0, {"n": 5}).copy(), expected())


def test_every_kernel_is_measured(device: OpenClDevice) -> None:
    program = made(device)
    program.set_input("x", ROWS)
    times = program.profile({"n": 5})
    assert len(times) == program.launches.count
    assert all(each.nanoseconds > 0 for each in times)


def test_a_program_that_does_not_fit_leaves_nothing_behind(device: OpenClDevice) -> None:
    expected()
    gc.collect()  # what earlier tests left must not be freed meanwhile
    used, blocks = device.used_bytes, device.block_count
    device.budget = used + 20_000  # one of the two weights
    with pytest.raises(OutOfDeviceMemoryError, match="has no room for"):
        made(device)
    assert (device.used_bytes, device.block_count) == (used, blocks)
    device.budget = used + 2_000_000
    assert np.array_equal(made(device)(x=ROWS, n=5)[0], expected())
    assert (device.used_bytes, device.block_count) == (used, blocks)


def test_a_lost_device_is_opened_anew(device: OpenClDevice, cl_entry: Found) -> None:
    program = made(device)
    program(x=ROWS, n=5)
    assert open_device(cl_entry.name) is device
    device.lost = "it was unplugged"
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="unplugged"):
            program(x=ROWS, n=5)
    with pytest.raises(DeviceLostError, match="unplugged"):
        made(device)
    new = open_device(cl_entry.name)
    assert new is not device
    assert np.array_equal(made(new)(x=ROWS, n=5)[0], expected())


def test_values_of_every_type_survive(device: OpenClDevice) -> None:
    for kind in (dt.f32, dt.i32, dt.u8, dt.i64):
        values = np.arange(17).astype(kind.to_numpy())
        with using(device):
            tensor = Tensor.from_numpy(values)
            (got,) = capture(lambda t=tensor: t + t)()
        assert np.array_equal(got, values + values), kind
    for kind in (dt.f16, dt.bf16):
        with using(device):
            tensor = Tensor.from_numpy(ROWS)
            (got,) = capture(lambda t=tensor, kind=kind: t.cast(kind).cast(dt.f32))()
        (host,) = capture(lambda kind=kind: Tensor.from_numpy(ROWS).cast(kind).cast(dt.f32))()
        assert np.array_equal(got, host), kind


def test_runs_are_recorded_with_their_sources(device: OpenClDevice) -> None:
    program = made(device)
    with debug.recording() as runs:
        program(x=ROWS, n=5)
    (run,) = runs
    assert len(run.nanoseconds) == program.launches.count
    for _, low, name in run.kernels:
        assert f"__kernel void {name}(" in run.source(low)


def test_sources_are_shown_on_demand(
    device: OpenClDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEBUG", "4")
    made(device)
    assert "__kernel void k" in capsys.readouterr().err

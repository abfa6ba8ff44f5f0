"""A device that computes on the CPU and fails when it is told to, as a driver might."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homebox.engine.graph.device import HOST, Block, Buffer
from homebox.engine.runtime.backend_cpu import CpuBackend
from homebox.engine.runtime.program_plan import Launch
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import DeviceLostError, OutOfDeviceMemoryError

FULL, LOST = OutOfDeviceMemoryError, DeviceLostError


class FailingDevice:
    """Fails once with `failure` after `after` more runs of programs; lost, it fails for ever."""

    busy_rows = 256

    def __init__(self, name: str = "fake:0") -> None:
        self.name = name
        self.failure: type[Exception] | None = None
        self.after = 0
        self.lost = ""
        self.runs = 0
        self.title = self.name
        self.free_bytes = 1 << 40
        self.backend = _Backend(self)

    def fail(self, failure: type[Exception], after: int = 0) -> None:
        """Fail in the run after the next `after` ones."""
        self.failure, self.after = failure, after

    def allocate(self, nbytes: int, dense: bool) -> Block:
        self._check()
        return HOST.allocate(nbytes, dense)

    def ran(self) -> None:
        """Count a run, or fail."""
        self._check()
        self.runs += 1
        if self.failure is None:
            return
        if self.after > 0:
            self.after -= 1
            return
        failure, self.failure = self.failure, None
        if failure is LOST:
            self.lost = f"{self.name} was lost"
        raise failure(f"{self.name} failed as it was told to")

    def _check(self) -> None:
        if self.lost:
            raise DeviceLostError(self.lost)


class _Backend(CpuBackend):
    def __init__(self, device: FailingDevice) -> None:
        self.device: Any = device

    def launches(
        self,
        launches: Sequence[Launch],
        code: Sequence[int],
        where: Callable[[int], tuple[Block, int]],
        variables: Buffer,
        bounds: Mapping[str, int],
    ) -> Any:
        return _Launches(super().launches(launches, code, where, variables, bounds), self.device)


class _Launches:
    def __init__(self, inner: Any, device: FailingDevice) -> None:
        self._inner, self._device = inner, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, first: int, stop: StopFlag | None) -> int:
        self._device.ran()
        done: int = self._inner.run(first, stop)
        return done


class Rack:
    """Devices by name, opened anew when they were lost."""

    def __init__(self) -> None:
        self.opened: list[FailingDevice] = []
        self.refusal: Exception | None = None

    @property
    def device(self) -> FailingDevice:
        """The one that was opened last."""
        return self.opened[-1]

    def named(self, name: str) -> Any:
        """As `runtime.devices.device_named`."""
        if name == HOST.name:
            return HOST
        if self.opened and not self.device.lost:
            return self.device
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(FailingDevice(name))
        return self.device

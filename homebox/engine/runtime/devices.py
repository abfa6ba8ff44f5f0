"""Devices by name: "cpu", and "cl:0", "cl:1", .. for what OpenCL offers.

"cpu:0", "cpu:1", .. are the CPU as well, each with memory of its own as far as a model knows.
"""

import re
from functools import cache
from typing import Protocol, cast, runtime_checkable

from homebox.engine.graph.device import HOST, Device, HostDevice
from homebox.engine.runtime.backend import Backend
from homebox.errors import DeviceError


@runtime_checkable
class WithBackend(Protocol):
    """A device that brings its own way to run programs."""

    backend: Backend


def backend_of(device: Device) -> Backend:
    """Return what compiles and runs kernels for a device."""
    if isinstance(device, HostDevice):
        from homebox.engine.runtime.backend_cpu import cpu_backend

        return cpu_backend(device)
    if not isinstance(device, WithBackend):
        raise DeviceError(f"{device.name} cannot run programs")
    return device.backend


def device_named(name: str) -> Device:
    """Return a device; the same name always gives the same one until it is lost.

    Raises DeviceError if there is no such device or it cannot be used, with what to do about it.
    """
    if name == HOST.name:
        return HOST
    if re.fullmatch(r"cpu:\d+", name):
        return _further_host(name)
    if re.fullmatch(r"cl:\d+", name):
        from homebox.engine.opencl.backend import open_device

        return cast(Device, open_device(name))
    raise DeviceError(f"there is no device {name!r}; devices are cpu, cl:0, cl:1, ..")


@cache
def _further_host(name: str) -> HostDevice:
    return HostDevice(name)

"""Which devices a model runs on: the ones that were named, or the best that this machine has.

One idea: a device that was named is used or is an error; only "auto" may choose, and it says what
it chose and why, also why not something better. Invariant: nothing ends up on the CPU silently,
and OpenCL on a CPU, which is slower than the CPU itself, is used only by name.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.engine.graph.device import HOST, Device, HostDevice, using
from homebox.engine.runtime.devices import backend_of, device_named
from homebox.errors import ConfigError, DeviceError

AUTO = "auto"
MIB = 1 << 20
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Room:
    """A device and the memory that a model may take of it, in bytes."""

    device: Device
    title: str
    free: int | None  # None: nobody knows
    largest: int | None = None  # of one piece; None: no limit but `free`
    unified: bool = False  # it has no memory of its own and takes the host's
    budgeted: bool = False  # somebody said how much at most
    pool: int | None = None  # free in the memory that it shares, whatever the budget

    @property
    def host(self) -> bool:
        """Whether its memory is the host's, which is taken only when it is touched."""
        return isinstance(self.device, HostDevice)

    @property
    def shared(self) -> bool:
        """Whether what it takes is missing on the host and on others of this kind."""
        return self.host or self.unified


@dataclass(frozen=True)
class Choice:
    """Devices to plan for, and in automatic choices why these."""

    rooms: tuple[Room, ...]
    reason: str = ""
    automatic: bool = False


def choose(
    asked: str, memory: int = 0, entries: Callable[[], Sequence[Any]] | None = None
) -> Choice:
    """Return the devices for "auto", "cpu", "cl:0" or several with commas.

    `memory` is the most MiB to take of each, 0: what is free. Raises DeviceError if a named device
    cannot be used, ConfigError for a device named twice. `entries` lists OpenCL devices, as
    `opencl.platform.found` does.
    """
    if asked == AUTO:
        return _best(memory, entries or _opencl_entries)
    names = [name.strip() for name in asked.split(",")]
    if len(set(names)) < len(names):
        raise ConfigError(f"device {asked!r} names a device twice")
    return Choice(tuple(room_of(device_named(name), memory) for name in names))


def room_of(device: Device, memory: int = 0) -> Room:
    """Say how much memory of a device a model may take; `memory` (MiB) sets a budget."""
    if isinstance(device, HostDevice):
        free = pool = _host_free()
        if memory:
            free = memory * MIB if pool is None else min(pool, memory * MIB)
        return Room(device, "the CPU", free, budgeted=memory > 0, pool=pool)
    known: Any = device
    if memory and hasattr(known, "budget"):
        known.budget = memory * MIB
    entry = getattr(known, "entry", None)
    largest = getattr(entry, "largest", None) or None
    unified = bool(getattr(entry, "unified", False))
    free, pool = known.free_bytes, _host_free() if unified else None
    if pool is not None:
        free = min(free, pool)
    title = getattr(entry, "title", device.name)
    return Room(device, title, free, largest, unified, memory > 0, pool)


@contextlib.contextmanager
def computing_on(asked: str) -> Iterator[Device]:
    """Make new memory, and so programs over it, on one device; of those of "auto" on the best.

    Raises ConfigError if several are named.
    """
    choice = choose(asked)
    if len(choice.rooms) > 1 and not choice.automatic:
        raise ConfigError(f"--device {asked}: a job runs on one device; name one")
    device = choice.rooms[0].device
    with using(device):
        yield device


def alike(devices: Sequence[Device], strict: bool) -> bool:
    """Whether programs have the same bits on all of them; `strict` says that they are in f32."""
    identities = {backend_of(device).identity for device in devices}
    return len(identities) == 1 or (strict and all(_strict(device) for device in devices))


def _strict(device: Device) -> bool:
    probes = getattr(device, "probes", None)
    return probes is None or bool(probes.strict)


def lost(device: Device) -> bool:
    """Whether a device was lost, so that all memory on it is gone."""
    return bool(getattr(device, "lost", ""))


def _opencl_entries() -> Sequence[Any]:
    from homebox.engine.opencl.platform import found

    return found()


def _best(memory: int, entries: Callable[[], Sequence[Any]]) -> Choice:
    """Choose GPUs with memory of their own before those that share it, larger before smaller."""
    try:
        known = list(entries())
    except DeviceError as error:
        return _cpu(f"there is no GPU to use: {error}", memory)
    refused = [f"{entry.title}: {entry.refusal}" for entry in known if entry.refusal]
    cards = [entry for entry in known if not entry.refusal and entry.kind == "gpu"]
    rooms: list[tuple[bool, int, Room]] = []
    for entry in cards:
        try:
            room = room_of(device_named(entry.name), memory)
        except DeviceError as error:
            refused.append(f"{entry.name} ({entry.title}): {error}")
            continue
        rooms.append((entry.unified, -entry.memory, room))
    if not rooms:
        idle = [entry for entry in known if not entry.refusal and entry.kind != "gpu"]
        why = "; ".join(refused) if refused else "no GPU was found"
        if idle:
            named = ", ".join(entry.name for entry in idle)
            why += f"; {named}: OpenCL on the CPU is used only if --device names it"
        return _cpu(why, memory)
    rooms.sort(key=lambda each: each[:2])
    shared = rooms[0][0]
    best = tuple(room for unified, _, room in rooms if unified == shared)
    more = f"; not used: {'; '.join(refused)}" if refused else ""
    names = " and ".join(f"{room.device.name} ({room.title})" for room in best)
    return Choice(best, f"auto: {names} passed the probes{more}", automatic=True)


def _cpu(why: str, memory: int) -> Choice:
    return Choice((room_of(HOST, memory),), f"auto: the CPU, because {why}", automatic=True)


def _host_free() -> int | None:
    """Return the bytes that programs can still take, None where the system does not say."""
    try:
        for line in _MEMINFO.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None

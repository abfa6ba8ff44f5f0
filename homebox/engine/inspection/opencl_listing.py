"""What OpenCL shows on this machine, asked in a process of its own.

One idea: a driver may crash or hang as soon as it is loaded, and the one who must not go down with
it is the one who looks for the cause. Run as a program this prints all platforms and devices as
JSON; `listing` runs that, and if it dies asks every driver alone to find the guilty one. Invariant:
names of devices are those of `opencl.platform.found`.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from homebox.engine.inspection.system import Ended, System
from homebox.engine.opencl.probes import Place

SECONDS = 60.0  # until a driver that does not answer counts as hanging
VENDORS_VARIABLE = "OCL_ICD_VENDORS"


@dataclass(frozen=True)
class Platform:
    """A driver's platform."""

    name: str
    vendor: str
    version: str
    devices: int


@dataclass(frozen=True)
class Shown:
    """A device that OpenCL shows; `refusal` says why homebox does not use it, or nothing."""

    name: str  # "cl:0"; empty if it is not used
    title: str
    kind: str
    platform: str
    vendor: str
    version: str
    driver: str
    memory: int
    local_memory: int
    units: int  # compute units
    refusal: str
    address: str = ""  # on the PCI bus, if the driver tells
    place: Place | None = None


@dataclass(frozen=True)
class Listing:
    """Everything that OpenCL shows; `error` says why it is not all, or nothing."""

    platforms: tuple[Platform, ...] = ()
    devices: tuple[Shown, ...] = ()
    error: str = ""
    guilty: tuple[str, ...] = ()  # .icd files whose drivers crash or hang


def listing(system: System, icd_files: Sequence[str] = ()) -> Listing:
    """Ask OpenCL; `icd_files` are asked one by one if asking all together ends badly."""
    ended = _asked(system)
    if ended.code == 0:
        return from_json(json.loads(ended.out))
    guilty = [path for path in icd_files if _asked(system, path).code != 0]
    what = f"asking OpenCL for its devices {how(ended)}"
    return Listing(error=what, guilty=tuple(guilty))


def how(ended: Ended) -> str:
    """Say how a process that should have answered ended."""
    if ended.code is None:
        return f"gave no answer within {SECONDS:g} s"
    if ended.code < 0:
        return f"crashed (signal {-ended.code})"
    lines = ended.err.strip().splitlines()
    return f"failed ({lines[-1][:200] if lines else f'exit code {ended.code}'})"


def _asked(system: System, icd_file: str = "") -> Ended:
    environ = {VENDORS_VARIABLE: icd_file} if icd_file else None
    return system.python(["-m", __name__], SECONDS, environ)


def from_json(value: dict[str, Any]) -> Listing:
    """Read what `main` prints."""
    devices = []
    for each in value["devices"]:
        place = each.pop("place")
        devices.append(Shown(**each, place=Place(**place) if place else None))
    platforms = tuple(Platform(**each) for each in value["platforms"])
    return Listing(platforms, tuple(devices), value["error"])


# -- the other process ----------------------------------------------------------------------------


def main() -> int:
    """Print platforms and devices as JSON."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what drivers print is no answer
    from homebox.engine.opencl import platform
    from homebox.errors import DeviceError

    platforms: list[dict[str, Any]] = []
    devices: list[dict[str, Any]] = []
    error = ""
    try:
        cl = platform.import_opencl()
        with contextlib.suppress(cl.Error):
            platforms = [asdict(_platform(cl, each)) for each in cl.get_platforms()]
        if platforms:  # that there are none is seen, and no error
            found = platform.found()
            devices = [_device(cl, each) for each in found if each.device is not None]
    except DeviceError as failure:
        error = str(failure)
    json.dump({"platforms": platforms, "devices": devices, "error": error}, answers)
    answers.flush()
    return 0


def _platform(cl: Any, platform: Any) -> Platform:
    count = 0
    with contextlib.suppress(cl.Error):
        count = len(platform.get_devices())
    return Platform(platform.name.strip(), platform.vendor.strip(), platform.version.strip(), count)


def _device(cl: Any, entry: Any) -> dict[str, Any]:
    from homebox.engine.opencl.probes import place_of

    names = [each.name for each in fields(Shown) if each.name not in ("address", "place")]
    return {
        **{name: getattr(entry, name) for name in names},
        "address": entry.address or _address(cl, entry.device),
        "place": asdict(place_of(entry.device)),
    }


def _address(cl: Any, device: Any) -> str:
    """Return where a device is on the PCI bus, by whichever question its driver answers."""
    info = cl.device_info
    with contextlib.suppress(cl.Error, AttributeError, TypeError):
        bus = device.get_info(info.PCI_BUS_INFO_KHR)
        return f"{bus.domain:04x}:{bus.bus:02x}:{bus.device:02x}.{bus.function:x}"
    with contextlib.suppress(cl.Error, AttributeError, TypeError):
        domain = 0
        with contextlib.suppress(cl.Error, AttributeError):
            domain = device.get_info(info.PCI_DOMAIN_ID_NV)
        slot = device.get_info(info.PCI_SLOT_ID_NV)
        bus = device.get_info(info.PCI_BUS_ID_NV)
        return f"{domain:04x}:{bus:02x}:{slot >> 3:02x}.{slot & 7:x}"
    with contextlib.suppress(cl.Error, AttributeError, TypeError):
        place = device.get_info(info.TOPOLOGY_AMD)
        return f"0000:{place.bus & 255:02x}:{place.device:02x}.{place.function:x}"
    return ""


if __name__ == "__main__":
    sys.exit(main())

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
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from homebox.engine.opencl.probes import Place, place_of
from homebox.engine.opencl.shown import VENDORS_VARIABLE, Listing, Platform, Shown
from homebox.engine.opencl.system import Ended, System
from homebox.errors import DeviceError

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found

SECONDS = 60.0  # until a driver that does not answer counts as hanging


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
    from homebox.engine.opencl.platform import found, import_opencl

    platforms: list[dict[str, Any]] = []
    devices: list[dict[str, Any]] = []
    error = ""
    try:
        cl = import_opencl()
        with contextlib.suppress(cl.Error):
            platforms = [asdict(_platform(cl, each)) for each in cl.get_platforms()]
        if platforms:  # that there are none is seen, and no error
            devices = [_device(each) for each in found() if each.device is not None]
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


def _device(entry: "Found") -> dict[str, Any]:
    names = [each.name for each in fields(Shown) if each.name != "place"]
    return {
        **{name: getattr(entry, name) for name in names},
        "place": asdict(place_of(entry.device)),
    }


if __name__ == "__main__":
    sys.exit(main())

"""Finds OpenCL devices: every platform and device, its public name, or why it is not used.

One idea: a device is either used under a stable name (cl:0, cl:1, ..: GPUs by platform and device,
then CPUs) or comes with a sentence that says why not and what to do; a graphics card that no
platform knows is listed too. Invariant: nothing here is imported or loaded before OpenCL is asked
for, and a platform that fails takes nothing else with it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from homebox.errors import DeviceError

LEAST_GROUP = 64  # work-items per group
LEAST_LOCAL = 32768  # bytes per group
PLATFORM_NOT_FOUND = -1001
DEVICE_NOT_FOUND = -1
FOLDERS = "/etc/OpenCL/vendors"
DISPLAYS = Path("/sys/bus/pci/devices")

# PCI vendor -> its name, how its OpenCL platforms are called, its library, what to install.
CARDS = {
    0x10DE: (
        "NVIDIA",
        ("NVIDIA",),
        "libnvidia-opencl.so.1",
        "install the driver's OpenCL part (Debian: nvidia-opencl-icd; Ubuntu: libnvidia-compute; "
        "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
    ),
    0x1002: (
        "AMD",
        ("AMD", "Advanced Micro Devices", "rusticl"),
        "libamdocl64.so",
        "install rocm-opencl-icd (ROCm) or mesa-opencl-icd with RUSTICL_ENABLE=radeonsi",
    ),
    0x8086: (
        "Intel",
        ("Intel", "rusticl"),
        "libigdrcl.so",
        "install intel-opencl-icd (Intel's compute runtime)",
    ),
}


@dataclass(frozen=True)
class Found:
    """A device as its driver describes it; `refusal` is empty if it can be used."""

    name: str  # "cl:0"; empty if it is not used
    title: str
    kind: str  # gpu, cpu, accelerator
    platform: str
    vendor: str = ""
    version: str = ""  # of OpenCL, as the device says
    language: str = ""  # of OpenCL C
    driver: str = ""
    memory: int = 0  # bytes
    largest: int = 0  # bytes of one allocation
    local_memory: int = 0  # bytes per work-group
    group: int = 0  # work-items per group
    alignment: int = 0  # bytes
    units: int = 0  # compute units
    unified: bool = False  # its memory is the host's
    refusal: str = ""
    device: Any = field(default=None, compare=False, repr=False)  # pyopencl's


def import_opencl() -> Any:
    """Return pyopencl; raises DeviceError if it cannot be used, with what to do."""
    try:
        import pyopencl
    except ModuleNotFoundError as error:
        if error.name != "pyopencl":
            raise DeviceError(f"pyopencl is damaged ({error}); install it again") from error
        raise DeviceError(
            "OpenCL devices need pyopencl, which is not installed; "
            'run: pip install "homebox[opencl]"'
        ) from None
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"pyopencl cannot be loaded ({error}); install an OpenCL loader "
            "(Debian, Ubuntu: ocl-icd-libopencl1) or pyopencl's own wheel"
        ) from error
    return pyopencl


def found() -> list[Found]:
    """Return all devices, those in use first and in the order of their names.

    Raises DeviceError if OpenCL is not there at all. A platform or card that does not work is an
    entry with a refusal.
    """
    cl = import_opencl()
    entries: list[Found] = []
    for platform in _platforms(cl):
        entries += _devices(cl, platform)
    entries += _unknown_cards(entries)
    usable = [each for each in entries if not each.refusal]
    ordered = [e for e in usable if e.kind == "gpu"] + [e for e in usable if e.kind == "cpu"]
    named = [replace(each, name=f"cl:{i}") for i, each in enumerate(ordered)]
    return named + [each for each in entries if each.refusal]


def find(name: str) -> Found:
    """Return a usable device by its public name; else raises DeviceError with all reasons."""
    entries = found()
    for each in entries:
        if each.name == name:
            return each
    known = ", ".join(f"{e.name} ({e.title})" for e in entries if e.name) or "none"
    reasons = "".join(f"; {e.title}: {e.refusal}" for e in entries if e.refusal)
    raise DeviceError(f"there is no OpenCL device {name}; usable are: {known}{reasons}")


def _platforms(cl: Any) -> Sequence[Any]:
    try:
        platforms: Sequence[Any] = cl.get_platforms()
    except cl.Error as error:
        if error.code != PLATFORM_NOT_FOUND:
            raise DeviceError(f"OpenCL cannot list its platforms: {error}") from error
        platforms = ()
    if not platforms:
        raise DeviceError(f"no OpenCL platform is installed{_where()}; {_advice()}")
    return platforms


def _where() -> str:
    import os

    given = os.environ.get("OCL_ICD_VENDORS")
    return f" (OCL_ICD_VENDORS={given} names none)" if given is not None else ""


def _advice() -> str:
    cards = [each.refusal for each in _unknown_cards([])]
    return "; ".join(cards) if cards else "install the OpenCL part of your graphics driver"


def _devices(cl: Any, platform: Any) -> list[Found]:
    """Return the devices of one platform; a platform that fails is one refused entry."""
    try:
        title = _text(platform.name)
    except cl.Error as error:
        reason = f"the platform does not even tell its name ({error}); reinstall its driver"
        return [Found("", "unknown platform", "", "", refusal=reason)]
    try:
        devices = platform.get_devices()
    except cl.Error as error:
        if error.code == DEVICE_NOT_FOUND:
            return []
        reason = f"the platform cannot list its devices ({error}); reinstall its driver"
        return [Found("", title, "", title, refusal=reason)]
    return [_describe(cl, title, device) for device in devices]


def _describe(cl: Any, platform: str, device: Any) -> Found:
    try:
        entry = Found(
            name="",
            title=_text(device.name),
            kind=_kind(cl, device),
            platform=platform,
            vendor=_text(device.vendor),
            version=_text(device.version),
            language=_text(device.opencl_c_version),
            driver=_text(device.driver_version),
            memory=device.global_mem_size,
            largest=device.max_mem_alloc_size,
            local_memory=device.local_mem_size,
            group=min(device.max_work_group_size, device.max_work_item_sizes[0]),
            alignment=device.mem_base_addr_align // 8,
            units=device.max_compute_units,
            unified=bool(device.host_unified_memory),
            device=device,
        )
        return replace(entry, refusal=_refusal(entry, device))
    except cl.Error as error:
        reason = f"the driver does not answer questions about it ({error}); reinstall it"
        return Found("", "unknown device", "", platform, refusal=reason)


def _kind(cl: Any, device: Any) -> str:
    if device.type & cl.device_type.GPU:
        return "gpu"
    return "cpu" if device.type & cl.device_type.CPU else "accelerator"


def _refusal(entry: Found, device: Any) -> str:
    """Return why a device cannot be used, or nothing."""
    if entry.kind == "accelerator":
        return "it is an accelerator or an emulator of one, not a graphics card"
    if "clover" in entry.platform.lower():
        return "Mesa's Clover is too old; install mesa-opencl-icd with Rusticl (RUSTICL_ENABLE)"
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: bool(device.available), "the driver says that it is not available"),
        (
            lambda: bool(device.compiler_available),
            "its driver has no compiler; install the full OpenCL driver",
        ),
        (lambda: bool(device.endian_little), "its numbers are big-endian"),
        (lambda: device.address_bits == 64, f"its addresses have {device.address_bits} bits"),
        (lambda: _version(entry.version) >= (1, 2), f"{entry.version.strip()} is older than 1.2"),
        (
            lambda: entry.group >= LEAST_GROUP,
            f"its work-groups have at most {entry.group} work-items; {LEAST_GROUP} are needed",
        ),
        (
            lambda: entry.local_memory >= LEAST_LOCAL,
            f"it has {entry.local_memory} bytes of local memory; {LEAST_LOCAL} are needed",
        ),
    ]
    return next((reason for holds, reason in checks if not holds()), "")


def _version(text: str) -> tuple[int, int]:
    """Return the numbers of "OpenCL 3.0 ..."."""
    try:
        major, minor = text.split()[1].split(".")[:2]
        return int(major), int(minor)
    except (IndexError, ValueError):
        return (0, 0)


def _text(value: str) -> str:
    return value.replace("\0", "").strip()


def _unknown_cards(entries: Sequence[Found]) -> list[Found]:
    """Return the graphics cards of this machine that no OpenCL platform speaks for."""
    known = {e.platform + " " + e.vendor for e in entries if e.kind == "gpu"}
    cards: list[Found] = []
    for vendor, count in _displays().items():
        title, words, library, install = CARDS[vendor]
        if any(word.lower() in each.lower() for word in words for each in known):
            continue
        what = f"{title} graphics card" + (f" ({count} of them)" if count > 1 else "")
        cards.append(Found("", what, "gpu", "", title, refusal=_missing(title, library, install)))
    return cards


def _missing(title: str, library: str, install: str) -> str:
    """Tell a driver whose OpenCL library is there but not announced from one without it."""
    import ctypes

    begin = f"no OpenCL platform is there for the {title} graphics card"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"{begin}; {install}"
    name = f"{FOLDERS}/{title.lower()}.icd"
    return f"{begin}, though its driver has {library}: write that name into {name}"


def _displays() -> dict[int, int]:
    """Return how many display controllers there are of each known vendor (Linux)."""
    counts: dict[int, int] = {}
    if sys.platform != "linux":
        return counts
    try:
        folders = sorted(DISPLAYS.iterdir())
    except OSError:
        return counts
    for folder in folders:
        try:
            kind = int((folder / "class").read_text(), 16) >> 16
            vendor = int((folder / "vendor").read_text(), 16)
        except (OSError, ValueError):
            continue
        if kind in (0x03, 0x12) and vendor in CARDS:  # displays, processing accelerators
            counts[vendor] = counts.get(vendor, 0) + 1
    return counts

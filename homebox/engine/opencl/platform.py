"""Finds OpenCL devices: every platform and device, its public name, or why it is not used.

One idea: a device is either used under a stable name (cl:0, cl:1, ..: GPUs by platform and device,
then CPUs) or comes with a sentence that says why not and what to do. Invariant: nothing of OpenCL
is loaded before it is asked for, a platform that fails takes nothing else with it, and a card has
one name, however many platforms show it.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from homebox.engine.opencl.calls import CallError, calls
from homebox.errors import DeviceError

LEAST_GROUP = 64  # work-items per group
LEAST_LOCAL = 32768  # bytes per group
PLATFORM_NOT_FOUND = -1001
DEVICE_NOT_FOUND = -1


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
    address: str = ""  # on the PCI bus ("0000:01:00.0"), if the driver tells
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

    Raises DeviceError if OpenCL is not there at all. A platform that does not work is an entry
    with a refusal.
    """
    cl = import_opencl()
    entries: list[Found] = []
    for platform in _platforms(cl):
        entries += _devices(cl, platform)
    usable = [each for each in entries if not each.refusal]
    ordered = [e for e in usable if e.kind == "gpu"] + [e for e in usable if e.kind == "cpu"]
    named: dict[str, Found] = {}
    again: list[Found] = []
    for each in ordered:
        name = f"cl:{len(named)}"
        first = named.get(each.address)
        # One platform shows the parts of a card as devices of their own, at one address.
        if first is not None and first.platform != each.platform:
            reason = f"it is the card of {first.name}, which {first.platform} shows as well"
            again.append(replace(each, refusal=reason))
        else:
            named[name if first or not each.address else each.address] = replace(each, name=name)
    return [*named.values(), *again, *(each for each in entries if each.refusal)]


def find(name: str) -> Found:
    """Return a usable device by its public name; else raises DeviceError with all reasons."""
    entries = found()
    for each in entries:
        if each.name == name:
            return each
    known = ", ".join(f"{e.name} ({e.title})" for e in entries if e.name) or "none"
    reasons = [f"{e.title}: {e.refusal}" for e in entries if e.refusal]
    if not any(e.kind == "gpu" for e in entries):
        reasons.append(_advice())
    raise DeviceError(
        "; ".join([f"there is no OpenCL device {name}; usable are: {known}", *reasons])
    )


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
    """Say what keeps the graphics cards of this machine from being found, and what to do."""
    if sys.platform != "linux":
        return "install your graphics driver with its OpenCL part"
    from homebox.engine.opencl.drivers import icd_files, icd_places, unseen
    from homebox.engine.opencl.shown import Listing
    from homebox.engine.opencl.system import System

    system = System()
    cards = unseen(system, Listing(), icd_files(system, icd_places(system)))
    if not cards:
        return "this machine shows no graphics card; homebox doctor tells more"
    return "; ".join(f"{card.gpu.name}: {card.reason}; {card.advice}" for card in cards)


def _devices(cl: Any, platform: Any) -> list[Found]:
    """Return the devices of one platform; a platform that fails is one refused entry."""
    try:
        title = _text(platform.name)
    except (cl.Error, UnicodeDecodeError) as error:
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
            address=_address(cl, device),
            device=device,
        )
        return replace(entry, refusal=_refusal(entry, device))
    except (cl.Error, UnicodeDecodeError) as error:
        reason = f"the driver does not answer questions about it ({error}); reinstall it"
        return Found("", "unknown device", "", platform, refusal=reason)


def _address(cl: Any, device: Any) -> str:
    """Return where a card is on the PCI bus; empty if its driver answers none of the questions."""
    info = cl.device_info
    with contextlib.suppress(CallError, DeviceError):
        domain, bus, number, function = calls(cl._cl.__file__).pci_place(device.int_ptr)
        return f"{domain:04x}:{bus:02x}:{number:02x}.{function:x}"
    with contextlib.suppress(cl.Error, AttributeError, TypeError):
        domain = 0
        with contextlib.suppress(cl.Error, AttributeError):
            domain = device.get_info(info.PCI_DOMAIN_ID_NV)
        slot, bus = device.get_info(info.PCI_SLOT_ID_NV), device.get_info(info.PCI_BUS_ID_NV)
        return f"{domain:04x}:{bus:02x}:{slot >> 3:02x}.{slot & 7:x}"
    with contextlib.suppress(cl.Error, AttributeError, TypeError):
        place = device.get_info(info.TOPOLOGY_AMD)
        return f"0000:{place.bus & 255:02x}:{place.device:02x}.{place.function:x}"
    return ""


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

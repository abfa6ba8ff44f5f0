"""How much memory of a graphics card nobody uses, asked of the system, since OpenCL cannot tell.

One idea: a card is known by its place on the PCI bus, under which AMD's kernel driver shows its
memory as files and NVIDIA's management library answers questions. Invariant: who cannot be asked
leaves the answer open; nothing here fails.
"""

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

PCI = Path("/sys/bus/pci/devices")


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def unused_bytes(address: str) -> int | None:
    """Return the bytes that no process uses of the card at "0000:01:00.0"; None if unknown."""
    if not address:
        return None
    found = _by_files(address)
    return _by_nvidia(address) if found is None else found


def _by_files(address: str) -> int | None:
    """Ask amdgpu."""
    try:
        folder = PCI / address
        total = int((folder / "mem_info_vram_total").read_text())
        return max(total - int((folder / "mem_info_vram_used").read_text()), 0)
    except (OSError, ValueError):
        return None


def _by_nvidia(address: str) -> int | None:
    """Ask NVIDIA's management library, which comes with its driver."""
    library = _management()
    if library is None:
        return None
    card, memory = ctypes.c_void_p(), _Memory()
    if library.nvmlDeviceGetHandleByPciBusId_v2(address.encode(), ctypes.byref(card)):
        return None
    if library.nvmlDeviceGetMemoryInfo(card, ctypes.byref(memory)):
        return None
    return int(memory.free)


@cache
def _management() -> Any:
    """Return the library, ready to be asked; None if there is none."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        return None if library.nvmlInit_v2() else library
    except (OSError, AttributeError):
        return None

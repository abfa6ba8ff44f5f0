"""OpenCL runtimes to test on: Intel's for CPUs from PyPI, and PoCL where the system has it."""

import atexit
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from homebox.engine.opencl.backend import OpenClDevice
    from homebox.engine.opencl.memory import OpenClMemory
    from homebox.engine.opencl.platform import Found

POCL = Path("/etc/OpenCL/vendors/pocl.icd")
PLATFORMS = {"intel": "Intel(R) OpenCL", "pocl": "Portable Computing Language"}
INSTALL = "run: make test, or: pip install -e '.[test,opencl-test]'"


def _intel() -> str | None:
    """Return the path of Intel's runtime in this environment."""
    try:
        files = importlib.metadata.files("intel-opencl-rt") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(f.locate().resolve()) for f in files if f.name == "libintelocl.so"), None)


def _runtimes() -> dict[str, str]:
    """Return what an ICD file of each runtime that is here contains."""
    here: dict[str, str] = {}
    if path := _intel():
        here["intel"] = path
    if POCL.is_file():
        here["pocl"] = POCL.read_text().strip()
    return here


def _announce(runtimes: dict[str, str]) -> None:
    """Let the OpenCL loader find these runtimes and no other; it looks once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="homebox-icd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, library in runtimes.items():
        (folder / f"{name}.icd").write_text(library + "\n")
    os.environ["OCL_ICD_VENDORS"] = str(folder)


RUNTIMES = _runtimes()
_announce(RUNTIMES)


# `make test` runs on Intel's runtime, which has all units but matrices; `make test-opencl` on both.
@pytest.fixture(params=["intel", pytest.param("pocl", marks=pytest.mark.whole)])
def cl_entry(request: pytest.FixtureRequest) -> "Found":
    """Return how the driver of each runtime describes its device."""
    runtime = str(request.param)
    if runtime not in RUNTIMES:
        if runtime == "pocl":
            pytest.skip("PoCL is not installed (Debian: pocl-opencl-icd)")
        if sys.platform == "linux" and platform.machine() == "x86_64":
            pytest.fail(f"Intel's OpenCL runtime is missing, so nothing is tested; {INSTALL}")
        pytest.skip("Intel's OpenCL runtime for CPUs exists for x86-64 Linux only")
    if importlib.util.find_spec("pyopencl") is None:
        pytest.fail(f"pyopencl is missing; {INSTALL}")
    from homebox.engine.opencl.platform import found

    entries = [each for each in found() if each.platform == PLATFORMS[runtime]]
    assert entries, f"the loader does not find {RUNTIMES[runtime]}"
    assert not entries[0].refusal, entries[0].refusal
    return entries[0]


@pytest.fixture
def cl_memory(cl_entry: "Found") -> Iterator["OpenClMemory"]:
    """Return a device of each runtime, newly opened, with memory only."""
    from homebox.engine.opencl.memory import OpenClMemory

    memory = OpenClMemory(cl_entry)
    yield memory
    if not memory.lost:
        memory.finish()


@pytest.fixture
def cl_device(cl_entry: "Found") -> "OpenClDevice":
    """Return the device of each runtime as programs use it."""
    from homebox.engine.opencl.backend import open_device

    return open_device(cl_entry.name)

"""What the operating system says of this machine: files under /sys, /proc, /dev and /etc.

One idea: everything that is read of the system goes through one small object, so that a test can
show it another machine. Invariant: nothing here raises because a file is missing or unreadable; a
machine without Linux's files merely tells nothing.
"""

import grp
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

VENDORS = {0x10DE: "NVIDIA", 0x1002: "AMD", 0x8086: "Intel"}
_DISPLAY, _ACCELERATOR = "0x03", "0x12"  # the first byte of a PCI device's class
_NAMES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")
_LOADS = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_LAZY)"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor on the PCI bus."""

    address: str  # "0000:01:00.0"
    vendor: int
    name: str
    driver: str  # the kernel's driver that runs it; empty if none does
    render: str  # its node in /dev/dri; empty if it has none

    @property
    def maker(self) -> str:
        """The vendor's name."""
        return VENDORS[self.vendor]


@dataclass(frozen=True)
class Ended:
    """How a Python process ended: code (negative: the signal), output; None: it was stopped."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class System:
    """A machine; `root` is where its files are found."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def text(self, path: str) -> str:
        """Return a file's text without surrounding space; empty if it cannot be read."""
        try:
            return self._at(path).read_text("utf-8", "replace").strip()
        except OSError:
            return ""

    def names(self, path: str) -> list[str]:
        """Return what lies in a folder, sorted; nothing if it is no folder."""
        try:
            return sorted(each.name for each in self._at(path).iterdir())
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Say whether there is such a file, folder or device."""
        return self._at(path).exists()

    def usable(self, path: str) -> bool:
        """Say whether this user may read and write it."""
        return os.access(self._at(path), os.R_OK | os.W_OK)

    def owner(self, path: str) -> str:
        """Return the group that a file belongs to; empty if it has none by name."""
        try:
            return grp.getgrgid(self._at(path).stat().st_gid).gr_name
        except (OSError, KeyError):
            return ""

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    # -- graphics processors ----------------------------------------------------------------------

    def gpus(self) -> list[Gpu]:
        """Return the graphics processors of the vendors that homebox knows, by address."""
        found = self._on_the_bus()
        known = {gpu.address for gpu in found}
        # Some containers hide the bus but not the driver, others show device files alone.
        for address in self.names("/proc/driver/nvidia/gpus"):
            if address not in known:
                found.append(Gpu(address, 0x10DE, self._name(address, 0x10DE, -1), "nvidia", ""))
        if not any(gpu.vendor == 0x10DE for gpu in found):
            for name in self.names("/dev"):
                if re.fullmatch(r"nvidia\d+", name):
                    found.append(Gpu(f"/dev/{name}", 0x10DE, "NVIDIA card", "nvidia", ""))
        return found

    def _on_the_bus(self) -> list[Gpu]:
        found = []
        for address in self.names("/sys/bus/pci/devices"):
            folder = f"/sys/bus/pci/devices/{address}"
            kind = self.text(f"{folder}/class")
            vendor = _hex(self.text(f"{folder}/vendor"))
            if vendor not in VENDORS or not kind.startswith((_DISPLAY, _ACCELERATOR)):
                continue
            if vendor == 0x8086 and kind.startswith(_ACCELERATOR):
                continue  # a processor's neural unit, which OpenCL does not reach
            nodes = [n for n in self.names(f"{folder}/drm") if n.startswith("renderD")]
            found.append(
                Gpu(
                    address,
                    vendor,
                    self._name(address, vendor, _hex(self.text(f"{folder}/device"))),
                    self._driver(folder),
                    f"/dev/dri/{nodes[0]}" if nodes else "",
                )
            )
        return found

    def _driver(self, folder: str) -> str:
        link = self._at(f"{folder}/driver")
        try:
            return link.readlink().name
        except OSError:
            return link.name if link.is_file() else ""

    def _name(self, address: str, vendor: int, device: int) -> str:
        information = self.text(f"/proc/driver/nvidia/gpus/{address}/information")
        if model := re.search(r"^Model:\s*(.+)$", information, re.MULTILINE):
            return model[1]
        for path in _NAMES:
            listing = self.text(path)
            start = re.search(rf"^{vendor:04x}  .*$", listing, re.MULTILINE)
            if start is None:
                continue
            part = re.split(r"^[0-9a-f]", listing[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
            if line := re.search(rf"^\t{device:04x}  (.+)$", part, re.MULTILINE):
                return f"{VENDORS[vendor]} {line[1]}"
        return f"{VENDORS[vendor]} card" + (f" {device:04x}" if device >= 0 else "")

    # -- surroundings -----------------------------------------------------------------------------

    def container(self) -> bool:
        """Say whether this is the inside of a container."""
        marks = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
        return any(self.exists(mark) for mark in marks) or "container" in self.environ

    def distribution(self) -> str:
        """Return which packages this system installs: "debian", "ubuntu", "fedora", "arch", .."""
        lines = self.text("/etc/os-release").splitlines()
        words = dict(line.partition("=")[::2] for line in lines)
        for key in ("ID", "ID_LIKE"):
            for word in words.get(key, "").strip('"').split():
                if word in ("ubuntu", "debian", "fedora", "arch", "suse", "opensuse"):
                    return word.removeprefix("open")
                if word in ("rhel", "centos"):
                    return "fedora"
        return ""

    def nvidia_version(self) -> str:
        """Return the version of NVIDIA's kernel driver, "570.124.06"; empty if it is not there."""
        text = self.text("/proc/driver/nvidia/version").partition("\n")[0]
        found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
        return found[1] if found else ""

    def processor(self) -> str:
        """Return what the processor calls itself; empty if the system does not tell."""
        found = re.search(r"^model name\s*:\s*(.+)$", self.text("/proc/cpuinfo"), re.MULTILINE)
        return found[1] if found else ""

    def memory(self) -> int:
        """Return the bytes of main memory, 0 if unknown."""
        found = re.search(r"^MemTotal:\s*(\d+) kB", self.text("/proc/meminfo"), re.MULTILINE)
        return int(found[1]) << 10 if found else 0

    # -- other processes --------------------------------------------------------------------------

    def python(
        self, arguments: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None
    ) -> Ended:
        """Run Python in a process of its own, where a driver may crash or hang."""
        variables = {**self.environ, **(environ or {})}
        package = str(Path(__file__).parents[3])
        variables["PYTHONPATH"] = os.pathsep.join(
            filter(None, [package, variables.get("PYTHONPATH")])
        )
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                env=variables,
                stdin=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ended(None, "", "")
        return Ended(done.returncode, done.stdout, done.stderr)

    def load(self, library: str) -> str:
        """Try to load a shared library; gives why it does not, empty if it does."""
        ended = self.python(["-c", _LOADS, library], 60)
        if ended.code == 0:
            return ""
        lines = ended.err.strip().splitlines()
        return lines[-1].removeprefix("OSError: ") if lines else "loading it ends the process"


def _hex(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return -1

"""How much memory this process has, as Linux counts it (proc(5), /proc/self/status)."""

from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Resident:
    """Bytes in memory: all, and those of no file, which come back only when they are freed."""

    all: int = 0
    anonymous: int = 0


def resident() -> Resident:
    """Read what this process has; zeros where the system does not say."""
    found = {"VmRSS": 0, "RssAnon": 0}
    try:
        for line in _STATUS.read_text("ascii", "replace").splitlines():
            key, _, value = line.partition(":")
            if key in found:
                found[key] = int(value.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        return Resident()
    return Resident(found["VmRSS"], found["RssAnon"])

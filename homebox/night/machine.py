"""What the machine is doing: whether others use it, on what power it runs, what was used of that.

The one idea: everything is read from files of the system, whose root a test may move, and what
cannot be read is None, which never holds learning up. The load is that of other processes: what
learning itself uses must not make it stop.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class Machine:
    """One look; `others` is their share of all processors since the look before."""

    others: float | None
    on_mains: bool | None
    gpu_busy: float | None  # share of the busiest card that tells


class Watcher:
    """Looks at the machine again and again."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._before = self._processors()

    def look(self) -> Machine:
        """Say what is going on."""
        now, before = self._processors(), self._before
        self._before = now
        others = None
        if now and before and now[0] > before[0]:
            total, busy, own = (b - a for a, b in zip(before, now, strict=True))
            others = min(max((busy - own) / total, 0.0), 1.0)
        return Machine(others, self._on_mains(), self._gpu_busy())

    def _processors(self) -> tuple[float, float, float] | None:
        """Return (all, busy, own) processor seconds since the start of the machine."""
        try:
            line = (self._root / "proc/stat").read_text("ascii").splitlines()[0]
            ticks = [int(word) for word in line.split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        if len(ticks) < 5:
            return None
        each = os.sysconf("SC_CLK_TCK")
        total, idle = sum(ticks) / each, (ticks[3] + ticks[4]) / each
        return total, total - idle, time.process_time()

    def _on_mains(self) -> bool | None:
        """Whether a mains adapter is plugged in; True where there is no battery at all."""
        supplies = list(_children(self._root / "sys/class/power_supply"))
        kinds = {path: _word(path / "type") for path in supplies}
        mains = [path for path, kind in kinds.items() if kind in ("Mains", "USB")]
        if mains:
            return any(_word(path / "online") == "1" for path in mains)
        return None if "Battery" in kinds.values() else True

    def _gpu_busy(self) -> float | None:
        """Return what AMD's driver tells of its cards; others have no such file."""
        found = [
            int(word) / 100
            for card in _children(self._root / "sys/class/drm")
            if (word := _word(card / "device/gpu_busy_percent")).isdigit()
        ]
        return max(found, default=None)


class Energy:
    """Counts what the processors' packages used, by Intel's and AMD's RAPL; in watt hours."""

    def __init__(self, root: Path = ROOT) -> None:
        folder = root / "sys/class/powercap"
        packages = [p for p in _children(folder) if p.name.count(":") == 1]
        self._packages = [p for p in packages if _word(p / "energy_uj").isdigit()]
        self._last = self._counters()
        self._used = 0.0  # microjoules

    @property
    def readable(self) -> bool:
        """Whether the system tells; it often tells only root."""
        return bool(self._packages)

    def used(self) -> float:
        """Return the watt hours since the beginning."""
        now = self._counters()
        for path, count in now.items():
            before = self._last.get(path, count)
            # The counter begins anew at a value that the system tells.
            span = _word(path / "max_energy_range_uj")
            turned = int(span) if count < before and span.isdigit() else 0
            self._used += max(count + turned - before, 0)
        self._last = now
        return self._used / 3.6e9

    def _counters(self) -> dict[Path, int]:
        words = {path: _word(path / "energy_uj") for path in self._packages}
        return {path: int(word) for path, word in words.items() if word.isdigit()}


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:
        return


def _word(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""

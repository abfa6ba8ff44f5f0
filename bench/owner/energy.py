"""Reads the energy that the processor says it used (RAPL), where the machine lets it be read."""

from pathlib import Path

FOLDER = Path("/sys/class/powercap")
NOT_READABLE = "not readable"


class Meter:
    """Counts joules of all packages from its making on; between, they may wrap around once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        # Packages are "intel-rapl:0"; their parts have a second number and are in it already.
        zones = sorted(folder.glob("intel-rapl:*")) if folder.is_dir() else []
        self._zones = [zone for zone in zones if zone.name.count(":") == 1]
        self._begun = self._read()

    def joules(self) -> float | None:
        """Return the joules used so far, or None where they cannot be read."""
        now = self._read()
        if now is None or self._begun is None:
            return None
        return sum((end - begin) % most for begin, (end, most) in zip(self._first(), now)) / 1e6

    def _first(self) -> list[int]:
        return [value for value, _ in self._begun or []]

    def _read(self) -> list[tuple[int, int]] | None:
        try:
            found = [
                (
                    int((z / "energy_uj").read_text()),
                    int((z / "max_energy_range_uj").read_text()) + 1,
                )
                for z in self._zones
            ]
        except (OSError, ValueError):
            return None
        return found or None


def shown(joules: float | None) -> str:
    """Write joules for a person."""
    return NOT_READABLE if joules is None else f"{joules:.0f} J"

"""Times functions side by side in alternating runs, so that a busy machine hits both alike."""

import statistics
import time
from collections.abc import Callable


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each function over `rounds` alternating runs (one warm-up)."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def report(metric: str, ours: float, peer: float, work: float, unit: str, floor: float) -> bool:
    """Print one line: our figure, the peer's, the ratio and whether the floor holds."""
    ratio = peer / ours
    verdict = "holds" if ratio >= floor else "MISSED"
    print(
        f"{metric}: homebox {work / ours:,.1f} {unit}, peer {work / peer:,.1f} {unit}, "
        f"ratio {ratio:.2f} (floor {floor:.1f} {verdict})",
        flush=True,
    )
    return ratio >= floor

"""What serving other weights cost whoever was answered meanwhile: one line for each swap.

The one idea: how long a swap took says something about one machine at one moment, so it stands
beside the gate's report, whose bytes follow from the lessons alone. Invariant: nothing depends on
this file; a line that cannot be written or read is a figure that nobody has.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homebox.errors import StateError
from homebox.memory.durable import append_line, whole_lines
from homebox.memory.store import canonical_json

SWAPS = "swaps"  # in refs


def note_swap(root: Path, base: str, weights: str, figures: Mapping[str, Any]) -> bool:
    """Keep what was measured when `weights` of `base` came to be served; False if it cannot be.

    `root` is the state directory.
    """
    line = canonical_json({**figures, "base": base, "weights": weights})
    with contextlib.suppress(StateError):
        append_line(root / "refs" / SWAPS, line)
        return True
    return False


def swaps_to(root: Path, base: str, weights: str) -> list[dict[str, Any]]:
    """List what was measured whenever these weights came to be served, oldest first."""
    try:
        lines = whole_lines(root / "refs" / SWAPS)
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            swap = json.loads(line)
            if isinstance(swap, dict) and (swap.get("base"), swap.get("weights")) == (
                base,
                weights,
            ):
                found.append(swap)
    return found

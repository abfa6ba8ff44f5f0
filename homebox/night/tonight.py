"""What one night has used, kept in the state directory so that a reboot does not begin it anew.

Invariant: what is kept has no word of anybody, only the night's name and numbers; a file that
cannot be read counts as no night at all.
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import HomeboxError
from homebox.memory.durable import replace_file

log = logging.getLogger("homebox.night")

FILE = "night.json"  # in the state directory


@dataclass
class Tonight:
    """What happened in one night."""

    name: str = ""  # the day on which it began
    done: bool = False
    learned: float = 0.0  # seconds
    energy: float = 0.0  # watt hours
    result: str = ""  # what the run said at its end; not kept


def read(path: Path | None) -> Tonight:
    """Return the night that was kept, or an empty one."""
    if path is None:
        return Tonight()
    try:
        fields = json.loads(path.read_bytes())
        return _checked(fields)
    except FileNotFoundError:
        return Tonight()
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("what this night has used is counted anew, as %s is damaged: %r", path, error)
        return Tonight()


def keep(path: Path | None, tonight: Tonight) -> None:
    """Write a night down; the log has it if that fails, and learning goes on within its bounds."""
    if path is None:
        return
    fields = {name: getattr(tonight, name) for name in ("name", "done", "learned", "energy")}
    try:
        replace_file(path, json.dumps(fields).encode())
    except HomeboxError as error:
        log.warning("a reboot would begin this night's budget anew: %s", error)


def _checked(fields: Any) -> Tonight:
    night = Tonight(fields["name"], fields["done"], fields["learned"], fields["energy"])
    used = (night.learned, night.energy)
    if not isinstance(night.name, str) or not isinstance(night.done, bool):
        raise TypeError("no night")
    if not all(type(each) in (int, float) and math.isfinite(each) and each >= 0 for each in used):
        raise ValueError("no amounts")
    return night

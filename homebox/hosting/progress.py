"""How far a switch of models is, for whoever asked for it and for `homebox status`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Tell = Callable[[Mapping[str, Any]], None]


@dataclass
class Switch:
    """A switch in progress, as people see it."""

    name: str
    tell: Tell
    stage: str = "open"
    text: str = "opening its files"
    done: int = 0
    total: int = 1
    begun: float = field(default_factory=time.monotonic)

    def at(self, stage: str, text: str, done: int = 0, total: int = 1) -> None:
        """Go on to another stage, or further in this one."""
        self.stage, self.text, self.done, self.total = stage, text, done, total
        self.tell(self.as_json())

    def loaded(self, done: int, total: int) -> None:
        """Say how many bytes of the new weights are ready."""
        self.at(self.stage, f"{done >> 20} of {total >> 20} MiB of weights are ready", done, total)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "to": self.name,
            "stage": self.stage,
            "text": self.text,
            "done": self.done,
            "total": self.total,
            "seconds": round(time.monotonic() - self.begun, 1),
        }

"""Tells the service manager that the daemon is ready and alive (sd_notify(3)).

Invariant: signs of life come from the thread that owns the model, or while there is none from the
task that loads one; a hang of either is silent.
"""

import contextlib
import os
import socket
import time
from dataclasses import dataclass, field


@dataclass
class Notifier:
    """The daemon's end of the service manager's socket."""

    address: str = field(default_factory=lambda: os.environ.get("NOTIFY_SOCKET", ""))
    interval: float = field(
        default_factory=lambda: int(os.environ.get("WATCHDOG_USEC", "0") or "0") / 2e6
    )
    last: float = 0.0

    def beat(self) -> None:
        """Say that the engine thread lives; called by it on every round."""
        now = time.monotonic()
        if self.interval and now - self.last >= self.interval:
            self.last = now
            self.send("WATCHDOG=1")

    def send(self, message: str) -> None:
        """Send one message; without a service manager nothing happens."""
        if not self.address:
            return
        # A leading @ stands for a name in the abstract namespace.
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(message.encode(), address)

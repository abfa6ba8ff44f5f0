"""A time after which something happens, unless it is moved on before, which costs nothing.

The one idea: the loop's timer is set for the first such time alone; only when it goes off is looked
whether what it stands for was moved on meanwhile. Whoever waits thousands of times a second, and
nearly always in vain, so sets a timer once in a while. Belongs to one event loop.
"""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `action` once the time that `set` named has come, unless `drop` was called before."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._time: float | None = None

    def set(self, seconds: float) -> None:
        """Let it be so many seconds from now, whatever it was."""
        self._time = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._time, self._look)
        elif self._timer.when() > self._time:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._time, self._look)

    def drop(self) -> None:
        """Let there be none."""
        self._time = None

    def close(self) -> None:
        """Let there be none any more; the loop forgets this."""
        self._time = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._time is None:
            return
        if self._loop.time() < self._time:
            self._timer = self._loop.call_at(self._time, self._look)
            return
        self._time = None
        self._action()

"""What the night may do with the box: the narrow view of a daemon that it works with."""

from collections.abc import Callable, Coroutine
from typing import Any

from homebox.scheduler import Engine


class Sleeper:
    """Reaches the engine that serves now; `learn` runs one learning run of the daemon."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        learn: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        """`engine` raises BusyError in the middle of a switch, and the night looks again later."""
        self._engine = engine
        self._learn = learn

    def idle(self) -> float:
        """Return the seconds since the last request."""
        return self._engine().idle

    def learning(self) -> bool:
        """Whether a run is on."""
        return self._engine().learning is not None

    def paused(self) -> str:
        """Return why the run is paused."""
        learning = self._engine().learning
        return "" if learning is None else learning.pause_reason

    def begin(self) -> Coroutine[Any, Any, Any]:
        """Learn."""
        return self._learn()

    def pause(self, reason: str) -> None:
        """Take no step until `resume`."""
        self._engine().pause_learning(reason)

    def resume(self) -> None:
        """Go on."""
        self._engine().resume_learning()

    def stop(self, reason: str) -> None:
        """End the run before its next step."""
        self._engine().stop_learning(reason)

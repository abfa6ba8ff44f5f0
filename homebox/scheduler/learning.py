"""One learning run as the engine thread takes it: micro-step by micro-step, between answers."""

import concurrent.futures
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

from homebox.errors import LearningError


class Learning:
    """One learning run on the engine thread: its latest progress, its listeners, its result."""

    def __init__(self, steps: Generator[Any, None, Any]) -> None:
        self.steps = steps
        self.progress: Any = None
        self.result: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.result.set_running_or_notify_cancel()  # nobody who waits for it can cancel it
        self.seconds = 0.0  # of the latest micro-step
        self.stop_reason: str | None = None
        self.pause_reason = ""  # why no micro-step is taken now; empty while they are
        self._listeners: list[Callable[[Any], None]] = []

    def listen(self, listener: Callable[[Any], None]) -> Callable[[], None]:
        """Call `listener` on the engine thread with every progress; gives what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def runnable(self) -> bool:
        """Whether a micro-step is to be taken: a paused run still takes the one that ends it."""
        return not self.pause_reason or self.stop_reason is not None

    def step(self) -> Callable[[], None] | None:
        """Take one micro-step; when the run is over, give what tells its result."""
        begun = time.perf_counter()
        try:
            if self.stop_reason is not None:
                self.steps.close()
                raise LearningError(self.stop_reason)
            self.progress = next(self.steps)
        except StopIteration as done:
            return partial(self.result.set_result, done.value)
        except BaseException as error:
            return partial(self.result.set_exception, error)
        self.seconds = time.perf_counter() - begun
        for listener in list(self._listeners):
            listener(self.progress)
        return None


def run_inline(steps: Iterator[Any], listener: Callable[[Any], None]) -> Any:
    """Run a learning generator here and now, without an engine thread; gives its return value."""
    while True:
        try:
            listener(next(steps))
        except StopIteration as done:
            return done.value

"""Does what takes long beside the thread that answers, which only looks in.

The one idea: reading, writing and compiling need no model, so they need not hold up whoever talks
to it. Invariant: while the other thread works, the one that answers waits for nothing longer than a
glance if somebody is there.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from homebox.learning.report import Progress

LOWEST = 19  # priority of the thread, where threads have one
NAP = 0.02  # seconds between two looks while nobody waits
GLANCE = 0.001  # seconds in which somebody who waits is noticed

T = TypeVar("T")


class Interrupt(Protocol):
    """Says whether somebody waits."""

    def is_set(self) -> bool:
        """Whether somebody does."""
        ...


class _Nobody:
    def is_set(self) -> bool:
        return False


NOBODY: Interrupt = _Nobody()


def beside(
    work: Callable[[], T],
    progress: Progress | Callable[[], Progress],
    interrupt: Interrupt,
    dropped: Callable[[], None] = lambda: None,
) -> Generator[Progress, None, T]:
    """Run `work` on a thread of its own and return what it gives; raises what it raises.

    `progress` is what is told meanwhile, or what says it.
    `dropped` is called on that thread if nobody wants the result any more when it is there.
    """
    result: Future[T] = Future()
    look = progress if callable(progress) else lambda: progress

    def run() -> None:
        # Whoever answers needs the processors more; threads that this one begins are like it.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            settle = partial(result.set_result, work())
        except BaseException as error:
            settle = partial(result.set_exception, error)
        if result.set_running_or_notify_cancel():
            settle()
        else:
            dropped()

    threading.Thread(target=run, name="homebox-prepare", daemon=True).start()
    try:
        yield look()  # also of work that is over at once: the stages of a run are always the same
        while not result.done():
            nap(NAP, interrupt, result.done)
            yield look()
        return result.result()
    finally:
        result.cancel()


@contextlib.contextmanager
def counting(
    stage: str, total: int, text: str
) -> Iterator[tuple[Callable[[int], None], Callable[[], Progress]]]:
    """Give what counts on beside, and what says how far it is; behind the block counting raises.

    So what nobody waits for any more ends at its next count.
    """
    done, over = 0, False

    def count(number: int) -> None:
        nonlocal done
        if over:
            raise _NotWantedError
        done = number

    try:
        yield count, lambda: Progress(stage, done, max(total, done), text)
    finally:
        over = True


class _NotWantedError(Exception):
    """Ends what nobody waits for."""


def nap(seconds: float, interrupt: Interrupt, over: Callable[[], bool] = lambda: False) -> None:
    """Let time pass until somebody waits or it is over."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not over() and not interrupt.is_set():
        time.sleep(min(GLANCE, left))

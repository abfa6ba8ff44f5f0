"""Learning waits while a device is full or lost, or the disk is full, instead of giving up.

One idea: a run is a function of its recipe, so what was begun on a device that failed is dropped
and begun anew later, with the same result. Invariant: while learning waits, it holds no memory of
a device and takes turns as always, so answers go on.
"""

import gc
import logging
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from homebox.errors import (
    DeviceLostError,
    DiskFullError,
    LearningError,
    OutOfDeviceMemoryError,
)
from homebox.learning.beside import NOBODY, Interrupt, nap
from homebox.learning.report import Progress

log = logging.getLogger(__name__)

WAITS = (30.0, 120.0, 600.0)  # seconds before the second, third and last try
TURN = 0.02  # seconds that one turn of waiting takes while nobody is there

T = TypeVar("T")


def patient(
    attempt: Callable[[], Generator[Progress, None, T]],
    pauses: list[str],
    interrupt: Interrupt = NOBODY,
) -> Generator[Progress, None, T]:
    """Run `attempt`; where a device or the disk fails, wait and run it again from the beginning.

    Each reason is added to `pauses`. `interrupt` says that somebody wants the thread meanwhile.
    Raises LearningError if it fails in every try.
    """
    for wait in (*WAITS, None):
        try:
            return (yield from attempt())
        except (OutOfDeviceMemoryError, DeviceLostError) as error:
            # Only the text: the error itself holds on to everything that was being computed.
            reason, full = str(error), isinstance(error, OutOfDeviceMemoryError)
            what = "the device"
        except DiskFullError as error:
            reason, full, what = str(error), False, "space on the disk"
        pauses.append(reason)
        log.warning("learning pauses: %s", reason)
        gc.collect()
        if wait is not None:
            yield from _waiting(wait, f"waiting for {what}: {reason}", interrupt)
    advice = "; more learning.parts or a smaller learning.batch takes less memory" if full else ""
    raise LearningError(f"learning gave up after {len(pauses)} tries: {pauses[-1]}{advice}")


def _waiting(seconds: float, text: str, interrupt: Interrupt) -> Generator[Progress, None, None]:
    """Let time pass in short turns."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        yield Progress("pause", int(passed), int(seconds), text)
        nap(min(TURN, seconds - passed), interrupt)

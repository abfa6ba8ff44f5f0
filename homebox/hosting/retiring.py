"""How a model goes: when its last answer is over, with all of its memory.

The one idea: whoever is answered by a model that no longer serves has it to the end, and nobody
waits for that but who needs the memory. Invariant: an engine thread that was begun is stopped,
also if whoever waits for it is not there any more.
"""

import asyncio
import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any

from homebox.api.door import Door
from homebox.api.service import Service
from homebox.hosting.hosted import Hosted

log = logging.getLogger("homebox.hosting")

DRAIN = 120.0  # seconds that a switch waits for running answers before it is given up
FREEING = 0.5  # seconds that somebody may hold a model that was stopped
SWITCHED = "learning was stopped by a switch to another model; nothing was promoted"


class Retiring:
    """The models that no new request goes to; belongs to the event loop."""

    def __init__(self) -> None:
        self._leaving: dict[asyncio.Task[None], Hosted] = {}

    def __iter__(self) -> Iterator[Hosted]:
        return iter(list(self._leaving.values()))

    def __bool__(self) -> bool:
        return bool(self._leaving)

    def begin(self, old: Hosted, door: Door[Service]) -> None:
        """Let a model go when its last answer is over."""
        old.current = False
        task = asyncio.ensure_future(self._go(old, door))
        self._leaving[task] = old
        task.add_done_callback(self._gone)

    async def over(self, seconds: float) -> bool:
        """Wait until all have gone; false if that took too long."""
        await asyncio.wait(list(self._leaving), timeout=seconds)
        return not self._leaving

    async def close(self) -> None:
        """Stop all at once."""
        for task in list(self._leaving):
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _go(self, old: Hosted, door: Door[Service]) -> None:
        try:
            await door.left(old.service)
        finally:
            await stopped(old)

    def _gone(self, task: "asyncio.Task[None]") -> None:
        self._leaving.pop(task, None)
        gc.collect()


async def stopped(hosted: Hosted) -> None:
    """Stop an engine thread; shielded, because a thread that runs on would keep the model."""
    await asyncio.shield(asyncio.to_thread(hosted.engine.stop))


async def freed(model: "weakref.ref[Any]") -> None:
    """Wait until a model's memory is back: the last frame of a request may hold it for a moment."""
    until = asyncio.get_running_loop().time() + FREEING
    while True:
        await asyncio.to_thread(gc.collect)
        if model() is None:
            return
        if asyncio.get_running_loop().time() >= until:
            log.warning("the model that was stopped still holds its memory")
            return
        await asyncio.sleep(0.01)

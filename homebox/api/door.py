"""The door through which requests reach the model: open, or closed for the time of a switch.

The one idea: a request passes once and keeps what it found behind the door until its answer is
over, so a switch changes only later requests. While the door is closed a bounded number of requests
waits in front of it. Everything here belongs to the event loop.

Invariant: whoever passed is counted until the end; what `left` waited for is used by nobody.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from homebox.errors import BusyError, DaemonError, HomeboxError

T = TypeVar("T")

# Agents give up after 300 seconds without headers; they must hear of it before.
PATIENCE = 240.0


class Door(Generic[T]):
    """What new requests are served by, and how many still use what came before."""

    def __init__(self, service: T, most: int = 64, patience: float = PATIENCE) -> None:
        """`most` requests may wait, each for `patience` seconds."""
        self.waiting = 0
        self._most = most
        self._patience = patience
        self._service: T | None = service
        self._users: dict[int, int] = {}
        self._changed = asyncio.Event()  # a new one after every change
        self._refusal: HomeboxError | None = None

    @property
    def service(self) -> T | None:
        """What new requests are served by; None while the door is closed."""
        return self._service

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[T]:
        """Pass, and count as a user until the block ends.

        Raises BusyError if too many wait already, DaemonError if the wait was too long.
        """
        service = self._service if self._service is not None else await self._wait()
        key = id(service)
        self._users[key] = self._users.get(key, 0) + 1
        try:
            yield service
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._tell()

    @property
    def refused(self) -> bool:
        """Whether nobody will open the door any more."""
        return self._refusal is not None

    def users(self, service: T) -> int:
        """Count the requests that use a service."""
        return self._users.get(id(service), 0)

    def close(self) -> None:
        """Let new requests wait."""
        self._service = None

    def open(self, service: T) -> None:
        """Let new requests, and those that wait, go to `service`."""
        self._service, self._refusal = service, None
        self._tell()

    def refuse(self, reason: HomeboxError) -> None:
        """Turn away everybody who waits, and who comes while the door is closed."""
        self._refusal = reason
        self._tell()

    async def left(self, service: T, seconds: float | None = None) -> bool:
        """Wait until nobody uses a service; False if that took more than so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.users(service):
                    await self._changed.wait()
        return not self.users(service)

    async def _wait(self) -> T:
        if self.waiting >= self._most:
            raise BusyError(
                f"homebox is switching to another model and {self.waiting} requests are waiting "
                "already; try again later"
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                while self._service is None and self._refusal is None:
                    await self._changed.wait()
        except TimeoutError:
            raise DaemonError(
                "homebox is still switching to another model; try again later"
            ) from None
        finally:
            self.waiting -= 1
        if self._service is None:
            raise self._refusal or DaemonError("homebox is shutting down")
        return self._service

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

"""Writing a stream to somebody who may have stopped reading.

The one idea: a write waits only where the reader is far behind, so the clock that watches it costs
nothing for the others. Invariant: no write lasts longer than its time.
"""

from collections.abc import Awaitable
from types import TracebackType

from aiohttp import web

from homebox.scheduler.deadline import Deadline


class Writing:
    """The body of a response; a reader who takes nothing for `seconds` counts as gone.

    Its methods then raise ConnectionResetError, and the connection is closed.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse, seconds: float) -> None:
        self._request = request
        self._response = response
        self._seconds = seconds
        self._deadline = Deadline(self._give_up)
        self._gone = False

    def __enter__(self) -> "Writing":
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the clock."""
        self._deadline.close()

    async def send(self, data: bytes) -> None:
        """Write something."""
        if data:
            await self._in_time(self._response.write(data))

    async def finish(self) -> None:
        """Write the end."""
        await self._in_time(self._response.write_eof())

    async def _in_time(self, work: Awaitable[None]) -> None:
        self._deadline.set(self._seconds)
        try:
            await work
        finally:
            self._deadline.drop()
        if self._gone:
            raise ConnectionResetError("the reader takes nothing")

    def _give_up(self) -> None:
        self._gone = True
        if self._request.transport is not None:
            self._request.transport.abort()

"""One TCP connection of the server: aiohttp's protocol with time-outs and errors of our shape.

aiohttp waits for the first request for ever, and answers what is not HTTP with plain text and a
traceback in the log. Both are changed here and nothing else.
"""

import asyncio
import logging

import msgspec
from aiohttp import web

from homebox.api.wire import JSON, error_value
from homebox.errors import BusyError, HomeboxError, RequestError

log = logging.getLogger("homebox.server")


class Connection(web.RequestHandler):
    """A connection that must send the headers of its first request in time.

    While it is served, its task is one of `handlers`; while it is open, it is one of `open_ones`.
    """

    __slots__ = ("_handlers", "_open", "_silence", "_silence_limit")

    def __init__(
        self,
        server: web.Server,
        handlers: set[asyncio.Task[None]],
        open_ones: set[asyncio.Protocol],
        *,
        header_timeout: float,
        idle_timeout: float,
        linger: float,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle_timeout,
            lingering_time=linger,
            access_log=None,  # type: ignore[arg-type]
        )
        self._handlers = handlers
        self._open = open_ones
        self._silence_limit = header_timeout
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._open.add(self)
        self._silence = asyncio.get_running_loop().call_later(self._silence_limit, self._cut_off)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        if self._silence is not None:
            self._silence.cancel()
        self._open.discard(self)
        super().connection_lost(exc)

    async def start(self) -> None:
        """Serve one request after the other; aiohttp calls this in a task of its own."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await super().start()
        finally:
            self._handlers.discard(task)

    def _cut_off(self) -> None:
        if not self._request_count and self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read as a request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun already")
        if status >= 500:
            log.error("a request failed", exc_info=exc)
            error: HomeboxError = HomeboxError("homebox made a mistake; its log says more")
        else:
            error = RequestError(f"This is not valid HTTP: {message or exc}"[:500])
        response = web.Response(
            body=msgspec.json.encode(error_value(error)), status=status, content_type=JSON
        )
        response.force_close()
        return response


class Refusal(asyncio.Protocol):
    """A connection too many: told to come back, and closed.

    What the client sends is read for a moment, because closing before that would take the answer
    away from it (RFC 9112, 9.6).
    """

    PATIENCE = 1.0  # seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer before anything was asked."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clock = asyncio.get_running_loop().call_later(self.PATIENCE, transport.abort)
        body = msgspec.json.encode(error_value(BusyError("homebox has too many connections")))
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 2\r\nConnection: close\r\n\r\n"
        )
        transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        """Let go once the request has been seen."""
        if b"\r\n\r\n" in data:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._clock.cancel()

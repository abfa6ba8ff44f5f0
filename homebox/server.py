"""The HTTP server: its socket, its routes, and what every request goes through.

Guard first, then the route, then errors in the caller's shape. How a question is answered is in
`homebox/api/answering.py`, what each endpoint says in `homebox/api/routes` and `shapes`.

Invariant: whatever arrives on the socket is answered in OpenAI's shapes or cut off; nothing that a
client sends gives a 5xx.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from homebox.api import wire
from homebox.api.answering import Answering, Limits, shown
from homebox.api.connection import Connection, Refusal
from homebox.api.cors import Cors
from homebox.api.door import Door
from homebox.api.guard import Guard, guard_for
from homebox.api.metrics import Metrics
from homebox.api.routes import FAMILIES, error_for
from homebox.api.service import Service
from homebox.api.tls import Tls
from homebox.api.tokens import KeyRing
from homebox.errors import DaemonError, HomeboxError, RequestError
from homebox.listener import Listener, bind

log = logging.getLogger("homebox.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Codes of errors that aiohttp finds by itself.
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens and what it bears. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = 4310
    token: str = ""  # where there are no `keys`
    keys: KeyRing | None = None
    require_token: bool = True  # if there are keys
    lan: bool = False
    hosts: str = ""
    cors_origins: str = ""
    tls: Tls | None = None
    max_connections: int = 256
    max_body_bytes: int = 16 * 1024 * 1024
    header_timeout: float = 15.0
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    idle_timeout: float = 75.0
    linger: float = 2.0  # for the rest of a body that was refused
    patience: float = 5.0  # of agents that wait for the first token
    drain: float = 10.0  # for running answers when the server stops
    max_waiting: int = 64  # requests that may wait for a switch to another model

    @property
    def guard(self) -> Guard:
        """Who may call; raises ConfigError for an address that would be open to all."""
        keys = self.keys or (KeyRing(None, self.token) if self.token else None)
        return guard_for(
            self.host,
            lan=self.lan,
            keys=keys,
            required=self.require_token,
            hosts=self.hosts,
            origins=self.cors_origins,
        )

    @property
    def limits(self) -> Limits:
        """What an answer may take."""
        return Limits(self.max_body_bytes, self.body_timeout, self.write_timeout, self.patience)


class Server:
    """The routes, and the socket they are reached by."""

    def __init__(
        self, service: Service, settings: ServerSettings, metrics: Metrics | None = None
    ) -> None:
        """`metrics` are those that the engine reports to."""
        self.door = Door(service, settings.max_waiting)
        self._settings = settings
        self._guard = settings.guard
        self._cors = Cors(self._guard)
        metrics = metrics or Metrics()
        metrics.watch(lambda: self.door.service)
        self._answering = Answering(self.door, settings.limits, metrics)
        self._handlers: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.Protocol] = set()
        self._listener: Listener | None = None
        self._address: tuple[str, int] = ("", 0)
        app = web.Application(
            middlewares=[self._middleware], client_max_size=settings.max_body_bytes
        )
        app.on_response_prepare.append(self._cors.mark)
        for family in FAMILIES:
            family.add(app.router, self._answering)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )

    async def start(self) -> str:
        """Listen; gives the URL. Raises DaemonError if the port is taken."""
        await self._runner.setup()
        host, port = self._settings.host, self._settings.port
        try:
            sockets = await bind(host, port)
            self._address = sockets[0].getsockname()[:2]
            tls = self._settings.tls
            listener = Listener(sockets, self._connection, tls.context if tls else None)
            listener.start()
        except OSError as error:
            await self._runner.cleanup()
            raise DaemonError(_bind_error(error, host, port)) from None
        self._listener = listener
        return self.url

    @property
    def url(self) -> str:
        """Where the server listens, without a trailing slash."""
        assert self._listener is not None, "the server has not been started"
        host, port = self._address
        scheme = "https" if self._settings.tls else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def stop(self) -> None:
        """Refuse what is new, let running answers end for a while, cut off the rest."""
        self._answering.stopping = True
        self.door.refuse(DaemonError("homebox is shutting down"))
        if self._listener is not None:
            await self._listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain):
                while self._answering.running:
                    await asyncio.sleep(0.02)
        await self._runner.cleanup()
        if self._listener is not None:
            await self._listener.end()
        # Handlers that were cut off leave the rest of their answers to tasks of their own.
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._answering.settled()

    def _connection(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        if len(self._open) >= self._settings.max_connections:
            return Refusal()
        return Connection(
            self._runner.server,
            self._handlers,
            self._open,
            header_timeout=self._settings.header_timeout,
            idle_timeout=self._settings.idle_timeout,
            linger=self._settings.linger,
        )

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count what every request came to."""
        response = await self._guarded(request, handler)
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unknown"
        self._answering.metrics.request(route, response.status)
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Guard every route, and turn every error into the shape that the caller knows."""
        try:
            caller = self._guard.check(
                request.path, request.headers, request.method, request.raw_path
            )
            request[wire.OWNER] = caller.owner
            request[wire.PRIVATE] = caller.private
            return self._cors.preflight(request) or await handler(request)
        except web.HTTPException as error:
            return _http_error(request, error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            return error_response(request.path, shown(error))


def error_response(path: str, error: HomeboxError) -> web.Response:
    """Say an error in the shape that callers of a path know."""
    return wire.json_response(error_for(path)(error), error.status, wire.error_headers(error))


def _http_error(request: web.Request, error: web.HTTPException) -> web.Response:
    """Say what aiohttp found wrong, and what to do about it."""
    allowed = error.headers.get("Allow")
    told = RequestError(_reason(request, error), code=HTTP_CODES.get(error.status))
    told.status = error.status
    response = error_response(request.path, told)
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _reason(request: web.Request, error: web.HTTPException) -> str:
    """Say an error of aiohttp's with the path, which is the caller's own word."""
    path = request.path[:200]
    if error.status == 404:
        return (
            f"There is no {path!r} here; the base URL of OpenAI's clients ends in /v1, that of "
            "Anthropic's ends before it"
        )
    if error.status == 405:
        return f"{path!r} takes {error.headers.get('Allow', 'another method')}"
    return error.reason


def _bind_error(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what uses it or choose another --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"

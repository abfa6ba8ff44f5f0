"""The HTTP server: routes, streaming and limits of the OpenAI-compatible API.

A request is checked completely (guard, types, bounds, model, length of the prompt, room in the
queue) before the first header goes out; from then on only the model itself can fail. What the
answer was is in the ledger before its last byte is sent (homebox/api/exchange.py).

Invariant: whatever arrives on the socket is answered in OpenAI's shapes or cut off; nothing that a
client sends gives a 5xx.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from aiohttp import web

from homebox.api import responses
from homebox.api.connection import Connection
from homebox.api.door import Door
from homebox.api.exchange import Exchange, conversation_id
from homebox.api.guard import Guard, check_address, check_content_type
from homebox.api.reply import Reply, answer_parser, shown_marks
from homebox.api.requests import ChatRequest, parse
from homebox.api.served import Served
from homebox.errors import (
    BusyError,
    ContextLengthError,
    DaemonError,
    HomeboxError,
    RequestError,
)
from homebox.listener import Listener, bind
from homebox.memory.ledger import Ledger
from homebox.scheduler import Engine

log = logging.getLogger("homebox.server")

# Turns messages into token ids, as the model's chat format says; by name it takes the tools that
# are offered, and variables of the model's template.
Renderer = Callable[..., list[int]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Codes of errors that aiohttp finds by itself.
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
RETRY_AFTER = "2"  # seconds


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens and what it bears. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = 4310
    token: str = ""
    lan: bool = False
    max_body_bytes: int = 16 * 1024 * 1024
    header_timeout: float = 15.0
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    idle_timeout: float = 75.0
    linger: float = 2.0  # for the rest of a body that was refused
    patience: float = 5.0  # of agents that wait for the first token
    drain: float = 10.0  # for running answers when the server stops
    max_waiting: int = 64  # requests that may wait for a switch to another model


@dataclass(frozen=True)
class Service:
    """What the routes serve."""

    engine: Engine
    served: Served
    render: Renderer
    ledger: Ledger
    context: int
    created: int  # Unix seconds; when the model was loaded
    device: str = ""  # the names of those that hold the model
    name: str = ""  # how the owner calls the base
    tokenizer: object = None  # the model's, which knows the marks of its answers


class Server:
    """The routes, and the socket they are reached by."""

    def __init__(self, service: Service, settings: ServerSettings) -> None:
        self.door = Door(service, settings.max_waiting)
        self._settings = settings
        self._guard = Guard(
            check_address(settings.host, settings.token, settings.lan), settings.token
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering = 0
        self._stopping = False
        self._handlers: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None
        self._address: tuple[str, int] = ("", 0)
        app = web.Application(
            middlewares=[self._middleware], client_max_size=settings.max_body_bytes
        )
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{id}", self._model)
        app.router.add_get("/health", self._health)
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
            listener = Listener(sockets, self._connection)
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
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Refuse what is new, let running answers end for a while, cut off the rest."""
        self._stopping = True
        self.door.refuse(DaemonError("homebox is shutting down"))
        if self._listener is not None:
            await self._listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain):
                while self._answering:
                    await asyncio.sleep(0.02)
        await self._runner.cleanup()
        if self._listener is not None:
            await self._listener.end()
        # Handlers that were cut off leave the rest of their answers to tasks of their own.
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connection(self) -> Connection:
        assert self._runner.server is not None
        return Connection(
            self._runner.server,
            self._handlers,
            header_timeout=self._settings.header_timeout,
            idle_timeout=self._settings.idle_timeout,
            linger=self._settings.linger,
        )

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Guard every route, and turn every error into OpenAI's shape."""
        try:
            self._guard.check(request.path, request.headers)
            return await handler(request)
        except web.HTTPException as error:
            return _http_error(error)
        except HomeboxError as error:
            return error_response(error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return error_response(HomeboxError("homebox made a mistake; its log says more"))

    async def _health(self, request: web.Request) -> web.StreamResponse:
        service = self.door.service
        if self._stopping:
            return _json({"status": "stopping"}, 503)
        if service is None and not self.door.refused:
            return _json({"status": "switching"})
        if service is None or service.engine.failure is not None:
            return _json({"status": "failed"}, 503)
        device = service.device
        return _json({"status": "ok", "device": device} if device else {"status": "ok"})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        async with self.door.enter() as service:
            names = await asyncio.to_thread(service.served.names)
            data = [_described(service, *item) for item in names]
        return _json({"object": "list", "data": data})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        async with self.door.enter() as service:
            weights = await asyncio.to_thread(service.served.resolve, name)
            return _json(_described(service, name, weights))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if self._stopping:
            raise DaemonError("homebox is shutting down")
        check_content_type(request.headers)
        chat = parse(await self._body(request))
        async with self.door.enter() as service:
            exchange = await self._begin(service, chat, conversation_id(chat, request.headers))
            self._answering += 1
            try:
                if chat.stream:
                    return await self._stream(request, exchange)
                return await self._whole(exchange)
            finally:
                self._answering -= 1
                if not exchange.finished:
                    self._background(exchange.abandon())

    async def _body(self, request: web.Request) -> bytes:
        limit = self._settings.max_body_bytes
        if request.content_length is not None and request.content_length > limit:
            raise web.HTTPRequestEntityTooLarge(limit, request.content_length)
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                return await request.read()
        except TimeoutError:
            raise RequestError("The body did not arrive in time") from None
        except web.RequestPayloadError as error:
            raise RequestError(f"The body is malformed: {error}") from None

    async def _begin(self, service: Service, chat: ChatRequest, conversation: str) -> Exchange:
        """Check all that can be checked and queue the answer."""
        lease = await service.served.acquire(chat.model)
        try:
            tools, variables = chat.offered_tools, chat.variables()
            more = {**variables, "tools": tools} if tools else variables
            prompt = await asyncio.to_thread(service.render, chat.rendered_messages(), **more)
            if len(prompt) >= service.context:
                raise ContextLengthError(service.context, len(prompt))
            parser = answer_parser(service.tokenizer, tools, prompt)
            sampling = replace(
                chat.sampling(len(prompt), service.context),
                shown=shown_marks(service.tokenizer, parser),
            )
            generation = service.engine.submit(prompt, sampling, lease.weights)
        except BaseException:
            lease.release()
            raise
        return Exchange(chat, conversation, lease, generation, Reply(parser), service.ledger)

    async def _whole(self, exchange: Exchange) -> web.StreamResponse:
        async for _ in exchange.deltas(self._settings.patience):
            pass
        reason = await exchange.finish()
        body = exchange.answer.completion(exchange.reply.message(), reason, exchange.usage)
        return web.Response(body=body, content_type=responses.JSON, headers=_turn_headers(exchange))

    async def _stream(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        response = web.StreamResponse(headers=_turn_headers(exchange))
        response.content_type = "text/event-stream"
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
        await response.prepare(request)
        answer = exchange.answer
        # The first chunk says who speaks, and only that one: some clients join all that they get.
        first: dict[str, Any] = {"role": "assistant"}
        silence = {"content": ""}
        try:
            async for deltas in exchange.deltas(self._settings.patience):
                chunks = []
                for delta in deltas or [silence]:
                    chunks.append(answer.chunk({**first, **delta}))
                    first = {}
                await self._send(request, response, b"".join(chunks))
            reason = await exchange.finish()
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            # The headers are out: the only place left to say it is the stream itself.
            await self._send(
                request, response, responses.event(responses.error_value(_shown(error)))
            )
            return response
        last = answer.chunk({**first, **silence} if first else {}, reason)
        if exchange.request.include_usage:
            last += answer.usage_chunk(exchange.usage)
        await self._send(request, response, last + responses.DONE)
        await response.write_eof()
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        """Write to a stream; a reader that takes nothing for long counts as gone."""
        try:
            async with asyncio.timeout(self._settings.write_timeout):
                await response.write(data)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the reader takes nothing") from None

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _described(service: Service, name: str, weights: str) -> dict[str, Any]:
    return responses.model_value(
        name, service.created, service.context, weights, service.served.base, service.name
    )


def error_response(error: HomeboxError) -> web.Response:
    """Say an error; whoever is told to come back is told when."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, BusyError) or error.status == 503:
        headers["Retry-After"] = RETRY_AFTER
    return _json(responses.error_value(error), error.status, headers)


def _http_error(error: web.HTTPException) -> web.Response:
    """Say in OpenAI's shape what aiohttp found wrong."""
    shown = RequestError(error.reason, code=HTTP_CODES.get(error.status))
    shown.status = error.status
    allowed = error.headers.get("Allow")
    return _json(responses.error_value(shown), error.status, {"Allow": allowed} if allowed else {})


def _shown(error: Exception) -> HomeboxError:
    """Keep what was meant to be read; log and hide the rest."""
    if isinstance(error, HomeboxError):
        return error
    log.error("an answer failed", exc_info=error)
    return HomeboxError("homebox made a mistake; its log says more")


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type=responses.JSON,
        headers=headers,
    )


def _turn_headers(exchange: Exchange) -> dict[str, str]:
    return {"x-homebox-turn": exchange.id, "x-homebox-weights": exchange.lease.weights}


def _bind_error(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what uses it or choose another --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"

"""The way of a question through the server: body, prompt, guide, answers, ledger, wire.

The one idea: every endpoint that talks comes here with a `ChatRequest` and a `Shape`; everything
that can be checked is checked before the first header goes out, and from then on only the model
itself can fail. Invariant: the turn is in the ledger before the answer's last byte is sent.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiohttp import web

from homebox.api import wire
from homebox.api.acting import UNWRITTEN, Scene, act
from homebox.api.asked import Asked, asked_of, prompt_of
from homebox.api.commands import FORGET, KIND, Command, command_in
from homebox.api.door import Door
from homebox.api.exchange import Choice, Exchange
from homebox.api.guard import check_content_type
from homebox.api.metrics import Metrics
from homebox.api.plain import COMPLETION, Plain, begun, plain_reply
from homebox.api.record import Record, on_record
from homebox.api.reply import Reply, answer_parser, shown_marks
from homebox.api.requests import ChatMessage, ChatRequest
from homebox.api.served import Lease
from homebox.api.service import Service
from homebox.api.shape import Shape
from homebox.api.wanted import form_of, wanted_of
from homebox.api.writing import Writing
from homebox.errors import DaemonError, HomeboxError, RequestError
from homebox.memory.forgotten import Spoken
from homebox.model.generation.request import GenerationRequest
from homebox.scheduler.generation import scripted, unasked

log = logging.getLogger("homebox.server")

Shaper = Callable[[Exchange, Service], Shape]
Begin = Callable[[Asked], Awaitable[Exchange]]
Prompts = Callable[[Service, str], Awaitable[list[Plain]]]  # for the adapter with these weights


@dataclass(frozen=True)
class Limits:
    """What an answer may take; times are in seconds."""

    max_body_bytes: int = 16 * 1024 * 1024
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    patience: float = 5.0  # of agents that wait for the first token


class Answering:
    """Answers questions by what is behind a door."""

    def __init__(self, door: Door[Service], limits: Limits, metrics: Metrics) -> None:
        self.door = door
        self.metrics = metrics
        self.running = 0
        self.stopping = False
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()

    async def body(self, request: web.Request) -> bytes:
        """Read the body of a request; raises RequestError, or aiohttp's error if it is too long."""
        check_content_type(request.headers)
        limit = self._limits.max_body_bytes
        if request.content_length is not None and request.content_length > limit:
            raise web.HTTPRequestEntityTooLarge(limit, request.content_length)
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                return await request.read()
        except TimeoutError:
            raise RequestError("The body did not arrive in time") from None
        except web.RequestPayloadError as error:
            raise RequestError(f"The body is malformed: {error}") from None

    async def answer(
        self, request: web.Request, chat: ChatRequest, shaper: Shaper
    ) -> web.StreamResponse:
        """Answer a checked question, whole or as a stream."""
        return await self._answered(request, chat, shaper, self._begin)

    async def complete(
        self,
        request: web.Request,
        chat: ChatRequest,
        prompts: Prompts,
        shaper: Shaper,
        silent: bool = False,
    ) -> web.StreamResponse:
        """Go on with prompts as they are; `chat` says how. `silent`: nothing is to be written."""
        begin = partial(self._begin_plain, prompts, silent)
        return await self._answered(request, chat, shaper, begin)

    async def _answered(
        self, request: web.Request, chat: ChatRequest, shaper: Shaper, begin: Begin
    ) -> web.StreamResponse:
        if self.stopping:
            raise DaemonError("homebox is shutting down")
        async with self.door.enter() as service:
            asked = await asked_of(request, service, chat)
            with _quietly(asked.record):
                exchange = await begin(asked)
                self.running += 1
                try:
                    shape = shaper(exchange, service)
                    if chat.stream:
                        return await self._stream(request, exchange, shape)
                    return await self._whole(exchange, shape)
                finally:
                    self.running -= 1
                    if not exchange.finished:
                        self._background(exchange.abandon())

    async def settled(self) -> None:
        """Wait for what answers that were cut off left to do."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _begin(self, asked: Asked) -> Exchange:
        """Check all that can be checked and queue the answers, or do what a command says."""
        command = command_in(asked.chat.messages, asked.conversation)
        if command is not None:
            return await self._obeyed(asked, command)
        service, chat = asked.service, asked.chat
        lease = await service.served.acquire(chat.model)
        quiet = asked.record.quiet
        choices: list[Choice] = []
        try:
            prompt = await prompt_of(service, chat, asked.owner, weights=lease.weights)
            wanted = wanted_of(chat, prompt.begun)
            _check_bias(chat, service.vocabulary)
            sampling = chat.sampling(len(prompt.ids), service.context)
            for index in range(chat.n or 1):
                guide = await asyncio.to_thread(service.guide, wanted)
                eager = guide is not None and bool(chat.offered_tools)
                parser = answer_parser(service.tokenizer, chat.offered_tools, prompt.begun, eager)
                marks = shown_marks(service.tokenizer, parser)
                generation = service.engine.submit(
                    GenerationRequest(
                        prompt.ids,
                        replace(sampling, shown=marks).for_choice(index),
                        lease.weights,
                        # Without an owner nothing is kept or told of a prompt.
                        None if quiet else asked.owner,
                        "" if quiet else asked.conversation.id,
                        prompt.stable,
                        guide,
                        asked.begun,
                    )
                )
                made = Choice(index, generation, Reply(parser), asked.id())
                made.tokenizer = service.tokenizer
                choices.append(made)
        except BaseException:
            for choice in choices:
                choice.generation.cancel()
            lease.release()
            raise
        exchange = asked.exchange(lease, choices, recall=service.recall)
        if asked.record.hidden:
            exchange.asked = on_record(chat.messages, asked.conversation)
        return exchange

    async def _obeyed(self, asked: Asked, command: Command) -> Exchange:
        """Do what a command says; its answer comes without the model."""
        service, chat = asked.service, asked.chat
        if form_of(chat.response_format) is not None:
            raise RequestError(
                f"/{command.name} is answered in plain words; send it without a response_format",
                "response_format",
            )
        weights = await asyncio.to_thread(service.served.resolve, chat.model)
        sampling = chat.sampling(0, service.context)
        scene = Scene(
            service.ledger,
            service.lessons,
            asked.owner,
            asked.conversation,
            chat.messages,
            asked.record.off,
        )
        text = await asyncio.to_thread(act, command, scene)
        choices = [
            Choice(
                index,
                scripted(GenerationRequest((), sampling.for_choice(index), weights), text),
                plain_reply(),
                asked.id(),
            )
            for index in range(chat.n or 1)
        ]
        exchange = asked.exchange(Lease(service.served, weights, held=False), choices)
        exchange.asked = on_record(chat.messages, asked.conversation)
        if command.name == FORGET and not asked.record.off:
            await asyncio.to_thread(_unsay, asked, text)
            ordered = ChatMessage("user", f"/{FORGET}")
            exchange.asked = [*on_record(chat.messages[:-1], asked.conversation), ordered]
            exchange.written = UNWRITTEN
        exchange.conversation = replace(asked.conversation, kind=KIND)
        return exchange

    async def _begin_plain(self, prompts: Prompts, silent: bool, asked: Asked) -> Exchange:
        """The same for prompts that are no conversation."""
        service, chat = asked.service, asked.chat
        lease = await service.served.acquire(chat.model)
        asked = replace(asked, conversation=replace(asked.conversation, kind=COMPLETION))
        quiet = asked.record.quiet
        choices: list[Choice] = []
        try:
            _check_bias(chat, service.vocabulary)
            for plain in await prompts(service, lease.weights):
                wanted = wanted_of(chat, begun(service, plain.ids))
                sampling = chat.sampling(len(plain.ids), service.context)
                for index in range(chat.n or 1):
                    guide = await asyncio.to_thread(service.guide, wanted)
                    request = GenerationRequest(
                        plain.ids,
                        sampling.for_choice(index),
                        lease.weights,
                        None if quiet else asked.owner,
                        "" if quiet else asked.conversation.id,
                        guide=guide,
                        asked=asked.begun,
                    )
                    generation = unasked(request) if silent else service.engine.submit(request)
                    choices.append(
                        Choice(len(choices), generation, plain_reply(), asked.id(), plain)
                    )
        except BaseException:
            for choice in choices:
                choice.generation.cancel()
            lease.release()
            raise
        return asked.exchange(lease, choices)

    async def _whole(self, exchange: Exchange, shape: Shape) -> web.StreamResponse:
        async for step in exchange.steps(self._limits.patience):
            if step is not None:
                shape.step(step)
        await exchange.finish()
        return wire.json_response(shape.whole(), headers=_turn_headers(exchange))

    async def _stream(
        self, request: web.Request, exchange: Exchange, shape: Shape
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_turn_headers(exchange))
        response.content_type = wire.EVENTS
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
        await response.prepare(request)
        with Writing(request, response, self._limits.write_timeout) as writing:
            await self._told(writing, exchange, shape)
            await writing.finish()
        return response

    async def _told(self, writing: Writing, exchange: Exchange, shape: Shape) -> None:
        try:
            await writing.send(shape.begin())
            async for step in exchange.steps(self._limits.patience):
                said = shape.silence() if step is None else shape.step(step)
                await writing.send(said)
            await exchange.finish()
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            with contextlib.suppress(Exception):
                await exchange.abandon()
            await writing.send(shape.failure(shown(error, exchange.record.quiet)))
        else:
            await writing.send(shape.end())

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _unsay(asked: Asked, answer: str) -> None:
    """Keep an order to forget, and what was answered, out of the ledger: both name it."""
    talk, order = asked.conversation.id, asked.chat.messages[-1]
    said = [Spoken(talk, order.role, order.text), Spoken(talk, "assistant", answer)]
    asked.service.ledger.gaps.hide(said)


@contextlib.contextmanager
def _quietly(record: Record) -> Iterator[None]:
    """Keep the words of what is off the record out of the log, should something go wrong."""
    try:
        yield
    except (HomeboxError, web.HTTPException, ConnectionError):
        raise
    except Exception as error:
        if not record.quiet:
            raise
        raise shown(error, quiet=True) from None


def shown(error: Exception, quiet: bool = False) -> HomeboxError:
    """Keep what was meant to be read; log and hide the rest, with no words of it if `quiet`."""
    if isinstance(error, HomeboxError):
        return error
    if quiet:
        log.error("an answer off the record failed: %s", type(error).__name__)
    else:
        log.error("an answer failed", exc_info=error)
    return HomeboxError("homebox made a mistake; its log says more")


def _check_bias(chat: ChatRequest, vocabulary: int) -> None:
    for token in chat.logit_bias or ():
        if vocabulary and int(token) >= vocabulary:
            raise RequestError(
                f"logit_bias: there is no token {token}; this model has {vocabulary}", "logit_bias"
            )


def _turn_headers(exchange: Exchange) -> dict[str, str]:
    known = {"x-homebox-turn": exchange.id, "x-homebox-weights": exchange.lease.weights}
    return {**known, **exchange.record.headers}

"""The way of a question through the server: body, prompt, guide, answers, ledger, wire.

The one idea: every endpoint that talks comes here with a `ChatRequest` and a `Shape`; everything
that can be checked is checked before the first header goes out, and from then on only the model
itself can fail. Invariant: the turn is in the ledger before the answer's last byte is sent.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiohttp import web

from homebox.api import wire
from homebox.api.conversation import Conversation, conversation_of
from homebox.api.door import Door
from homebox.api.exchange import Choice, Exchange
from homebox.api.guard import check_content_type
from homebox.api.metrics import Metrics
from homebox.api.plain import COMPLETION, Plain, begun, plain_reply
from homebox.api.reply import Reply, answer_parser, shown_marks
from homebox.api.requests import ChatRequest
from homebox.api.service import Service
from homebox.api.shape import Shape
from homebox.api.wanted import wanted_of
from homebox.api.writing import Writing
from homebox.errors import ContextLengthError, DaemonError, HomeboxError, RequestError
from homebox.model.chat.prompt import ChatPrompt
from homebox.model.generation.request import GenerationRequest
from homebox.scheduler.generation import unasked

log = logging.getLogger("homebox.server")

Shaper = Callable[[Exchange, Service], Shape]
Begin = Callable[[Service, ChatRequest, Conversation, str], Awaitable[Exchange]]
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
            conversation = conversation_of(chat, request.headers)
            exchange = await begin(service, chat, conversation, request[wire.OWNER])
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

    async def prompt(
        self, service: Service, chat: ChatRequest, owner: str, bounded: bool = True
    ) -> ChatPrompt:
        """Return the ids of a question; raises RequestError.

        If it is to be answered, and so `bounded`, also ContextLengthError.
        """
        variables = chat.variables()
        if chat.offered_tools:
            variables["tools"] = chat.offered_tools
        recall = None if service.recall is None else service.recall.of(owner)
        prompt = await asyncio.to_thread(
            service.prompt, chat.rendered_messages(), recall, **variables
        )
        if bounded and len(prompt.ids) >= service.context:
            raise ContextLengthError(service.context, len(prompt.ids))
        return prompt

    async def _begin(
        self, service: Service, chat: ChatRequest, conversation: Conversation, owner: str
    ) -> Exchange:
        """Check all that can be checked and queue the answers."""
        lease = await service.served.acquire(chat.model)
        choices: list[Choice] = []
        try:
            prompt = await self.prompt(service, chat, owner)
            wanted = wanted_of(chat, prompt.begun)
            _check_bias(chat, service.vocabulary)
            sampling = chat.sampling(len(prompt.ids), service.context)
            for index in range(chat.n or 1):
                guide = await asyncio.to_thread(service.guide, wanted)
                eager = guide is not None and bool(chat.offered_tools)
                parser = answer_parser(service.tokenizer, chat.offered_tools, prompt.begun, eager)
                marks = shown_marks(service.tokenizer, parser)
                asked = GenerationRequest(
                    prompt.ids,
                    replace(sampling, shown=marks).for_choice(index),
                    lease.weights,
                    owner,
                    conversation.id,
                    prompt.stable,
                    guide,
                )
                generation = service.engine.submit(asked)
                made = Choice(index, generation, Reply(parser), tokenizer=service.tokenizer)
                choices.append(made)
        except BaseException:
            for choice in choices:
                choice.generation.cancel()
            lease.release()
            raise
        ledger, recall = service.ledger, service.recall
        return Exchange(chat, conversation, owner, lease, choices, ledger, recall)

    async def _begin_plain(
        self,
        prompts: Prompts,
        silent: bool,
        service: Service,
        chat: ChatRequest,
        conversation: Conversation,
        owner: str,
    ) -> Exchange:
        """The same for prompts that are no conversation."""
        lease = await service.served.acquire(chat.model)
        conversation = replace(conversation, kind=COMPLETION)
        choices: list[Choice] = []
        try:
            _check_bias(chat, service.vocabulary)
            for plain in await prompts(service, lease.weights):
                wanted = wanted_of(chat, begun(service, plain.ids))
                sampling = chat.sampling(len(plain.ids), service.context)
                for index in range(chat.n or 1):
                    guide = await asyncio.to_thread(service.guide, wanted)
                    asked = GenerationRequest(
                        plain.ids,
                        sampling.for_choice(index),
                        lease.weights,
                        owner,
                        conversation.id,
                        guide=guide,
                    )
                    generation = unasked(asked) if silent else service.engine.submit(asked)
                    choices.append(Choice(len(choices), generation, plain_reply(), plain=plain))
        except BaseException:
            for choice in choices:
                choice.generation.cancel()
            lease.release()
            raise
        return Exchange(chat, conversation, owner, lease, choices, service.ledger)

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
            await writing.send(shape.failure(shown(error)))
        else:
            await writing.send(shape.end())

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def shown(error: Exception) -> HomeboxError:
    """Keep what was meant to be read; log and hide the rest."""
    if isinstance(error, HomeboxError):
        return error
    log.error("an answer failed", exc_info=error)
    return HomeboxError("homebox made a mistake; its log says more")


def _check_bias(chat: ChatRequest, vocabulary: int) -> None:
    for token in chat.logit_bias or ():
        if vocabulary and int(token) >= vocabulary:
            raise RequestError(
                f"logit_bias: there is no token {token}; this model has {vocabulary}", "logit_bias"
            )


def _turn_headers(exchange: Exchange) -> dict[str, str]:
    return {"x-homebox-turn": exchange.id, "x-homebox-weights": exchange.lease.weights}

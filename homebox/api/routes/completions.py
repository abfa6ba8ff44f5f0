"""POST /v1/completions: texts that the model goes on with."""

import asyncio
from functools import partial

from aiohttp import web

from homebox.api.answering import Answering
from homebox.api.bodies.completions import CompletionBody
from homebox.api.bodies.fields import told_as
from homebox.api.exchange import Exchange
from homebox.api.plain import Plain, plain_prompt, with_likelihoods
from homebox.api.requests import decoded
from homebox.api.service import Service
from homebox.api.shapes.completions import CompletionsShape


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def completions(request: web.Request) -> web.StreamResponse:
        body = decoded(await answering.body(request), CompletionBody)
        return await answering.complete(
            request, body.chat(), partial(_prompts, body), partial(_shape, body), body.silent
        )

    router.add_post("/v1/completions", completions)


async def _prompts(body: CompletionBody, service: Service, weights: str) -> list[Plain]:
    """Return the prompts, with their likelihoods where these are to be told."""
    with told_as({"messages": "prompt"}):
        given = body.prompts()
        prompts = [await asyncio.to_thread(plain_prompt, service, each) for each in given]
    if not body.echo or body.logprobs is None:
        return prompts
    top = body.logprobs
    return [await with_likelihoods(service, weights, plain, top) for plain in prompts]


def _shape(body: CompletionBody, exchange: Exchange, service: Service) -> CompletionsShape:
    spelling = service.tokenizer.piece_bytes
    return CompletionsShape(exchange, spelling, bool(body.echo))

"""POST /v1/chat/completions."""

from aiohttp import web

from homebox.api.answering import Answering
from homebox.api.checks import parse
from homebox.api.exchange import Exchange
from homebox.api.service import Service
from homebox.api.shapes.chat import ChatShape


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def chat(request: web.Request) -> web.StreamResponse:
        return await answering.answer(request, parse(await answering.body(request)), _shape)

    router.add_post("/v1/chat/completions", chat)


def _shape(exchange: Exchange, service: Service) -> ChatShape:
    return ChatShape(exchange, service.tokenizer.piece_bytes)

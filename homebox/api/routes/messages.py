"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's shape."""

from aiohttp import web

from homebox.api.answering import Answering
from homebox.api.asked import prompt_of
from homebox.api.bodies.fields import told_as
from homebox.api.bodies.messages import FIELDS, MessagesBody
from homebox.api.exchange import Exchange
from homebox.api.requests import decoded
from homebox.api.service import Service
from homebox.api.shapes.messages import MessagesShape
from homebox.api.wire import OWNER, json_response


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def messages(request: web.Request) -> web.StreamResponse:
        body = decoded(await answering.body(request), MessagesBody)
        with told_as(FIELDS):
            return await answering.answer(request, body.chat(), _shape)

    async def count_tokens(request: web.Request) -> web.StreamResponse:
        body = decoded(await answering.body(request), MessagesBody)
        with told_as(FIELDS):
            chat = body.chat(counted=True)
            async with answering.door.enter() as service:
                service.served.resolve(chat.model)
                prompt = await prompt_of(service, chat, request[OWNER], bounded=False)
        return json_response({"input_tokens": len(prompt.ids)})

    router.add_post("/v1/messages", messages)
    router.add_post("/v1/messages/count_tokens", count_tokens)


def _shape(exchange: Exchange, service: Service) -> MessagesShape:
    return MessagesShape(exchange)

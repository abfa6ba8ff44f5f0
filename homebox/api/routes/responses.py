"""POST /v1/responses, and GET and DELETE of one that was stored.

A response is a turn of the ledger. To delete one makes it unknown to callers; what the ledger
holds is the owner's to erase.
"""

import asyncio
import re
from functools import partial

from aiohttp import web

from homebox.api.answering import Answering
from homebox.api.bodies.fields import told_as
from homebox.api.bodies.responses import FIELDS, ResponsesBody
from homebox.api.exchange import Exchange
from homebox.api.record import RESPONSE, unknown_response
from homebox.api.requests import decoded
from homebox.api.service import Service
from homebox.api.shapes.kept import KeptResponse
from homebox.api.shapes.responses import ResponsesShape, turn_id
from homebox.api.wire import OWNER, json_response
from homebox.errors import RequestError, UnknownResponseError
from homebox.memory.ledger import Ledger
from homebox.memory.turns import Turn

ID = re.compile(r"resp_[0-9a-f]{24}")


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def kept(id: str, request: web.Request, param: str | None = None) -> KeptResponse:
        if id.startswith(RESPONSE):
            raise unknown_response(id, param)
        async with answering.door.enter() as service:
            turn = await asyncio.to_thread(_turn, service.ledger, id)
        response = KeptResponse.of(turn, request[OWNER])
        if response is None:
            raise UnknownResponseError(id, param)
        return response

    async def create(request: web.Request) -> web.StreamResponse:
        body = decoded(await answering.body(request), ResponsesBody)
        history = []
        if body.previous_response_id is not None:
            before = await kept(body.previous_response_id, request, "previous_response_id")
            history = before.messages()
        with told_as(FIELDS):
            return await answering.answer(request, body.chat(history), partial(_shape, body))

    async def retrieve(request: web.Request) -> web.StreamResponse:
        if request.query.get("stream", "false") not in ("false", "0", ""):
            raise RequestError("stream: what was answered is given as a whole", "stream")
        return json_response((await kept(request.match_info["id"], request)).value())

    async def delete(request: web.Request) -> web.StreamResponse:
        id = request.match_info["id"]
        await kept(id, request)
        async with answering.door.enter() as service:
            await asyncio.wrap_future(service.ledger.set_mark(_deleted(id), 1))
        return json_response({"id": id, "object": "response", "deleted": True})

    router.add_post("/v1/responses", create)
    router.add_get("/v1/responses/{id}", retrieve)
    router.add_delete("/v1/responses/{id}", delete)


def _shape(body: ResponsesBody, exchange: Exchange, service: Service) -> ResponsesShape:
    return ResponsesShape(body, exchange, service.tokenizer.piece_bytes)


def _turn(ledger: Ledger, id: str) -> Turn | None:
    if not ID.fullmatch(id) or ledger.mark(_deleted(id)):
        return None
    return ledger.turn(turn_id(id))


def _deleted(id: str) -> str:
    return f"deleted {id}"

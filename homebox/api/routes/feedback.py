"""POST /v1/feedback: what the owner thinks of an answer, for the next lessons."""

import asyncio
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct

from homebox.api.answering import Answering
from homebox.api.record import HEADER, TURN, asked_off
from homebox.api.requests import decoded
from homebox.api.wire import OWNER, PRIVATE, json_response
from homebox.errors import RequestError, StateError
from homebox.memory.feedback import Feedback
from homebox.memory.turns import now

PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "msg_")


class FeedbackBody(Struct):
    """An opinion; `text` is the better answer where the rating is "edited", else a comment."""

    turn: Annotated[str, Meta(min_length=1, max_length=256)]
    rating: Literal["good", "bad", "edited"]
    text: Annotated[str, Meta(max_length=1 << 20)] = ""


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def feedback(request: web.Request) -> web.StreamResponse:
        given = decoded(await answering.body(request), FeedbackBody)
        if asked_off(request.headers, request[PRIVATE]):
            raise RequestError(
                "An opinion is kept, so it cannot be given off the record; send it without the "
                f"header {HEADER}, and with a key that is not private",
                HEADER,
            )
        if given.rating == "edited" and not given.text:
            raise RequestError("an edited answer needs its text", "text")
        opinion = Feedback(turn_of(given.turn), given.rating, given.text, now())
        if opinion.turn.startswith(TURN):
            raise _unknown("that answer was off the record, so nothing of it was kept")
        async with answering.door.enter() as service:
            kept = service.ledger.give_feedback(request[OWNER], opinion)
            try:
                await asyncio.wrap_future(kept)
            except StateError as error:
                raise _unknown(str(error)) from None
        return json_response({"turn": opinion.turn, "rating": opinion.rating, "time": opinion.time})

    router.add_post("/v1/feedback", feedback)


def turn_of(id: str) -> str:
    """Return the turn that an answer's id belongs to; the turn's own id stays."""
    for prefix in PREFIXES:
        id = id.removeprefix(prefix)
    return id if id.startswith("turn_") else f"turn_{id}"


def _unknown(error: str) -> RequestError:
    told = RequestError(f"{error}; the header x-homebox-turn of an answer names it", "turn")
    told.status, told.code = 404, "not_found"
    return told

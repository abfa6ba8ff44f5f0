"""POST /tokenize, /detokenize and /apply-template: what the model's vocabulary makes of a text."""

import asyncio
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from homebox.api.answering import Answering
from homebox.api.asked import prompt_of
from homebox.api.checks import check
from homebox.api.requests import ChatMessage, ChatRequest, decoded
from homebox.api.service import Service
from homebox.api.wire import OWNER, json_response
from homebox.errors import RequestError


class TokenizeBody(Struct):
    """A text, by one of the names in use, or a conversation."""

    content: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[dict[str, Any]] | None = None
    model: str = "homebox"
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    with_pieces: bool = False


class DetokenizeBody(Struct):
    """Ids of tokens."""

    tokens: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=1 << 21)]


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def tokenize(request: web.Request) -> web.StreamResponse:
        given = decoded(await answering.body(request), TokenizeBody)
        async with answering.door.enter() as service:
            if given.messages is not None:
                ids = await _ids_of_messages(service, given, request[OWNER])
            else:
                special = given.add_special or given.add_special_tokens or False
                text = _text_of(given)
                ids = await asyncio.to_thread(service.tokenizer.encode, text, special)
            tokens: list[Any] = list(ids)
            if given.with_pieces:
                tokens = [{"id": i, "piece": _piece(service, i)} for i in ids]
            return json_response(
                {"tokens": tokens, "count": len(ids), "max_model_len": service.context}
            )

    async def detokenize(request: web.Request) -> web.StreamResponse:
        given = decoded(await answering.body(request), DetokenizeBody)
        async with answering.door.enter() as service:
            most = service.vocabulary
            if most and (wrong := next((i for i in given.tokens if i >= most), None)) is not None:
                raise RequestError(f"tokens: there is no token {wrong}; {most} are known", "tokens")
            text = await asyncio.to_thread(service.tokenizer.decode, given.tokens, special=True)
        return json_response({"content": text, "prompt": text})

    async def template(request: web.Request) -> web.StreamResponse:
        chat = decoded(await answering.body(request), ChatRequest)
        check(chat)
        async with answering.door.enter() as service:
            prompt = await prompt_of(service, chat, request[OWNER], bounded=False)
            text = service.tokenizer.decode(prompt.ids, special=True)
        return json_response({"prompt": text})

    router.add_post("/tokenize", tokenize)
    router.add_post("/detokenize", detokenize)
    router.add_post("/apply-template", template)


async def _ids_of_messages(service: Service, given: TokenizeBody, owner: str) -> list[int]:
    chat = ChatRequest(given.model, given.messages or [], tools=given.tools)
    check(chat)
    return (await prompt_of(service, chat, owner, bounded=False)).ids


def _text_of(given: TokenizeBody) -> str:
    for text in (given.content, given.prompt, given.text):
        if text is not None:
            return text
    raise RequestError("send the text as content, or a conversation as messages", "content")


def _piece(service: Service, token: int) -> str | list[int]:
    """Return a token's text, or its bytes where they are none by themselves."""
    data: bytes = service.tokenizer.piece_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)

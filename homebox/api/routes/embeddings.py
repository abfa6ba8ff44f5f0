"""POST /v1/embeddings: the mean of the model's last hidden states."""

import asyncio
import base64
import contextlib
from functools import partial
from typing import Annotated, Any, Literal, cast

from aiohttp import web
from msgspec import Meta, Struct

from homebox.api.answering import Answering
from homebox.api.bodies.fields import told_as
from homebox.api.requests import decoded
from homebox.api.service import Service
from homebox.api.wire import json_response
from homebox.errors import ContextLengthError, HomeboxError, NoFreeSlotError, RequestError
from homebox.model.strictmath import Float32

PATIENCE = 60.0  # seconds to wait for a slot that answers have

Token = Annotated[int, Meta(ge=0)]
Ids = Annotated[list[Token], Meta(min_length=1)]


class EmbeddingsBody(Struct):
    """Texts, or texts as ids; `dimensions` may only be what the model has."""

    input: str | list[str | int | Ids]
    model: str = "homebox"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def embeddings(request: web.Request) -> web.StreamResponse:
        given = decoded(await answering.body(request), EmbeddingsBody)
        async with answering.door.enter() as service:
            lease = await service.served.acquire(given.model)
            try:
                with told_as({"messages": "input"}):
                    texts = await asyncio.to_thread(_ids_of, service, given.input)
                found = [await _embed(service, ids, lease.weights) for ids in texts]
            finally:
                lease.release()
        for vector in found:
            if given.dimensions not in (None, len(vector)):
                raise RequestError(f"dimensions must be {len(vector)} for this model", "dimensions")
        count = sum(len(ids) for ids in texts)
        return json_response(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": i, "embedding": _said(vector, given)}
                    for i, vector in enumerate(found)
                ],
                "model": given.model,
                "usage": {"prompt_tokens": count, "total_tokens": count},
            }
        )

    router.add_post("/v1/embeddings", embeddings)


async def _embed(service: Service, ids: list[int], weights: str) -> Float32:
    """Return a text's embedding; its steps take turns with those of running answers."""
    call = service.engine.call
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        steps = service.model.embedding(ids, weights)
        with service.engine.guest():
            try:
                while (vector := await asyncio.wrap_future(call(partial(next, steps)))) is None:
                    pass
                return cast(Float32, vector)
            except NoFreeSlotError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            finally:
                with contextlib.suppress(HomeboxError):  # it is shutting down
                    call(steps.close)
        await asyncio.sleep(0.05)


def _ids_of(service: Service, given: str | list[Any]) -> list[list[int]]:
    """Return the ids of each text; raises RequestError and ContextLengthError."""
    if isinstance(given, str) or (given and all(isinstance(item, int) for item in given)):
        given = [given]
    if not 1 <= len(given) <= 2048:
        raise RequestError("input must be 1 to 2048 texts", "input")
    found = []
    for item in given:
        if isinstance(item, int):
            raise RequestError("input must be texts, or ids, not both", "input")
        ids = service.tokenizer.encode(item) if isinstance(item, str) else item
        if not ids or any(not 0 <= index < service.vocabulary for index in ids):
            raise RequestError(
                f"input must not be empty, and ids must be below {service.vocabulary}", "input"
            )
        if len(ids) > service.context:
            raise ContextLengthError(service.context, len(ids))
        found.append(ids)
    return found


def _said(vector: Float32, given: EmbeddingsBody) -> list[float] | str:
    if given.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(x) for x in vector]

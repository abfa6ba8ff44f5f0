"""GET /v1/models: what can be asked, with its context and its weights."""

import asyncio
from typing import Any

from aiohttp import web

from homebox.api.answering import Answering
from homebox.api.service import Service
from homebox.api.wire import json_response


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def models(request: web.Request) -> web.StreamResponse:
        async with answering.door.enter() as service:
            names = await asyncio.to_thread(service.served.names)
            data = [_described(service, *item) for item in names]
        return json_response({"object": "list", "data": data})

    async def model(request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        async with answering.door.enter() as service:
            weights = await asyncio.to_thread(service.served.resolve, name)
            return json_response(_described(service, name, weights))

    router.add_get("/v1/models", models)
    router.add_get("/v1/models/{id}", model)


def _described(service: Service, name: str, weights: str) -> dict[str, Any]:
    """Describe a model; `weights` is the hash of its adapter or "base"."""
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "homebox",
        "context_length": service.context,
        "max_model_len": service.context,
        "adapter": weights,
        "base": service.served.base,
        "base_name": service.name,
    }

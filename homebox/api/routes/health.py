"""GET /health, /ready and /metrics: whether the daemon lives, whether it answers, how it does."""

from aiohttp import web

from homebox.api.answering import Answering
from homebox.api.metrics import CONTENT_TYPE
from homebox.api.wire import RETRY_AFTER, json_response


def add(router: web.UrlDispatcher, answering: Answering) -> None:
    """Add the routes of this file."""

    async def health(request: web.Request) -> web.StreamResponse:
        state = _state(answering)
        service = answering.door.service
        device = service.device if service is not None else ""
        more = {"device": device} if device and state == "ok" else {}
        return json_response(
            {"status": state, **more}, 503 if state in ("stopping", "failed") else 200
        )

    async def ready(request: web.Request) -> web.StreamResponse:
        state = _state(answering)
        if state == "ok":
            return json_response({"status": "ready"})
        return json_response({"status": state}, 503, {"Retry-After": RETRY_AFTER})

    async def metrics(request: web.Request) -> web.StreamResponse:
        return web.Response(body=answering.metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    router.add_get("/health", health)
    router.add_get("/ready", ready)
    router.add_get("/metrics", metrics)


def _state(answering: Answering) -> str:
    """Return "ok", "switching", "stopping" or "failed"; only the first can answer now."""
    service = answering.door.service
    if answering.stopping:
        return "stopping"
    if service is None and not answering.door.refused:
        return "switching"
    if service is None or service.engine.failure is not None:
        return "failed"
    return "ok"

"""What web pages of named origins are told, and what all others are kept from.

Nothing is said of origins unless `server.cors_origins` names them; then each gets exactly its own
name back, never a wildcard. A preflight carries no key, so none is asked of it.

Invariant: no response names an origin that the configuration does not.
"""

import re

from aiohttp import web

from homebox.api.guard import Guard

METHODS = "GET, POST, DELETE, OPTIONS"
HEADERS = "authorization, content-type, x-api-key, x-homebox-record"
SHOWN = "x-homebox-turn, x-homebox-weights, x-homebox-record, retry-after"
_HEADER_NAMES = re.compile(r"[A-Za-z0-9-]{1,64}( ?, ?[A-Za-z0-9-]{1,64}){0,63}")


class Cors:
    """The headers of responses, as the guard's list of origins says."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """Answer a page's question whether it may call; None if this is none, or not allowed."""
        asked = request.headers.get("Access-Control-Request-Method")
        allowed = self._guard.allows(request.headers.get("Origin"))
        if request.method != "OPTIONS" or not asked or not allowed:
            return None
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            # Libraries send headers of their own; the origin was named by the owner.
            "Access-Control-Allow-Headers": wanted if _HEADER_NAMES.fullmatch(wanted) else HEADERS,
            "Access-Control-Max-Age": "600",
        }
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

    async def mark(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Say in a response who may read it; a signal of aiohttp's, for streams too."""
        response.headers["X-Content-Type-Options"] = "nosniff"
        origin = request.headers.get("Origin")
        if self._guard.origins:
            response.headers["Vary"] = "Origin"
        if origin is None or not self._guard.allows(origin):
            response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = SHOWN

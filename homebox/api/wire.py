"""How values go over the wire: JSON, server-sent events, and errors in OpenAI's shape."""

from typing import Any

import msgspec
from aiohttp import web

from homebox.errors import BusyError, HomeboxError, RequestError

JSON = "application/json"
encoded = msgspec.json.Encoder().encode
EVENTS = "text/event-stream"
DONE = b"data: [DONE]\n\n"
RETRY_AFTER = "2"  # seconds
OWNER = web.RequestKey("owner", str)  # of a request: a digest of the key that it came with
PRIVATE = web.RequestKey("private", bool)  # whether that key is off the record for good


def event(value: Any, name: str = "") -> bytes:
    """Encode one server-sent event, with a name where a protocol has them."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + encoded(value) + b"\n\n"


def json_response(
    value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Answer with a JSON value."""
    return web.Response(body=encoded(value), status=status, content_type=JSON, headers=headers)


def error_value(error: HomeboxError) -> dict[str, Any]:
    """Say an error in OpenAI's shape."""
    return {
        "error": {
            "message": str(error),
            "type": error_type(error.status),
            "param": error.param if isinstance(error, RequestError) else None,
            "code": error.code,
        }
    }


def error_headers(error: HomeboxError) -> dict[str, str]:
    """Return the headers of an error; whoever is told to come back is told when."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, BusyError) or error.status == 503:
        headers["Retry-After"] = RETRY_AFTER
    return headers


def error_type(status: int) -> str:
    """Return OpenAI's name for the kind of an error."""
    if status == 429:
        return "rate_limit_error"
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"

"""A server that only says that it edited: what the clients' checks must not be content with.

It shares nothing with homebox, and speaks chat completions, responses and messages just well
enough that every client believes it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.clients.recorder import serving

SAID = "I replaced apple with banana in the file. DONE"


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the same words, and never calls a tool."""

    def do_GET(self) -> None:
        models = [{"id": "homebox", "object": "model", "created": 1, "owned_by": "nobody"}]
        self._send("application/json", json.dumps({"object": "list", "data": models}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/responses"):
            events = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in responses()]
            self._send("text/event-stream", "".join(events).encode())
        elif body.get("stream"):
            events = [f"data: {json.dumps(event)}\n\n" for event in chunks()]
            self._send("text/event-stream", "".join([*events, "data: [DONE]\n\n"]).encode())
        else:
            self._send("application/json", json.dumps(completion()).encode())

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": "homebox"}


USAGE = {"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 19}


def completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": SAID}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return head("chat.completion") | {"choices": [choice], "usage": USAGE}


def chunks() -> Iterator[dict[str, Any]]:
    for delta, reason in (({"role": "assistant", "content": SAID}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield head("chat.completion.chunk") | {"choices": [choice]}
    yield head("chat.completion.chunk") | {"choices": [], "usage": USAGE}


def responses() -> Iterator[dict[str, Any]]:
    part = {"type": "output_text", "text": SAID, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "model": "homebox"}
    usage = {"input_tokens": 10, "output_tokens": 9, "total_tokens": 19}
    usage |= {"input_tokens_details": {"cached_tokens": 0}}
    usage |= {"output_tokens_details": {"reasoning_tokens": 0}}
    begun = whole | {"status": "in_progress", "output": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}}
    empty = part | {"text": ""}
    yield {"type": "response.content_part.added", "part": empty, **at}
    yield {"type": "response.output_text.delta", "delta": SAID, **at}
    yield {"type": "response.output_text.done", "text": SAID, **at}
    yield {"type": "response.content_part.done", "part": part, **at}
    done = item | {"content": [part]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": done}
    ended = whole | {"status": "completed", "output": [done], "usage": usage}
    yield {"type": "response.completed", "response": ended}


@contextmanager
def pretending() -> Iterator[str]:
    """Run the pretender for as long as the block lasts; gives its address."""
    with serving(Handler) as url:
        yield url

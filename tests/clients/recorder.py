"""Stands between a client and a server, passes everything on, and remembers it.

The one idea: what a client says about its requests is no evidence, what went over the wire is.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx

HOP = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}


class Usage(NamedTuple):
    """Tokens of a prompt, how many of them were known already, and tokens of the answer."""

    prompt: int
    cached: int
    answer: int


@dataclass(frozen=True)
class Exchange:
    """One request and what came back."""

    method: str
    path: str
    body: Any  # decoded JSON, or None
    status: int
    answer: str

    @property
    def events(self) -> list[Any]:
        """The JSON of the answer: one value, or one for each event of a stream."""
        if not self.answer.startswith(("data:", "event:", ":")):
            return [json.loads(self.answer)]
        lines = (line for line in self.answer.splitlines() if line.startswith("data: "))
        datas = (line.removeprefix("data: ") for line in lines)
        return [json.loads(data) for data in datas if data != "[DONE]"]

    @property
    def usage(self) -> Usage:
        """The counts in the answer, in whichever words of the three APIs."""
        for event in reversed(self.events):
            inner = event.get("response") or event.get("message") or event
            usage = inner.get("usage") or {}
            if "prompt_tokens" in usage:
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                return Usage(usage["prompt_tokens"], cached, usage["completion_tokens"])
            if "input_tokens_details" in usage:
                cached = usage["input_tokens_details"]["cached_tokens"]
                return Usage(usage["input_tokens"], cached, usage["output_tokens"])
        raise AssertionError("the answer counts no tokens")


@contextmanager
def recorded(target: str) -> Iterator[tuple[str, list[Exchange]]]:
    """Give an address that passes on to `target`, and the list that exchanges are added to."""
    found: list[Exchange] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
            headers["Accept-Encoding"] = "identity"
            parts: list[bytes] = []
            with httpx.stream(
                self.command,
                target + self.path,
                content=body,
                headers=headers,
                timeout=600,
                trust_env=False,
            ) as response:
                self.send_response(response.status_code)
                for name, value in response.headers.items():
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                for part in response.iter_raw():
                    parts.append(part)
                    self.wfile.write(part)
                    self.wfile.flush()
            self.close_connection = True
            found.append(
                Exchange(
                    self.command,
                    self.path,
                    json.loads(body) if body else None,
                    response.status_code,
                    b"".join(parts).decode(),
                )
            )

        def do_GET(self) -> None:
            self._pass()

        def do_POST(self) -> None:
            self._pass()

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Handler) as url:
        yield url, found


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a small server in threads for as long as the block lasts; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

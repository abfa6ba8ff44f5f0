"""A thousand requests of every kind at once: nothing hangs, nothing is lost, nothing stays behind.

The long run is `pytest -m whole tests/api/test_soak.py` with ten thousand.
"""

import contextlib
import gc
import json
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from homebox.api import checks
from homebox.api.exchange import Exchange
from homebox.server import ServerSettings
from tests.api.box import Box, body
from tests.api.conftest import MakeBox
from tests.api.fake_model import FakeModel
from tests.api.test_load import wait_for

THREADS = 16
LIMIT = 1 << 20  # bytes of a body
CONTEXT = 40_000
GROWTH = 96 << 20  # bytes that a thousand requests may leave to the allocator
PATIENCE = 30.0  # seconds without a byte count as a hang


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)  # of answers that were read to their end


def head(path: str, length: int | None, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += ["Connection: close", *more]
    lines += [f"Content-Length: {length}"] if length is not None else []
    return "\r\n".join([*lines, "", ""]).encode()


def post(content: bytes, path: str = "/v1/chat/completions", *more: str) -> bytes:
    return head(path, len(content), *more) + content


def asked(text: str, **fields: Any) -> bytes:
    return post(json.dumps(body(text, **fields)).encode())


def chunked(content: bytes) -> bytes:
    parts = [content[i : i + 65536] for i in range(0, len(content), 65536)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head("/v1/chat/completions", None, "Transfer-Encoding: chunked") + framed + b"0\r\n\r\n"


def tools(count: int) -> list[Any]:
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    return [
        {"type": "function", "function": {"name": f"tool_{i}", "parameters": schema}}
        for i in range(count)
    ]


GOOD: dict[str, Callable[[random.Random], bytes]] = {
    "whole": lambda d: asked(f"hello {d.random()}"),
    "stream": lambda d: asked(f"count {d.randrange(300)}", stream=True),
    "choices": lambda d: asked("hello", n=3, logprobs=True, top_logprobs=2),
    "200 tools": lambda d: asked("hello", tools=tools(200), stream=d.random() < 0.5),
    "32k prompt": lambda d: asked("word " * 6500, max_tokens=3),
    "chunked": lambda d: chunked(json.dumps(body("hello")).encode()),
    "slow sender": lambda d: asked("hello"),
}
BAD: dict[str, tuple[Callable[[random.Random], bytes], set[int]]] = {
    "bad JSON": (lambda d: post(b'{"model": "homebox", "messages": [' + b"{" * 9), {400}),
    "no JSON": (lambda d: post(d.randbytes(300)), {400}),
    "invalid UTF-8": (lambda d: post(b'{"model": "\xff\xfe", "messages": []}'), {400}),
    "lone surrogate": (lambda d: post(b'{"model":"\\ud800","messages":[{"role":"user"}]}'), {400}),
    "deep JSON": (lambda d: post(b"[" * 200_000), {400}),
    "deep field": (lambda d: post(b'{"tools":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), {400}),
    "wrong type": (lambda d: asked("x", max_tokens=d.choice(["5", [], {}, 1.5, -1])), {400}),
    "wrong messages": (lambda d: asked("x", messages=d.choice([5, "x", [5], [[]], None])), {400}),
    "many stops": (lambda d: asked("x", stop=["a"] * 1000), {400}),
    "many choices": (lambda d: asked("x", n=10**6), {400}),
    "no model": (lambda d: asked("x", model="nobody"), {404}),
    "giant, said": (lambda d: head("/v1/chat/completions", 1 << 40), {413}),
    "giant, chunked": (lambda d: chunked(b" " * (LIMIT + 70_000)), {413}),
    "too long a prompt": (lambda d: asked("word " * 20_000), {400}),
    "foreign host": (
        lambda d: asked("x").replace(b"Host: localhost", b"Host: evil.example"),
        {403},
    ),
    "unknown route": (lambda d: post(b"{}", f"/v1/{d.randrange(99)}"), {404}),
    "other routes": (
        lambda d: post(b'{"x":1}', d.choice(["/v1/models", "/health", "/v1/files"])),
        {404, 405},
    ),
    "a form": (
        lambda d: asked("x").replace(b"application/json", b"text/plain"),
        {400},
    ),
    "not HTTP": (lambda d: b"\x16\x03\x01" + d.randbytes(100) + b"\r\n\r\n", {0, 400}),
    "many headers": (
        lambda d: head("/v1/chat/completions", 2, *(f"X-{i}: y" for i in range(500))) + b"{}",
        {0, 400},
    ),
    "large header": (
        lambda d: head("/v1/chat/completions", 2, "X-Large: " + "y" * 70_000) + b"{}",
        {0, 400},
    ),
    "websocket": (
        lambda d: post(b"{}", "/v1/models", "Upgrade: websocket", "Connection: Upgrade"),
        {400, 405},
    ),
}
RUDE = ("reset in head", "reset in body", "left in the prompt", "left in the answer", "slow reader")


class Crowd:
    """Clients of all kinds, good and bad."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.tally = Tally()

    def send(self, number: int) -> None:
        """Send the request of this number, whatever it is."""
        dice = random.Random(number)
        kind = dice.choice([*GOOD, *GOOD, *BAD, *RUDE])
        try:
            if kind in GOOD:
                self._good(kind, GOOD[kind](dice))
            elif kind in BAD:
                data, expected = BAD[kind]
                status, _ = self._ask(data(dice))
                self._count(kind, status)
                if status not in expected | {429, 503}:
                    self._problem(kind, f"status {status}")
            else:
                self._rude(kind, dice)
        except TimeoutError:
            self._problem(kind, "it hung")
        except Exception as error:
            self._problem(kind, repr(error))

    def _count(self, kind: str, status: int) -> None:
        self.tally.statuses[kind, status] += 1

    def _problem(self, kind: str, text: str) -> None:
        self.tally.problems.append(f"{kind}: {text}")

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._box.port), timeout=PATIENCE)
        connection.settimeout(PATIENCE)
        return connection

    def _ask(self, data: bytes, pause: bool = False) -> tuple[int, bytes]:
        """Send bytes, read to the end; the status is 0 if there was no answer."""
        with self._connect() as connection:
            received = b""
            # Whoever is refused early may find the connection closed while still sending.
            with contextlib.suppress(ConnectionError):
                if pause:
                    for start in range(0, len(data), 64):
                        connection.sendall(data[start : start + 64])
                else:
                    connection.sendall(data)
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(1 << 16):
                    received += part
        words = received.split(b" ", 2)
        return (int(words[1]) if len(words) > 2 else 0), received

    def _good(self, kind: str, data: bytes) -> None:
        status, received = self._ask(data, pause=kind == "slow sender")
        self._count(kind, status)
        if status in (429, 503):
            if b"retry-after" not in received.lower():
                self._problem(kind, "told to come back, and not when")
            return
        if status != 200:
            self._problem(kind, f"status {status}: {received[-300:]!r}")
            return
        headers, _, content = received.partition(b"\r\n\r\n")
        streamed = b"text/event-stream" in headers
        if streamed and b"data: [DONE]" not in content:
            self._problem(kind, "the stream broke off")
            return
        for line in headers.decode().split("\r\n"):
            if line.lower().startswith("x-homebox-turn:"):
                self.tally.turns.append(line.partition(":")[2].strip())

    def _rude(self, kind: str, dice: random.Random) -> None:
        self._count(kind, 0)
        with self._connect() as connection:
            # Closing sends a reset: the server finds out in the middle of whatever it does.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            data = asked("x" * 2000)
            if kind == "reset in head":
                connection.sendall(data[: dice.randrange(1, 60)])
            elif kind == "reset in body":
                connection.sendall(data[: dice.randrange(200, 1500)])
            elif kind == "left in the prompt":
                connection.sendall(asked("word " * 6000, stream=dice.random() < 0.5))
            else:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.sendall(asked("count 3000", stream=True))
                for _ in range(dice.randrange(1, 4)):
                    connection.recv(100)


def files_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def soak(box: Box, first: int, count: int) -> Tally:
    crowd = Crowd(box)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(crowd.send, range(first, first + count)))
    return crowd.tally


def box_for(make_box: MakeBox) -> Box:
    quick = dict.fromkeys(("header_timeout", "body_timeout", "write_timeout", "idle_timeout"), 10.0)
    model = FakeModel(context=CONTEXT, slots=8)
    return make_box(model, max_waiting=64, max_body_bytes=LIMIT, linger=0.2, **quick)


def at_rest(box: Box) -> bool:
    idle = not box.model.sequences and box.engine.load == (0, 0) and not box.server._open
    return idle and not box.server._answering.running and not box.server._answering._tasks


def soaked(make_box: MakeBox, count: int) -> None:
    box = box_for(make_box)
    # What is made once (threads, connections of the database, compiled decoders) is there now.
    warm = soak(box, 0, 200)
    wait_for(lambda: at_rest(box))
    gc.collect()
    files, memory = files_open(), resident()
    tally = soak(box, 200, count)
    assert tally.problems == warm.problems == []
    kinds = {kind for kind, _ in tally.statuses}
    assert kinds == {*GOOD, *BAD, *RUDE}
    wait_for(lambda: at_rest(box))
    gc.collect()
    wait_for(lambda: files_open() <= files)
    assert resident() - memory < GROWTH * max(count // 1000, 1)
    turns = warm.turns + tally.turns
    assert len(turns) > count // 8
    lost = [turn for turn in turns if box.state.ledger.turn(turn) is None]
    assert lost == []
    assert box.chat("still there?").status_code == 200


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_thousand_requests(make_box: MakeBox) -> None:
    soaked(make_box, 800)


@pytest.mark.whole
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_ten_thousand_requests(make_box: MakeBox) -> None:
    soaked(make_box, 10_000)


def test_control_a_mistake_of_ours_is_noticed(
    make_box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(checks, "check", broken)
    tally = soak(box_for(make_box), 0, 60)
    assert any("status 500" in problem for problem in tally.problems)


def test_control_a_lost_row_is_noticed(make_box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: Exchange) -> None:
        self.finished = True
        self.lease.release()

    monkeypatch.setattr(Exchange, "finish", forget)
    box = box_for(make_box)
    tally = soak(box, 0, 60)
    assert tally.turns
    assert any(box.state.ledger.turn(turn) is None for turn in tally.turns)


def test_too_many_connections_are_told_to_come_back(make_box: MakeBox) -> None:
    assert ServerSettings().max_connections == 256
    box = make_box(max_connections=3)
    held = [socket.create_connection(("127.0.0.1", box.port), timeout=10) for _ in range(3)]
    wait_for(lambda: len(box.server._open) == 3)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", box.port), timeout=10) as one_more:
            one_more.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while part := one_more.recv(4096):
                received += part
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in received
        assert b'"error"' in received
    held.pop().close()
    wait_for(lambda: len(box.server._open) == 2)
    assert box.http.get("/health").status_code == 200
    for connection in held:
        connection.close()

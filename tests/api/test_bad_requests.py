"""Whatever arrives is answered in OpenAI's error shape, or cut off; never with a 5xx."""

import contextlib
import gzip
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homebox.api.checks import parse
from homebox.errors import RequestError
from tests.api.box import Box, body
from tests.api.conftest import MakeBox

USER = [{"role": "user", "content": "x"}]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


NESTED = nested(500)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    quick = dict.fromkeys(("body_timeout", "header_timeout", "idle_timeout", "linger"), 0.3)
    box = Box(tmp_path_factory.mktemp("state") / "s", **quick)
    yield box
    box.close()


def raw(box: Box, data: bytes) -> bytes:
    """Send bytes and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", box.port), timeout=20) as connection:
        received = b""
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
        return received


def post(content: bytes, extra: bytes = b"") -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\n" + extra
    ) + b"Content-Length: %d\r\n\r\n%s" % (len(content), content)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "no"}]},
            "messages[0].tool_call_id",
        ),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 4097}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 10**20}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 10_000}, "stop"),
        ({"stop": 5}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": 10**9}, "n"),
        ({"messages": USER * 16_385}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 1025}, "tools"),
        ({"tools": [NESTED]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": NESTED}}, "response_format"),
        ({"chat_template_kwargs": NESTED}, "chat_template_kwargs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias[]"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"logit_bias": {"5": "x"}}, "logit_bias[]"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": "x"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
    ],
)
def test_wrong_fields_are_named(box: Box, fields: dict[str, Any], param: str) -> None:
    asked = {name: value for name, value in (body("x") | fields).items() if value is not None}
    before = box.state.ledger.count()
    response = box.http.post("/v1/chat/completions", json=asked)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert box.state.ledger.count() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": None, "temperature": None, "stop": None, "stream": None, "tools": None},
        {"content": "unknown", "metadata": {"a": 1}, "store": False, "service_tier": "auto"},
        {"logprobs": False, "n": 1, "response_format": {"type": "text"}, "logit_bias": {}},
        {"top_p": 0, "top_k": -1, "seed": -5, "stop": []},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": []}]},
        {"temperature": 1, "repetition_penalty": 1.1, "min_p": 0.05, "top_k": 20},
    ],
)
def test_what_clients_send_is_tolerated(box: Box, fields: dict[str, Any]) -> None:
    response = box.http.post("/v1/chat/completions", json=body("x") | fields)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "base", "messages": NaN}',
        b'{"a":' * 100_000,
        b"[" * 1_000_000,
        b'{"model": "base", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "base", "temperature": 1e999}',
    ],
)
def test_bad_json(box: Box, content: bytes) -> None:
    answer = raw(box, post(content))
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_unknown_things(box: Box) -> None:
    for model in ("gpt-4", "homebox@", "homebox@zz", "homebox@ffff", "", "x" * 100_000):
        response = box.chat("x", model=model)
        assert response.status_code == 404, model[:50]
        assert response.json()["error"]["code"] == "model_not_found"
        assert len(response.text) < 2000
    assert box.http.get("/v1/models/nothing").json()["error"]["code"] == "model_not_found"
    assert box.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    wrong = box.http.get("/v1/chat/completions")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert "POST" in wrong.json()["error"]["message"]
    assert "/v1/nothing" in box.http.get("/v1/nothing").json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ({}, "model", "model is missing"),
        ({"model": "base"}, "messages", "messages is missing"),
        ({"model": "base", "messages": [{"content": "x"}]}, "messages[0].role", "is missing"),
        (
            {"model": "base", "messages": [{"role": "boss"}]},
            "messages[0].role",
            "may be assistant, developer, system, tool, user",
        ),
        ({"model": "base", "messages": USER, "top_p": 2}, "top_p", "<= 1.0"),
    ],
)
def test_errors_say_what_may_stand_there(given: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        parse(json.dumps(given).encode())
    assert caught.value.param == param


def test_large_bodies(make_box: MakeBox) -> None:
    box = make_box(max_body_bytes=10_000)
    refused = box.chat("x" * 10_000)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "request_too_large"
    announced = raw(box, post(b"", b"Content-Length: 99999999999\r\n"))
    assert b" 4" in announced[:15]
    chunk = b"%x\r\n%s\r\n" % (6000, b" " * 6000)
    chunked = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + chunk * 3
    assert raw(box, chunked + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert box.chat("x" * 3000).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%00%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        post(b"{}", b"Content-Length: 5\r\n"),
        post(b"{}", b"Transfer-Encoding: chunked\r\n"),
        post(b"{}", b"Content-Encoding: gzip\r\n"),
        post(b"x", b"Content-Encoding: br, br\r\n"),
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        post(b'{"model"')[:-3],
    ],
)
def test_malformed_http_is_no_mistake_of_ours(box: Box, data: bytes) -> None:
    answer = raw(box, data)
    assert answer[9:12] in (b"", b"400", b"404"), answer[:300]
    if answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert box.http.get("/health").status_code == 200


def test_random_bytes_never_hang_or_break(box: Box) -> None:
    random.seed(5)
    good = post(json.dumps(body("x")).encode())
    for _ in range(60):
        data = bytearray(good)
        for _ in range(random.randint(1, 6)):
            data[random.randrange(len(data))] = random.randrange(256)
        answer = raw(box, bytes(data))
        assert not answer.startswith(b"HTTP/1.1 5"), (bytes(data), answer[:300])
    assert box.chat("x").status_code == 200


def test_who_sends_no_headers_is_cut_off(make_box: MakeBox) -> None:
    box = make_box(header_timeout=0.2)
    assert raw(box, b"") == b""
    assert raw(box, b"GET /health HT") == b""


def test_who_sends_no_body_is_cut_off(make_box: MakeBox) -> None:
    box = make_box(body_timeout=0.2, linger=0.2)
    answer = raw(box, post(b"", b"")[:-21] + b"Content-Length: 50\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 400 "), answer


def dribbled(box: Box, first: bytes, rest: bytes) -> tuple[bytes, int]:
    """Send bytes, then others one by one until cut off; gives the answer and how many went out."""
    with socket.create_connection(("127.0.0.1", box.port), timeout=20) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            connection.settimeout(0.02)
            for count, byte in enumerate(rest):
                connection.sendall(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    while part := connection.recv(4096):
                        received += part
                    return received, count
        return received, count


def test_who_dribbles_headers_is_cut_off(make_box: MakeBox) -> None:
    """Bytes that keep coming do not keep the connection: not in the first request, nor later."""
    box = make_box(header_timeout=0.3, idle_timeout=0.3)
    slow = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 3000
    assert dribbled(box, b"", slow)[1] < len(slow) - 1
    good = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received, count = dribbled(box, good, slow)
    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert count < len(slow) - 1


def test_who_dribbles_a_body_is_cut_off(make_box: MakeBox) -> None:
    box = make_box(body_timeout=0.3, linger=0.1)
    slow = json.dumps(body("x" * 3000)).encode()
    head = post(slow)[: -len(slow)]
    received, count = dribbled(box, head, slow)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert count < len(slow) - 1


def test_control_patience_lets_dribblers_in(make_box: MakeBox) -> None:
    box = make_box()
    slow = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    received, count = dribbled(box, b"", slow)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert count == len(slow) - 1


def test_what_is_packed_small_is_measured_unpacked(make_box: MakeBox) -> None:
    box = make_box(max_body_bytes=100_000)
    bomb = gzip.compress(b" " * 20_000_000)
    assert len(bomb) < 100_000
    answer = raw(box, post(bomb, b"Content-Encoding: gzip\r\n"))
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 ")), answer[:200]
    good = gzip.compress(json.dumps(body("x")).encode())
    assert raw(box, post(good, b"Content-Encoding: gzip\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (b"X: y\r\n" * 100, True),
        (b"X: y\r\n" * 200, False),
        (b"X: " + b"y" * 8000 + b"\r\n", True),
        (b"X: " + b"y" * 9000 + b"\r\n", False),
        (b"X" * 9000 + b": y\r\n", False),
    ],
)
def test_headers_have_a_size_and_a_number(box: Box, headers: bytes, passes: bool) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = raw(box, head + headers + b"\r\n")
    assert answer[9:12] == (b"200" if passes else b"400"), answer[:200]


def test_whoever_comes_while_it_stops_is_told_to_come_back(make_box: MakeBox) -> None:
    box = make_box()
    # A connection that is open already is all that still reaches a box that stops.
    assert box.http.get("/health").status_code == 200
    box.server._answering.stopping = True
    refused = box.chat("x")
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert box.http.get("/ready").status_code == 503
    box.server._answering.stopping = False


def test_idle_connections_are_closed(make_box: MakeBox) -> None:
    box = make_box(idle_timeout=0.2)
    answer = raw(box, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.endswith(b'{"status":"ok"}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["model", "messages", "max_tokens", "temperature", "stop", "stream", "n", "tools", "seed"]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_parse_gives_a_request_or_a_request_error(fields: dict[str, Any]) -> None:
    try:
        parse(json.dumps({"model": "base", "messages": USER} | fields).encode())
    except RequestError as error:
        assert str(error)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_parse_survives_any_bytes(content: bytes) -> None:
    with pytest.raises(RequestError):
        parse(content)

"""Who may call: Host and Origin against DNS rebinding, keys, addresses, content types."""

import http.client
import itertools
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from multidict import CIMultiDict

from homebox.api.guard import Guard, cors_origins, guard_for, host_names, is_loopback_name
from homebox.api.tokens import Caller, KeyRing, add_key, open_keys, remove_key
from homebox.errors import ConfigError, HomeboxError
from homebox.server import Server, ServerSettings
from tests.api.box import Box, body
from tests.api.conftest import MakeBox

PAGE = "https://page.example"


def get(
    box: Box,
    headers: list[tuple[str, str]],
    path: str = "/v1/models",
    method: str = "GET",
    content: bytes = b"",
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", box.port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    if content:
        connection.putheader("Content-Length", str(len(content)))
    connection.endheaders(content)
    response = connection.getresponse()
    result = response.status, response.read()
    connection.close()
    return result


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "127.9.9.9"])
def test_names_of_this_machine_pass(box: Box, host: str) -> None:
    assert get(box, [("Host", f"{host}:{box.port}")])[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "192.168.1.2",
        "0.0.0.0",
        "[::1",
        "[::1]evil",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/nothing"])
def test_foreign_names_are_refused(box: Box, host: str, path: str) -> None:
    status, text = get(box, [("Host", host)], path)
    assert status in (400, 403)
    assert b'"error"' in text


def test_control_without_the_check_a_rebound_name_gets_in(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guard, "check", lambda *_: Caller())
    assert get(box, [("Host", "evil.example")])[0] == 200


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_exactly_one_host(box: Box, hosts: list[str]) -> None:
    assert get(box, [("Host", host) for host in hosts])[0] == 400


def test_origins(box: Box) -> None:
    own = f"http://localhost:{box.port}"
    for origin, expected in {
        own: 200,
        own.upper(): 200,
        "https://evil.example": 403,
        "http://localhost:1": 403,
        "null": 403,
        "": 403,
        "http://[": 403,
        f"chrome-extension://localhost:{box.port}": 403,
    }.items():
        headers = [("Host", f"localhost:{box.port}"), ("Origin", origin)]
        assert get(box, headers)[0] == expected, origin


def test_no_answer_invites_other_origins(box: Box) -> None:
    for method in ("OPTIONS", "GET", "POST"):
        response = box.http.request(
            method,
            "/v1/chat/completions",
            headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"},
        )
        assert response.status_code == 403
        assert not any(name.startswith("access-control") for name in response.headers)


def test_pages_that_the_configuration_names_may_call(make_box: MakeBox) -> None:
    box = make_box(token="secret", cors_origins=f"{PAGE}, http://localhost:3000")
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    preflight = box.http.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["vary"] == "Origin"
    assert "x-stainless-lang" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    # Allowed to ask is not allowed in: the key is still missing.
    refused = box.http.get("/v1/models", headers={"Origin": PAGE})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE
    with box.http.stream(
        "POST",
        "/v1/chat/completions",
        json=body("x", stream=True),
        headers={"Origin": PAGE, "Authorization": "Bearer secret"},
    ) as stream:
        assert stream.status_code == 200
        assert stream.headers["access-control-allow-origin"] == PAGE
        stream.read()
    for foreign in ("https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:1", "*"):
        response = box.http.options("/v1/models", headers=asked | {"Origin": foreign})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; x", ""]
)
def test_bodies_that_a_form_could_send_are_refused(box: Box, kind: str) -> None:
    response = box.http.post(
        "/v1/chat/completions", content=b'{"model":"base"}', headers={"Content-Type": kind}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Content-Type"


def test_token(make_box: MakeBox) -> None:
    box = make_box(token="secret")
    assert box.http.get("/health").status_code == 200
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "secret"},
        {"Authorization": "Basic secret"},
        {"x-api-key": "wrong"},
        {"x-api-key": "Bearer secret"},
    ):
        for response in (
            box.http.get("/v1/models", headers=headers),
            box.http.post("/v1/chat/completions", json=body("x"), headers=headers),
            box.http.get("/nothing", headers=headers),
        ):
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
    assert get(box, [("Host", "localhost"), ("Authorization", "Bearer \xff\xe9")])[0] == 401
    for headers in ({"Authorization": "bearer secret"}, {"x-api-key": "secret"}):
        assert box.http.get("/v1/models", headers=headers).status_code == 200
    twice = [("Host", "localhost"), ("Authorization", "Bearer secret"), ("Authorization", "x")]
    assert get(box, twice)[0] == 400


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"token": "t"},
        {"lan": True},
        {"token": "", "lan": True},
        {"token": "t", "lan": True, "require_token": False},
    ],
)
def test_open_addresses_need_a_token_and_a_word(host: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="other machines"):
        Server(None, ServerSettings(host=host, **settings))  # type: ignore[arg-type]


def test_on_the_lan_known_names_pass_and_the_token_guards(make_box: MakeBox) -> None:
    box = make_box(host="0.0.0.0", token="t", lan=True, hosts="box.lan")
    headers = {"Host": "box.lan:1", "Authorization": "Bearer t"}
    url = f"http://127.0.0.1:{box.port}/v1/models"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
    assert httpx.get(url, headers={"Host": "box.lan:1"}, trust_env=False).status_code == 401
    for host, expected in {
        "192.168.1.2": 200,
        "[fe80::1]:4310": 200,
        socket.gethostname(): 200,
        "localhost": 200,
        "other.lan": 403,
        "box.lan.": 403,
    }.items():
        named = headers | {"Host": host}
        assert httpx.get(url, headers=named, trust_env=False).status_code == expected, host
    headers["Origin"] = "http://evil.example"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 403


def test_names_that_need_a_resolver_are_not_loopback() -> None:
    assert not is_loopback_name("localhost.localdomain")
    assert not is_loopback_name("0x7f.1")
    assert is_loopback_name("::1")


def test_wrong_lists_are_refused_by_name() -> None:
    assert host_names(" Box.lan,, 192.168.1.2 ") == ["box.lan", "192.168.1.2"]
    assert cors_origins("http://localhost:3000,https://[::1]") == [
        "http://localhost:3000",
        "https://[::1]",
    ]
    for text in ("box.lan:80", "http://box", "*", "a b", ".lan", "-"):
        with pytest.raises(ConfigError, match=r"server\.hosts"):
            host_names(text)
    for text in ("*", "null", "page.example", "https://page.example/", "ftp://a", "HTTP://a"):
        with pytest.raises(ConfigError, match=r"server\.cors_origins"):
            cors_origins(text)


def test_no_websocket_is_opened(box: Box) -> None:
    upgrade = [
        ("Host", "localhost"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ]
    assert get(box, upgrade)[0] == 400
    assert get(box, [*upgrade, ("Origin", "https://evil.example")])[0] == 403
    # What some libraries send with every plain request is not taken for one.
    assert (
        get(box, [("Host", "localhost"), ("Connection", "Upgrade"), ("Upgrade", "h2c")])[0] == 200
    )


def request_line(box: Box, target: str, host: str) -> int:
    with socket.create_connection(("127.0.0.1", box.port), timeout=10) as connection:
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("http://localhost/v1/models", "localhost", 200),
        ("http://evil.example/v1/models", "localhost", 400),
        ("http://localhost/v1/models", "evil.example", 403),
        ("http://evil.example/v1/models", "evil.example", 403),
        ("http://evil.example@localhost/v1/models", "localhost", 400),
        ("//evil.example/v1/models", "localhost", 404),
    ],
)
def test_hosts_in_the_request_line(box: Box, target: str, host: str, expected: int) -> None:
    assert request_line(box, target, host) == expected


# The matrix. Each value stands with what it means, written down by hand: the oracle below knows
# these words and nothing of how the guard reads a header.

HOSTS = {
    "localhost": "loopback",
    "localhost:4310": "loopback",
    "LocalHost:4310": "loopback",
    "127.0.0.1": "loopback",
    "127.0.0.1:4310": "loopback",
    "127.255.255.254:1": "loopback",
    "[::1]": "loopback",
    "[::1]:4310": "loopback",
    "box.lan": "named",
    "box.lan:4310": "named",
    "192.168.1.20": "address",
    "192.168.1.20:4310": "address",
    "[fe80::1]": "address",
    "8.8.8.8": "address",
    "0.0.0.0:4310": "address",
    "evil.example": "foreign",
    "evil.example:4310": "foreign",
    "127.0.0.1.evil.example": "foreign",
    "localhost.evil.example": "foreign",
    "localhost.": "foreign",
    "127.0.0.1.": "foreign",
    "2130706433": "foreign",
    "0x7f000001": "foreign",
    "0177.0.0.1": "foreign",
    "127.1": "foreign",
    "127.0.0.1@evil.example": "foreign",
    "evil.example#@localhost": "foreign",
    "localhost:4310@evil.example": "foreign",
    "localhost:port": "foreign",
    "localhost:99999": "foreign",
    "::1": "foreign",
    "[::1": "foreign",
    "[::1]evil.example": "foreign",
    "[127.0.0.1]": "foreign",
    "xn--locahost-iw8d": "foreign",
    "box.lan.evil.example": "foreign",
    "": "foreign",
}
ORIGINS: dict[str, str] = {
    "none": "no page",
    "own": "own",
    PAGE: "named",
    "https://evil.example": "foreign",
    "null": "foreign",
    "": "foreign",
    "http://localhost:1": "foreign",
    "file://": "foreign",
    f"{PAGE}.evil.example": "foreign",
    "http://page.example": "foreign",
}
PATHS = {
    "/health": "open",
    "/ready": "open",
    "/metrics": "shut",
    "/v1/models": "shut",
    "/v1/chat/completions": "shut",
    "/v1/messages": "shut",
    "/nothing": "shut",
    "/": "shut",
    "/health/": "shut",
    "/HEALTH": "shut",
    "/v1/../health": "shut",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TYPES = {
    "application/json": "asked",
    "application/json; charset=utf-8": "asked",
    "none": "simple",
    "text/plain": "simple",
    "TEXT/PLAIN;charset=utf-8": "simple",
    "application/x-www-form-urlencoded": "simple",
    "multipart/form-data; boundary=x": "simple",
}
KEYS = ("none", "right", "right in x-api-key", "named", "wrong", "removed", "empty", "basic")
GOOD_KEYS = ("right", "right in x-api-key", "named")
MODES = ("loopback", "loopback, no key asked for", "lan", "loopback with pages")
AXES = (PATHS, METHODS, HOSTS, ORIGINS, KEYS, TYPES, (False, True), (False, True))
Case = tuple[str, str, str, str, str, str, bool, bool]


def oracle(mode: str, case: Case) -> int:
    """Say which status the guard must give, 0 for letting pass."""
    path, method, host, origin, key, kind, websocket, preflight = case
    ours = {"loopback"} | ({"address", "named"} if mode == "lan" else set())
    if HOSTS[host] not in ours:
        return 403
    pages = {"no page", "own"} | ({"named"} if mode == "loopback with pages" else set())
    if ORIGINS[origin] not in pages:
        return 403
    asks = preflight and method == "OPTIONS" and ORIGINS[origin] == "named"
    needs_key = mode != "loopback, no key asked for" and PATHS[path] == "shut" and not asks
    if needs_key and key not in GOOD_KEYS:
        return 401
    if websocket:
        return 400
    return 400 if method in ("POST", "PUT", "PATCH") and TYPES[kind] == "simple" else 0


def headers_of(case: Case, keys: dict[str, str]) -> list[tuple[str, str]]:
    _, _, host, origin, key, kind, websocket, preflight = case
    headers = [("Host", host)]
    if origin != "none":
        headers.append(("Origin", f"http://{host}" if origin == "own" else origin))
    if key == "right in x-api-key":
        headers.append(("x-api-key", keys["right"]))
    elif key != "none":
        scheme = "Basic" if key == "basic" else "Bearer"
        headers.append(("Authorization", f"{scheme} {keys[key]}"))
    if kind != "none":
        headers.append(("Content-Type", kind))
    if websocket:
        headers += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    if preflight:
        headers.append(("Access-Control-Request-Method", "POST"))
    return headers


def cases(count: int, seed: int) -> list[Case]:
    """Draw combinations; all that differ from a good request in one or two places come first."""
    dice = random.Random(seed)
    good = ("/v1/models", "GET", "localhost", "none", "right", "application/json", False, False)
    found: dict[Any, None] = {}
    for first, second in itertools.combinations(range(len(AXES)), 2):
        for a, b in itertools.product(AXES[first], AXES[second]):
            case: list[Any] = list(good)
            case[first], case[second] = a, b
            found[tuple(case)] = None
    while len(found) < count:
        found[tuple(dice.choice(list(axis)) for axis in AXES)] = None
    chosen: list[Case] = list(found)
    return chosen if count >= len(chosen) else dice.sample(chosen, count)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyRing, dict[str, str]]:
    state = tmp_path_factory.mktemp("keys")
    ring = open_keys(state)
    named, removed = add_key(state, "named"), add_key(state, "removed")
    remove_key(state, "removed")
    wrong = ring.primary[:-1] + ("A" if ring.primary[-1] != "A" else "B")
    return ring, {
        "right": ring.primary,
        "named": named,
        "removed": removed,
        "wrong": wrong,
        "empty": "",
        "basic": ring.primary,
    }


def guard_of(mode: str, ring: KeyRing) -> Guard:
    lan = mode == "lan"
    return guard_for(
        "0.0.0.0" if lan else "127.0.0.1",
        lan=lan,
        keys=ring,
        required="no key" not in mode,
        hosts="box.lan" if lan else "",
        origins=PAGE if "pages" in mode else "",
    )


def verdict(check: Callable[..., object], case: Case, keys: dict[str, str]) -> int:
    headers = CIMultiDict(headers_of(case, keys))
    try:
        check(case[0], headers, case[1], case[0])
    except HomeboxError as error:
        return error.status
    return 0


@pytest.mark.parametrize("mode", MODES)
def test_matrix(mode: str, keys: tuple[KeyRing, dict[str, str]]) -> None:
    ring, texts = keys
    guard = guard_of(mode, ring)
    drawn = cases(6000, MODES.index(mode))
    assert len(drawn) >= 6000
    wrong = [
        (case, found, oracle(mode, case))
        for case in drawn
        if (found := verdict(guard.check, case, texts)) != oracle(mode, case)
    ]
    assert wrong == []
    seen = {oracle(mode, case) for case in drawn}
    assert seen == ({0, 400, 403} if "no key" in mode else {0, 400, 401, 403})


def test_control_a_matrix_without_a_guard_fails(keys: tuple[KeyRing, dict[str, str]]) -> None:
    for mode in MODES:
        drawn = cases(6000, 1)
        missed = {
            oracle(mode, case)
            for case in drawn
            if verdict(lambda *_: Caller(), case, keys[1]) != oracle(mode, case)
        }
        assert {400, 403} <= missed


def over_a_socket(box: Box, drawn: list[Case], keys: dict[str, str]) -> list[Any]:
    """Send each case to a box whose answers say nothing but what they must."""
    wrong = []
    for case in drawn:
        path, method = case[0], case[1]
        content = b"{}" if method in ("POST", "PUT", "PATCH") else b""
        status, _ = get(box, headers_of(case, keys), path, method, content)
        expected = oracle("loopback", case)
        fine = status == expected if expected else status not in (101, 401, 403)
        if not fine or status >= 500:
            wrong.append((case, status, expected))
    return wrong


def test_matrix_over_a_socket(
    make_box: MakeBox, keys: tuple[KeyRing, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, texts = keys
    box = make_box(keys=ring)
    drawn = cases(400, 7)
    assert over_a_socket(box, drawn, texts) == []
    monkeypatch.setattr(Guard, "check", lambda *_: Caller())
    assert len(over_a_socket(box, drawn, texts)) > 100


def test_the_owner_is_another_for_each_key(
    keys: tuple[KeyRing, dict[str, str]], tmp_path: Path
) -> None:
    ring, texts = keys
    guard = guard_of("loopback, no key asked for", ring)

    def owner(key: str | None) -> str:
        headers = CIMultiDict({"Host": "localhost"})
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return guard.check("/v1/models", headers).owner

    assert owner(None) == owner(texts["removed"]) == owner(texts["wrong"]) == ""
    owners = {owner(texts["right"]), owner(texts["named"])}
    assert len(owners) == 2
    assert all(len(found) == 16 and found not in str(texts) for found in owners)
    # Another box calls the same key by another name.
    other = KeyRing(tmp_path, texts["right"]).find(texts["right"])
    assert other is not None
    assert other.owner not in owners

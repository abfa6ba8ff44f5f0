"""Who may call: Host and Origin against DNS rebinding, tokens, addresses, content types."""

import http.client
from typing import Any

import httpx
import pytest

from homebox.api.guard import Guard, is_loopback_name
from homebox.errors import ConfigError
from homebox.server import Server, ServerSettings
from tests.api.box import Box, body
from tests.api.conftest import MakeBox


def get(box: Box, headers: list[tuple[str, str]], path: str = "/v1/models") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", box.port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
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
    monkeypatch.setattr(Guard, "check", lambda *_: None)
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
    response = box.http.options("/v1/chat/completions", headers={"Origin": "https://evil.example"})
    assert response.status_code == 403
    assert not any(name.startswith("access-control") for name in response.headers)


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
    ):
        for response in (
            box.http.get("/v1/models", headers=headers),
            box.http.post("/v1/chat/completions", json=body("x"), headers=headers),
            box.http.get("/nothing", headers=headers),
        ):
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
    assert get(box, [("Host", "localhost"), ("Authorization", "Bearer \xff\xe9")])[0] == 401
    assert box.http.get("/v1/models", headers={"Authorization": "bearer secret"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7"])
@pytest.mark.parametrize(
    "settings", [{}, {"token": "t"}, {"lan": True}, {"token": "", "lan": True}]
)
def test_open_addresses_need_a_token_and_a_word(host: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="other machines"):
        Server(None, ServerSettings(host=host, **settings))  # type: ignore[arg-type]


def test_on_the_lan_names_are_free_and_the_token_guards(make_box: MakeBox) -> None:
    box = make_box(host="0.0.0.0", token="t", lan=True)
    headers = {"Host": "box.lan:1", "Authorization": "Bearer t"}
    url = f"http://127.0.0.1:{box.port}/v1/models"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
    assert httpx.get(url, headers={"Host": "box.lan:1"}, trust_env=False).status_code == 401
    headers["Origin"] = "http://evil.example"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 403


def test_names_that_need_a_resolver_are_not_loopback() -> None:
    assert not is_loopback_name("localhost.localdomain")
    assert not is_loopback_name("0x7f.1")
    assert is_loopback_name("::1")

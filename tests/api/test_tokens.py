"""Keys of a box: made once, compared in full, changed while it runs, kept from others."""

import hmac
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox.api import tokens
from homebox.api.tokens import (
    KEYS,
    MOST,
    TOKEN,
    KeyRing,
    add_key,
    named_keys,
    new_token,
    open_keys,
    remove_key,
)
from homebox.cli import main
from homebox.daemon import running
from homebox.errors import ConfigError, StateError
from tests.api.box import body
from tests.api.fake_learner import parts
from tests.api.test_daemon import config_for


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_draws_a_key_and_later_ones_keep_it(tmp_path: Path) -> None:
    first = open_keys(tmp_path).primary
    assert len(first) == 43  # 32 bytes in base64 without padding
    assert (tmp_path / TOKEN).read_text() == f"{first}\n"
    assert mode(tmp_path / TOKEN) == mode(tmp_path / KEYS) == 0o600
    ring = open_keys(tmp_path)
    assert ring.primary == first
    caller = ring.find(first)
    assert caller is not None
    assert caller == KeyRing(tmp_path).find(first)
    for wrong in ("", first[:-1], first + "A", first.lower(), f" {first}", "\udcff", "é"):
        assert ring.find(wrong) is None, wrong


def test_two_boxes_have_two_keys(tmp_path: Path) -> None:
    states = [tmp_path / str(i) for i in range(3)]
    for state in states:
        state.mkdir()
    assert len({open_keys(state).primary for state in states}) == 3


def test_named_keys_come_and_go_under_an_open_ring(tmp_path: Path) -> None:
    ring = open_keys(tmp_path)
    keys = {name: add_key(tmp_path, name) for name in ("tablet", "opencode", "ada.phone-2")}
    owners = {ring.find(key) for key in (ring.primary, *keys.values())}
    assert len(owners) == 4
    assert None not in owners
    assert [key.name for key in named_keys(tmp_path)] == list(keys)
    remove_key(tmp_path, "tablet")
    assert ring.find(keys["tablet"]) is None
    assert ring.find(keys["opencode"]) is not None
    before = ring.primary
    after = new_token(tmp_path)
    assert ring.find(before) is None
    assert ring.find(after) is not None
    assert ring.primary == after


def test_no_key_is_written_down(tmp_path: Path) -> None:
    open_keys(tmp_path)
    key = add_key(tmp_path, "tablet")
    text = (tmp_path / KEYS).read_text()
    assert key not in text
    assert json.loads(text)["keys"][0]["name"] == "tablet"
    # Nor can a digest be tried against a list that somebody made beforehand: it is salted.
    assert len(json.loads(text)["salt"]) == 64


@pytest.mark.parametrize("name", ["", "-x", "a b", "../x", "x" * 65, "ä", "a\n"])
def test_names_that_name_nothing_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a key"):
        add_key(tmp_path, name)


def test_taken_and_unknown_names_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_key(tmp_path, "tablet")
    with pytest.raises(ConfigError, match="already"):
        add_key(tmp_path, "tablet")
    with pytest.raises(ConfigError, match="tablet"):
        remove_key(tmp_path, "phone")
    assert MOST >= 100
    monkeypatch.setattr(tokens, "MOST", 1)
    with pytest.raises(ConfigError, match="1 keys"):
        add_key(tmp_path, "phone")


def test_a_configured_key_takes_the_place_of_the_file(tmp_path: Path) -> None:
    ring = open_keys(tmp_path, "mine")
    assert not (tmp_path / TOKEN).exists()
    named = add_key(tmp_path, "tablet")
    assert ring.primary == "mine"
    assert ring.find("mine") is not None
    assert ring.find(named) is not None
    drawn = new_token(tmp_path)
    assert ring.find(drawn) is None


@pytest.mark.parametrize("text", ["", "\n", "two words", "x\ny"])
def test_a_damaged_token_opens_nothing(tmp_path: Path, text: str) -> None:
    key = open_keys(tmp_path).primary
    ring = KeyRing(tmp_path)
    (tmp_path / TOKEN).unlink()
    (tmp_path / TOKEN).write_text(text)
    with pytest.raises(StateError, match="token new"):
        open_keys(tmp_path)
    for given in (key, "", "two words", "x"):
        assert ring.find(given) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"salt": "00", "keys": []}',
        '{"salt": "zz", "keys": []}',
        '{"salt": "' + "0" * 64 + '", "keys": [{"name": "a"}]}',
        '{"salt": "' + "0" * 64 + '", "keys": [{"name": "a", "digest": "", "made": ""}]}',
        '{"salt": "' + "0" * 64 + '", "keys": [5]}',
        "\x00",
        "[" * 100_000,
    ],
)
def test_a_damaged_list_opens_nothing_and_is_not_overwritten(tmp_path: Path, text: str) -> None:
    open_keys(tmp_path)
    ring = KeyRing(tmp_path)
    key = add_key(tmp_path, "tablet")
    assert ring.find(key) is not None
    (tmp_path / KEYS).unlink()
    (tmp_path / KEYS).write_text(text)
    assert ring.find(key) is None
    for change in (lambda: add_key(tmp_path, "x"), lambda: open_keys(tmp_path)):
        with pytest.raises(StateError, match="damaged"):
            change()
    assert (tmp_path / KEYS).read_text() == text


def test_files_that_others_could_read_are_closed(tmp_path: Path) -> None:
    open_keys(tmp_path)
    for name in (TOKEN, KEYS):
        (tmp_path / name).chmod(0o644)
    open_keys(tmp_path)
    assert mode(tmp_path / TOKEN) == mode(tmp_path / KEYS) == 0o600


def test_every_key_is_compared_with_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many comparisons, of as many bytes, whichever key is right, and if none is."""
    ring = open_keys(tmp_path)
    keys = [ring.primary, *(add_key(tmp_path, f"k{i}") for i in range(5))]
    ring.find("")
    compared: list[list[tuple[int, int]]] = []
    real = hmac.compare_digest

    def counted(a: Any, b: Any) -> bool:
        compared[-1].append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(tokens.hmac, "compare_digest", counted)
    for key in (*keys, "", "x", "x" * 1000):
        compared.append([])
        ring.find(key)
    assert compared[0] == [(64, 64)] * 6
    assert all(found == compared[0] for found in compared)


def test_commands_that_come_together_lose_no_key(tmp_path: Path) -> None:
    open_keys(tmp_path)
    threads = [
        threading.Thread(target=add_key, args=(tmp_path, f"key{number}")) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in named_keys(tmp_path)} == {f"key{number}" for number in range(12)}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    config = config_for(tmp_path / "state", **{"server.require_token": True})
    with running(config, parts()) as box:
        yield box.url


def status(url: str, key: str | None = None, path: str = "/v1/models") -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{url}{path}", headers=headers, trust_env=False, timeout=30).status_code


def test_a_daemon_asks_for_its_key_and_hears_of_changes(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(tmp_path / "state")]

    def command(*words: str) -> str:
        assert main(["token", *words, *state]) == 0
        return capsys.readouterr().out.strip()

    key = command()
    assert key == (tmp_path / "state" / TOKEN).read_text().strip()
    assert [status(url), status(url, "wrong"), status(url, key)] == [401, 401, 200]
    assert status(url, path="/health") == 200
    tablet = json.loads(command("add", "tablet", "--json"))["token"]
    assert status(url, tablet) == 200
    assert json.loads(command("list", "--json"))["keys"][0]["name"] == "tablet"
    command("remove", "tablet")
    assert status(url, tablet) == 401
    fresh = command("new")
    assert [status(url, key), status(url, fresh)] == [401, 200]
    assert command() == fresh
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        json=body("hello"),
        headers={"x-api-key": fresh},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 200


def test_own_commands_bring_the_key(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "--once", "I am Ada", "--state", str(tmp_path / "state")]) == 0
    assert "you said: I am Ada" in capsys.readouterr().out


def test_the_greeting_has_the_place_of_the_key_and_not_the_key(tmp_path: Path) -> None:
    config = config_for(tmp_path / "state", **{"server.require_token": True})
    with running(config, parts()) as box:
        greeting = "\n".join(box.daemon.greeting)
        assert str(tmp_path / "state" / TOKEN) in greeting
        assert box.daemon.token not in greeting
        assert box.daemon.token not in json.dumps(box.daemon.status())


def test_without_keys_only_on_this_machine(tmp_path: Path) -> None:
    with running(config_for(tmp_path / "a", **{"server.require_token": False}), parts()) as box:
        assert status(box.url) == 200
        assert box.daemon.token == ""
        assert not (tmp_path / "a" / TOKEN).exists()
    for values in (
        {"server.host": "0.0.0.0", "server.lan": True},
        {"server.token": "mine"},
    ):
        config = config_for(tmp_path / "b", **{"server.require_token": False, **values})
        with pytest.raises(ConfigError, match="require_token"), running(config, parts()):
            pass


@pytest.mark.parametrize("words", [["add"], ["remove"], ["new", "x"], ["list", "x"]])
def test_wrong_words(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", *words, "--state", str(tmp_path)]) == 2
    assert "name" in capsys.readouterr().err


def test_a_configured_key_is_not_changed_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOMEBOX_SERVER_TOKEN", "mine")
    state = ["--state", str(tmp_path / "state")]
    assert main(["token", *state]) == 0
    assert capsys.readouterr().out == "mine\n"
    assert main(["token", "new", *state]) == 2
    assert "server.token" in capsys.readouterr().err

"""`homebox connect`: files are merged and kept, round trips are real, limits fit the box."""

import dataclasses
import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox.cli import main
from homebox.connect.address import Address
from homebox.connect.agents import AGENTS
from homebox.connect.files import plan, write
from homebox.connect.offer import Offer, plain
from homebox.daemon import running
from homebox.errors import ConfigError
from tests.api.fake_learner import parts
from tests.api.fake_model import FakeModel
from tests.api.test_daemon import config_for

OFFER = Offer(Address("http://127.0.0.1:4310", "secret"), 32768, 8192)
OTHERS = {
    "opencode": {
        "theme": "dark",
        "model": "other/model",
        "provider": {"other": {"options": {"apiKey": "theirs"}}, "homebox": {"old": True}},
        "mcp": {"x": {"type": "local", "command": ["a", "ä"]}},
    },
    "openclaw": {
        "gateway": {"mode": "local"},
        "agents": {"defaults": {"model": {"primary": "other/m"}, "workspace": "/w"}},
        "models": {"mode": "merge", "providers": {"other": {"apiKey": "theirs"}}},
    },
}


def provider(name: str, value: Any) -> Any:
    return value["provider"] if name == "opencode" else value["models"]["providers"]


def limits(name: str, value: Any) -> tuple[int, int]:
    ours = provider(name, value)["homebox"]
    if name == "opencode":
        limit = ours["models"]["homebox"]["limit"]
        return limit["context"], limit["output"]
    (model,) = ours["models"]
    return model["contextWindow"], model["maxTokens"]


@pytest.mark.parametrize("name", AGENTS)
def test_a_new_file_has_all_that_the_agent_needs(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / "er" / "config.json"
    change = plan(AGENTS[name], OFFER, path)
    assert change.needed
    assert write(change) is None
    value = json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert limits(name, value) == (32768, 8192)
    text = path.read_text()
    assert "http://127.0.0.1:4310/v1" in text
    assert '"secret"' in text
    if name == "opencode":
        assert value["model"] == "homebox/homebox"
    else:
        assert value["agents"]["defaults"]["model"]["primary"] == "homebox/homebox"
        (model,) = provider(name, value)["homebox"]["models"]
        assert model["compat"]["supportsPromptCacheKey"] is True
    again = plan(AGENTS[name], OFFER, path)
    assert not again.needed


@pytest.mark.parametrize("name", AGENTS)
def test_what_is_there_stays_and_is_kept_beside(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    before = json.dumps(OTHERS[name], ensure_ascii=False)
    path.write_text(before)
    backup = write(plan(AGENTS[name], OFFER, path))
    assert backup is not None
    assert backup.read_text() == before
    after = json.loads(path.read_text())
    assert after != OTHERS[name]
    assert "old" not in provider(name, after)["homebox"]
    del provider(name, after)["homebox"]
    expected = json.loads(before)
    provider(name, expected).pop("homebox", None)
    after.pop("$schema", None)
    assert after == expected
    # A second change does not write over the first backup.
    other = Offer(Address("http://127.0.0.1:1", "secret"), 16384, 4096)
    second = write(plan(AGENTS[name], other, path))
    assert second not in (None, backup)
    assert backup.read_text() == before


@pytest.mark.parametrize(
    "text",
    [
        '{\n  // my notes\n  "theme": "dark"\n}',
        '{"theme": "dark",}',
        "{theme: 'dark'}",
        "{",
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("name", AGENTS)
def test_a_file_with_comments_is_printed_beside_and_not_written(
    tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / "config.jsonc"
    path.write_text(text)
    change = plan(AGENTS[name], OFFER, path)
    assert change.commented
    assert limits(name, change.after) == (32768, 8192)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["[]", "5", '"x"', '{"provider": 5, "models": 5}', "\udcff"])
@pytest.mark.parametrize("name", AGENTS)
def test_a_file_of_another_kind_is_not_touched(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match="not touched"):
        plan(AGENTS[name], OFFER, path)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "config.json"
    real.write_text("{}")
    link.symlink_to(real)
    write(plan(AGENTS["opencode"], OFFER, link))
    assert link.is_symlink()
    assert "homebox" in real.read_text()


def test_small_contexts_are_warned_of() -> None:
    assert OFFER.warning == ""
    assert "16384" in Offer(OFFER.address, 16383, 1).warning
    assert Offer(OFFER.address, 16384, 1).warning == ""


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1/v1"),
        ("http://0.0.0.0:1", "http://127.0.0.1:1/v1"),
        ("https://[::]:1", "https://[::1]:1/v1"),
        ("https://box.lan", "https://box.lan/v1"),
        ("https://box.lan/behind/", "https://box.lan/behind/v1"),
    ],
)
def test_base_urls(url: str, base: str) -> None:
    assert Address(url).base_url == base


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / "state"
    config = config_for(state, **{"server.require_token": True})
    with running(config, parts(FakeModel(context=20_000))):
        yield state


def client(folder: Path, script: str) -> Path:
    """Make a program that stands for an agent; it is called as that is."""
    path = folder / "client"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, urllib.request\n{script}\n")
    path.chmod(0o755)
    return path


ASKS = """
file = os.environ.get("OPENCODE_CONFIG") or sys.argv[sys.argv.index("--config") + 1]
value = json.load(open(file))
if "provider" in value:
    options = value["provider"]["homebox"]["options"]
    url, key = options["baseURL"], options["apiKey"]
else:
    options = value["models"]["providers"]["homebox"]
    url, key = options["baseUrl"], options["apiKey"]
asked = {"model": "homebox", "messages": [{"role": "user", "content": sys.argv[-1]}]}
request = urllib.request.Request(url + "/chat/completions", json.dumps(asked).encode(),
    {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
answer = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request))
print(answer["choices"][0]["message"]["content"])
"""


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize(
    ("script", "code", "ok", "said"),
    [
        (ASKS, 0, True, "you said: Reply with"),
        ("print('OK')", 1, False, "OK"),  # an answer from somewhere else
        ("sys.exit('no such model')", 1, False, "no such model"),
    ],
)
def test_the_round_trip_is_real(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    script: str,
    code: int,
    ok: bool,
    said: str,
) -> None:
    file, program = tmp_path / "config.json", client(tmp_path, script)
    words = ["connect", name, "--file", str(file), "--check", "--program", str(program), "--json"]
    assert main([*words, "--state", str(state)]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["check"]["ok"] is ok
    assert said in told["check"]["said"]
    assert told["written"]
    assert limits(name, json.loads(file.read_text())) == (20_000, 5000)


@pytest.mark.parametrize("name", AGENTS)
def test_printing_writes_nothing(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / "config.json"
    words = ["connect", name, "--file", str(file), "--state", str(state)]
    assert main([*words, "--print"]) == 0
    assert limits(name, json.loads(capsys.readouterr().out)) == (20_000, 5000)
    assert not file.exists()
    file.write_text("// mine\n{}")
    assert main(words) == 2
    captured = capsys.readouterr()
    assert limits(name, json.loads(captured.out)) == (20_000, 5000)
    assert "comments" in captured.err
    assert file.read_text() == "// mine\n{}"
    assert main([*words, "--check", "--program", "/none/such"]) == 1


def test_any_client(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "openai", "--check", "--json", "--state", str(state)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["base_url"].endswith("/v1")
    assert told["api_key"] == (state / "token").read_text().strip()
    assert (told["model"], told["context"]) == ("homebox", 20_000)
    assert told["check"]["ok"] is True
    key = ["--key", "wrong", "--url", told["base_url"].removesuffix("/v1")]
    assert main(["connect", "openai", "--check", *key, "--state", str(state)]) == 1
    assert "401" in capsys.readouterr().out


def test_without_a_daemon_the_context_must_be_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["connect", "openai", "--json", "--state", str(tmp_path / "state")]
    assert main(words) == 8
    assert "homebox serve" in capsys.readouterr().err
    monkeypatch.setenv("HOMEBOX_MODEL_CONTEXT", "8192")
    main(["init", "--state", str(tmp_path / "state")])
    capsys.readouterr()
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["context"] == 8192
    assert "too small" in told["warning"]


@pytest.mark.parametrize("name", AGENTS)
def test_a_private_client_says_so_with_every_request(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    private = dataclasses.replace(OFFER, private=True)
    write(plan(AGENTS[name], private, path))
    ours = provider(name, json.loads(path.read_text()))["homebox"]
    where = ours["options"] if name == "opencode" else ours
    assert where["headers"] == {"X-Homebox-Record": "off"}
    # Connected again without it, the client is on the record again.
    write(plan(AGENTS[name], OFFER, path))
    assert "X-Homebox-Record" not in path.read_text()
    assert plain(private)["headers"] == {"X-Homebox-Record": "off"}

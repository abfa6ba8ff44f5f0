"""Recorded requests sent again: all are answered, and what is known of a prompt is used."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.forced_daemon import ForcedDaemon
from tests.clients.serve_forced import TOKEN

IMAGE = "019_POST_v1_chat_completions.json"  # asks what is in a picture
REUSED = 0.9  # share of a prompt
STABLE = 0.9  # share of a first prompt that system and tools are


def bodies(shared: Path, name: str) -> list[dict[str, Any]]:
    """Return the requests of a recorded session that offer tools."""
    files = sorted((shared / "clients/captures" / name).glob("*.json"))
    found = [json.loads(path.read_text())["body"] for path in files]
    return [body | {"model": "homebox"} for body in found if body.get("tools")]


def ask(daemon: ForcedDaemon, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return what is said, and which share of the prompt was known."""
    answer = httpx.post(
        f"{daemon.url}/v1/chat/completions",
        json=body | {"stream": False, "stream_options": None},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=300,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer.json()["choices"][0]["message"], cached / usage["prompt_tokens"]


@pytest.mark.parametrize(
    "name", ["opencode", pytest.param("openclaw_exec", marks=pytest.mark.whole)]
)
def test_a_session_uses_its_own_beginning_also_after_a_restart(
    repository: Path, qwen3: Path, shared: Path, tmp_path: Path, name: str
) -> None:
    session = bodies(shared, name)
    daemon = ForcedDaemon(repository, qwen3, tmp_path / "state")
    try:
        first, known = ask(daemon, session[0])
        assert known == 0.0
        assert first["tool_calls"][0]["function"]["name"] == "read"
        for body in session[1:]:
            said, known = ask(daemon, body)
            assert known > REUSED
        assert said["content"] == "DONE"
    finally:
        assert daemon.stop() == 0
    daemon = ForcedDaemon(repository, qwen3, tmp_path / "state")
    try:
        again, known = ask(daemon, session[0])
        assert again["tool_calls"][0]["function"] == first["tool_calls"][0]["function"]
        assert known > STABLE
    finally:
        assert daemon.stop() == 0
    # Control: another state knows nothing.
    daemon = ForcedDaemon(repository, qwen3, tmp_path / "other")
    try:
        assert ask(daemon, session[0])[1] == 0.0
    finally:
        assert daemon.stop() == 0


def test_every_recorded_request_is_answered(daemon: ForcedDaemon, shared: Path) -> None:
    """All that agents and SDKs were seen to ask for, but a look at a picture."""
    files = sorted((shared / "clients/captures").glob("*/*.json"))
    assert len(files) > 40
    refused = []
    with httpx.Client(base_url=daemon.url, timeout=300, trust_env=False) as http:
        for path in files:
            request = json.loads(path.read_text())
            body = request["body"] or {}
            body = body | {"model": "homebox"} if "model" in body else None
            place = request["path"].replace("mock-model", "homebox")
            headers = {"Authorization": f"Bearer {TOKEN}"}
            answer = http.request(request["method"], place, json=body, headers=headers)
            if answer.status_code != 200:
                refused.append((path.name, answer.status_code, answer.json()["error"]["param"]))
            else:
                assert '"error":{' not in answer.text
    assert refused == [(IMAGE, 400, "messages[0]")]
    silent = ("embeddings", "count_tokens", IMAGE)
    asked = [p for p in files if "POST" in p.name and not any(word in p.name for word in silent)]
    assert len(daemon.turns()) == len(asked) + 1  # one of them wants two answers

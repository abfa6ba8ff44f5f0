"""SDKs that we did not write: openai's in every run; Anthropic's, litellm, llm if installed."""

import sys
from pathlib import Path

import pytest

from tests.clients.forced_daemon import ForcedDaemon, run_client
from tests.clients.pretender import pretending
from tests.clients.recorder import recorded

ROUND_TRIPS = ("anthropic", "litellm", "llm", "llm -c", "llm schema", "llm tool")


def test_the_openai_sdk_gets_all_it_asks_for(
    daemon: ForcedDaemon, shared: Path, tmp_path: Path
) -> None:
    script = shared / "clients/run_openai_sdk.py"
    command = [sys.executable, script, f"{daemon.url}/v1", "homebox", "--require", "all"]
    done = run_client(*command, workdir=tmp_path / "work")
    assert done.returncode == 0, done.stdout + done.stderr + daemon.errors()
    lines = [line.split() for line in done.stdout.splitlines()]
    checks = [words[2] for words in lines if words[1:2] in (["core"], ["ext"])]
    assert len(checks) >= 22
    assert {words[0] for words in lines} == {"PASS", "RESULT"}


def test_the_openai_sdk_sees_that_nothing_was_edited(shared: Path, tmp_path: Path) -> None:
    """Control."""
    with pretending() as url:
        script = shared / "clients/run_openai_sdk.py"
        command = [sys.executable, script, f"{url}/v1", "homebox"]
        done = run_client(*command, workdir=tmp_path / "work", TMO="20")
    assert done.returncode == 1
    assert "FAIL core tools_roundtrip " in done.stdout
    assert "FAIL core tools_roundtrip_stream " in done.stdout
    assert "PASS core chat " in done.stdout


@pytest.mark.clients
def test_other_clients(daemon: ForcedDaemon, shared: Path, clients: Path, tmp_path: Path) -> None:
    script = shared / "clients/other_clients.sh"
    with recorded(daemon.url) as (url, exchanges):
        done = run_client(
            *("bash", script, url, "homebox"),
            workdir=tmp_path / "work",
            CLIENTS_DIR=str(clients),
        )
    assert done.returncode == 0, done.stdout + done.stderr + daemon.errors()
    for name in ROUND_TRIPS:
        assert f"{name} rc=0" in done.stdout.splitlines()
    assert {each.status for each in exchanges} == {200}
    answered = [each for each in exchanges if each.method == "POST"]
    counted = [each for each in answered if each.path.endswith("count_tokens")]
    assert len(daemon.turns()) == len(answered) - len(counted)

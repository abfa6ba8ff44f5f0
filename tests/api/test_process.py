"""The daemon as a process: signals, and the real command with a real model."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from homebox.memory.state import open_state
from homebox.model.loading.open_model import BUILT_IN, model_path
from tests.api.box import body, events, text_of
from tests.api.test_clients import REQUIRED

MISSED = "homebox: homebox.prefixes: "


class Process:
    """A daemon that was started and has said where it listens."""

    def __init__(self, repository: Path, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        found = re.search(r"on (http://[^/]+)/v1", self._process.stdout.readline())
        assert found is not None, self._process.communicate()
        self.url = found.group(1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self._process.send_signal(number)
        _, errors = self._process.communicate(timeout=60)
        return self._process.returncode, errors

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@pytest.fixture
def fake(repository: Path, tmp_path: Path) -> Iterator[Process]:
    process = Process(repository, "tests.crash.daemon_process", str(tmp_path / "state"))
    yield process
    process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_after_its_answers(
    fake: Process, tmp_path: Path, number: signal.Signals
) -> None:
    said: list[str] = []
    begun = threading.Event()

    def ask() -> None:
        with httpx.stream(
            "POST",
            f"{fake.url}/v1/chat/completions",
            json=body("count 300", stream=True),
            trust_env=False,
            timeout=60,
        ) as response:
            begun.set()
            said.append(text_of(events(response)))

    reader = threading.Thread(target=ask)
    reader.start()
    assert begun.wait(60)
    assert fake.stop(number) == (0, "")
    reader.join(60)
    assert said == ["a" * 300]
    with open_state(tmp_path / "state") as state:
        assert state.ledger.count() == 1


def test_a_second_signal_does_not_wait(fake: Process) -> None:
    begun = threading.Event()

    def ask() -> None:
        try:
            with httpx.stream(
                "POST",
                f"{fake.url}/v1/chat/completions",
                json=body("hold", stream=True),
                trust_env=False,
                timeout=60,
            ):
                begun.set()
                fake._process.wait(60)
        except httpx.HTTPError:
            pass

    reader = threading.Thread(target=ask)
    reader.start()
    assert begun.wait(60)
    fake._process.send_signal(signal.SIGTERM)
    while True:
        try:
            if httpx.get(f"{fake.url}/health", trust_env=False).status_code == 503:
                break
        except httpx.HTTPError:
            break
    assert fake.stop()[0] == 130
    reader.join(60)


@pytest.fixture(scope="module")
def model() -> str:
    """Name a real model: the built-in one, or else reference weights beside the checkout."""
    if (model_path(BUILT_IN) / "model.safetensors").is_file():
        return BUILT_IN
    reference = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "stories260K"
    if not reference.is_dir():
        pytest.skip("no real model here: no built-in weights, no reference weights")
    return str(reference)


def test_the_real_command_passes_the_sdk_acceptance(
    repository: Path, shared: Path, model: str, tmp_path: Path
) -> None:
    state = str(tmp_path / "state")
    options = ("--model", model, "--state", state, "--port", "0")
    process = Process(repository, "homebox", "serve", *options)
    try:
        key = Path(state, "token").read_text().strip()
        script = str(shared / "clients" / "run_openai_sdk.py")
        done = subprocess.run(
            [sys.executable, script, f"{process.url}/v1", "homebox"],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONWARNINGS": "default", "API_KEY": key},
        )
        results = {line.split()[2]: line.split()[0] for line in done.stdout.splitlines() if line}
        # The built-in model cannot edit files; a model that can is played in test_clients.
        wanted = [name for name in REQUIRED if not name.startswith("tools_roundtrip")]
        assert len(wanted) == len(REQUIRED) - 2
        assert {name: results.get(name) for name in wanted} == dict.fromkeys(wanted, "PASS")
        command = [sys.executable, "-m", "homebox", "serve", *options]
        second = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        assert second.returncode == 5
        assert re.fullmatch(r"homebox: .* is in use by process \d+; .*\n", second.stderr)
        assert second.stdout == ""
    finally:
        code, errors = process.stop()
        # Why prefixes were missed is all that there is to tell.
        told = [each for each in errors.splitlines() if not each.startswith(MISSED)]
        assert (code, told) == (0, [])


def test_a_real_conversation_without_a_daemon(repository: Path, model: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "homebox", *arguments, "--state", str(tmp_path / "state")]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True)

    options = ("--model", model, "--max-tokens", "8", "--json")
    once = run("chat", "--once", "Once upon a time", *options)
    assert once.returncode == 0, once.stderr
    answer = json.loads(once.stdout)
    again = json.loads(run("chat", "--once", "Once upon a time", *options).stdout)
    assert again["message"] == answer["message"]
    first, second = json.loads(run("log", "--json").stdout)
    assert [first["id"], second["id"]] == [answer["turn"], again["turn"]]
    assert first["messages"][-1]["content"] == answer["message"]["content"]

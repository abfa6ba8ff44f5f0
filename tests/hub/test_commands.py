"""The commands as a new user meets them, most in processes of their own: pull, models, import."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homebox.cli import main
from homebox.config import load_config
from homebox.hub.catalogue import Catalogue
from homebox.model.loading.open_model import model_path
from tests.hub.conftest import REPO
from tests.hub.local_hub import LocalHub

WEIGHTS = "model.safetensors"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def environment(hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    """Return a user's environment whose hub is ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_secret_of_the_owner",
        "HOME": str(tmp_path),
        "HOMEBOX_THREADS": "1",
    }


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Box:
    """Runs commands in this process, on one state, as the user's environment has them."""

    def __init__(self, capsys: pytest.CaptureFixture[str], state: Path) -> None:
        self._capsys, self._where = capsys, ("--state", str(state))

    def run(self, *words: str) -> Done:
        self._capsys.readouterr()
        code = main([*words, *self._where])
        return Done(code, *self._capsys.readouterr())

    def answer(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def box(
    environment: dict[str, str],
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Box:
    for name, value in environment.items():
        if name.startswith("HF_"):
            monkeypatch.setenv(name, value)
    return Box(capsys, state)


def test_pull_list_show_remove(box: Box, state: Path, hub: LocalHub) -> None:
    hub.break_after[WEIGHTS] = [2_000_000]
    done = box.run("pull", REPO)
    assert done.returncode == 0, done.stderr
    assert f"pulled {REPO} (5.4 MB" in done.stdout
    assert f'"homebox use {REPO}"' in done.stdout
    assert done.stderr == "", "no bar where there is no terminal"
    assert REPO in box.run("models", "list").stdout
    (entry,) = box.answer("models", "list")["models"]
    assert (entry["name"], entry["served"]) == (REPO, False)
    shown = box.answer("models", "show", "small", "--check")
    assert (shown["changed"], shown["files"].keys()) == ([], entry["files"].keys())
    chat = ("chat", "--once", "Hello!", "--max-tokens", "3", "--context", "512")
    assert box.run(*chat, "--model", REPO).returncode == 0
    fitted = box.answer("models", "fit", "small", "--context", "512")
    assert (fitted["type"], fitted["context"]) == ("f32", 512)
    removed = box.answer("models", "remove", "small")
    assert removed == {"removed": REPO, "freed": entry["size"]}
    assert box.answer("models", "list")["models"] == []
    assert "homebox pull" in box.run("models", "list").stdout
    for text in (done.stdout, json.dumps(shown)):
        assert "hf_secret" not in text
    assert all("hf_secret" not in path.read_text("latin-1") for path in _all(state))


def _all(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_a_bar_on_a_terminal(environment: dict[str, str], state: Path, hub: LocalHub) -> None:
    hub.slow = 0.01
    hub.break_after[WEIGHTS] = [3_000_000]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "homebox", "pull", REPO, "--state", str(state)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            if not piece:
                break
            seen += piece
        assert process.wait(60) == 0
    os.close(ours)
    bars = re.findall(rb"\[(#*)\.*\] pull: ([\d.]+) MB of 5\.4 MB, [\d.]+ .?B/s", seen)
    assert len(bars) > 5
    lengths = [len(bar) for bar, _ in bars]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] == 24


def test_programs_get_lines_of_json(box: Box) -> None:
    done = box.run("pull", REPO, "--json")
    reports = [json.loads(line) for line in done.stderr.splitlines()]
    assert reports[-1]["stage"] == "check"
    assert all(set(report) == {"stage", "done", "total", "text"} for report in reports)
    assert json.loads(done.stdout)["name"] == REPO


def test_a_pull_that_is_killed_goes_on(
    environment: dict[str, str], box: Box, state: Path, hub: LocalHub
) -> None:
    hub.slow = 0.05
    command = [sys.executable, "-m", "homebox", "pull", REPO, "--state", str(state)]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        parts = list(state.glob(f"models/partial/*/{WEIGHTS}.part"))
        if parts and parts[0].stat().st_size > 500_000:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Catalogue(state / "models").names() == []
    hub.slow = 0.0
    assert box.answer("pull", REPO)["new"]
    assert int(hub.of(WEIGHTS)[-1]["range"][6:].partition("-")[0]) > 500_000
    assert Catalogue(state / "models").check(REPO) == []


@pytest.mark.parametrize("how", ["--offline", "HF_HUB_OFFLINE"])
def test_offline(how: str, box: Box, monkeypatch: pytest.MonkeyPatch, hub: LocalHub) -> None:
    words = ("pull", REPO, *([how] if how == "--offline" else []))
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1" if how == "HF_HUB_OFFLINE" else "0")
        done = box.run(*words)
        assert (done.returncode, hub.requests) == (9, [])
        assert "is not on this box" in done.stderr
    assert box.run("pull", REPO).returncode == 0
    asked = len(hub.requests)
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1" if how == "HF_HUB_OFFLINE" else "0")
        done = box.run(*words)
        assert f"{REPO} is here; asking a hub is switched off" in done.stdout
    assert len(hub.requests) == asked


def test_errors_are_one_line(box: Box) -> None:
    for words, code in (
        (("pull", "no/such"), 3),
        (("pull", f"{REPO}@v9"), 3),
        (("pull", "../x"), 2),
        (("models", "show", "none"), 3),
        (("models", "remove", "none"), 3),
        (("models", "remove"), 2),
        (("models", "list", "x"), 2),
        (("import", "/no/such"), 3),
        (("import", "adapter", "a", "b"), 2),
        (("import", "/tmp", "--promote"), 2),
    ):
        done = box.run(*words)
        assert done.returncode == code, (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("homebox: ")
        assert "hf_secret" not in done.stderr


def test_an_imported_model_is_known_by_its_name(box: Box, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    shutil.copytree(model_path("tiny"), own)
    entry = box.answer("import", str(own))
    assert (entry["name"], entry["copied"] + entry["shared"]) == ("mine", entry["size"])
    assert entry["base"] == box.answer("models", "show", "mine")["base"]


def test_models_may_lie_elsewhere(tmp_path: Path) -> None:
    config = load_config(None, {"paths.state": str(tmp_path / "s")}, {})
    assert config.models_dir == tmp_path / "s" / "models"
    config = load_config(None, {"paths.models": str(tmp_path / "m")}, {})
    assert config.models_dir == tmp_path / "m"


def test_the_model_that_is_served_is_not_removed(
    environment: dict[str, str], box: Box, state: Path, tmp_path: Path
) -> None:
    assert box.run("pull", REPO).returncode == 0
    command = [sys.executable, "-m", "homebox", "serve", "--model", REPO, "--port", "0"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--state", str(state)], env=environment, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 120
        while "homebox serves" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        text = log.read_text()
        assert re.search(r"homebox: type f32 \(--type\), context 32768 of the model's 65536", text)
        (entry,) = box.answer("models", "list")["models"]
        assert entry["served"] is True
        done = box.run("models", "remove", REPO)
        assert (done.returncode, Catalogue(state / "models").names()) == (4, [REPO])
        assert "is what the daemon serves" in done.stderr
    finally:
        process.terminate()
        process.wait(60)
    assert box.run("models", "remove", REPO).returncode == 0

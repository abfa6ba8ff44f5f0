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


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "homebox", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def answer(environment: dict[str, str], *words: str) -> Any:
    done = run(environment, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_pull_list_show_remove(environment: dict[str, str], state: Path, hub: LocalHub) -> None:
    hub.break_after[WEIGHTS] = [2_000_000]
    where = ("--state", str(state))
    done = run(environment, "pull", REPO, *where)
    assert done.returncode == 0, done.stderr
    assert f"pulled {REPO} (5.4 MB" in done.stdout
    assert f'"homebox use {REPO}"' in done.stdout
    assert done.stderr == "", "no bar where there is no terminal"
    assert REPO in run(environment, "models", "list", *where).stdout
    (entry,) = answer(environment, "models", "list", *where)["models"]
    assert (entry["name"], entry["served"]) == (REPO, False)
    shown = answer(environment, "models", "show", "small", "--check", *where)
    assert (shown["changed"], shown["files"].keys()) == ([], entry["files"].keys())
    chat = ("chat", "--once", "Hello!", "--max-tokens", "3", "--context", "512", *where)
    assert run(environment, *chat, "--model", REPO).returncode == 0
    fitted = answer(environment, "models", "fit", "small", "--context", "512", *where)
    assert (fitted["type"], fitted["context"]) == ("f32", 512)
    removed = answer(environment, "models", "remove", "small", *where)
    assert removed == {"removed": REPO, "freed": entry["size"]}
    assert answer(environment, "models", "list", *where)["models"] == []
    assert "homebox pull" in run(environment, "models", "list", *where).stdout
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


def test_programs_get_lines_of_json(environment: dict[str, str], state: Path) -> None:
    done = run(environment, "pull", REPO, "--state", str(state), "--json")
    reports = [json.loads(line) for line in done.stderr.splitlines()]
    assert reports[-1]["stage"] == "check"
    assert all(set(report) == {"stage", "done", "total", "text"} for report in reports)
    assert json.loads(done.stdout)["name"] == REPO


def test_a_pull_that_is_killed_goes_on(
    environment: dict[str, str], state: Path, hub: LocalHub
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
    assert answer(environment, "pull", REPO, "--state", str(state))["new"]
    assert int(hub.of(WEIGHTS)[-1]["range"][6:].partition("-")[0]) > 500_000
    assert Catalogue(state / "models").check(REPO) == []


@pytest.mark.parametrize("how", ["--offline", "HF_HUB_OFFLINE"])
def test_offline(how: str, environment: dict[str, str], state: Path, hub: LocalHub) -> None:
    where = ("--state", str(state))
    words = ("pull", REPO, *where, *([how] if how == "--offline" else []))
    there = environment if how == "--offline" else environment | {how: "1"}
    done = run(there, *words)
    assert (done.returncode, hub.requests) == (9, [])
    assert "is not on this box" in done.stderr
    assert run(environment, "pull", REPO, *where).returncode == 0
    asked = len(hub.requests)
    done = run(there, *words)
    assert f"{REPO} is here; asking a hub is switched off" in done.stdout
    assert len(hub.requests) == asked


def test_errors_are_one_line(
    environment: dict[str, str],
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        if name.startswith("HF_"):
            monkeypatch.setenv(name, value)
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
        assert main([*words, "--state", str(state)]) == code, words
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1
        assert text.startswith("homebox: ")
        assert "hf_secret" not in text


def test_an_imported_model_answers_by_its_name(
    environment: dict[str, str], state: Path, tmp_path: Path
) -> None:
    own = tmp_path / "mine"
    shutil.copytree(model_path("tiny"), own)
    where = ("--state", str(state))
    entry = answer(environment, "import", str(own), *where)
    assert (entry["name"], entry["copied"] + entry["shared"]) == ("mine", entry["size"])
    assert entry["base"] == answer(environment, "models", "show", "mine", *where)["base"]


def test_models_may_lie_elsewhere(tmp_path: Path) -> None:
    config = load_config(None, {"paths.state": str(tmp_path / "s")}, {})
    assert config.models_dir == tmp_path / "s" / "models"
    config = load_config(None, {"paths.models": str(tmp_path / "m")}, {})
    assert config.models_dir == tmp_path / "m"


def test_the_model_that_is_served_is_not_removed(
    environment: dict[str, str], state: Path, tmp_path: Path
) -> None:
    where = ("--state", str(state))
    assert run(environment, "pull", REPO, *where).returncode == 0
    command = [sys.executable, "-m", "homebox", "serve", "--model", REPO, "--port", "0"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *where], env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while "homebox serves" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        text = log.read_text()
        assert re.search(r"homebox: type f32 \(--type\), context 32768 of the model's 65536", text)
        (entry,) = answer(environment, "models", "list", *where)["models"]
        assert entry["served"] is True
        done = run(environment, "models", "remove", REPO, *where)
        assert (done.returncode, Catalogue(state / "models").names()) == (4, [REPO])
        assert "is what the daemon serves" in done.stderr
    finally:
        process.terminate()
        process.wait(60)
    assert run(environment, "models", "remove", REPO, *where).returncode == 0

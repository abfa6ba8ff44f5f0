"""Killed at any instant of a switch, the next start serves the old model or the new one."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from homebox.control import Client
from homebox.daemon import running
from homebox.errors import DaemonError, StateError
from tests.api.box import body
from tests.api.model_files import Shelf, write_model
from tests.api.test_switching import config


def kill_in_switch(repository: Path, folder: Path, name: str, point: str, *more: str) -> None:
    """Run a daemon on a.model, ask it for another one, and see it die of that."""
    write_model(folder, "a", 40)
    write_model(folder, "b", 50)
    write_model(folder, "large", 70)
    command = [sys.executable, "-m", "tests.crash.switch_process"]
    process = subprocess.Popen(
        [*command, str(folder / "state"), str(folder / "a.model"), point, *more],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "serves a" in process.stdout.readline()
        with pytest.raises(DaemonError, match="broke off"):
            Client(folder / "state").call("use", name=str(folder / f"{name}.model"))
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()


def serves(folder: Path) -> str:
    """Start a daemon on what is left; give who answers."""
    with running(config(folder / "state"), Shelf().parts()) as box:
        assert box.daemon.status()["trouble"] == ""
        answer = httpx.post(
            f"{box.url}/v1/chat/completions", json=body("x"), trust_env=False, timeout=30
        )
        said: str = answer.json()["choices"][0]["message"]["content"]
        return said.partition(":")[0]


@pytest.mark.parametrize(
    ("name", "point", "expected"),
    [
        ("b", "planned", "a"),
        ("b", "loading", "a"),
        ("b", "writing", "a"),
        ("b", "written", "b"),
        ("large", "dropped", "a"),
        ("large", "loaded", "a"),
        ("large", "writing", "a"),
        ("large", "written", "large"),
    ],
)
def test_one_of_the_two_serves_after_a_kill(
    repository: Path, tmp_path: Path, name: str, point: str, expected: str
) -> None:
    kill_in_switch(repository, tmp_path, name, point)
    assert serves(tmp_path) == expected


def test_a_careless_choice_would_be_noticed(repository: Path, tmp_path: Path) -> None:
    """The control: a choice that is written in place keeps the next start from serving."""
    kill_in_switch(repository, tmp_path, "b", "writing", "--careless")
    with pytest.raises(StateError, match="damaged"):
        serves(tmp_path)

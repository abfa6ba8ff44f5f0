"""`homebox use` and `homebox status` as a person types them, with and without a daemon."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox import cli
from homebox.control import Client
from homebox.daemon import Box, running
from homebox.hosting.chosen import read_choice
from homebox.hub.catalogue import Catalogue
from homebox.hub.local import import_model
from homebox.memory.state import init_state
from tests.api.test_daemon import config_for
from tests.api.test_process import Process
from tests.api.test_switch_models import learn
from tests.unit.model_files import CONFIG, write_model


@pytest.fixture
def homebox(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run(command: str, *rest: object, code: int = 0) -> str:
        arguments = [command, "--state", str(tmp_path / "state"), *map(str, rest)]
        assert cli.main(arguments) == code
        out, err = capsys.readouterr()
        return str(err if code else out)

    return run


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_model(tmp_path / "small", CONFIG)
    return tmp_path / "small"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running(config_for(tmp_path / "state")) as box:
        yield box


def rows(text: str) -> dict[str, str]:
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines())


def test_a_running_daemon_switches_and_status_says_so(
    box: Box, homebox: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = learn(box, 1)
    shown = rows(homebox("status"))
    base = box.daemon.model.base_hash[:12]
    assert shown["model"] == f"tiny ({base}, tiny)"
    assert shown["weights"] == weights[:12]
    assert re.fullmatch(rf"20.*: {weights[:12]}, 0 lessons \(test 1\)", shown["learned"])
    assert shown["context"] == "4096 tokens"
    assert shown["type"] == "weights as f32; multiplied with f32"
    assert re.fullmatch(
        r"weights 10\.\d MB, keys and values [\d.]+ kB in use and [\d.]+ kB kept, "
        r"of at most [\d.]+ MB, adapters [\d.]+ MB, "
        r"the whole process [\d.]+ [MG]B",
        shown["memory"],
    )
    monkeypatch.chdir(small.parent)
    lines = homebox("use", "small").splitlines()  # relative to where it is typed
    assert lines[0] == "small (base) is served now"
    assert "belongs to another base" in lines[-1]
    shown = rows(homebox("status"))
    assert shown["model"] == f"small ({box.daemon.model.base_hash[:12]}, {small})"
    assert shown["learned"] == "nothing yet of this model"
    assert "switch" not in shown
    assert "homebox learn" in homebox("use", small)
    assert homebox("use", "tiny").splitlines()[0] == f"tiny ({weights[:12]}) is served now"
    assert homebox("use", "tiny").splitlines()[0] == f"tiny ({weights[:12]}) is served already"


def test_mistakes_are_one_line_and_change_nothing(
    box: Box, homebox: Any, tmp_path: Path, small: Path
) -> None:
    assert "known: tiny)" in homebox("use", "qwen", code=3)
    (small / "config.json").write_text("{")
    error = homebox("use", small, code=3)
    assert error.count("\n") == 1
    assert "config.json" in error
    shown = rows(homebox("status"))
    assert shown["model"].startswith("tiny (")
    assert "config.json" in shown["trouble"]
    assert "must be one of" in homebox("use", "tiny", "--type", "q3", code=2)
    assert "65536" in homebox("use", "tiny", "--context", "1000000", code=2)
    assert read_choice(tmp_path / "state") is None


def test_type_and_context_belong_to_the_choice(homebox: Any, tmp_path: Path, small: Path) -> None:
    config = config_for(tmp_path / "state")
    with running(config) as box:
        homebox("use", small, "--context", 64, "--type", "bf16")
        status = box.daemon.status()
        assert (status["context"], status["type"]) == (64, "bf16")
        homebox("use", small, "--context", 128)  # the same model in another way
        status = box.daemon.status()
        assert (status["context"], status["type"]) == (128, "f32")
    with running(config) as box:
        assert box.daemon.status()["context"] == 128
    # What the command line of a start says wins.
    with running(config_for(tmp_path / "state", **{"model.context": 32})) as box:
        status = box.daemon.status()
        assert (status["model"], status["context"]) == ("small", 32)


def test_without_a_daemon_the_next_start_serves_it(
    homebox: Any, tmp_path: Path, small: Path
) -> None:
    init_state(tmp_path / "state")
    entry = import_model(Catalogue(tmp_path / "state/models"), small, "pet", lambda _: None).entry
    found = json.loads(homebox("use", "pet", "--json"))
    assert (found["running"], found["model"], found["base"]) == (False, "pet", entry.base)
    assert 'the next "homebox serve" serves pet (base)' in found["lines"][0]
    shown = rows(homebox("status"))
    assert shown["daemon"] == "none"
    assert shown["model"] == f"pet ({entry.base[:12]}, {entry.path})"
    (small / "tokenizer.model").write_bytes(b"nonsense")
    homebox("use", small, code=3)
    with running(config_for(tmp_path / "state")) as box:
        assert box.daemon.status()["model"] == "pet"
        assert box.daemon.greeting[0].startswith("homebox serves pet (base) on ")
        assert "homebox pull" not in " ".join(box.daemon.greeting)
    # Names of a model that has gone: what was there before serves, and says why.
    Catalogue(tmp_path / "state/models").remove("pet")
    with running(config_for(tmp_path / "state")) as box:
        assert box.daemon.status()["model"] == "tiny"
        assert any("instead" in line and "pet" in line for line in box.daemon.greeting)


def test_what_the_environment_names_is_mentioned(
    homebox: Any, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEBOX_MODEL_PATH", "tiny")
    assert "HOMEBOX_MODEL_PATH is set" in homebox("use", small).splitlines()[-1]
    assert rows(homebox("status"))["model"].startswith("tiny (")
    monkeypatch.delenv("HOMEBOX_MODEL_PATH")
    assert rows(homebox("status"))["model"].startswith("small (")
    assert rows(homebox("status", "--model", "tiny"))["model"].startswith("tiny (")


def test_status_while_learning_and_switching(
    box: Box, homebox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = box.daemon.status()
    found["learning"] = {"stage": "train", "done": 3, "total": 9, "text": "step 3"}
    found["switch"] = {"to": "pet", "stage": "drain", "text": "waiting", "seconds": 2.5}
    monkeypatch.setattr(Client, "call", lambda *_, **__: found)
    shown = rows(homebox("status"))
    assert shown["learning"] == "train 3 of 9: step 3"
    assert shown["switch"] == "to pet, drain: waiting (2.5 s)"


def test_a_first_start_says_how_to_get_a_model(repository: Path, tmp_path: Path) -> None:
    process = Process(
        repository, "homebox", "serve", "--state", str(tmp_path / "state"), "--port", "0"
    )
    assert process._process.stdout is not None
    try:
        command = [sys.executable, "-m", "homebox", "status", "--state", str(tmp_path / "state")]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
        assert rows(done.stdout)["model"].startswith("tiny (")
    finally:
        assert process.stop() == (0, "")


def test_first_steps_are_two_lines(box: Box) -> None:
    pull, use = box.daemon.greeting[-2:]
    assert "homebox pull OWNER/NAME" in pull
    assert "homebox import PATH" in pull
    assert "homebox use NAME" in use

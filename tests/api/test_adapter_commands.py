"""`homebox export adapter` and `homebox import adapter`, with and without a daemon."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox import cli
from homebox.daemon import Box, running
from homebox.errors import ModelFormatError
from homebox.hosting.parts import Parts
from homebox.learning.checkpoint import load_adapter
from homebox.learning.jobs.exchange import Base
from homebox.model.adapter_files import write_adapter
from homebox.model.architectures.config_file import parse_config
from homebox.model.lora import adapter_shapes
from tests.api import fake_learner
from tests.api.fake_model import FakeModel
from tests.api.test_daemon import config_for
from tests.unit.model_files import CONFIG

MODEL = parse_config(CONFIG)


@pytest.fixture(autouse=True)
def fake_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeModel, "config", MODEL, raising=False)
    monkeypatch.setattr(
        "homebox.commands.adapters.base_of",
        lambda config: Base(MODEL, FakeModel.base_hash, "fake"),
    )
    for module in ("weights", "common"):
        monkeypatch.setattr(
            f"homebox.commands.{module}.base_hash", lambda config: FakeModel.base_hash
        )
    parts = Parts(lambda config: FakeModel(), fake_learner.run, load_adapter)
    monkeypatch.setattr("homebox.daemon.real_parts", lambda: parts)


@pytest.fixture
def homebox(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run(command: str, *rest: object, code: int = 0) -> str:
        arguments = [command, "--state", str(tmp_path / "state"), *map(str, rest)]
        assert cli.main(arguments) == code
        out, err = capsys.readouterr()
        return str(err if code else out)

    return run


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    parts = Parts(lambda config: FakeModel(), fake_learner.run, load_adapter)
    with running(config_for(tmp_path / "state"), parts) as box:
        yield box


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    shapes = adapter_shapes(MODEL, 4)
    tensors = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    write_adapter(tmp_path / "theirs", "peft", MODEL, tensors, 8.0, "fake")
    return tmp_path / "theirs"


def loop(homebox: Any, theirs: Path, tmp_path: Path) -> None:
    """In, tried, served, out, rolled back."""
    kept = homebox("import", "adapter", theirs, "--reason", "a friend's")
    assert "made for fake, as it says; it passed no gate: nobody tested what it says" in kept
    assert "--promote serves it" in kept
    assert homebox("chat", "--once", "x") == "<base> you said: x\n"
    (waiting,) = json.loads(homebox("history", "--json"))["imports"]
    weights = waiting["weights"]
    assert waiting["reason"] == "a friend's"
    assert f"{weights[:12]}  never served" in homebox("history")
    tried = homebox("chat", "--weights", weights[:12], "--once", "x")
    assert tried == f"<{weights[:8]}> you said: x\n"
    assert "no checkpoint of this model is called" in homebox("rollback", weights, code=6)

    done = json.loads(homebox("import", "adapter", theirs, "--promote", "--json"))
    assert (done["weights"], done["promoted"], done["previous"]) == (weights, True, "base")
    assert homebox("chat", "--once", "x") == f"<{weights[:8]}> you said: x\n"
    history = json.loads(homebox("history", "--json"))
    assert (history["head"], history["imports"]) == (weights, [])

    out = json.loads(homebox("export", "adapter", "--to", tmp_path / "out", "--json"))
    assert out["weights"] == weights
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (theirs / name).read_bytes()
    told = homebox("export", "adapter", weights[:9], "--to", tmp_path / "g", "--format", "gguf")
    assert str(tmp_path / "g" / "adapter.gguf") in told
    assert homebox("rollback", "previous").startswith("served now: base")
    assert homebox("chat", "--once", "x") == "<base> you said: x\n"
    assert "not empty" in homebox("export", "adapter", weights, "--to", tmp_path / "out", code=2)
    assert "is the base itself" in homebox("export", "adapter", "--to", tmp_path / "n", code=6)


def test_without_a_daemon(homebox: Any, theirs: Path, tmp_path: Path) -> None:
    loop(homebox, theirs, tmp_path)


def test_with_a_daemon(homebox: Any, box: Box, theirs: Path, tmp_path: Path) -> None:
    loop(homebox, theirs, tmp_path)


def test_what_cannot_be_imported_is_one_line(homebox: Any, box: Box, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    told = homebox("import", "adapter", tmp_path / "evil", code=ModelFormatError.exit_code)
    assert "adapter_model.bin: format: a pickle" in told
    assert told.count("\n") == 1
    assert "is no directory" in homebox("import", "adapter", tmp_path / "absent", code=3)


def test_a_relative_path_is_the_callers(
    homebox: Any, box: Box, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(theirs.parent)
    assert "imported" in homebox("import", "adapter", "theirs")

"""The job that makes the built-in model: its first steps again, on two kinds of code."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.codegen.cpu import available
from homebox.errors import ConfigError
from homebox.job import Training, learnable
from homebox.job_spec import read_spec

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "configs" / "tiny.toml"
TINY = files("homebox") / "model" / "tiny"
STEPS = 3
FIRST_STEPS = f"""
from pathlib import Path
from homebox.job import Training
from homebox.job_spec import read_spec
vocabulary = Path({str(TINY)!r}, "tokenizer.model").read_bytes()
training = Training(read_spec(Path({str(SPEC)!r})), vocabulary)
for _ in range({STEPS}):
    training.step()
print(training.weights_hash())
"""


def small_spec(tmp_path: Path) -> Path:
    text = SPEC.read_text()
    for old, new in (
        ("dim = 192", "dim = 64"),
        ("layers = 6", "layers = 2"),
        ("heads = 6 ", "heads = 2 "),
        ("kv_heads = 3", "kv_heads = 1"),
        ("ff = 512", "ff = 128"),
        ("tokens = 22_000_000", "tokens = 8_000"),
        ("rows = 8", "rows = 2"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    path = tmp_path / "small.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("level", ["avx512-vnni", "avx2"])
def test_first_steps_give_the_recorded_hash(level: str) -> None:
    if level not in available():
        pytest.skip(f"this CPU cannot run {level} code, only {', '.join(available())}")
    recorded = json.loads((TINY / "job.json").read_text())
    run = subprocess.run(
        [sys.executable, "-c", FIRST_STEPS],
        env={**os.environ, "HOMEBOX_CPU": level},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == recorded["after_3_steps"]


def test_the_record_names_this_spec_and_these_weights() -> None:
    import hashlib

    recorded = json.loads((TINY / "job.json").read_text())
    weights = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert recorded["spec"] == read_spec(SPEC).hash()
    assert recorded["weights"] == weights
    readme = (ROOT / "README.md").read_text()
    assert recorded["spec"] in readme
    assert recorded["weights"] in readme


def test_an_interrupted_job_gives_the_same_weights(tmp_path: Path) -> None:
    spec = read_spec(small_spec(tmp_path))
    vocabulary = (TINY / "tokenizer.model").read_bytes()
    whole = Training(spec, vocabulary)
    losses = [step.loss for step in whole.steps()]
    assert losses[-1] < losses[0]
    cut = Training(spec, vocabulary)
    for _ in range(4):
        cut.step()
    untouched = cut.weights_hash()
    cut.save_checkpoint(tmp_path / "checkpoint.npz")
    again = Training(spec, vocabulary)
    again.resume(tmp_path / "checkpoint.npz")
    assert again.weights_hash() == untouched
    assert [step.loss for step in again.steps()] == losses[4:]
    assert again.weights_hash() == whole.weights_hash()


def test_a_checkpoint_of_another_spec_is_refused(tmp_path: Path) -> None:
    path = small_spec(tmp_path)
    vocabulary = (TINY / "tokenizer.model").read_bytes()
    training = Training(read_spec(path), vocabulary)
    training.save_checkpoint(tmp_path / "checkpoint.npz")
    path.write_text(path.read_text().replace("seed = 7", "seed = 8"))
    with pytest.raises(ConfigError, match="another spec"):
        Training(read_spec(path), vocabulary).resume(tmp_path / "checkpoint.npz")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rows = 8", "rowz = 8", "rowz"),
        ("layers = 6", 'layers = "six"', "layers"),
        ('kind = "train"', 'kind = "cook"', "kind"),
        ("[muon]", "[[muon]", "small.toml"),
    ],
)
def test_a_bad_spec_names_the_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SPEC.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        read_spec(path)


def test_a_spec_of_more_than_ten_kilobytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    path.write_text(SPEC.read_text() + "#" * 10_000)
    with pytest.raises(ConfigError, match="at most 10000"):
        read_spec(path)


def test_only_marked_places_are_learned() -> None:
    from homebox.language.packing import Batch

    batch = Batch([[1, 2, 3, 0]], [[2, 3, 0, 0]], [[0.0, 1.0, 0.0, 0.0]], [[1, 1, 1, 0]])
    arrays = learnable(batch, 2)
    assert arrays["place"].tolist() == [1, 0]
    assert arrays["target"].tolist() == [3, 0]
    assert np.array_equal(arrays["weight"], np.array([1.0, 0.0], np.float32))

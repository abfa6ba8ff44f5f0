"""Model directories that somebody broke on purpose: each is refused with a text that says why.

Most have a control: with one check switched off the same directory has another outcome, so that
the test can fail.
"""

import os
import pickle
from pathlib import Path

import pytest

from homebox.model.loading.loader import load_weights
from tests.fuzz.model_cases import CASES, GPT_OSS, INDEX, Case, build, experts, quantised


def outcome(folder: Path) -> str:
    """Load a directory and read all of it; return how it ended."""
    try:
        load_weights(folder).check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@pytest.mark.parametrize("name", CASES)
def test_hostile_directories_are_refused(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    build(case, tmp_path / "model")
    with pytest.raises(case.error, match=case.message) as caught:
        load_weights(tmp_path / "model").check()
    assert type(caught.value) is case.error
    assert str(caught.value).startswith(str(tmp_path / "model")), "the file comes first"
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "ran").exists(), "code ran"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.off is not None])
def test_control_without_the_check_the_outcome_is_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    build(case, tmp_path / "model")
    before = outcome(tmp_path / "model")
    assert before != "accepted"
    assert case.off is not None
    case.off(monkeypatch)
    assert outcome(tmp_path / "model") != before


def test_control_whole_directories_are_accepted(tmp_path: Path) -> None:
    good = {
        "one": Case(lambda files: None, ""),
        "shards": Case(lambda files: files.shard(), ""),
        "fp8": Case(lambda files: quantised(files, [3, 2]), ""),
        "fp8 scales as exponents": Case(lambda files: quantised(files, [3, 2], "F8_E8M0"), ""),
        "mxfp4": Case(lambda files: experts(files, [2, 64, 1, 16], [2, 64, 1]), "", None, GPT_OSS),
    }
    for name, case in good.items():
        build(case, tmp_path / name)
        assert outcome(tmp_path / name) == "accepted", name


def test_control_the_pickle_would_run(tmp_path: Path) -> None:
    build(CASES["weights that can run code"], tmp_path / "model")
    pickle.loads((tmp_path / "model" / "pytorch_model.bin").read_bytes())  # noqa: S301
    assert (tmp_path / "ran").read_text() == "ran"


def test_links_of_a_hugging_face_cache_are_good(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    build(Case(lambda files: None, ""), tmp_path / "model")
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).rename(blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert outcome(snapshot) == "accepted"
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../model/model.safetensors")
    assert "is a link" in outcome(snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("model.safetensors")
    assert outcome(snapshot).startswith("ModelFormatError: ")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", INDEX])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    build(Case(lambda files: files.shard() if name == INDEX else None, ""), tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    os.mkfifo(tmp_path / "model" / name)
    assert outcome(tmp_path / "model").endswith(f"{name}: is no regular file")


def test_enough_classes() -> None:
    assert len(CASES) >= 40
    assert sum(case.off is not None for case in CASES.values()) >= 20

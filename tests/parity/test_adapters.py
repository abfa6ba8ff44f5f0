"""Adapters against what PEFT and llama.cpp said: ours as it goes out, PEFT's as they come in.

The live comparison, which writes adapters.json, is in test_live_adapters.py.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from homebox.model.adapter_files import read_adapter, write_adapter
from homebox.model.architectures.config_file import parse_config
from homebox.model.model import Model
from tests.parity import adapters, ours, reference
from tests.parity.adapters import FOREIGN, OURS, Foreign
from tests.parity.cases import ALPHA, BY_NAME, GGUF_CASES, LENGTH, Case
from tests.parity.weights import tokens, write_directory

LOGITS = 1e-4  # greatest difference


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Open a case's model once; its programs take longer than all else here."""

    @cache
    def model_of(name: str) -> Model:
        folder = tmp_path_factory.mktemp(name)
        case = BY_NAME[name]
        write_directory(folder, case, reference.read(case).tensors)
        return ours.opened(folder)

    return model_of


Opened = Callable[[str], Model]


def logits(model: Model, name: str, tensors: dict[str, ours.Float32], alpha: float) -> ours.Float32:
    """Return the kept rows with an adapter."""
    ids = tokens(BY_NAME[name].seed, "logits", LENGTH)
    model.adapters.add("x", tensors, alpha)
    try:
        return model.logits(ids.tolist(), "x")[list(adapters.ROWS)]
    finally:
        model.adapters.remove("x")


@pytest.mark.parametrize("name", OURS)
def test_ours_goes_out_as_the_files_that_peft_read(
    name: str, opened: Opened, tmp_path: Path
) -> None:
    known = adapters.known()[f"out {name}"]
    model = opened(name)
    tensors = adapters.own(model.config, BY_NAME[name].seed)
    paths = write_adapter(tmp_path / "a", "peft", model.config, tensors, ALPHA, "base")
    assert adapters.digest(paths) == known["files"]
    found = logits(model, name, tensors, ALPHA)
    assert np.abs(found - adapters.decoded(known["logits"])).max() < LOGITS
    back = read_adapter(tmp_path / "a", model.config)
    assert back.alpha == ALPHA
    assert all(np.array_equal(back.tensors[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.name)
def test_pefts_comes_in_with_its_logits(foreign: Foreign, opened: Opened, tmp_path: Path) -> None:
    known = adapters.known()[f"in {foreign.name}"]
    adapters.write_foreign(tmp_path / "a", known["config"], known["tensors"])
    model = opened(foreign.case)
    adapter = read_adapter(tmp_path / "a", model.config)
    found = logits(model, foreign.case, adapter.tensors, adapter.alpha)
    assert np.abs(found - adapters.decoded(known["logits"])).max() < LOGITS


@pytest.mark.parametrize("case", GGUF_CASES, ids=lambda case: case.name)
def test_ours_goes_out_as_the_file_that_llama_cpp_took(case: Case, tmp_path: Path) -> None:
    config = parse_config(case.config)
    tensors = adapters.own(config, case.seed)
    paths = write_adapter(tmp_path / "a", "gguf", config, tensors, ALPHA, "base")
    assert adapters.digest(paths) == adapters.known()[f"gguf {case.name}"]["files"]


def test_control_another_alpha_would_be_seen(opened: Opened, tmp_path: Path) -> None:
    known = adapters.known()["in llama-patterns"]
    adapters.write_foreign(
        tmp_path / "a", {**known["config"], "alpha_pattern": {}}, known["tensors"]
    )
    model = opened("llama")
    adapter = read_adapter(tmp_path / "a", model.config)
    found = logits(model, "llama", adapter.tensors, adapter.alpha)
    assert np.abs(found - adapters.decoded(known["logits"])).max() > 10 * LOGITS

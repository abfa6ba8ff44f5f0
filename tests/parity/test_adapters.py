"""Adapters against what PEFT said about them: ours as it goes out, PEFT's as they come in.

The live comparison, which writes adapters.json, is in test_live_adapters.py.
"""

from pathlib import Path

import numpy as np
import pytest

from homebox.model.adapter_files import read_adapter, write_adapter
from homebox.model.model import Model
from tests.parity import adapters, ours, reference
from tests.parity.adapters import FOREIGN, OURS, Foreign
from tests.parity.cases import ALPHA, BY_NAME, LENGTH
from tests.parity.weights import tokens, write_directory

LOGITS = 1e-4  # greatest difference


def opened(name: str, folder: Path) -> Model:
    case = BY_NAME[name]
    write_directory(folder, case, reference.read(case).tensors)
    return ours.opened(folder)


def logits(model: Model, name: str) -> ours.Float32:
    ids = tokens(BY_NAME[name].seed, "logits", LENGTH)
    return model.logits(ids.tolist(), "x")[list(adapters.ROWS)]


@pytest.mark.parametrize("name", OURS)
def test_ours_goes_out_as_the_files_that_peft_read(name: str, tmp_path: Path) -> None:
    known = adapters.known()[f"out {name}"]
    model = opened(name, tmp_path / "model")
    tensors = adapters.own(model.config, BY_NAME[name].seed)
    paths = write_adapter(tmp_path / "a", "peft", model.config, tensors, ALPHA, "base")
    assert adapters.digest(paths) == known["files"]
    model.adapters.add("x", tensors, ALPHA)
    assert np.abs(logits(model, name) - adapters.decoded(known["logits"])).max() < LOGITS
    back = read_adapter(tmp_path / "a", model.config)
    assert back.alpha == ALPHA
    assert all(np.array_equal(back.tensors[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.name)
def test_pefts_comes_in_with_its_logits(foreign: Foreign, tmp_path: Path) -> None:
    known = adapters.known()[f"in {foreign.name}"]
    adapters.write_foreign(tmp_path / "a", known["config"], known["tensors"])
    model = opened(foreign.case, tmp_path / "model")
    adapter = read_adapter(tmp_path / "a", model.config)
    model.adapters.add("x", adapter.tensors, adapter.alpha)
    wanted = adapters.decoded(known["logits"])
    assert np.abs(logits(model, foreign.case) - wanted).max() < LOGITS


def test_control_another_alpha_would_be_seen(tmp_path: Path) -> None:
    known = adapters.known()["in llama-patterns"]
    adapters.write_foreign(
        tmp_path / "a", {**known["config"], "alpha_pattern": {}}, known["tensors"]
    )
    model = opened("llama", tmp_path / "model")
    adapter = read_adapter(tmp_path / "a", model.config)
    model.adapters.add("x", adapter.tensors, adapter.alpha)
    assert np.abs(logits(model, "llama") - adapters.decoded(known["logits"])).max() > 10 * LOGITS

"""Adapters of other programs in the store, and checkpoints out of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox import learner
from homebox.errors import ModelFormatError, ModelNotFoundError, UnknownWeightsError, UsageError
from homebox.learning.checkpoint import load_adapter, load_spec
from homebox.learning.jobs.exchange import UNTESTED, Base, Imported, export_adapter, import_adapter
from homebox.memory.manifest import BASE
from homebox.memory.state import State, open_state
from homebox.model.adapter_files import read_adapter, write_adapter
from homebox.model.architectures.config_file import parse_config
from homebox.model.lora import adapter_shapes
from tests.unit.memory import kit
from tests.unit.model_files import CONFIG

MODEL = parse_config(CONFIG)
HERE = Base(MODEL, kit.BASE, "the-base")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as state:
        yield state


def adapter(folder: Path, seed: int = 1, rank: int = 4, form: str = "peft") -> Path:
    """Write an adapter as another program would."""
    generator = np.random.default_rng(seed)
    shapes = adapter_shapes(MODEL, rank)
    tensors = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    paths = write_adapter(folder, form, MODEL, tensors, 8.0, "the-base")
    return paths[0] if form == "gguf" else folder


def served(state: State) -> str:
    return state.lineage.head(kit.BASE)


def test_an_import_is_kept_and_not_served(state: State, tmp_path: Path) -> None:
    path = adapter(tmp_path / "theirs")
    done = import_adapter(state, HERE, path, reason="a friend's")
    assert (done.format, done.rank, done.alpha, done.name) == ("peft", 4, 8.0, "theirs")
    assert (done.promoted, done.previous, done.gate) == (False, BASE, UNTESTED)
    assert served(state) == BASE
    assert state.lineage.history(kit.BASE) == []
    (entry,) = state.lineage.imports(kit.BASE)
    assert (entry.weights, entry.reason, entry.lessons) == (done.weights, "a friend's", ())
    report = json.loads(state.store.get(entry.report))
    assert report["gate"] == UNTESTED
    assert report["imported"]["files"] == done.files
    spec = load_spec(state.store, done.weights)
    assert (spec["kind"], spec["format"], spec["files"]) == ("import", "peft", done.files)
    tensors, alpha = load_adapter(state.store, done.weights)
    assert alpha == 8.0
    for name, array in read_adapter(path, MODEL).tensors.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_it_has_no_name_that_a_rollback_knows(state: State, tmp_path: Path) -> None:
    done = import_adapter(state, HERE, adapter(tmp_path / "a"))
    with pytest.raises(UnknownWeightsError):
        state.lineage.rollback(kit.BASE, done.weights, "by mistake")
    assert state.lineage.resolve(kit.BASE, done.weights[:9], imports=True) == done.weights
    assert state.lineage.resolve(kit.BASE, "previous", imports=True) == BASE


def test_promoted_it_is_served_and_rolled_back_like_a_learned_one(
    state: State, tmp_path: Path
) -> None:
    lesson = kit.lesson("Quark")
    state.ledger.add_lesson(lesson)
    learned = kit.promote(state, "learned", lesson.hash)
    done = import_adapter(state, HERE, adapter(tmp_path / "a"), promote=True)
    assert (done.promoted, done.previous) == (True, learned)
    assert served(state) == done.weights
    (known,) = state.ledger.lessons()
    assert known.state == "active"  # the next learning will teach it again
    move = state.lineage.rollback(kit.BASE, "previous", "no good")
    assert (move.old, move.new) == (done.weights, learned)
    state.lineage.rollback(kit.BASE, done.weights[:12], "after all")
    assert served(state) == done.weights
    assert "tested by no gate" in state.lineage.history(kit.BASE)[-1].reason


def test_learning_goes_on_from_imported_weights(state: State, tmp_path: Path) -> None:
    done = import_adapter(state, HERE, adapter(tmp_path / "a"), promote=True)
    selection: Any = type("Selection", (), {"topics": [1], "active": [], "superseded": []})()
    model: Any = type("Model", (), {"base_hash": kit.BASE})()
    assert learner.nothing_to_do(selection, state.store, done.weights, model) == ""


def test_the_same_files_are_the_same_weights_and_listed_once(state: State, tmp_path: Path) -> None:
    first = import_adapter(state, HERE, adapter(tmp_path / "a"))
    again = import_adapter(state, HERE, adapter(tmp_path / "elsewhere" / "b"))
    other = import_adapter(state, HERE, adapter(tmp_path / "c", seed=2))
    assert first.weights == again.weights != other.weights
    assert len(state.lineage.imports(kit.BASE)) == 2
    served_later = import_adapter(state, HERE, tmp_path / "a", promote=True)
    assert served(state) == served_later.weights == first.weights
    assert import_adapter(state, HERE, tmp_path / "a", promote=True).previous == first.weights


def test_other_bases_do_not_see_it(state: State, tmp_path: Path) -> None:
    done = import_adapter(state, HERE, adapter(tmp_path / "a"))
    assert state.lineage.imports(kit.OTHER) == []
    with pytest.raises(UnknownWeightsError):
        export_adapter(state, Base(MODEL, kit.OTHER, "x"), done.weights, tmp_path / "x", "peft")


def test_it_is_there_after_the_next_start(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        done = import_adapter(state, HERE, adapter(tmp_path / "a"))
    with open_state(tmp_path / "state", read_only=True) as state:
        assert [entry.weights for entry in state.lineage.imports(kit.BASE)] == [done.weights]


def test_a_rank_that_cannot_be_served_is_kept_but_not_promoted(
    state: State, tmp_path: Path
) -> None:
    path = adapter(tmp_path / "a", rank=20)
    with pytest.raises(UsageError, match=r"rank 20 is above the 16 .* set model\.rank to 20"):
        import_adapter(state, HERE, path, promote=True, most_rank=16)
    assert (served(state), state.lineage.imports(kit.BASE)) == (BASE, [])
    assert import_adapter(state, HERE, path, most_rank=16).rank == 20


def test_what_does_not_fit_changes_nothing(state: State, tmp_path: Path) -> None:
    wide = parse_config({**CONFIG, "intermediate_size": 48})
    with pytest.raises(ModelFormatError, match="use the base that the adapter was made for"):
        import_adapter(state, Base(wide, kit.BASE, "x"), adapter(tmp_path / "a"), promote=True)
    with pytest.raises(ModelNotFoundError):
        import_adapter(state, HERE, tmp_path / "absent", promote=True)
    assert (served(state), state.lineage.imports(kit.BASE)) == (BASE, [])
    assert state.store.find("") == []


@pytest.mark.parametrize("form", ["peft", "gguf"])
def test_what_comes_in_goes_out_as_it_was(state: State, tmp_path: Path, form: str) -> None:
    path = adapter(tmp_path / "in", form=form)
    done = import_adapter(state, HERE, path, promote=True)
    out = export_adapter(state, HERE, "current", tmp_path / "out", form)
    assert (out.weights, out.rank, out.alpha) == (done.weights, 4, 8.0)
    for file in map(Path, out.files):
        assert file.read_bytes() == (tmp_path / "in" / file.name).read_bytes()
    again: Imported = import_adapter(
        state, HERE, Path(out.files[0]) if form == "gguf" else tmp_path / "out"
    )
    assert (again.weights, again.files) == (done.weights, done.files)


def test_the_base_and_full_folders_are_refused(state: State, tmp_path: Path) -> None:
    with pytest.raises(UnknownWeightsError, match="'current' is the base itself"):
        export_adapter(state, HERE, "current", tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()
    done = import_adapter(state, HERE, adapter(tmp_path / "a"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    for target in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(UsageError, match="is not empty; choose a new folder"):
            export_adapter(state, HERE, done.weights, target, "peft")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]

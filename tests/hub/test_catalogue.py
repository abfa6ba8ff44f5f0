"""Models by name: listed whole or not at all, files kept once, nothing left behind."""

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import BusyError, ModelFormatError, ModelNotFoundError, StateError, UsageError
from homebox.hub import catalogue as room
from homebox.hub import local
from homebox.hub.catalogue import About, Catalogue, digest_of, held
from homebox.hub.local import import_model
from homebox.memory.store import canonical_json
from homebox.model.loading.open_model import model_path, open_model

FACTS = About("here", "", "folder", "f32", "llama", 10, 20, "0" * 64)


def added(catalogue: Catalogue, name: str, **texts: str) -> room.Entry:
    folder = catalogue.staging(name)
    staged = {}
    for key, text in texts.items():
        path = folder / f"{key}.json"
        path.write_text(text)
        staged[path.name] = (path, digest_of(path))
    return catalogue.add(name, staged, FACTS)


def objects(catalogue: Catalogue) -> list[str]:
    return sorted(path.read_text() for path in (catalogue.root / "objects").glob("*/*"))


def test_models_by_name(catalogue: Catalogue) -> None:
    assert catalogue.names() == []
    first = added(catalogue, "a/one", config="1", weights="w")
    second = added(catalogue, "b/one:Q8_0", config="2", weights="w")
    third = added(catalogue, "two", config="3")
    assert catalogue.names() == ["a/one", "b/one:Q8_0", "two"]
    assert catalogue.find("one") == first
    assert catalogue.find("one:Q8_0") == second
    assert catalogue.find("two") == third
    assert (first.path.name, second.path.name) == ("one", "one-Q8_0")
    assert (first.path / "weights.json").samefile(second.path / "weights.json")
    assert objects(catalogue) == ["1", "2", "3", "w"]
    added(catalogue, "c/one", config="4")
    with pytest.raises(ModelNotFoundError, match="several models' names: a/one, c/one"):
        catalogue.find("one")
    with pytest.raises(ModelNotFoundError, match=r"called none \(known: a/one, .*homebox pull"):
        catalogue.find("none")
    assert not catalogue.has("no/ne")


def test_removal_frees_what_nobody_else_has(catalogue: Catalogue) -> None:
    first = added(catalogue, "one", config="1", weights="ww")
    added(catalogue, "two", config="2", weights="ww")
    assert catalogue.remove("one") == (first, 1)
    assert objects(catalogue) == ["2", "ww"]
    assert not first.path.exists()
    assert catalogue.remove("two")[1] == 3
    assert objects(catalogue) == []
    assert not list((catalogue.root / "folders").iterdir())


def test_a_model_of_the_same_name_is_replaced(catalogue: Catalogue) -> None:
    added(catalogue, "one", config="1", weights="old")
    added(catalogue, "one", config="1", weights="new")
    assert catalogue.names() == ["one"]
    assert objects(catalogue) == ["1", "new"]


def test_a_damaged_object_is_found_and_healed_for_all(catalogue: Catalogue) -> None:
    first = added(catalogue, "one", weights="www")
    path = first.path / "weights.json"
    path.chmod(0o600)
    path.write_text("WWW")
    assert catalogue.check("one") == ["weights.json"]
    added(catalogue, "two", weights="www")
    assert catalogue.check("one") == catalogue.check("two") == []
    assert path.read_text() == "www"


@pytest.mark.parametrize(
    "name", ["tiny", "", "../x", "a/b/c", "a b", "-a", ".", "a/..", "ä", "x" * 99]
)
def test_names_that_no_model_can_have(name: str, catalogue: Catalogue) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        added(catalogue, name, config="1")
    assert catalogue.names() == []


@pytest.mark.parametrize("file", ["../x", "/x", "a/b", "", ".hidden", "x\0"])
def test_files_that_lead_out_are_refused(file: str, catalogue: Catalogue) -> None:
    path = catalogue.staging("x") / "f"
    path.write_text("1")
    with pytest.raises(StateError, match="cannot be a file of a model"):
        catalogue.add("one", {file: (path, digest_of(path))}, FACTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-5],
        lambda text: b"",
        lambda text: b"[]",
        lambda text: text.replace(b'"name":"one"', b'"name":"two"'),
        lambda text: text.replace(b'"weights.json"', b'"../../x"'),
        lambda text: text.replace(b'"kind"', b'"sort"'),
        lambda text: json.dumps(json.loads(text)).encode(),
    ],
)
def test_a_damaged_manifest_hides_one_model_and_frees_nothing(
    change: object, catalogue: Catalogue
) -> None:
    added(catalogue, "one", weights="1")
    added(catalogue, "two", weights="2")
    path = catalogue._manifest("one")
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    assert catalogue.names() == ["two"]
    assert len(catalogue.damaged()) == 1
    with pytest.raises(StateError, match="is damaged; remove it, and pull or import"):
        catalogue.find("one")
    added(catalogue, "three", weights="3")
    assert objects(catalogue) == ["1", "2", "3"], "nobody knows what the damaged one speaks of"


def test_control_a_manifest_that_was_only_moved_is_read(catalogue: Catalogue) -> None:
    added(catalogue, "one", weights="1")
    path = catalogue._manifest("one")
    text = path.read_bytes()
    assert canonical_json(json.loads(text)) == text
    path.write_bytes(text)
    assert catalogue.names() == ["one"]


def breaking(patch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Let the process die at one of the calls that change the disk; return those that came."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == after:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "hardlink_to", "chmod"):
        patch.setattr(Path, name, counted(name, getattr(Path, name)))
    for name in ("replace_file", "sync_directory", "make_directory"):
        patch.setattr(room, name, counted(name, getattr(room, name)))
    patch.setattr(shutil, "rmtree", counted("rmtree", shutil.rmtree))
    return calls


STEPS: dict[str, tuple[Callable[[Catalogue], object], list[str]]] = {
    "new": (lambda c: added(c, "new", config="n", weights="both"), ["both", "n", "o", "x"]),
    "replaced": (lambda c: added(c, "old", config="p", weights="both"), ["both", "p", "x"]),
    "removed": (lambda c: c.has("old") and c.remove("old"), ["both", "x"]),
}


def crashes(step: Callable[[Catalogue], object], root: Path) -> Iterator[Catalogue]:
    """Yield catalogues in which a step died at its first, second, ... call, last where it did not.

    A further model shares a file with those that change.
    """
    for after in itertools.count(1):
        catalogue = Catalogue(root / str(after))
        added(catalogue, "old", config="o", weights="both")
        added(catalogue, "other", config="x", weights="both")
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            calls = breaking(patch, after)
            step(catalogue)
        yield catalogue
        if len(calls) < after:
            assert after > 4
            return


@pytest.mark.parametrize("name", STEPS)
def test_a_crash_at_any_step_leaves_models_whole(name: str, tmp_path: Path) -> None:
    step, wanted = STEPS[name]
    for catalogue in crashes(step, tmp_path):
        assert "other" in catalogue.names()
        assert [each for each in catalogue.names() if catalogue.check(each)] == []
        assert catalogue.damaged() == []
        step(catalogue)
        catalogue.clean()
        assert objects(catalogue) == wanted
        assert len(list((catalogue.root / "folders").iterdir())) == len(catalogue.names())


def test_control_a_manifest_that_is_written_first_lists_half_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Catalogue._make_folder

    def early(self: Catalogue, entry: room.Entry) -> None:
        about = {field.name: getattr(entry, field.name) for field in dataclasses.fields(About)}
        files = {name: dataclasses.asdict(file) for name, file in entry.files.items()}
        text = canonical_json({"name": entry.name, **about, "files": files})
        self._make(self.root / "manifests")
        room.replace_file(self._manifest(entry.name), text)
        real(self, entry)

    monkeypatch.setattr(Catalogue, "_make_folder", early)
    found = crashes(STEPS["new"][0], tmp_path)
    assert any(each.check(name) for each in found for name in each.names())


def _hold(path: str, ready: object, end: object) -> None:
    with held(Path(path), wait=True):
        ready.set()  # type: ignore[attr-defined]
        end.wait(20)  # type: ignore[attr-defined]


def test_two_processes_do_not_bring_the_same_model(catalogue: Catalogue) -> None:
    lock = catalogue.staging("x") / "lock"
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(lock), ready, end))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(BusyError, match="another process"), held(lock, wait=False):
            pass
        assert catalogue.clean() == 0
        assert lock.exists(), "the other's files were spared"
    finally:
        end.set()
        other.join()
    with held(lock, wait=False):
        pass
    catalogue.clean()
    assert not lock.exists()


# -- import ------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder of the owner's with a model."""
    folder = tmp_path / "My model"
    shutil.copytree(model_path("tiny"), folder)
    return folder


def test_a_folder_is_imported_without_a_copy(own: Path, catalogue: Catalogue) -> None:
    before = {path: path.stat().st_mode for path in own.iterdir()}
    shown: list[int] = []
    found = import_model(catalogue, own, "", lambda report: shown.append(report["done"]))
    assert found.entry.name == "My_model"
    assert found.shared == (own / "model.safetensors").stat().st_size
    assert found.entry.base == open_model(own).base_hash == open_model(found.entry.path).base_hash
    assert sorted(found.entry.files) == ["config.json", "model.safetensors", "tokenizer.model"]
    assert {path: path.stat().st_mode for path in own.iterdir()} == before
    assert shown == sorted(shown)
    assert shown[-1] == found.entry.size
    shutil.rmtree(own)
    assert catalogue.check("My_model") == []
    assert not list((catalogue.root / "partial").iterdir())


def test_files_are_copied_where_they_cannot_be_shared(
    own: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_clone", lambda *_: False)
    monkeypatch.setattr(local, "_link", lambda *_: False)
    found = import_model(catalogue, own, "mine", lambda _: None)
    assert found.shared == 0
    weights = own / "model.safetensors"
    assert not (found.entry.path / weights.name).samefile(weights)
    weights.write_bytes(b"")
    assert catalogue.check("mine") == []


def test_writing_into_a_shared_file_is_found(
    own: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_clone", lambda *_: False)
    entry = import_model(catalogue, own, "mine", lambda _: None).entry
    with (own / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    assert catalogue.check("mine") == ["model.safetensors"]
    assert open_model(entry.path).base_hash != entry.base


def test_imports_again_and_names_that_are_taken(own: Path, catalogue: Catalogue) -> None:
    first = import_model(catalogue, own, "mine", lambda _: None).entry
    assert import_model(catalogue, own, "mine", lambda _: None).entry == first
    other = own.with_name("other")
    shutil.copytree(own, other)
    with pytest.raises(UsageError, match=r"mine is on this box already.*--name"):
        import_model(catalogue, other, "mine", lambda _: None)


def test_a_gguf_file_is_imported(shared: Path, catalogue: Catalogue) -> None:
    path = shared / "data" / "gguf" / "stories260K-Q8_0.gguf"
    entry = import_model(catalogue, path, "", lambda _: None).entry
    assert (entry.name, entry.kind, entry.path.name) == (path.stem, "gguf", path.name)
    assert entry.path.read_bytes() == path.read_bytes()


def test_what_is_no_model_is_not_imported(own: Path, catalogue: Catalogue) -> None:
    (own / "config.json").write_text('{"architectures": ["MambaForCausalLM"]}')
    with pytest.raises(ModelFormatError, match="Mamba"):
        import_model(catalogue, own, "", lambda _: None)
    with pytest.raises(ModelNotFoundError):
        import_model(catalogue, own / "none", "", lambda _: None)
    assert catalogue.names() == []


def test_a_hugging_face_cache_is_imported(own: Path, catalogue: Catalogue) -> None:
    """Its snapshots consist of links into a folder of blobs."""
    cache = own.with_name("models--some--model")
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    own.rename(cache / "blobs")
    for path in (cache / "blobs").iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    entry = import_model(catalogue, snapshot, "", lambda _: None).entry
    assert entry.name == "model"
    assert not any(path.is_symlink() for path in entry.path.iterdir())
    assert open_model(entry.path).base_hash == entry.base

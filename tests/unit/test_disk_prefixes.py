"""Prefixes from the disk change no bit, come only where they belong, and fail softly."""

import errno
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import OutOfDeviceMemoryError
from homebox.model import GenerationRequest, Model, SamplingParams
from homebox.model.decoder.pages import PAGE
from homebox.model.lora import init_adapter
from homebox.model.prefixes import disk as disk_room
from homebox.model.prefixes.disk import DiskPrefixes
from homebox.model.prefixes.prefix_file import PrefixReader, PrefixWriter
from homebox.model.prefixes.prefix_folder import PrefixFolder
from homebox.model.prefixes.writing import Writing
from tests.unit.test_model_transformer import BLOCKS, ids_of
from tests.unit.test_prefixes import HASH, OWNER, Listening, prompt, tiny
from tests.unit.test_stages import made, split

STABLE = 300  # four whole pages and more
FACTS = {"base": "b" * 64, "arithmetic": "a" * 64}


@pytest.fixture(scope="module", params=["f32", "f16", "q8"])
def model(request: pytest.FixtureRequest) -> Model:
    loaded = tiny(request.param)
    for name, seed in ((HASH, 1), (HASH[::-1], 2)):
        tensors = init_adapter(loaded.config, 4, seed)
        for key, array in tensors.items():
            if key.endswith(".B"):
                array += np.random.default_rng(seed).standard_normal(array.shape) / 4
        loaded.adapters.add(name, tensors)
    return loaded


@pytest.fixture(scope="module")
def f32() -> Model:
    return tiny()


def restart(model: Model, folder: Path, budget: int = 1 << 30, **facts: str) -> DiskPrefixes:
    """Let a model know nothing but what is on the disk."""
    if model.disk is not None:
        model.disk.close()
    model.prefixes.clear()
    tree = model.prefixes.tree
    assert tree is not None
    place = PrefixFolder(folder, budget, spare=0)
    transformer: Any = model.transformer
    model.disk = DiskPrefixes(transformer, tree, place, {**FACTS, **facts})
    return model.disk


def answer(
    model: Model,
    ids: Sequence[int],
    owner: str | None = OWNER,
    stable: int = STABLE,
    count: int = 4,
    **more: Any,
) -> tuple[list[int], list[bytes], int]:
    """Return the ids of an answer, the bits of the logits behind them, and how many were cached."""
    ears = Listening(model)
    inner, model.transformer = model.transformer, ears  # type: ignore[assignment]
    try:
        params = SamplingParams(max_tokens=count)
        sequence = model.start(GenerationRequest(ids, params, owner=owner, stable=stable, **more))
        found: list[int] = []
        while not sequence.finished:
            (piece,) = model.step([sequence])
            if isinstance(piece, Exception):
                raise piece
            found += piece.token_ids if piece is not None else ()
    finally:
        model.transformer = inner
    return found, ears.heard[-len(found) :], sequence.cached_tokens


def written(model: Model) -> None:
    """Let a prefix that is being written reach the disk."""
    assert model.disk is not None
    while model.disk.idle():
        pass


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.prefix"))


def kept(model: Model, folder: Path, ids: Sequence[int], **more: Any) -> None:
    """Ask twice, so that the prefix is written; then only the disk knows it."""
    before = len(files(folder)) if folder.exists() else 0
    for _ in range(2):
        answer(model, ids, **more)
    written(model)
    assert len(files(folder)) == before + 1
    restart(model, folder)


@pytest.mark.parametrize("adapter", ["base", HASH])
def test_an_answer_from_the_disk_has_the_bits_of_one_computed(
    model: Model, tmp_path: Path, adapter: str
) -> None:
    ids = prompt(330)
    cold = answer(model, ids, owner=None, adapter=adapter)
    restart(model, tmp_path)
    kept(model, tmp_path, ids, adapter=adapter)
    found = answer(model, ids, adapter=adapter)
    assert found[:2] == cold[:2]
    assert found[2] == 4 * PAGE
    # Another prompt with the same beginning, in chunks of its own.
    other = [*ids[:STABLE], *prompt(100, 7)]
    model.disk = None
    model.prefixes.clear()
    cold = answer(model, other, owner=None, adapter=adapter)
    restart(model, tmp_path)
    found = answer(model, other, adapter=adapter)
    assert found[:2] == cold[:2]
    assert found[2] == 4 * PAGE
    # From then on the tree has it.
    assert model.disk is not None
    assert model.disk.restored == 4 * PAGE
    assert answer(model, other, adapter=adapter)[2] > 4 * PAGE
    assert model.disk.restored == 4 * PAGE


def test_nothing_is_shared_between_owners_adapters_and_models(model: Model, tmp_path: Path) -> None:
    ids, owner = prompt(330, 1), "digest of a key"
    restart(model, tmp_path)
    kept(model, tmp_path, ids, adapter=HASH, owner=owner)
    assert answer(model, ids, adapter=HASH)[2] == 0
    assert answer(model, ids, owner=None, adapter=HASH)[2] == 0
    assert answer(model, ids, owner=owner)[2] == 0
    assert answer(model, ids, owner=owner, adapter=HASH[::-1])[2] == 0
    for fact in FACTS:
        restart(model, tmp_path, **{fact: "c" * 64})
        assert answer(model, ids, owner=owner, adapter=HASH)[2] == 0
    # Control: whose it is gets it.
    restart(model, tmp_path)
    assert answer(model, ids, owner=owner, adapter=HASH)[2] == 4 * PAGE
    (path,) = files(tmp_path)
    assert owner.encode() not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_file_is_used_as_far_as_its_ids_agree(f32: Model, tmp_path: Path) -> None:
    ids = prompt(330, 2)
    restart(f32, tmp_path)
    kept(f32, tmp_path, ids)
    other = [*ids[:200], *prompt(130, 3)]
    cold = answer(f32, other, owner=None)
    found = answer(f32, other)
    assert found[:2] == cold[:2]
    assert found[2] == 3 * PAGE
    # A prompt that a file holds to its end keeps an id to compute.
    restart(f32, tmp_path)
    assert answer(f32, ids[: 4 * PAGE])[2] == 3 * PAGE


def test_the_tree_goes_first_where_it_has_more(f32: Model, tmp_path: Path) -> None:
    ids = prompt(330, 4)
    restart(f32, tmp_path)
    kept(f32, tmp_path, ids)
    cold = answer(f32, ids, owner=None)
    answer(f32, ids[:100], stable=0)  # a page and a part of the next one
    assert f32.disk is not None
    f32.disk.restored = 0
    found = answer(f32, ids)
    assert found[:2] == cold[:2]
    assert found[2] == 4 * PAGE
    assert f32.disk.restored == 3 * PAGE  # from the page on that was not full


def test_only_what_is_asked_for_twice_is_written(f32: Model, tmp_path: Path) -> None:
    disk = restart(f32, tmp_path)
    for seed in range(5):  # as an agent does that tells the time
        answer(f32, prompt(330, 100 + seed))
    assert not disk.idle()
    answer(f32, prompt(330, 5), stable=255)
    answer(f32, prompt(330, 5), stable=255)
    assert not disk.idle()
    request = GenerationRequest(
        prompt(330, 105), SamplingParams(max_tokens=9), owner=OWNER, stable=STABLE
    )
    choices = [f32.start(request) for _ in range(2)]  # several answers to one request
    while not all(sequence.finished for sequence in choices):
        f32.step(choices)
    assert not disk.idle()
    assert files(tmp_path) == []
    answer(f32, prompt(330, 104))
    written(f32)
    assert len(files(tmp_path)) == 1
    for _ in range(3):
        answer(f32, prompt(330, 104))
    assert not disk.idle()
    assert disk.written == 1


def test_a_longer_prefix_takes_the_place_of_a_shorter_one(f32: Model, tmp_path: Path) -> None:
    ids = prompt(450, 6)
    restart(f32, tmp_path)
    kept(f32, tmp_path, ids, stable=256)
    (short,) = files(tmp_path)
    for _ in range(2):
        answer(f32, ids, stable=400)
    written(f32)
    (long,) = files(tmp_path)
    assert long != short
    # And a shorter one is not written beside it.
    for _ in range(2):
        answer(f32, ids, stable=256)
    assert f32.disk is not None
    assert not f32.disk.idle()
    assert files(tmp_path) == [long]


def test_a_damaged_page_is_named_and_computed(
    f32: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(330, 8)
    cold = answer(f32, ids, owner=None)
    restart(f32, tmp_path)
    kept(f32, tmp_path, ids)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    page = (len(good) - 4096) // 4
    bad = bytearray(good)
    bad[4096 + 2 * page + 77] ^= 0x40
    path.write_bytes(bad)
    with caplog.at_level(logging.WARNING):
        found = answer(f32, ids)
    assert found[:2] == cold[:2]
    assert found[2] == 2 * PAGE
    assert f"{path}: page 2 is damaged" in caplog.text
    written(f32)  # it is written again at once
    assert path.read_bytes() == good
    # Control: without the check garbage is served.
    path.write_bytes(bad)
    path.chmod(0o600)
    restart(f32, tmp_path)

    def unchecked(self: PrefixReader, index: int) -> Any:
        raw = self.path.read_bytes()
        return np.frombuffer(raw, np.uint8, page, 4096 + index * page)

    monkeypatch.setattr(PrefixReader, "page", unchecked)
    found = answer(f32, ids)
    assert found[2] == 4 * PAGE
    assert found[1] != cold[1]


def test_pages_that_go_meanwhile_are_not_written(
    f32: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_room, "WRITE_STEP", 1)  # a page for each step
    disk = restart(f32, tmp_path)
    ids = prompt(330, 9)
    for _ in range(2):
        answer(f32, ids, count=1)
    assert disk.advance()  # it is under way
    f32.prefixes.clear()
    while disk.idle():
        pass
    assert disk.written == 0
    # Control: had they stayed, there would be a file.
    answer(f32, ids)
    written(f32)
    assert disk.written == 1


def test_a_sequence_that_ends_while_it_is_restored_gives_all_back(
    f32: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(330, 10)
    restart(f32, tmp_path)
    kept(f32, tmp_path, ids)
    monkeypatch.setattr(disk_room, "READ_STEP", 1)  # a page for each step
    transformer: Any = f32.transformer
    pages = transformer.pages
    sequence = f32.start(
        GenerationRequest(ids, SamplingParams(max_tokens=2), owner=OWNER, stable=STABLE)
    )
    for count in (1, 2):
        assert f32.step([sequence]) == [None]
        assert sequence.prefilled == sequence.cached_tokens == count * PAGE
    sequence.close()
    assert pages.free_pages + pages.idle_pages == pages.count
    cold = answer(f32, ids, owner=None)
    assert answer(f32, ids)[:2] == cold[:2]


def test_an_error_of_the_device_ends_that_answer_only(
    f32: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(330, 11)
    restart(f32, tmp_path)
    kept(f32, tmp_path, ids)
    transformer: Any = f32.transformer

    def full(*_: Any) -> None:
        raise OutOfDeviceMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(transformer, "put_page", full)
        with pytest.raises(OutOfDeviceMemoryError):
            answer(f32, ids)
    pages = transformer.pages
    assert pages.free_pages + pages.idle_pages == pages.count
    assert answer(f32, ids)[2] == 4 * PAGE


def test_a_disk_that_fails_changes_no_answer(
    f32: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = prompt(330, 12)
    cold = answer(f32, ids, owner=None)

    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = restart(f32, tmp_path)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "pwrite", failing)
        for _ in range(3):
            assert answer(f32, ids)[:2] == cold[:2]
        written(f32)
    assert caplog.text.count("could not be kept") == 1  # and it is left alone for a while
    assert list(tmp_path.iterdir()) == []
    assert disk.written == 0
    restart(f32, tmp_path)
    kept(f32, tmp_path, ids)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing)
        assert answer(f32, ids) == (*cold[:2], 0)
    assert len(files(tmp_path)) == 1  # it may be read another time
    restart(f32, tmp_path)
    assert answer(f32, ids)[2] == 4 * PAGE


def test_no_place_for_files_is_no_error(f32: Model, tmp_path: Path) -> None:
    ids = prompt(330, 13)
    cold = answer(f32, ids, owner=None)
    restart(f32, tmp_path, budget=1000)
    for _ in range(2):
        assert answer(f32, ids)[:2] == cold[:2]
    (tmp_path / "file").write_bytes(b"")
    disk = restart(f32, tmp_path / "file" / "folder")
    for _ in range(2):
        assert answer(f32, ids)[:2] == cold[:2]
    assert not disk.idle()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_layers_on_several_devices_have_the_files_of_one(tmp_path: Path) -> None:
    """The bytes of a page do not tell how layers were spread; what computed them is a fact."""
    one, parts = made(None, BLOCKS), made(split(1), BLOCKS)
    ids = ids_of(130)
    one.forward(0, 0, ids[:128], 1)
    parts.forward(1, 0, ids[:128], 1)
    for at in (0, 1):
        page = one.read_page(one.pages.of(0)[at])
        np.testing.assert_array_equal(page, parts.read_page(parts.pages.of(1)[at]))
        assert page.nbytes == one.page_bytes == parts.page_bytes
        parts.put_page(2, at * PAGE, page)
    wanted = one.all_logits(ids, 1)
    np.testing.assert_array_equal(parts.forward(2, 128, ids[128:], 1), wanted[-1])
    assert one.numerics() != parts.numerics()


def test_a_model_that_is_loaded_anew_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(disk_room, "sources_digest", lambda folder: folder.name)
    ids = prompt(330, 14)

    def fresh(kind: str = "f32", **more: Any) -> Model:
        loaded = tiny(kind, **more)
        loaded.keep_prefixes(1 << 30)
        return loaded

    first = fresh()
    cold = answer(first, ids)
    assert answer(first, ids)[:2] == cold[:2]
    written(first)
    assert answer(fresh(), ids) == (*cold[:2], 4 * PAGE)
    assert len(files(tmp_path / "prefixes")) == 1
    # What computes other bits, or lays them out in another way, has files of its own.
    kinds: list[dict[str, Any]] = [{}, {"kind": "f16"}, {"kind": "q8"}, {"context": 1024}]
    kinds += [{"weights": "q8"}, {"weights": "bf16", "activations": "bf16"}]
    found = {fresh(**kind).transformer.numerics() for kind in kinds}  # type: ignore[attr-defined]
    assert len(found) == len(kinds)
    assert first.transformer.numerics() in found  # type: ignore[attr-defined]
    monkeypatch.setattr(disk_room, "sources_digest", lambda folder: "other")
    assert answer(fresh(), ids)[2] == 0
    # Sources that changed while this process runs: nobody knows which it has.
    monkeypatch.setattr(disk_room, "sources_digest", lambda folder: None)
    assert fresh().disk is None
    first.keep_prefixes(0)
    assert first.disk is None


@pytest.mark.parametrize("forgotten", [True, False])
def test_prompts_from_before_all_was_forgotten_leave_nothing(
    f32: Model, tmp_path: Path, forgotten: bool
) -> None:
    """One is being read, two wait; the control without forgetting keeps what they began with."""
    restart(f32, tmp_path)
    params = SamplingParams(max_tokens=2)
    asked = [
        GenerationRequest(prompt(330, 21), params, owner=OWNER, stable=STABLE) for _ in range(3)
    ]
    running = f32.start(asked[0])
    f32.step([running])
    assert not running.finished
    if forgotten:
        f32.forget_prefixes()
    for request in asked:
        sequence = running if request is asked[0] else f32.start(request)
        while not sequence.finished:
            f32.step([sequence])
    written(f32)
    assert f32.prefixes.tree is not None
    assert (len(files(tmp_path)) == 0) is forgotten
    assert (len(f32.prefixes.tree) == 0) is forgotten
    # What is asked from now on is kept as ever.
    kept(f32, tmp_path, prompt(330, 22))


@pytest.mark.parametrize("given_up", [True, False])
def test_a_file_that_is_given_up_at_its_end_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_up: bool
) -> None:
    """The control that is not given up gets its name."""
    written, go = threading.Event(), threading.Event()
    finish = PrefixWriter.finish

    def late(self: PrefixWriter) -> None:
        finish(self)
        written.set()
        assert go.wait(30)

    monkeypatch.setattr(PrefixWriter, "finish", late)
    folder = PrefixFolder(tmp_path, 1 << 20, spare=0)
    writing = Writing(folder, "a.prefix", FACTS, np.zeros(PAGE, np.int32), 64)
    writing.put(np.zeros(64, np.uint8))
    assert written.wait(30)
    if given_up:
        writing.abandon()
    go.set()
    writing.join()
    assert [path.name for path in tmp_path.iterdir()] == ([] if given_up else ["a.prefix"])
    assert (writing.path is None) is given_up

"""Packed models: what lies in the file, when it is trusted, and what happens when it is not."""

import errno
import json
import logging
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.graph import formats
from homebox.engine.graph.formats import BF16, F32, Q4, Q8, WEIGHTS, Floats, Format
from homebox.engine.runtime.capture import evaluate
from homebox.engine.runtime.pack_weights import packed
from homebox.errors import ConfigError, ModelFormatError
from homebox.model.architectures.config_file import parse_config
from homebox.model.files import file_digests, sealed_file
from homebox.model.files.safetensors_reader import SafetensorsFile
from homebox.model.loading.loader import LoadedWeights, load_weights
from homebox.model.weights import packed_weights
from homebox.model.weights.packed_layout import choose_format, segments_of
from homebox.model.weights.packed_weights import find_packed, pack_model
from tests.unit.model_files import (
    CONFIG,
    QWEN3,
    file_tensors,
    random_weights,
    rounded,
    safetensors_bytes,
    write_model,
)

EMBED = "model.embed_tokens.weight"
FORMS = [F32, BF16, Q8, Q4]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own, on a disk that is never waited for; return its folder."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", kind="BF16", base=QWEN3)
    return tmp_path / "model"


def refuse_packing(*_: object) -> None:
    raise AssertionError("packed again")


def stacked(weights: LoadedWeights, name: str) -> Floats:
    prefix, _, last = name.rpartition(".")
    parts = [f"{prefix}.{part}" for part in "qkv"] if last == "qkv" else [name]
    return np.concatenate([weights[part] for part in parts])


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_packed_as_numpy_packs_it(
    tmp_path: Path, form: Format, kind: str, tied: bool
) -> None:
    for base in (CONFIG, QWEN3):
        folder = tmp_path / str(base["model_type"])
        config = write_model(folder, {"tie_word_embeddings": tied}, kind=kind, base=base)
        weights, model = load_weights(folder), pack_model(folder, form)
        names = {"embed", "norm"} | (set() if tied else {"head"})
        own = ("attn_norm", "mlp_norm", "qkv", "o", "gate", "up", "down")
        own += ("q_norm", "k_norm") if config.qk_norm else ()
        names |= {f"layers.{i}.{name}" for i in range(config.num_layers) for name in own}
        assert set(model.segments) == names
        for name in names:
            wanted = stacked(weights, name)
            if wanted.ndim == 1:
                assert model.bytes_of(name).tobytes() == wanted.tobytes()
            else:
                assert np.array_equal(model.bytes_of(name), formats.pack(form, wanted)), name
            assert model.tensor(name).shape == wanted.shape


def test_tensors_are_what_the_graph_reads(directory: Path) -> None:
    weights = load_weights(directory)
    for form in FORMS:
        model = pack_model(weights, form)
        for name in ("layers.1.qkv", "layers.0.k_norm", "embed", "norm"):
            wanted = stacked(weights, name)
            if wanted.ndim == 2:
                wanted = formats.unpack(form, formats.pack(form, wanted), *wanted.shape)
            assert evaluate([model.tensor(name)])[0].tobytes() == wanted.tobytes()
        assert model.tensor("head") is model.tensor("embed")  # tied: the same bytes
        for name in ("layers.0.q", "layers.1.k", "layers.1.v"):  # whole panels of qkv
            wanted = weights[name]
            wanted = formats.unpack(form, formats.pack(form, wanted), *wanted.shape)
            assert evaluate([model.tensor(name)])[0].tobytes() == wanted.tobytes()
        with pytest.raises(KeyError):
            model.tensor("layers.2.q")


def test_projections_that_share_a_panel_have_no_tensor_of_their_own(tmp_path: Path) -> None:
    write_model(tmp_path)  # 24 + 12 + 12 rows
    assert "layers.0.q" not in pack_model(tmp_path, F32).tensors


def test_buffers_have_names_and_whole_pages(directory: Path) -> None:
    model = pack_model(directory, Q4)
    parts = {f"layers.{i}.{part}" for i in range(model.config.num_layers) for part in "qkv"}
    assert set(model.buffers) == {f"weights:{name}" for name in parts | set(model.segments)}
    assert set(model.tensors) == parts | set(model.segments) | {"head"}
    for name, segment in model.segments.items():
        buffer = model.buffers[f"weights:{name}"]
        assert buffer.frozen
        assert buffer.address == model.memory.address + segment.offset
        assert (buffer.nbytes, buffer.address % 4096) == (segment.nbytes, 0)
    assert model.nbytes == model.memory.nbytes == segments_of(model.config, Q4)[1]
    assert not model.memory.array.flags.writeable


def test_a_second_start_maps_the_file(
    directory: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pack_model(directory, Q8)
    monkeypatch.setattr(packed_weights, "_pack", refuse_packing)
    second = pack_model(directory, Q8)
    assert second.path == first.path
    assert [path.name for path in cache.iterdir()] == [first.path.name if first.path else ""]
    assert np.array_equal(second.memory.array, first.memory.array)
    second.verify()
    with pytest.raises(AssertionError, match="packed again"):  # each format has its own file
        pack_model(directory, Q4)
    write_model(directory, seed=1, kind="BF16", base=QWEN3)
    with pytest.raises(AssertionError, match="packed again"):
        pack_model(directory, Q8)
    monkeypatch.setattr(packed_weights, "VERSION", packed_weights.VERSION + 1)
    write_model(directory, kind="BF16", base=QWEN3)
    with pytest.raises(AssertionError, match="packed again"):
        pack_model(directory, Q8)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        file.write(data)


def keeping_the_time(path: Path, change: Callable[[], object]) -> None:
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda p: keeping_the_time(p, lambda: os.truncate(p, p.stat().st_size - 1)),
    "longer": lambda p: keeping_the_time(p, lambda: overwrite(p, -1, b"xx")),
    "empty": lambda p: p.write_bytes(b""),
    "another magic": lambda p: keeping_the_time(p, lambda: overwrite(p, 0, b"H")),
    "header changed": lambda p: keeping_the_time(p, lambda: overwrite(p, 100, b"#")),
    "huge header length": lambda p: keeping_the_time(p, lambda: overwrite(p, 24, b"\xff" * 8)),
    "no header yet": lambda p: keeping_the_time(p, lambda: overwrite(p, 0, bytes(4096))),
    "numbers overwritten": lambda p: overwrite(p, -20_000, b"\xff" * 100),
    "another time": lambda p: os.utime(p, ns=(0, 1_000_000_000)),
    "others can write": lambda p: p.chmod(0o660),
    "a link": lambda p: p.symlink_to(p.rename(p.with_name("elsewhere"))),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "a folder"])
def test_a_file_that_was_touched_is_made_again(
    directory: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = pack_model(directory, Q8)
    wanted = first.memory.array.copy()
    assert first.path is not None
    DAMAGES[damage](first.path)
    with caplog.at_level(logging.WARNING):
        again = pack_model(directory, Q8)
    assert np.array_equal(again.memory.array, wanted)
    assert again.path == first.path
    assert not first.path.is_symlink()
    again.verify()
    assert damage == "a link" or "damaged or was changed" in caplog.text


def test_control_without_the_check_damaged_numbers_are_served(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pack_model(directory, Q8)
    wanted = first.memory.array.copy()
    assert first.path is not None
    overwrite(first.path, -20_000, b"\xff" * 100)
    monkeypatch.setattr(sealed_file, "_checked", lambda *_: "0" * 64)
    assert not np.array_equal(pack_model(directory, Q8).memory.array, wanted)


def test_a_folder_in_the_way_costs_the_cache_only(directory: Path) -> None:
    first = pack_model(directory, Q8)
    assert first.path is not None
    DAMAGES["a folder"](first.path)
    again = pack_model(directory, Q8)
    assert again.path is None
    assert np.array_equal(again.memory.array, first.memory.array)


def test_what_the_disk_does_behind_our_back_is_found_by_reading(directory: Path) -> None:
    path = pack_model(directory, Q8).path
    assert path is not None
    keeping_the_time(path, lambda: overwrite(path, -20_000, b"\xff" * 100))
    opened = pack_model(directory, Q8)  # opening reads no numbers
    with pytest.raises(ModelFormatError, match="damaged"):
        opened.verify()


def test_a_file_of_another_model_is_not_taken(directory: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "other", seed=1, kind="BF16", base=QWEN3)
    mine, other = pack_model(directory, Q8), pack_model(tmp_path / "other", Q8)
    assert mine.path is not None and other.path is not None
    wanted = mine.memory.array.copy()
    other.path.replace(mine.path)
    assert np.array_equal(pack_model(directory, Q8).memory.array, wanted)


def test_without_a_usable_cache_weights_are_packed_in_memory(
    directory: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pack_model(directory, Q4)
    cache.chmod(0o777)  # anybody could put files there
    got = pack_model(directory, Q4)
    assert got.path is None
    assert np.array_equal(got.memory.array, wanted.memory.array)
    got.verify()
    cache.chmod(0o700)
    assert wanted.path is not None
    wanted.path.unlink()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    got = pack_model(directory, Q4)
    assert got.path is None
    assert np.array_equal(got.memory.array, wanted.memory.array)
    assert list(cache.iterdir()) == []


def test_the_header_follows_when_the_numbers_are_on_the_disk(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    write = os.pwrite

    def written(handle: int, data: memoryview, offset: int) -> int:
        calls.append("numbers" if offset else "header")
        return write(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", written)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("sync"))
    pack_model(directory, Q4)
    assert [*dict.fromkeys(calls)] == ["numbers", "sync", "header"]
    assert calls[-4:] == ["sync", "header", "sync", "sync"]  # the file, then the folder
    assert calls.count("header") == 1


def broken_model(directory: Path, name: str, value: float) -> None:
    tensors = dict(file_tensors(random_weights(parse_config(CONFIG))))
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[7] = value
    write_model(directory)
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_nothing_broken_is_kept(tmp_path: Path, cache: Path, form: Format) -> None:
    for name in (
        EMBED,
        "model.norm.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    ):
        broken_model(tmp_path / "m", name, np.nan)
        with pytest.raises(ModelFormatError, match=rf"{name}: holds NaN or infinity"):
            pack_model(tmp_path / "m", form)
    assert not list(cache.iterdir())


def test_numbers_too_large_for_a_format_are_named(tmp_path: Path) -> None:
    broken_model(tmp_path, "model.layers.1.self_attn.v_proj.weight", -1e8)
    for form in (Q8, Q4):
        with pytest.raises(ModelFormatError, match=r"v_proj\.weight: holds 1e\+08.*use f32"):
            pack_model(tmp_path, form)
    pack_model(tmp_path, F32)


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_a_tied_head_must_be_a_copy(tmp_path: Path, kind: str) -> None:
    """The copy may be of another type than the embedding."""
    config = write_model(tmp_path)
    tensors = {n: rounded(w, kind) for n, w in file_tensors(random_weights(config)).items()}
    embed = tensors.pop(EMBED)
    for change in (0, 1):
        head = embed.copy()
        head[-1, -1] += change
        halves = {"a": {**tensors, EMBED: embed}, "b": {"lm_head.weight": head}}
        index = {name: f"{half}.safetensors" for half, part in halves.items() for name in part}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(halves["a"], kind=kind))
        (tmp_path / "b.safetensors").write_bytes(safetensors_bytes(halves["b"]))
        if change:
            with pytest.raises(ModelFormatError, match="differs from the embedding"):
                pack_model(tmp_path, F32)
        else:
            assert "head" not in pack_model(tmp_path, F32).segments


def test_packing_needs_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_model(tmp_path, {"vocab_size": 30_000}, kind="BF16", base=QWEN3)
    monkeypatch.setattr("homebox.engine.runtime.pack_weights._PIECE", 1 << 16)
    weights = load_weights(tmp_path)
    list(packed(Q8, np.zeros((1, 64), np.float32)))  # compiles
    tracemalloc.start()
    pack_model(weights, Q8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < config.parameters * 2 / 4


def test_weights_stay_in_the_file_until_they_are_read(directory: Path) -> None:
    weights = load_weights(directory)
    wanted = random_weights(weights.config)
    assert list(weights) == list(weights.config.weight_shapes())
    for name, array in weights.items():
        assert array.tobytes() == rounded(wanted[name], "BF16").tobytes()
        stored = weights.stored(name)
        assert stored.dtype == np.uint16
        assert not stored.flags.owndata and not stored.flags.writeable
        weights.release(name)
        assert weights[name].tobytes() == array.tobytes()
    (directory / "tokenizer.model").unlink()
    assert load_weights(directory).base_hash != weights.base_hash


def test_a_file_that_was_cut_while_it_was_open_is_named(directory: Path) -> None:
    weights = load_weights(directory)
    path = directory / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)  # without the check: a bus error
    with pytest.raises(ModelFormatError, match="was changed while it was open"):
        weights["norm"]


def test_the_folder_keeps_what_was_used_last(
    directory: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {form: pack_model(directory, form).path for form in (F32, Q8)}
    kept, left = paths[F32], paths[Q8]
    assert kept is not None and left is not None
    working, abandoned = cache / "a.tmp", cache / "b.tmp"
    for path in (working, abandoned):
        path.write_bytes(b"x")
    for path, used in ((kept, 20), (left, 10)):
        os.utime(path, ns=(used, path.stat().st_mtime_ns))
    assert pack_model(directory, Q8).path == left  # using it counts, and breaks no seal
    assert left.stat().st_atime_ns > 20
    monkeypatch.setattr(sealed_file, "_LIMIT", left.stat().st_size + kept.stat().st_size // 2)
    pack_model(directory, Q4)
    assert (kept.exists(), left.exists(), working.exists()) == (False, True, True)
    monkeypatch.setattr(sealed_file, "_ABANDONED", -1)
    last = pack_model(directory, BF16).path
    assert last is not None and last.exists()
    assert not working.exists() and not abandoned.exists()


def test_checking_reads_everything(tmp_path: Path) -> None:
    broken_model(tmp_path, "model.layers.1.mlp.up_proj.weight", np.inf)
    weights = load_weights(tmp_path)
    with pytest.raises(ModelFormatError, match=r"up_proj\.weight: holds NaN or infinity"):
        weights.check()
    write_model(tmp_path)
    load_weights(tmp_path).check()


def test_finding_packs_nothing(directory: Path) -> None:
    weights = load_weights(directory)
    assert find_packed(weights, Q8) is None
    pack_model(weights, Q8)
    assert find_packed(weights, Q8) is not None


def test_large_files_are_hashed_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compute = SafetensorsFile.digest

    def counted(file: SafetensorsFile) -> str:
        calls.append(file.path)
        return compute(file)

    monkeypatch.setattr(SafetensorsFile, "digest", counted)
    wanted = load_weights(directory).base_hash
    load_weights(directory)
    assert len(calls) == 2  # small files always
    monkeypatch.setattr(file_digests, "LARGE", 0)
    load_weights(directory)
    load_weights(directory)
    assert len(calls) == 4  # just written: its time of change may not show another write
    monkeypatch.setattr(file_digests, "_SETTLED", 0)
    assert load_weights(directory).base_hash == wanted
    assert load_weights(directory).base_hash == wanted
    assert len(calls) == 5
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    keeping_the_time(path, lambda: path.write_bytes(data))
    assert load_weights(directory).base_hash != wanted
    assert len(calls) == 6


def test_the_choice_of_a_format() -> None:
    small = parse_config(CONFIG)
    large = parse_config({**CONFIG, "vocab_size": 100_000, "hidden_size": 1024})
    assert (choose_format(small), choose_format(large)) == (F32, Q8)
    for name, form in WEIGHTS.items():
        assert choose_format(small, name) is choose_format(large, name) is form
    with pytest.raises(ConfigError, match="auto, f32, bf16, q8, q4, not 'q5'"):
        choose_format(small, "q5")

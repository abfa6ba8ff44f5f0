"""Model directories: what loads, and how every broken one is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import HomeboxError, ModelFormatError, ModelNotFoundError
from homebox.model.architectures.config_file import parse_config
from homebox.model.loading.loader import file_name_of, load_directory
from tests.unit.model_files import (
    CONFIG,
    file_tensors,
    random_weights,
    safetensors_bytes,
    train_tokenizer,
    write_model,
)

EMBED = "model.embed_tokens.weight"
Q1 = "model.layers.1.self_attn.q_proj.weight"


def tensors_of(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return dict(file_tensors(random_weights(parse_config({**CONFIG, **(changes or {})}))))


def save(directory: Path, tensors: dict[str, Any], name: str = "model.safetensors") -> None:
    (directory / name).write_bytes(safetensors_bytes(tensors))


def save_shards(directory: Path, count: int = 3) -> dict[str, str]:
    """Replace the single file by shards and return the weight map."""
    (directory / "model.safetensors").unlink()
    tensors = tensors_of()
    weight_map = {}
    for number in range(count):
        name = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = dict(list(tensors.items())[number::count])
        save(directory, part, name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return weight_map


@pytest.mark.parametrize("tied", [True, False])
def test_loads_every_weight_under_its_own_name(tmp_path: Path, tied: bool) -> None:
    config = write_model(tmp_path, {"tie_word_embeddings": tied})
    loaded = load_directory(tmp_path)
    wanted = random_weights(config)
    assert list(loaded.weights) == list(config.weight_shapes())
    assert ("head" in loaded.weights) is not tied
    for name, array in loaded.weights.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, wanted[name])
    assert loaded.tokenizer.encode("the fish")


def test_names_of_checkpoints() -> None:
    assert file_name_of("embed") == EMBED
    assert file_name_of("layers.1.q") == Q1
    assert file_name_of("layers.10.down") == "model.layers.10.mlp.down_proj.weight"
    assert file_name_of("layers.0.mlp_norm") == "model.layers.0.post_attention_layernorm.weight"


def test_shards_load_like_one_file(tmp_path: Path) -> None:
    write_model(tmp_path)
    whole = load_directory(tmp_path)
    save_shards(tmp_path)
    parts = load_directory(tmp_path)
    assert all(np.array_equal(parts.weights[name], whole.weights[name]) for name in whole.weights)


def test_base_hash_names_the_content(tmp_path: Path) -> None:
    write_model(tmp_path / "a")
    write_model(tmp_path / "b")
    first = load_directory(tmp_path / "a").base_hash
    assert len(first) == 64
    assert load_directory(tmp_path / "b").base_hash == first
    (tmp_path / "b" / "notes.txt").write_text("not part of the model")
    assert load_directory(tmp_path / "b").base_hash == first
    write_model(tmp_path / "b", seed=1)
    assert load_directory(tmp_path / "b").base_hash != first
    write_model(tmp_path / "b", {"rope_theta": 500.0})
    assert load_directory(tmp_path / "b").base_hash != first
    write_model(tmp_path / "b")
    (tmp_path / "b" / "tokenizer.model").write_bytes(train_tokenizer(dummy_prefix=False))
    assert load_directory(tmp_path / "b").base_hash != first


def test_rotary_frequencies_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    write_model(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save(tmp_path, {**tensors_of(), name: np.ones(3, np.float32)})
    assert name not in load_directory(tmp_path).weights


def test_a_stored_copy_of_a_tied_head_must_be_a_copy(tmp_path: Path) -> None:
    write_model(tmp_path)
    tensors = tensors_of()
    save(tmp_path, {**tensors, "lm_head.weight": tensors[EMBED]})
    assert "head" not in load_directory(tmp_path).weights
    save(tmp_path, {**tensors, "lm_head.weight": tensors[EMBED] + 1})
    with pytest.raises(ModelFormatError, match=r"lm_head\.weight: differs"):
        load_directory(tmp_path)


def edit_tensors(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        tensors = tensors_of()
        edit(tensors)
        save(directory, tensors)

    return apply


def edit_index(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        weight_map: dict[str, Any] = dict(save_shards(directory))
        edit(weight_map)
        path = directory / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": weight_map}))

    return apply


def edit_config(**changes: Any) -> Callable[[Path], None]:
    return lambda directory: (
        (directory / "config.json").write_text(json.dumps({**CONFIG, **changes})) and None
    )


def with_nan(tensors: dict[str, Any]) -> None:
    tensors[Q1] = tensors[Q1].copy()
    tensors[Q1][3, 4] = np.nan


def duplicate_shard(directory: Path) -> None:
    weight_map = save_shards(directory)
    names = sorted(set(weight_map.values()))
    (directory / names[1]).write_bytes((directory / names[0]).read_bytes())


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BAD_DIRECTORIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (edit_tensors(lambda t: t.pop(Q1)), "q_proj.weight is missing"),
    "missing tensors": (
        edit_tensors(lambda t: [t.pop(name) for name in list(t)[:6]]),
        "and 3 more are missing",
    ),
    "extra tensor": (
        edit_tensors(lambda t: t.update({"model.extra": t[Q1]})),
        "model.extra is not part of a llama model",
    ),
    "extra layer": (
        edit_tensors(lambda t: t.update({Q1.replace(".1.", ".2."): t[Q1]})),
        "layers.2.self_attn.q_proj.weight is not part",
    ),
    "bias": (
        edit_tensors(lambda t: t.update({Q1.replace("weight", "bias"): t[Q1][0]})),
        "q_proj.bias is not part",
    ),
    "wrong shape": (
        edit_tensors(lambda t: t.update({Q1: t[Q1][:-1]})),
        r"q_proj.weight: shape \[23, 24\] does not fit the configuration, which asks for \[24,",
    ),
    "transposed": (
        edit_tensors(lambda t: t.update({EMBED: t[EMBED].T.copy()})),
        r"embed_tokens.weight: shape \[24, 400\]",
    ),
    "NaN weight": (edit_tensors(with_nan), "q_proj.weight: holds NaN"),
    "truncated": (truncate, "model.safetensors"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors does not"),
    "weights are a folder": (
        lambda d: ((d / "model.safetensors").unlink(), (d / "model.safetensors").mkdir()),
        "no regular file",
    ),
    "no tokenizer": (lambda d: (d / "tokenizer.model").unlink(), "neither tokenizer.json nor tok"),
    "another kind of tokenizer": (
        lambda d: (d / "tokenizer.model").rename(d / "tokenizer.json"),
        "tokenizer.json: not",
    ),
    "broken tokenizer": (
        lambda d: (d / "tokenizer.model").write_bytes(b"\x0a\x7f"),
        "tokenizer.model: model: field 1: cut off",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json does not exist"),
    "untied without a head": (edit_config(tie_word_embeddings=False), "lm_head.weight is missing"),
    "more layers": (edit_config(num_hidden_layers=3), "and 6 more are missing"),
    "vocabulary below the tokenizer": (edit_config(vocab_size=300), "vocab_size: 300 is below"),
    "index names another folder": (
        edit_index(lambda m: m.update({Q1: "../model.safetensors"})),
        "no plain file name",
    ),
    "index names a missing file": (
        edit_index(lambda m: m.update({Q1: "other.safetensors"})),
        "other.safetensors does not exist",
    ),
    "index names the wrong shard": (
        edit_index(lambda m: m.update({Q1: m[EMBED] if m[Q1] != m[EMBED] else m["x"]})),
        "not in model-00001",
    ),
    "index forgets a tensor": (edit_index(lambda m: m.pop(Q1)), "q_proj.weight: not in model.safe"),
    "index without a map": (
        lambda d: (d / "model.safetensors.index.json").write_text("{}"),
        "weight_map",
    ),
    "tensor in two shards": (duplicate_shard, "also in model-00001"),
}


@pytest.mark.parametrize("case", BAD_DIRECTORIES)
def test_broken_directories_are_named(tmp_path: Path, case: str) -> None:
    write_model(tmp_path)
    breaks, message = BAD_DIRECTORIES[case]
    breaks(tmp_path)
    with pytest.raises((ModelFormatError, ModelNotFoundError), match=message) as caught:
        load_directory(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value, HomeboxError)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no directory"):
        load_directory(tmp_path / "absent")


def test_published_weights_load(shared: Path) -> None:
    loaded = load_directory(shared / "data/weights/stories260K")
    assert sum(array.size for array in loaded.weights.values()) == 260_032
    assert (loaded.config.bos_id, loaded.config.eos_ids) == (1, (2,))

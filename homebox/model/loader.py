"""Loads a Hugging Face model directory: config.json, tokenizer.model and *.safetensors.

The one idea: the configuration says exactly which tensors of which shape there must be; every
tensor is either one of those, or ignored for a written reason, or an error.
Invariant: what `load_directory` returns is complete, finite, float32 and in homebox's names.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.config import MAX_JSON_BYTES, ModelConfig, load_config
from homebox.model.safetensors_reader import Float32, SafetensorsFile, read_index
from homebox.model.sentencepiece_file import MAX_MODEL_BYTES
from homebox.model.tokenizer import Tokenizer

_INDEX = "model.safetensors.index.json"
_LAYER_NAMES = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
}
_TOP_NAMES = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}
# Old checkpoints carry the rotary frequencies, which follow from the configuration.
_IGNORED = re.compile(r"^(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything that a model directory holds, checked; `base_hash` names its exact content."""

    config: ModelConfig
    weights: dict[str, Float32]  # the keys and shapes of config.weight_shapes()
    tokenizer: Tokenizer
    base_hash: str  # sha256 over the names and sha256 of the files that were read


def file_name_of(name: str) -> str:
    """Return the name that a Hugging Face checkpoint gives to homebox's weight `name`."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}"


def load_directory(directory: Path) -> LoadedModel:
    """Read and check a model directory.

    Raises ModelNotFoundError if the directory or one of its files is missing, ModelFormatError if
    one is broken, hostile or not supported.
    """
    if not directory.is_dir():
        raise ModelNotFoundError(f"{directory} is no directory with a model")
    config = load_config(directory)
    tokenizer = _load_tokenizer(directory)
    if tokenizer.size > config.vocab_size:
        raise ModelFormatError(
            f"{directory / 'config.json'}: vocab_size: {config.vocab_size} is below the "
            f"{tokenizer.size} pieces of tokenizer.model"
        )
    with ExitStack() as stack:
        files = {
            path.name: stack.enter_context(SafetensorsFile(path)) for path in _files(directory)
        }
        weights = _read_weights(config, _tensor_files(directory, files), directory)
        digests = {name: file.digest() for name, file in files.items()}
    digests |= _small_digests(directory)
    return LoadedModel(config, weights, tokenizer, _combine(digests))


def _load_tokenizer(directory: Path) -> Tokenizer:
    path = directory / "tokenizer.model"
    if not path.exists() and (directory / "tokenizer.json").exists():
        raise ModelFormatError(
            f"{directory / 'tokenizer.json'}: format: only sentencepiece vocabularies "
            "(tokenizer.model) are supported"
        )
    return Tokenizer.from_file(path)


def _files(directory: Path) -> Iterator[Path]:
    if (directory / _INDEX).exists():
        for name in sorted(set(read_index(directory / _INDEX).values())):
            yield directory / name
    else:
        yield directory / "model.safetensors"


def _tensor_files(directory: Path, files: dict[str, SafetensorsFile]) -> dict[str, SafetensorsFile]:
    """Return tensor name -> the file that holds it; index and files must say the same."""
    result: dict[str, SafetensorsFile] = {}
    for file in files.values():
        for name in file.tensors:
            if name in result:
                raise ModelFormatError(f"{file.path}: {name}: also in {result[name].path.name}")
            result[name] = file
    if (directory / _INDEX).exists():
        where = directory / _INDEX
        index = read_index(where)
        for name, file_name in index.items():
            if name not in result or result[name].path.name != file_name:
                raise ModelFormatError(f"{where}: weight_map: {name}: not in {file_name}")
        for name, file in result.items():
            if name not in index:
                raise ModelFormatError(f"{file.path}: {name}: not in {_INDEX}")
    return result


def _read_weights(
    config: ModelConfig, tensors: dict[str, SafetensorsFile], directory: Path
) -> dict[str, Float32]:
    shapes = config.weight_shapes()
    wanted = {file_name_of(name): name for name in shapes}
    _check_names(config, set(wanted), tensors, directory)
    # All shapes first: a wrong one must not cost the reading of gigabytes before it is named.
    for source, name in wanted.items():
        found = tensors[source].tensors[source].shape
        if found != shapes[name]:
            raise ModelFormatError(
                f"{tensors[source].path}: {source}: shape {list(found)} does not fit config.json, "
                f"which asks for {list(shapes[name])}"
            )
    weights = {}
    for source, name in wanted.items():
        array = tensors[source].read(source)
        if not np.isfinite(array).all():
            raise ModelFormatError(f"{tensors[source].path}: {source}: holds NaN or infinity")
        weights[name] = array
    if config.tied and _TOP_NAMES["head"] in tensors:
        _check_tied_head(tensors, weights["embed"])
    return weights


def _check_names(
    config: ModelConfig, wanted: set[str], tensors: dict[str, SafetensorsFile], directory: Path
) -> None:
    missing = sorted(wanted - set(tensors))
    if missing:
        raise ModelFormatError(f"{directory}: weights: {_list(missing)} missing")
    allowed = {_TOP_NAMES["head"]} if config.tied else set()
    extra = sorted(name for name in set(tensors) - wanted - allowed if not _IGNORED.fullmatch(name))
    if extra:
        raise ModelFormatError(
            f"{tensors[extra[0]].path}: weights: {_list(extra)} not part of a "
            f"{config.architecture} model of this configuration"
        )


def _check_tied_head(tensors: dict[str, SafetensorsFile], embed: Float32) -> None:
    """Accept a stored copy of a tied head only if it is a copy."""
    head = tensors[_TOP_NAMES["head"]]
    if not np.array_equal(head.read(_TOP_NAMES["head"]), embed):
        raise ModelFormatError(
            f"{head.path}: {_TOP_NAMES['head']}: differs from the embedding although config.json "
            "says tie_word_embeddings"
        )


def _list(names: list[str]) -> str:
    shown = ", ".join(ascii(name[:80])[1:-1] for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"


def _small_digests(directory: Path) -> dict[str, str]:
    digests = {}
    for name, limit in (
        ("config.json", MAX_JSON_BYTES),
        ("generation_config.json", MAX_JSON_BYTES),
        ("tokenizer.model", MAX_MODEL_BYTES),
    ):
        path = directory / name
        if path.exists():
            with path.open("rb") as file:
                digests[name] = hashlib.sha256(file.read(limit + 1)).hexdigest()
    return digests


def _combine(digests: dict[str, str]) -> str:
    text = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

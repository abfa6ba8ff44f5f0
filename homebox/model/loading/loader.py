"""Loads a Hugging Face model directory: config.json, a tokenizer and *.safetensors.

The one idea: the configuration says exactly which tensors of which shape there must be; every
tensor is either one of those, or ignored for a written reason, or an error.
Invariant: what `load_weights` returns is complete and in homebox's names.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.architectures.checkpoint import TOP, Origin, file_name_of
from homebox.model.architectures.config_file import (
    architecture_of,
    decoder_part,
    load_config,
    parse_config,
    read_config,
)
from homebox.model.config import ModelConfig
from homebox.model.files.quantisation import quantisation
from homebox.model.files.stored import Float32
from homebox.model.files.tensor_store import SafetensorsStore, TensorStore
from homebox.model.loading.loaded_weights import LoadedWeights
from homebox.model.tokenizer.load import Tokenizer, tokenizer_files
from homebox.model.tokenizer.load import load_tokenizer as tokenizer_of

__all__ = ["LoadedModel", "LoadedWeights", "file_name_of", "load_directory", "load_weights"]

MAX_VOCABULARY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything that a model directory holds, checked; `base_hash` names its exact content."""

    config: ModelConfig
    weights: Mapping[str, Float32]  # the keys and shapes of config.weight_shapes()
    tokenizer: Tokenizer
    base_hash: str  # sha256 over the names and sha256 of the files that were read


def load_directory(directory: Path) -> LoadedModel:
    """Read and check a model directory; its weights are copied out as float32.

    Raises ModelNotFoundError if the directory or one of its files is missing, ModelFormatError if
    one is broken, hostile or not supported.
    """
    config = _config(directory)
    tokenizer = load_tokenizer(directory, config)
    found = load_weights(directory)
    weights = {name: found[name] for name in found}
    found.check_tied_head()
    return LoadedModel(config, weights, tokenizer, found.base_hash)


def open_directory(directory: Path) -> LoadedModel:
    """Like `load_directory`, but the weights stay `LoadedWeights`, each checked when it is read."""
    config = _config(directory)
    tokenizer = load_tokenizer(directory, config)
    weights = load_weights(directory)
    return LoadedModel(config, weights, tokenizer, weights.base_hash)


def load_weights(directory: Path) -> LoadedWeights:
    """Open the weights of a model directory, which needs no tokenizer.

    Names, types and shapes are checked here, numbers when they are read. Raises ModelNotFoundError
    and ModelFormatError.
    """
    raw, where = _raw_config(directory), str(directory / "config.json")
    config = parse_config(raw, where)
    store = SafetensorsStore(directory, quantisation(decoder_part(raw, where), where))
    present = set(store.shapes)
    check_counts(config, present, directory)
    origins = architecture_of(raw, where).origins(config, present)
    check_names(config, origins, store, directory)
    check_shapes(origins, store)
    digests = store.digests() | _small_digests(directory)
    tied_copy = TOP["head"] if config.tied and TOP["head"] in present else None
    return LoadedWeights(config, origins, store, tied_copy, _combine(digests))


def _config(directory: Path) -> ModelConfig:
    _raw_config(directory)
    return load_config(directory)


def _raw_config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise ModelNotFoundError(f"{directory} is no directory with a model")
    return read_config(directory)


def load_tokenizer(directory: Path, config: ModelConfig) -> Tokenizer:
    """Read the tokenizer of a model directory; it must fit the configuration."""
    tokenizer = tokenizer_of(directory)
    check_vocabulary(config, tokenizer, directory / "config.json")
    return tokenizer


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, where: Path) -> None:
    """Raise ModelFormatError if a tokenizer has more tokens than the model.

    Steering tokens beyond it (Gemma's names for images) are forgotten.
    """
    if tokenizer.size > config.vocab_size and not tokenizer.narrow(config.vocab_size):
        raise ModelFormatError(
            f"{where}: vocab_size: {config.vocab_size} is below the {tokenizer.size} pieces of the "
            "tokenizer, which seems to be another model's"
        )


def check_counts(config: ModelConfig, present: Collection[str], where: Path) -> None:
    """Raise ModelFormatError if there are too few tensors for what a configuration promises.

    A lower bound that costs nothing: a configuration of a few bytes may name a million experts.
    """
    least = config.num_layers
    if config.experts is not None:
        for i, layer in enumerate(config.layers):
            together = f"model.layers.{i}.mlp.experts.gate_up_proj"
            stacked = together in present or f"{together}_blocks" in present
            least += config.experts.count if layer.sparse and not stacked else 0
    if least > len(present):
        raise ModelFormatError(
            f"{where}: weights: {len(present)} tensors are too few for {config.num_layers} layers, "
            f"which need more than {least}"
        )


def check_shapes(origins: Mapping[str, Origin], store: TensorStore) -> None:
    """Raise ModelFormatError if a stored tensor has another shape than it must have."""
    for origin in origins.values():
        for source in origin.sources:
            found = store.shapes[source.name]
            if found != source.shape:
                raise ModelFormatError(
                    f"{store.place(source.name)}: shape {list(found)} does not fit the "
                    f"configuration, which asks for {list(source.shape)}"
                )


def check_names(
    config: ModelConfig, origins: Mapping[str, Origin], store: TensorStore, where: Path
) -> None:
    """Raise ModelFormatError if stored tensors are missing, or if there are others."""
    wanted = {source.name for origin in origins.values() for source in origin.sources}
    missing = sorted(wanted - set(store.shapes))
    if missing:
        raise ModelFormatError(f"{where}: weights: {_list(missing)} missing")
    allowed = {TOP["head"]} if config.tied else set()
    extra = sorted(set(store.shapes) - wanted - allowed)
    if extra:
        raise ModelFormatError(
            f"{store.place(extra[0])}: weights: {_list(extra)} not part of a "
            f"{config.architecture} model of this configuration"
        )


def _list(names: list[str]) -> str:
    shown = ", ".join(ascii(name[:80])[1:-1] for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"


def _small_digests(directory: Path) -> dict[str, str]:
    digests = {}
    for name in ("config.json", "generation_config.json", *tokenizer_files(directory)):
        path = directory / name
        if path.exists():
            with path.open("rb") as file:
                digests[name] = hashlib.sha256(file.read(MAX_VOCABULARY_BYTES + 1)).hexdigest()
    return digests


def _combine(digests: dict[str, str]) -> str:
    text = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

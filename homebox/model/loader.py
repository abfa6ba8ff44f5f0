"""Loads a Hugging Face model directory: config.json, tokenizer.model and *.safetensors.

The one idea: the configuration says exactly which tensors of which shape there must be; every
tensor is either one of those, or ignored for a written reason, or an error. The numbers stay in
their mapped files until one tensor is asked for, so a large model never exists as float32.
Invariant: what `load_weights` returns is complete and in homebox's names; a tensor that was read is
finite.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.config import MAX_JSON_BYTES, ModelConfig, load_config
from homebox.model.file_digests import remembered_digest
from homebox.model.safetensors_reader import (
    Float32,
    SafetensorsFile,
    Stored,
    finite,
    read_index,
    widened,
)
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
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}
_TOP_NAMES = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}
MAX_VOCABULARY_BYTES = 64 << 20
_COMPARED = 1 << 20  # numbers that are compared at once
# Old checkpoints carry the rotary frequencies, which follow from the configuration.
_IGNORED = re.compile(r"^(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.inv_freq$")


class LoadedWeights(Mapping[str, Float32]):
    """The weights of a model in their mapped files: the keys and shapes of config.weight_shapes().

    Access by name gives a float32 copy of one tensor, checked to be finite; `stored` shows it as it
    lies in the file. `base_hash` names the exact content of the directory. Raises ModelFormatError
    that names file and tensor.
    """

    def __init__(
        self,
        config: ModelConfig,
        sources: dict[str, tuple[SafetensorsFile, str]],
        tied_copy: SafetensorsFile | None,
        base_hash: str,
    ) -> None:
        self.config = config
        self.base_hash = base_hash
        self._sources = sources  # name -> the file, and the name in it
        self._tied_copy = tied_copy

    def __getitem__(self, name: str) -> Float32:
        return widened(self.stored(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def stored(self, name: str, checked: bool = True) -> Stored:
        """Return a tensor as it lies in the file, read-only: float32, float16 or bf16 as uint16.

        `checked` = False leaves to the caller the check for NaN and infinity; see `refuse`.
        """
        file, source = self._sources[name]
        file.prefetch(source)
        array = file.view(source)
        if checked and not finite(array):
            raise self.refuse(name, "holds NaN or infinity")
        return array

    def refuse(self, name: str, reason: str) -> ModelFormatError:
        """Return the error that says what is wrong with a tensor, and where."""
        file, source = self._sources[name]
        return ModelFormatError(f"{file.path}: {source}: {reason}")

    def prefetch(self, name: str) -> None:
        """Say that a tensor will be read soon."""
        file, source = self._sources[name]
        file.prefetch(source)

    def release(self, name: str) -> None:
        """Say that a tensor will not be read again soon, which frees its memory."""
        file, source = self._sources[name]
        file.release(source)

    def check(self) -> None:
        """Read everything, a tensor at a time, and raise for the first one that is not good."""
        for name in self:
            self.stored(name)
            self.release(name)
        self.check_tied_head()

    def check_tied_head(self) -> None:
        """Accept a stored copy of a tied head only if it is a copy."""
        if self._tied_copy is None:
            return
        name = _TOP_NAMES["head"]
        self._tied_copy.prefetch(name)
        copy, embed = self._tied_copy.view(name), self.stored("embed", checked=False)
        same = copy.dtype == embed.dtype
        step = max(1, _COMPARED // max(1, embed.shape[1]))
        for i in range(0, len(embed), step):
            parts = copy[i : i + step], embed[i : i + step]
            if not np.array_equal(*(parts if same else map(widened, parts))):
                raise ModelFormatError(
                    f"{self._tied_copy.path}: {name}: differs from the embedding although "
                    "config.json says tie_word_embeddings"
                )
        self._tied_copy.release(name)
        self.release("embed")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything that a model directory holds, checked; `base_hash` names its exact content."""

    config: ModelConfig
    weights: Mapping[str, Float32]  # the keys and shapes of config.weight_shapes()
    tokenizer: Tokenizer
    base_hash: str  # sha256 over the names and sha256 of the files that were read


def file_name_of(name: str) -> str:
    """Return the name that a Hugging Face checkpoint gives to homebox's weight `name`."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}"


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
    config = _config(directory)
    files = {path.name: SafetensorsFile(path) for path in _files(directory)}
    tensors = _tensor_files(directory, files)
    sources = _sources(config, tensors, directory)
    digests = {name: remembered_digest(file.status, file.digest) for name, file in files.items()}
    digests |= _small_digests(directory)
    copy = tensors.get(_TOP_NAMES["head"]) if config.tied else None
    return LoadedWeights(config, sources, copy, _combine(digests))


def _config(directory: Path) -> ModelConfig:
    if not directory.is_dir():
        raise ModelNotFoundError(f"{directory} is no directory with a model")
    return load_config(directory)


def load_tokenizer(directory: Path, config: ModelConfig) -> Tokenizer:
    """Read the tokenizer of a model directory; it must fit the configuration."""
    tokenizer = _load_tokenizer(directory)
    if tokenizer.size > config.vocab_size:
        raise ModelFormatError(
            f"{directory / 'config.json'}: vocab_size: {config.vocab_size} is below the "
            f"{tokenizer.size} pieces of tokenizer.model"
        )
    return tokenizer


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


def _sources(
    config: ModelConfig, tensors: dict[str, SafetensorsFile], directory: Path
) -> dict[str, tuple[SafetensorsFile, str]]:
    """Return homebox's name -> file and name there; all that can be known without reading holds."""
    shapes = config.weight_shapes()
    wanted = {file_name_of(name): name for name in shapes}
    _check_names(config, set(wanted), tensors, directory)
    if config.tied and _TOP_NAMES["head"] in tensors:
        wanted[_TOP_NAMES["head"]] = "embed"
    for source, name in wanted.items():
        file = tensors[source]
        found, _ = file.find(source)
        if found.shape != shapes[name]:
            raise ModelFormatError(
                f"{file.path}: {source}: shape {list(found.shape)} does not fit config.json, "
                f"which asks for {list(shapes[name])}"
            )
    return {name: (tensors[source], source) for name in shapes for source in [file_name_of(name)]}


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
        ("tokenizer.json", MAX_VOCABULARY_BYTES),
    ):
        if name == "tokenizer.json" and "tokenizer.model" in digests:
            continue  # it is not read then
        path = directory / name
        if path.exists():
            with path.open("rb") as file:
                digests[name] = hashlib.sha256(file.read(limit + 1)).hexdigest()
    return digests


def _combine(digests: dict[str, str]) -> str:
    text = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

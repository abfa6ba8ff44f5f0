"""Opens a GGUF file as a model: configuration, weights in homebox's names, tokenizer.

The one idea: a family's file differs from its Hugging Face checkpoint in names and in the order of
some rows, so the same origins describe it. Invariant: blocks of Q8_0 and Q4_0 are imported without
a change of any number; all other types become what `gguf_format` says.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from homebox.engine.graph.formats import Q4, Q8, Bytes, Format
from homebox.errors import ModelFormatError
from homebox.model.architectures import named
from homebox.model.architectures.checkpoint import Origin, origins
from homebox.model.architectures.config_file import stretched
from homebox.model.config import ModelConfig
from homebox.model.files.config_fields import Fields
from homebox.model.files.file_digests import remembered_digest
from homebox.model.files.json_file import show
from homebox.model.files.stored import Codes, Stored
from homebox.model.gguf import GGUFFile
from homebox.model.gguf.types import GGMLType
from homebox.model.loading.gguf_families import FAMILIES
from homebox.model.loading.gguf_settings import COMMON, FACTORS, LONG, SHORT, TOKENS, Settings
from homebox.model.loading.loaded_weights import LoadedWeights
from homebox.model.loading.loader import LoadedModel, check_names, check_shapes, check_vocabulary
from homebox.model.tokenizer.gguf_vocabulary import tokenizer_of

_UNUSED = {FACTORS, LONG, SHORT}
# Formats of kernels that hold exactly the numbers of a type.
EXACT = {Q8: GGMLType.Q8_0, Q4: GGMLType.Q4_0}
_PLAIN = {GGMLType.F32: "<f4", GGMLType.F16: "<f2", GGMLType.BF16: "<u2"}
_PIECE = 1 << 24  # numbers that are decoded at a time


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def open_gguf(path: Path) -> LoadedModel:
    """Read and check a GGUF file; raises ModelNotFoundError and ModelFormatError."""
    weights = load_gguf_weights(path)
    tokenizer = tokenizer_of(weights.file.metadata, str(path))
    check_vocabulary(weights.config, tokenizer, path)
    return LoadedModel(weights.config, weights, tokenizer, weights.base_hash)


def load_gguf_weights(path: Path) -> "GGUFWeights":
    """Open the weights of a GGUF file, which needs no tokenizer; raises ModelFormatError."""
    return GGUFWeights(GGUFFile(path))


class GGUFStore:
    """The tensors of a GGUF file."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self._shapes = {
            name: tensor.shape
            for name, tensor in file.tensors.items()
            if name not in _UNUSED and not name.endswith("attn_rot_embd.weight")
        }

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor that a decoder might use."""
        return self._shapes

    def numbers(self, name: str) -> Stored:
        """Return a tensor: as it is stored if that is float32, float16 or bf16, else float32."""
        tensor = self.file.tensor(name)
        if tensor.type in _PLAIN:
            return tensor.raw.view(_PLAIN[tensor.type]).reshape(tensor.shape)
        return tensor.dequantize()

    def codes(self, name: str) -> Codes:
        """Return the stored bytes of a tensor, a row of blocks in each row."""
        tensor = self.file.tensor(name)
        return tensor.raw.reshape(tensor.row_count, -1)

    def place(self, name: str) -> str:
        """Return the file and the name of a tensor."""
        return f"{self.file.path}: {name}"

    def prefetch(self, name: str) -> None:
        """Let the disk read a tensor that will be wanted soon."""
        self.file.prefetch(name)

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor that was read."""
        self.file.release(name)


class GGUFWeights(LoadedWeights):
    """The weights of a GGUF file; see `LoadedWeights`."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        config, origin = described(file)
        store = GGUFStore(file)
        check_names(config, origin, store, file.path)
        check_shapes(origin, store)
        for found in origin.values():
            file.tensor(found.sources[0].name)  # its type must be one that can be read
        digest = remembered_digest(file.status, file.digest)
        text = json.dumps({"model.gguf": digest}, sort_keys=True, separators=(",", ":"))
        super().__init__(config, origin, store, None, hashlib.sha256(text.encode()).hexdigest())

    def kind(self, name: str) -> GGMLType:
        """Return the type in which a weight is stored."""
        return self.file.tensor(self._origins[name].sources[0].name).type

    def as_it_lies(self, name: str) -> bool:
        """Whether a weight is a tensor of the file, at most with its rows in another order."""
        return self._origins[name].make is None

    def blocks(self, name: str, form: Format) -> Bytes | None:
        """Return a matrix' quantised blocks if they are the numbers of a format, else None."""
        origin = self._origins[name]
        if EXACT.get(form) != self.kind(name) or origin.make is not None:
            return None
        rows = self._store.codes(origin.sources[0].name)
        if origin.rows is not None:
            rows = rows[origin.rows]
        return np.ascontiguousarray(rows).reshape(-1)

    def pieces(self, name: str) -> Iterator[Stored]:
        """Yield a matrix in pieces of whole panels, as `stored` would return it, not checked."""
        origin, (rows, columns) = self._origins[name], self._shapes[name]
        tensor = self.file.tensor(origin.sources[0].name)
        if tensor.type in _PLAIN or origin.rows is not None:
            yield self.stored(name, checked=False)
            return
        step = max(16, _PIECE // columns // 16 * 16)
        for start in range(0, rows, step):
            yield tensor.rows(start, min(step, rows - start))


def described(file: GGUFFile) -> tuple[ModelConfig, dict[str, Origin]]:
    """Return the configuration of a file, and where its weights lie; only its header is read.

    Raises ModelFormatError for what is no model that runs.
    """
    name = file.metadata.get("general.architecture")
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise ModelFormatError(
            f"{file.path}: split.count: files in parts are not supported; join them with "
            "llama-gguf-split --merge"
        )
    kind = file.metadata.get("general.type", "model")
    if kind == "adapter":
        raise ModelFormatError(
            f"{file.path}: general.type: is an adapter, which needs its base model; "
            '"homebox import adapter PATH" adds it to the base that is served'
        )
    if kind != "model" or name == "clip":
        raise ModelFormatError(
            f"{file.path}: general.type: {show(kind)} of {show(name)} is no language "
            "model; give the file with that, which usually lies beside this one"
        )
    family = FAMILIES.get(name) if isinstance(name, str) else None
    architecture = None if family is None else named(family.model_type)
    if family is None or architecture is None:
        raise ModelFormatError(
            f"{file.path}: general.architecture: {show(name)} is not supported; supported "
            f"architectures: {', '.join(FAMILIES)}"
        )
    if not file.tensors:
        raise ModelFormatError(
            f"{file.path}: tensors: none, only a vocabulary; get the file with the weights"
        )
    settings = Settings(file, family.name)
    raw: dict[str, Any] = settings.common()
    raw |= family.extra(settings)
    shown = {key: f"{family.name}.{name}" for key, name in COMMON.items()} | TOKENS
    config = stretched(architecture.parse(Fields(raw, str(file.path), shown)))
    return config, origins(family.names, config, set(file.tensors))

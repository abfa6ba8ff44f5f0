"""Adapters in whatever form a path has: a PEFT directory or a GGUF file.

The one idea: the form follows from the path, everything else from the base. Invariant: a file is
named by its content, sha256 over the names and hashes of what was read.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from homebox.errors import ModelFormatError, UsageError
from homebox.model.adapter_files.gguf_lora import read_gguf_lora, write_gguf_lora
from homebox.model.adapter_files.modules import Adapter, Fused
from homebox.model.adapter_files.peft import CONFIG_FILE, TENSOR_FILE, read_peft, write_peft
from homebox.model.architectures import named
from homebox.model.config import ModelConfig
from homebox.model.strictmath import Float32

PEFT, GGUF = "peft", "gguf"
FORMATS = (PEFT, GGUF)
_WRITERS = {PEFT: write_peft, GGUF: write_gguf_lora}
_PIECE = 1 << 20


def fused_of(config: ModelConfig) -> Fused:
    """Return which modules of an architecture's files compute several of our projections."""
    architecture = named(config.architecture)
    return architecture.names.fused if architecture is not None else {}


def format_of(path: Path) -> str:
    """Return the format that a path has; what is no GGUF file is taken for a PEFT directory."""
    return GGUF if path.suffix == ".gguf" and not path.is_dir() else PEFT


def read_adapter(path: Path, config: ModelConfig) -> Adapter:
    """Read an adapter for a base; raises ModelFormatError that names file and field."""
    if format_of(path) == GGUF:
        return read_gguf_lora(path, config, fused_of(config))
    return read_peft(path, config, fused_of(config))


def digest_of(path: Path) -> str:
    """Return the sha256 over the names and sha256 of the files of an adapter."""
    files = [path] if format_of(path) == GGUF else [path / CONFIG_FILE, path / TENSOR_FILE]
    digests = {file.name: _digest(file) for file in files}
    text = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                hasher.update(piece)
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read: {error.strerror}") from None
    return hasher.hexdigest()


def write_adapter(
    directory: Path,
    form: str,
    config: ModelConfig,
    tensors: Mapping[str, Float32],
    alpha: float,
    base: str,
) -> list[Path]:
    """Write an adapter into a new or empty directory; return the files.

    Raises UsageError if the directory holds anything or cannot be written, ModelFormatError if the
    tensors are none of an adapter for `config`.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(f"{directory} is not empty; choose a new folder")
        directory.mkdir(parents=True, exist_ok=True)
        return _WRITERS[form](directory, config, tensors, alpha, base, fused_of(config))
    except OSError as error:
        raise UsageError(f"{directory} cannot be written ({error.strerror})") from error

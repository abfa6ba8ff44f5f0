"""Finds the files of a model by what its owner calls it: "tiny", a directory, or a GGUF file."""

import os
from pathlib import Path

from homebox.model.loading.gguf_model import is_gguf, load_gguf_weights, open_gguf
from homebox.model.loading.loaded_weights import LoadedWeights
from homebox.model.loading.loader import LoadedModel, load_weights, open_directory
from homebox.model.loading.mistakes import gguf_in, missing, no_model_file

BUILT_IN = "tiny"


def model_path(path: str | Path) -> Path:
    """Return the directory or GGUF file of a model; "tiny" is the one inside the package.

    A folder without config.json stands for the one GGUF file in it. Raises ModelNotFoundError, and
    ModelFormatError for another kind of file.
    """
    if str(path) == BUILT_IN:
        return Path(__file__).parents[1] / BUILT_IN
    found = Path(path).expanduser()
    if found.is_dir():
        return found if os.path.lexists(found / "config.json") else gguf_in(found)
    if not found.exists():
        raise missing(str(path))
    if not is_gguf(found):
        raise no_model_file(found)
    return found


def model_name(path: str | Path) -> str:
    """Return the name under which a model is spoken of."""
    if str(path) == BUILT_IN:
        return BUILT_IN
    found = model_path(path)
    if not found.is_dir():
        return found.stem
    found = found.resolve()
    # Hugging Face's cache: models--owner--name/snapshots/version
    cached = found.parent.name == "snapshots" and found.parents[1].name.startswith("models--")
    return found.parents[1].name.rpartition("--")[2] if cached else found.name


def open_model(path: str | Path) -> LoadedModel:
    """Read and check a model's files; the weights stay in them, each checked when it is read.

    Raises ModelNotFoundError and ModelFormatError.
    """
    found = model_path(path)
    return open_directory(found) if found.is_dir() else open_gguf(found)


def open_weights(path: str | Path) -> LoadedWeights:
    """Open the weights of a model, which needs no tokenizer; raises as `open_model`."""
    found = model_path(path)
    return load_weights(found) if found.is_dir() else load_gguf_weights(found)

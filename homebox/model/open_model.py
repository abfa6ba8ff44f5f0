"""Finds the files of a model by what its owner calls it: "tiny", a directory, or a GGUF file."""

from pathlib import Path

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.gguf_model import is_gguf, load_gguf_weights, open_gguf
from homebox.model.loaded_weights import LoadedWeights
from homebox.model.loader import LoadedModel, load_weights, open_directory

BUILT_IN = "tiny"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def model_path(path: str | Path) -> Path:
    """Return the directory or GGUF file of a model; "tiny" is the one inside the package.

    Raises ModelNotFoundError, and ModelFormatError for another kind of file.
    """
    if str(path) == BUILT_IN:
        return Path(__file__).parent / BUILT_IN
    found = Path(path).expanduser()
    if found.is_dir():
        return found
    if not found.exists():
        raise ModelNotFoundError(
            f'{found} does not exist; give the folder of a model, a GGUF file, or "{BUILT_IN}"'
        )
    if found.suffix in _PICKLES:
        raise ModelFormatError(
            f"{found}: is a pickle, which can run any code and is never opened; get the model as "
            "safetensors or GGUF"
        )
    if not is_gguf(found):
        raise ModelFormatError(f"{found}: is no folder of a model and no GGUF file")
    return found


def model_name(path: str | Path) -> str:
    """Return the name under which a model is spoken of."""
    if str(path) == BUILT_IN:
        return BUILT_IN
    found = model_path(path).resolve()
    return found.name if found.is_dir() else found.stem


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

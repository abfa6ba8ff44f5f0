"""Says what stands where a model should be, and what to do: mistakes of paths and of downloads.

The one idea: a reader knows what is wrong with a file's bytes; here is what its owner probably did.
Invariant: only names in folders and the first bytes of files are looked at, and nothing is changed.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from homebox.errors import HomeboxError, ModelFormatError, ModelNotFoundError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PARTS = "config.json, tokenizer.json or tokenizer.model, and *.safetensors"
CUT_OFF = "the file may be cut off, get it again"
_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer.model")
_HUB = re.compile(r"(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+(?::[\w.-]+)?)")
_SHOWN = 3  # names that a message lists
_MOST_ENTRIES = 1000  # entries of a folder that are looked at


def disguise(beginning: bytes) -> str:
    """Return what a file that begins so is instead of a model's file, or ""."""
    if not beginning:
        return "is empty; get it again"
    if beginning.startswith(b"version https://git-lfs"):
        return 'is a note of git-lfs about the file, not the file; run "git lfs pull" in its folder'
    if beginning.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not a model; download the file itself"
    return ""


def beginning_of(path: Path) -> bytes:
    """Return the first bytes of a regular file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(64) if path.is_file() else b""
    except OSError:
        return b""


def missing(asked: str) -> ModelNotFoundError:
    """Return the error for a path at which there is nothing."""
    text = _shown(asked)
    if "://" in asked:
        return ModelNotFoundError(
            f'{text} is an address; "homebox pull NAME" brings a model of Hugging Face here, other '
            "files you download yourself; then give a folder or a file"
        )
    name = _HUB.fullmatch(asked)
    if name is not None and not asked.startswith("."):
        return ModelNotFoundError(
            f"{text} is neither a path nor a model on this box; if you mean the model on Hugging "
            f'Face, "homebox pull {name[1]}" brings it here'
        )
    return ModelNotFoundError(
        f"{text} does not exist; give the folder of a model, a GGUF file, a name of "
        '"homebox models list", or "tiny"'
    )


def no_model_file(path: Path) -> ModelFormatError:
    """Return the error for a file that is no GGUF file."""
    known = disguise(beginning_of(path))
    if known:
        return ModelFormatError(f"{path}: {known}")
    if path.suffix in PICKLES:
        return ModelFormatError(
            f"{path}: is a pickle, which can run any code and is never opened; get the model as "
            "safetensors or GGUF"
        )
    if path.suffix == ".safetensors" or path.name in _MODEL_FILES:
        return ModelFormatError(f"{path}: is a part of a model; give its folder, {path.parent}")
    return ModelFormatError(
        f"{path}: is no folder of a model and no GGUF file; a folder holds {PARTS}"
    )


def gguf_in(folder: Path) -> Path:
    """Return the one GGUF file with a model in a folder that is none of Hugging Face's layout.

    Raises the error that says what such a folder holds instead.
    """
    names = _names(folder)
    files = [name for name in names if name.endswith(".gguf")]
    models = [name for name in files if not name.startswith("mmproj")]
    if len(models) == 1:
        return folder / models[0]
    raise _no_model_folder(folder, names, models)


def _no_model_folder(folder: Path, names: list[str], models: list[str]) -> HomeboxError:
    if models:
        return ModelNotFoundError(f"{folder} holds {listed(models)}; give one of these files")
    if "adapter_config.json" in names:
        return ModelFormatError(
            f"{folder}: is an adapter, which needs its base model; "
            '"homebox import adapter PATH" adds it to the base that is served'
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    inner = [str(place) for place in _folders(folder, names) if _is_model(place)]
    if inner:
        return ModelNotFoundError(f"{folder} holds folders of models; give one: {listed(inner)}")
    if pickles and not any(name.endswith(".safetensors") for name in names):
        return no_model_file(folder / pickles[0])
    return ModelNotFoundError(
        f"{folder / 'config.json'} does not exist; a model's folder holds {PARTS}, or one .gguf"
    )


def _folders(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the folders in a folder; of a Hugging Face cache those of its versions."""
    if (folder / "snapshots").is_dir():
        folder, names = folder / "snapshots", _names(folder / "snapshots")
    return [folder / name for name in names if (folder / name).is_dir()]


def _is_model(folder: Path) -> bool:
    names = _names(folder)
    return "config.json" in names or any(name.endswith(".gguf") for name in names)


def _names(folder: Path) -> list[str]:
    """Return the names in a folder, in order; none if it cannot be read."""
    try:
        found = [path.name for path, _ in zip(folder.iterdir(), range(_MOST_ENTRIES), strict=False)]
    except OSError:
        return []
    return sorted(found)


def listed(names: list[str]) -> str:
    """Return the first of some names for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(_shown, names[:_SHOWN])) + more


def _shown(text: str) -> str:
    return ascii(text[:200])[1:-1]

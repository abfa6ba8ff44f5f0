"""Which files of a Hugging Face directory hold its weights, and which tensor lies in which.

The one idea: a name in an index, a link and a file's ending are claims of whoever made the
directory, and are checked before anything is opened.
Invariant: each tensor is in one file, and index and files say the same; no file is opened that lies
outside of the directory or that could run code when it is read.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.files.safetensors_reader import SafetensorsFile, read_index
from homebox.model.loading.mistakes import PARTS, PICKLES, listed

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def open_files(directory: Path) -> dict[str, SafetensorsFile]:
    """Open the files that hold the weights of a directory; file name -> file.

    Raises ModelNotFoundError if there are none, ModelFormatError if one is broken, lies elsewhere,
    or if weights are there only in a form that can run code.
    """
    if os.path.lexists(directory / INDEX):
        names = sorted(set(read_index(directory / INDEX).values()))
        missing = [name for name in names if not os.path.lexists(directory / name)]
        if missing:
            raise ModelNotFoundError(
                f"{directory / missing[0]} does not exist, but {INDEX} names it; get "
                f"{listed(missing)} too"
            )
    elif os.path.lexists(directory / SINGLE):
        names = [SINGLE]
    else:
        raise _nothing(directory)
    return {name: SafetensorsFile(_inside(directory, name)) for name in names}


def tensor_files(
    directory: Path, files: Mapping[str, SafetensorsFile]
) -> dict[str, SafetensorsFile]:
    """Return tensor name -> the file that holds it; index and files must say the same."""
    result: dict[str, SafetensorsFile] = {}
    for file in files.values():
        for name in file.tensors:
            if name in result:
                raise ModelFormatError(f"{file.path}: {name}: also in {result[name].path.name}")
            result[name] = file
    if (directory / INDEX).exists():
        where = directory / INDEX
        index = read_index(where)
        for name, file_name in index.items():
            if name not in result or result[name].path.name != file_name:
                raise ModelFormatError(
                    f"{where}: weight_map: {ascii(name[:80])[1:-1]}: not in {file_name}"
                )
        for name, file in result.items():
            if name not in index:
                raise ModelFormatError(f"{file.path}: {name}: not in {INDEX}")
    return result


def _inside(directory: Path, name: str) -> Path:
    """Return the path of a file, which must not be a link to elsewhere.

    Links into the `blobs` of a Hugging Face cache, whose snapshots consist of them, are good.
    """
    path = directory / name
    if not path.is_symlink():
        return path
    root = directory.resolve()
    try:
        target = path.resolve()
        if not target.exists():
            raise ModelNotFoundError(f"{path} is a link that leads nowhere; get the file again")
    except (OSError, RuntimeError):
        raise ModelFormatError(f"{path}: is a link that leads nowhere") from None
    if target.is_relative_to(root) or target.parent == root.parent.parent / "blobs":
        return path
    raise ModelFormatError(
        f"{path}: is a link to {ascii(str(target))[1:-1]}, outside of the model's directory; "
        "put the file itself there"
    )


def _nothing(directory: Path) -> ModelNotFoundError | ModelFormatError:
    """Return the error for a directory without weights; a pickle is named and never opened."""
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    shards = [name for name in names if name.endswith(".safetensors")]
    if shards:
        return ModelNotFoundError(
            f"{directory / INDEX} does not exist, which says what lies in {listed(shards)}; get it "
            "from where they came from"
        )
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        return ModelFormatError(
            f"{directory / pickles[0]}: is a pickle, which can run any code and is never opened; "
            f"save the model again with safe_serialization=True, as {SINGLE}"
        )
    return ModelNotFoundError(
        f"{directory / SINGLE} does not exist; a model's folder holds {PARTS}"
    )

"""The weights' files of a Hugging Face directory, as one set of tensors with names.

The one idea: whoever asks for a tensor gets numbers; that they lie in one of several files, or as
8 bits with a scale beside them, is settled here, before any of them is read.
Invariant: a `WeightFiles` that exists has each tensor once, index and files say the same, and every
tensor of 8 bit numbers has the scale that fits it. No file is opened that lies outside of the
directory or that could run code when it is read.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.quantisation import KEY, Quantisation
from homebox.model.safetensors_reader import SafetensorsFile, read_index
from homebox.model.stored import (
    FP8_TYPES,
    Codes,
    Stored,
    e8m0,
    fp8_blocks,
    scale_grid,
)

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What torch.save writes is a program for Python's unpickler, which does whatever it says.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SCALE_TYPES = ("F32", "F16", "BF16", "F8_E8M0", "U8")


class WeightFiles:
    """The tensors of a directory; `files` are its open files by name.

    Raises ModelNotFoundError and ModelFormatError, which names file and tensor.
    """

    def __init__(self, directory: Path, quantisation: Quantisation | None = None) -> None:
        self._quantisation = quantisation
        self.files = open_files(directory)
        self._tensors = tensor_files(directory, self.files)
        self._scales = dict(self._find_scales())
        used = set(self._scales.values())
        self.names = frozenset(
            name
            for name in self._tensors
            if name not in used and not (quantisation and quantisation.ignores(name))
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.file(name).info(name).shape

    def numbers(self, name: str) -> Stored:
        """Return a tensor's numbers: read-only in the mapped file, or decoded as float32."""
        file = self.file(name)
        if name not in self._scales:
            return file.view(name)
        scale = self._scale(self._scales[name])
        block = self._block(scale.shape)
        return fp8_blocks(file.codes(name), scale, block, file.info(name).dtype)

    def codes(self, name: str) -> Codes:
        """Return the bytes of a tensor that its user decodes, read-only in the mapped file."""
        return self.file(name).codes(name)

    def prefetch(self, name: str) -> None:
        """Say that a tensor will be read soon."""
        self.file(name).prefetch(name)

    def release(self, name: str) -> None:
        """Say that a tensor will not be read again soon, which frees its memory."""
        self.file(name).release(name)

    def file(self, name: str) -> SafetensorsFile:
        """Return the file that holds a tensor."""
        return self._tensors[name]

    def refuse(self, name: str, reason: str) -> ModelFormatError:
        """Return the error that says what is wrong with a tensor, and where."""
        return ModelFormatError(f"{self.file(name).path}: {name}: {reason}")

    def _find_scales(self) -> Iterator[tuple[str, str]]:
        """Yield each tensor of 8 bit numbers and its scale; raise if there is none that fits."""
        found = self._quantisation
        for name, file in self._tensors.items():
            dtype, shape = file.tensors[name].dtype, file.tensors[name].shape
            if dtype not in FP8_TYPES:
                continue
            if found is None or found.method != "fp8":
                raise self.refuse(name, f"type {dtype} needs {KEY} of method fp8 in config.json")
            names = [each for each in found.scale_names(name) if each in self._tensors]
            if len(names) != 1:
                wanted = " or ".join(found.scale_names(name))
                many = "no scale" if not names else "two scales"
                raise self.refuse(name, f"type {dtype} has {many}; one is needed: {wanted}")
            scale = self.file(names[0]).tensors[names[0]]
            if scale.dtype not in _SCALE_TYPES:
                raise self.refuse(names[0], f"type {scale.dtype} is not supported for a scale")
            block = self._block(scale.shape)
            if scale_grid(shape, scale.shape, block) is None:
                blocks = "without blocks" if block is None else f"in blocks of {list(block)}"
                raise self.refuse(
                    names[0],
                    f"shape {list(scale.shape)} does not fit {list(shape)} {blocks}, "
                    f"see {KEY} in config.json",
                )
            yield name, names[0]

    def _block(self, scale: tuple[int, ...]) -> tuple[int, int] | None:
        return None if self._quantisation is None else self._quantisation.block_of(scale)

    def _scale(self, name: str) -> Stored:
        file = self.file(name)
        if file.tensors[name].dtype in ("F8_E8M0", "U8"):
            return e8m0(file.codes(name))
        return file.view(name)


def open_files(directory: Path) -> dict[str, SafetensorsFile]:
    """Open the files that hold the weights of a directory; file name -> file.

    Raises ModelNotFoundError if there are none, ModelFormatError if one is broken, lies elsewhere,
    or if weights are there only in a form that can run code.
    """
    if os.path.lexists(directory / INDEX):
        names = sorted(set(read_index(directory / INDEX).values()))
    elif os.path.lexists(directory / SINGLE):
        names = [SINGLE]
    else:
        raise _nothing(directory)
    return {name: SafetensorsFile(_inside(directory, name)) for name in names}


def tensor_files(directory: Path, files: dict[str, SafetensorsFile]) -> dict[str, SafetensorsFile]:
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
                    f"{where}: weight_map: {ascii(name)[1:81]}: not in {file_name}"
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
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        return ModelFormatError(
            f"{directory / pickles[0]}: is a pickle, which can run any code and is never opened; "
            f"save the model again with safe_serialization=True, as {SINGLE}"
        )
    return ModelNotFoundError(
        f"{directory / SINGLE} does not exist; a model directory holds config.json, a tokenizer "
        "and *.safetensors"
    )

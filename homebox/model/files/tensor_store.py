"""Stored tensors by name, whatever files they lie in: the bottom of every checkpoint.

The one idea: what comes out is float32, float16 or bfloat16 as it is stored; numbers of 8 bits are
decoded together with their scales, which are no tensors of their own to anybody above.
Invariant: every tensor has one file, and the index, where there is one, says the same as the files.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from homebox.errors import ModelFormatError
from homebox.model.files.file_digests import remembered_digest
from homebox.model.files.quantisation import KEY, Quantisation
from homebox.model.files.safetensors_reader import SafetensorsFile, TensorInfo
from homebox.model.files.stored import FP8_TYPES, Codes, Stored, e8m0, fp8_blocks, scale_grid
from homebox.model.files.weight_files import open_files, tensor_files

# Checkpoints of models that also see keep the decoder under another name.
_DECODER = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")
_DECODER_TOP = "language_model."
# Tensors that a decoder of text does not need, or that follow from others.
_UNUSED = re.compile(
    r"^(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.inv_freq$"
    r"|^(model\.)?(vision_tower|multi_modal_projector|vision_model)\."
)
_EXPONENTS = ("F8_E8M0", "U8")  # types of scales that are powers of two
_SCALES = ("F32", "F16", "BF16", *_EXPONENTS)


class TensorStore(Protocol):
    """Tensors by the names of a checkpoint."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor that a decoder might use."""
        ...

    def numbers(self, name: str) -> Stored:
        """Return a tensor: float32, float16, or bf16 as uint16; not checked for NaN."""
        ...

    def codes(self, name: str) -> Codes:
        """Return the bytes of a tensor of bytes."""
        ...

    def place(self, name: str) -> str:
        """Return the file of a tensor and its name there, for messages."""
        ...

    def prefetch(self, name: str) -> None:
        """Say that a tensor will be read soon."""
        ...

    def release(self, name: str) -> None:
        """Say that a tensor will not be read again soon, which frees its memory."""
        ...


class SafetensorsStore:
    """The tensors of a directory's safetensors files."""

    def __init__(self, directory: Path, quantisation: Quantisation | None = None) -> None:
        self._quantisation = quantisation
        self.files: Mapping[str, SafetensorsFile] = open_files(directory)
        self._homes: dict[str, tuple[SafetensorsFile, str]] = {}
        for own, file in tensor_files(directory, self.files).items():
            name = _canonical(own)
            if name in self._homes:
                raise ModelFormatError(f"{file.path}: {own}: is the same as {self.place(name)}")
            if not self._unused(name):
                self._homes[name] = file, own
        self._scales = {n: self._scale_of(n) for n in self._homes if self._is_fp8(n)}
        scales = set(self._scales.values())
        self._shapes = {name: self._info(name).shape for name in self._homes if name not in scales}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor that a decoder might use."""
        return self._shapes

    def numbers(self, name: str) -> Stored:
        """Return a tensor (see TensorStore); raises ModelFormatError for its type."""
        file, own = self._homes[name]
        if name not in self._scales:
            return file.view(own)
        scale_file, scale = self._homes[self._scales[name]]
        if scale_file.info(scale).dtype in _EXPONENTS:
            factors: Stored = e8m0(scale_file.codes(scale))
        else:
            factors = scale_file.view(scale)
        return fp8_blocks(
            file.codes(own), factors, self._block(factors.shape), file.info(own).dtype
        )

    def codes(self, name: str) -> Codes:
        """Return the bytes of a tensor of bytes."""
        file, own = self._homes[name]
        return file.codes(own)

    def place(self, name: str) -> str:
        """Return the file of a tensor and its name there."""
        file, own = self._homes[name]
        return f"{file.path}: {own}"

    def prefetch(self, name: str) -> None:
        """Let the disk read a tensor that will be wanted soon."""
        file, own = self._homes[name]
        file.prefetch(own)

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor that was read."""
        file, own = self._homes[name]
        file.release(own)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of each file by its name."""
        return {name: remembered_digest(f.status, f.digest) for name, f in self.files.items()}

    def _unused(self, name: str) -> bool:
        ignored = self._quantisation is not None and self._quantisation.ignores(name)
        return ignored or _UNUSED.match(name) is not None

    def _info(self, name: str) -> TensorInfo:
        file, own = self._homes[name]
        return file.info(own)

    def _is_fp8(self, name: str) -> bool:
        return self._info(name).dtype in FP8_TYPES

    def _block(self, scale: tuple[int, ...]) -> tuple[int, int] | None:
        return None if self._quantisation is None else self._quantisation.block_of(scale)

    def _scale_of(self, name: str) -> str:
        """Return the name of the scale of a tensor of 8 bit numbers; raise if none fits."""
        info, found = self._info(name), self._quantisation
        if found is None or found.method != "fp8":
            raise ModelFormatError(
                f"{self.place(name)}: type {info.dtype} needs a {KEY} of method fp8 in config.json"
            )
        names = [each for each in found.scale_names(name) if each in self._homes]
        if len(names) != 1:
            many = "no scale" if not names else "two scales"
            wanted = " or ".join(found.scale_names(name))
            raise ModelFormatError(
                f"{self.place(name)}: type {info.dtype} has {many}; one is needed: {wanted}"
            )
        scale = self._info(names[0])
        if scale.dtype not in _SCALES:
            raise ModelFormatError(
                f"{self.place(names[0])}: type {scale.dtype} is not supported for a scale"
            )
        block = self._block(scale.shape)
        if scale_grid(info.shape, scale.shape, block) is None:
            blocks = "without blocks" if block is None else f"in blocks of {list(block)}"
            raise ModelFormatError(
                f"{self.place(names[0])}: shape {list(scale.shape)} does not fit "
                f"{list(info.shape)} {blocks}, see {KEY} in config.json"
            )
        return names[0]


def _canonical(name: str) -> str:
    """Return a tensor's name as a checkpoint of the decoder alone would have it."""
    if _DECODER.match(name):
        return _DECODER.sub("model.", name)
    return name.removeprefix(_DECODER_TOP)

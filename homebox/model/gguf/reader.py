"""An open GGUF file: metadata, and tensors that are shown where they lie or made float32.

The one idea: a tensor stays in the mapped file and is converted a few rows at a time, so that large
models need no float32 copy of themselves.
Invariant: a `GGUFFile` that exists has a sound header; see `header.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.files.mapped_file import MappedFile
from homebox.model.gguf.bits import Bytes, Float32
from homebox.model.gguf.dequantisers import SUPPORTED, SUPPORTED_NAMES, dequantise_into
from homebox.model.gguf.header import TensorInfo, parse
from homebox.model.gguf.metadata import Value
from homebox.model.gguf.types import BLOCKS, GGMLType


class GGUFFile(MappedFile):
    """One open file; `metadata` and `tensors` in the file's order, read-only.

    Raises ModelNotFoundError, or ModelFormatError naming file and field.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(Path(path))
        try:
            header = parse(b"" if self._map is None else self.mapped("its header"), str(path))
        except BaseException:
            self.close()
            raise
        self.version = header.version
        self.metadata: Mapping[str, Value] = MappingProxyType(header.metadata)
        self.tensors: Mapping[str, GGUFTensor] = MappingProxyType(
            {name: GGUFTensor(self, info) for name, info in header.tensors.items()}
        )

    def tensor(self, name: str) -> "GGUFTensor":
        """Return a tensor whose values can be had.

        Raises ModelFormatError if there is none of that name, or its type is not supported.
        """
        found = self.tensors.get(name)
        if found is None:
            raise ModelFormatError(f"{self.path}: has no tensor {name!r}")
        found.check_type()
        return found

    def prefetch(self, name: str) -> None:
        """Let the disk read a tensor that will be wanted soon."""
        info = self.tensor(name).info
        self.will_need(info.begin, info.end)

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor that was read; it stays readable."""
        info = self.tensor(name).info
        self.wont_need(info.begin, info.end)


class GGUFTensor:
    """A tensor in its file; `shape` has the outermost size first, as numpy has it."""

    def __init__(self, file: MappedFile, info: TensorInfo) -> None:
        self._file = file
        self.info = info

    def __repr__(self) -> str:
        return f"GGUFTensor({self.name!r}, {self.type.name}, {list(self.shape)})"

    @property
    def name(self) -> str:
        """The name in the file."""
        return self.info.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers along each axis, outermost first; 1 to 4 axes."""
        return self.info.shape

    @property
    def type(self) -> GGMLType:
        """How the numbers are stored."""
        return self.info.type

    @property
    def row_count(self) -> int:
        """Rows of the tensor seen as a matrix whose rows are its last axis."""
        return self._numbers // self.shape[-1]

    @property
    def raw(self) -> Bytes:
        """The stored bytes as uint8 (bytes,), read-only and not copied.

        The file must not be changed while the array is used. Raises ModelFormatError if the file
        was closed or cut off.
        """
        data = self._file.mapped(self.name)
        return np.frombuffer(data, np.uint8, self.info.end - self.info.begin, self.info.begin)

    def dequantize(self) -> Float32:
        """Return all values as float32 in the tensor's shape.

        F64 and I32, I64 are rounded. Raises ModelFormatError if the type is not supported.
        """
        return self.rows(0, self.row_count).reshape(self.shape)

    def rows(self, start: int, count: int) -> Float32:
        """Return `count` rows from `start` on as float32 (count, last axis); else as `dequantize`.

        Raises IndexError if there are no such rows.
        """
        self.check_type()
        if not 0 <= start <= start + count <= self.row_count:
            raise IndexError(f"{self.name} has {self.row_count} rows, not {start} + {count}")
        out = np.empty((count, self.shape[-1]), np.float32)
        width = self.shape[-1] // BLOCKS[self.type][0] * BLOCKS[self.type][1]
        dequantise_into(self.type, self.raw[start * width : (start + count) * width], out)
        return out

    def check_type(self) -> None:
        """Raise ModelFormatError unless the type's values can be had."""
        if self.type not in SUPPORTED:
            raise ModelFormatError(
                f"{self._file.path}: {self.name}: type {self.type.name} is not supported; "
                f"supported: {SUPPORTED_NAMES}"
            )

    @property
    def _numbers(self) -> int:
        block, nbytes = BLOCKS[self.type]
        return (self.info.end - self.info.begin) // nbytes * block

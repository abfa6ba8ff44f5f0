"""Reads safetensors files that nobody vouches for.

Format: an 8-byte little-endian length, a JSON header, then the tensors' bytes
(https://huggingface.co/docs/safetensors). The one idea: the whole header is checked against the
file's size before anything is allocated or read.
Invariant: a `SafetensorsFile` that exists describes tensors that lie inside the file, side by side,
without overlaps or holes, each exactly as long as its dtype and shape say.
"""

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.files.json_file import parse_json_object, read_bytes, show
from homebox.model.files.mapped_file import MappedFile
from homebox.model.files.stored import Codes, Float32, Stored, finite, widened
from homebox.model.loading.mistakes import CUT_OFF, disguise

__all__ = ["Float32", "SafetensorsFile", "Stored", "TensorInfo", "finite", "widened"]

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 1 << 17
MAX_SHARDS = 1024
_MAX_NAME = 512
_MAX_AXES = 8
_MAX_DIM = 1 << 40
_MAX_EMPTY = 1 << 56  # an array without numbers must not promise more than memory can address

# Bits per element of every type that the format knows.
_BITS = {"F32": 32, "F16": 16, "BF16": 16}
_BITS |= {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8}
_BITS |= {"I16": 16, "U16": 16, "I32": 32, "U32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64}
# How a readable type's numbers come out of `SafetensorsFile.view`: bf16 as its 16 bits.
READABLE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
# What `SafetensorsFile.codes` shows: numbers that mean nothing without their scales, and scales.
CODED: dict[str, np.dtype[Any]] = {
    name: np.dtype("u1") for name in ("U8", "F8_E4M3", "F8_E5M2", "F8_E8M0")
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `begin` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile(MappedFile):
    """One open file; `tensors` says what it holds, `view` shows and `read` copies a tensor."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header, self._data_start = self._header()
        length = self.status.st_size - self._data_start
        self.tensors, self.metadata = parse_header(header, length, str(path))

    def view(self, name: str) -> Stored:
        """Return the tensor as it lies in the mapped file, read-only; see `READABLE`.

        The file must not be changed while the array is used. Raises as `read` does.
        """
        return self._array(name, READABLE)

    def codes(self, name: str) -> Codes:
        """Return the bytes of a tensor of one of the types `CODED`, in its shape, read-only."""
        return self._array(name, CODED)

    def prefetch(self, name: str) -> None:
        """Let the disk read a tensor that will be wanted soon."""
        info = self.info(name)
        self.will_need(self._data_start + info.begin, self._data_start + info.end)

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor that was read; it stays readable."""
        info = self.info(name)
        self.wont_need(self._data_start + info.begin, self._data_start + info.end)

    def read(self, name: str) -> Float32:
        """Return a float32 copy of the tensor; F16 and BF16 are converted exactly.

        Raises ModelFormatError if there is no such tensor, or its type is none of `READABLE`.
        """
        return widened(self.view(name))

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies; raises ModelFormatError if there is none of that name."""
        info = self.tensors.get(name)
        if info is None:
            raise ModelFormatError(f"{self.path}: has no tensor {_named(name)}")
        return info

    def find(self, name: str) -> tuple[TensorInfo, mmap.mmap]:
        """Return where a tensor lies, and the file's bytes; raises as `read` does."""
        info = self.info(name)
        self._check_type(name, info, READABLE)
        return info, self.mapped(name)

    def _array(self, name: str, types: Mapping[str, np.dtype[Any]]) -> Stored:
        info = self.info(name)
        self._check_type(name, info, types)
        return tensor_in(self.mapped(name), self._data_start, info)

    def _check_type(self, name: str, info: TensorInfo, types: Mapping[str, Any]) -> None:
        if info.dtype not in types:
            raise ModelFormatError(
                f"{self.path}: {name}: type {info.dtype} is not supported; "
                f"supported: {', '.join(types)}"
            )

    def _header(self) -> tuple[bytes, int]:
        """Return the header, and where the tensors' bytes begin."""
        size, where = self.status.st_size, str(self.path)
        if size < 8:
            raise ModelFormatError(f"{where}: header length: the file has only {size} bytes")
        data = self.mapped("its header")
        known = disguise(data[:64])
        if known:
            raise ModelFormatError(f"{where}: {known}")
        length = int.from_bytes(data[:8], "little")
        if length > MAX_HEADER_BYTES:
            raise ModelFormatError(f"{where}: header length: {length} is above {MAX_HEADER_BYTES}")
        if length > size - 8:
            raise ModelFormatError(
                f"{where}: header length: {length} bytes do not fit into a file of {size} bytes; "
                f"{CUT_OFF}"
            )
        return data[8 : 8 + length], 8 + length


def tensor_in(data: mmap.mmap | bytes, data_start: int, info: TensorInfo) -> Stored:
    """Return the tensor at `info` in `data`, whose tensors begin at `data_start`, without a copy.

    The bounds are those of a checked header.
    """
    kind = (READABLE | CODED)[info.dtype]
    count = math.prod(info.shape)
    if count == 0:
        return np.zeros(info.shape, kind)
    return np.frombuffer(data, kind, count, data_start + info.begin).reshape(info.shape)


def parse_header(
    header: bytes, data_length: int, where: str
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return (tensors, metadata) of a header whose tensors fill `data_length` bytes.

    Raises ModelFormatError naming `where` and the field.
    """
    if not header.startswith(b"{"):
        raise ModelFormatError(f"{where}: header: does not begin with an object")
    raw = parse_json_object(header, f"{where}: header")
    metadata = _metadata(raw.pop("__metadata__", {}), where)
    if len(raw) > MAX_TENSORS:
        raise ModelFormatError(f"{where}: header: more than {MAX_TENSORS} tensors")
    tensors = {name: _tensor(name, entry, where) for name, entry in raw.items()}
    check_layout(tensors, data_length, where)
    return tensors, metadata


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ModelFormatError(f"{where}: __metadata__: must map names to texts")
    return value


def _tensor(name: str, entry: Any, where: str) -> TensorInfo:
    def fail(field: str, reason: str) -> ModelFormatError:
        return ModelFormatError(f"{where}: {_named(name)}: {field}: {reason}")

    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise fail("name", f"must be 1 to {_MAX_NAME} printable characters")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise fail("entry", "must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise fail("dtype", f"unknown type {show(dtype)}")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES:
        raise fail("shape", f"must be a list of at most {_MAX_AXES} sizes")
    if not all(type(size) is int and 0 <= size <= _MAX_DIM for size in shape):
        raise fail("shape", f"every size must be a whole number from 0 to {_MAX_DIM}")
    if 0 in shape and math.prod(size or 1 for size in shape) > _MAX_EMPTY:
        raise fail("shape", f"the sizes beside 0 multiply to more than {_MAX_EMPTY}")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise fail("data_offsets", "must be a list of two offsets")
    if not all(type(offset) is int for offset in offsets):
        raise fail("data_offsets", "must be whole numbers")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def check_layout(tensors: Mapping[str, TensorInfo], data_length: int, where: str) -> None:
    """Check that the tensors fill 0 .. `data_length` exactly, each as long as its shape says."""
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        count = 1
        for size in info.shape:
            count *= size
        begin, end = info.begin, info.end
        field = f"{where}: {_named(name)}: data_offsets"
        if not 0 <= begin <= end <= data_length:
            raise ModelFormatError(
                f"{field}: outside of the {data_length} bytes of data; {CUT_OFF}"
            )
        if begin != position:
            kind = "overlap with" if begin < position else "leave a hole after"
            raise ModelFormatError(f"{field}: {kind} the tensor before")
        if (end - begin) * 8 != count * _BITS[info.dtype]:
            raise ModelFormatError(
                f"{field}: {end - begin} bytes do not hold {info.dtype} {list(info.shape)}"
            )
        position = end
    if position != data_length:
        raise ModelFormatError(
            f"{where}: data: {data_length - position} bytes after the last tensor"
        )


def read_index(path: Path) -> dict[str, str]:
    """Return tensor name -> file name of a `model.safetensors.index.json`; see `parse_index`."""
    return parse_index(read_bytes(path, MAX_HEADER_BYTES), str(path))


def parse_index(data: bytes, where: str) -> dict[str, str]:
    """Return tensor name -> file name of an index.

    File names are plain names ending in .safetensors: none of them can leave the directory. Raises
    ModelFormatError naming `where` and the field.
    """
    mapping = parse_json_object(data, where).get("weight_map")
    if not isinstance(mapping, dict) or not 0 < len(mapping) <= MAX_TENSORS:
        raise ModelFormatError(f"{where}: weight_map: must name 1 to {MAX_TENSORS} tensors")
    for tensor, name in mapping.items():
        if not _is_plain_file_name(name):
            raise ModelFormatError(
                f"{where}: weight_map: {_named(tensor)}: {show(name)} is no plain file "
                "name ending in .safetensors"
            )
    if len(set(mapping.values())) > MAX_SHARDS:
        raise ModelFormatError(f"{where}: weight_map: more than {MAX_SHARDS} files")
    return mapping


def _named(tensor: str) -> str:
    """Return a tensor's name for a message."""
    return ascii(tensor[:80])[:80]


def _is_plain_file_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and name.isprintable()
        and not name.startswith(".")
        and not any(mark in name for mark in "/\\:")
        and name.endswith(".safetensors")
    )

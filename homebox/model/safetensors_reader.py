"""Reads safetensors files that nobody vouches for.

Format: an 8-byte little-endian length, a JSON header, then the tensors' bytes
(https://huggingface.co/docs/safetensors). The one idea: the whole header is checked against the
file's size before anything is allocated or read.
Invariant: a `SafetensorsFile` that exists describes tensors that lie inside the file, side by side,
without overlaps or holes, each exactly as long as its dtype and shape say.
"""

import hashlib
import math
import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.config import parse_json_object, read_json_file

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 1 << 15
MAX_SHARDS = 1024
_MAX_NAME = 512
_MAX_AXES = 8
_MAX_DIM = 1 << 40
_HASHED = 64 << 20  # bytes that are hashed before their memory is given back
_CHUNK = 1 << 18  # numbers that are looked at together

# Bits per element of every type that the format knows; homebox loads the first three.
_BITS = {"F32": 32, "F16": 16, "BF16": 16}
_BITS |= {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8}
_BITS |= {"I16": 16, "U16": 16, "I32": 32, "U32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64}
# How a readable type's numbers come out of `SafetensorsFile.view`: bf16 as its 16 bits.
READABLE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

Float32 = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]  # float32, float16, or bf16 as uint16


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `begin` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """One open file; `tensors` says what it holds, `view` shows and `read` copies a tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        descriptor = _open_regular(path)
        try:
            self.status = os.fstat(descriptor)
            size = self.status.st_size
            header, self._data_start = _read_header(descriptor, size, str(path))
            self.tensors, self.metadata = parse_header(header, size - self._data_start, str(path))
            self._map = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelFormatError(f"{path}: cannot be read: {error}") from None
        finally:
            os.close(descriptor)

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the mapping; it lives on while an array that `view` returned does."""
        self._map = None

    def view(self, name: str) -> Stored:
        """Return the tensor as it lies in the mapped file, read-only; see `READABLE`.

        The file must not be changed while the array is used. Raises as `read` does.
        """
        info, data = self.find(name)
        return tensor_in(data, self._data_start, info)

    def prefetch(self, name: str) -> None:
        """Let the disk read a tensor that will be wanted soon; a page at a time is 10x slower."""
        info, _ = self.find(name)
        self._advise("MADV_WILLNEED", self._data_start + info.begin, self._data_start + info.end)

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor that was read; it stays readable."""
        info, _ = self.find(name)
        self._advise("MADV_DONTNEED", self._data_start + info.begin, self._data_start + info.end)

    def read(self, name: str) -> Float32:
        """Return a float32 copy of the tensor; F16 and BF16 are converted exactly.

        Raises ModelFormatError if there is no such tensor, or its type is none of `READABLE`.
        """
        return widened(self.view(name))

    def find(self, name: str) -> tuple[TensorInfo, mmap.mmap]:
        """Return where a tensor lies, and the file's bytes; raises as `read` does."""
        info = self.tensors.get(name)
        if info is None:
            raise ModelFormatError(f"{self.path}: has no tensor {name!r}")
        if info.dtype not in READABLE:
            raise ModelFormatError(
                f"{self.path}: {name}: type {info.dtype} is not supported; "
                f"supported: {', '.join(READABLE)}"
            )
        if self._map is None:
            raise ModelFormatError(f"{self.path}: was closed before {name} was read")
        if self._map.size() != self.status.st_size:  # touching what was cut off ends the process
            raise ModelFormatError(f"{self.path}: was changed while it was open; load it again")
        return info, self._map

    def digest(self) -> str:
        """Return the sha256 of the whole file as 64 hex digits."""
        if self._map is None:
            raise ModelFormatError(f"{self.path}: was closed before it was hashed")
        hasher = hashlib.sha256()
        with memoryview(self._map) as data:
            self._advise("MADV_WILLNEED", 0, _HASHED)
            for begin in range(0, len(data), _HASHED):
                end = begin + _HASHED
                self._advise("MADV_WILLNEED", end, end + _HASHED)
                with data[begin:end] as part:
                    hasher.update(part)
                self._advise("MADV_DONTNEED", begin, end)
        return hasher.hexdigest()

    def _advise(self, name: str, begin: int, end: int) -> None:
        """Tell the system what will be done with the whole pages of a range of the file."""
        advice = getattr(mmap, name, None)
        page = mmap.PAGESIZE
        begin = -(-begin // page) * page
        end = min(end, self.status.st_size) // page * page
        if self._map is not None and advice is not None and end > begin:
            self._map.madvise(advice, begin, end - begin)


def tensor_in(data: mmap.mmap | bytes, data_start: int, info: TensorInfo) -> Stored:
    """Return the tensor at `info` in `data`, whose tensors begin at `data_start`, without a copy.

    The bounds are those of a checked header.
    """
    kind: np.dtype[Any] = READABLE[info.dtype]
    count = math.prod(info.shape)
    if count == 0:
        return np.zeros(info.shape, kind)
    return np.frombuffer(data, kind, count, data_start + info.begin).reshape(info.shape)


def widened(stored: Stored) -> Float32:
    """Return a float32 copy of numbers as `SafetensorsFile.view` shows them."""
    if stored.dtype.kind == "u":
        wide = stored.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return stored.astype(np.float32)


def finite(stored: Stored) -> bool:
    """Whether stored numbers hold neither NaN nor infinity; needs little memory of its own."""
    exponent = {"f4": 0x7F800000, "f2": 0x7C00, "u2": 0x7F80}[stored.dtype.str[1:]]
    words = stored.reshape(-1).view(f"<u{stored.dtype.itemsize}")
    bits = words.dtype.type(exponent)
    return all(
        not ((words[i : i + _CHUNK] & bits) == bits).any() for i in range(0, len(words), _CHUNK)
    )


def _open_regular(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelFormatError(f"{path}: is no regular file")
    return descriptor


def _read_header(descriptor: int, size: int, where: str) -> tuple[bytes, int]:
    if size < 8:
        raise ModelFormatError(f"{where}: header length: the file has only {size} bytes")
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > MAX_HEADER_BYTES:
        raise ModelFormatError(f"{where}: header length: {length} is above {MAX_HEADER_BYTES}")
    if length > size - 8:
        raise ModelFormatError(
            f"{where}: header length: {length} bytes do not fit into a file of {size} bytes"
        )
    header = os.pread(descriptor, length, 8)
    if len(header) != length:
        raise ModelFormatError(f"{where}: header: the file shrank while it was read")
    return header, 8 + length


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
        return ModelFormatError(f"{where}: {ascii(name)[:80]}: {field}: {reason}")

    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise fail("name", f"must be 1 to {_MAX_NAME} printable characters")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise fail("entry", "must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise fail("dtype", f"unknown type {ascii(dtype)[:40]}")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES:
        raise fail("shape", f"must be a list of at most {_MAX_AXES} sizes")
    if not all(type(size) is int and 0 <= size <= _MAX_DIM for size in shape):
        raise fail("shape", f"every size must be a whole number from 0 to {_MAX_DIM}")
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
        field = f"{where}: {ascii(name)[:80]}: data_offsets"
        if not 0 <= begin <= end <= data_length:
            raise ModelFormatError(f"{field}: outside of the {data_length} bytes of data")
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
    """Return tensor name -> file name of a `model.safetensors.index.json`.

    File names are plain names ending in .safetensors: none of them can leave the directory.
    """
    mapping = read_json_file(path, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(mapping, dict) or not 0 < len(mapping) <= MAX_TENSORS:
        raise ModelFormatError(f"{path}: weight_map: must name 1 to {MAX_TENSORS} tensors")
    for tensor, name in mapping.items():
        if not _is_plain_file_name(name):
            raise ModelFormatError(
                f"{path}: weight_map: {ascii(tensor)[:80]}: {ascii(name)[:80]} is no plain file "
                "name ending in .safetensors"
            )
    if len(set(mapping.values())) > MAX_SHARDS:
        raise ModelFormatError(f"{path}: weight_map: more than {MAX_SHARDS} files")
    return mapping


def _is_plain_file_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and name.isprintable()
        and not name.startswith(".")
        and not any(mark in name for mark in "/\\:")
        and name.endswith(".safetensors")
    )

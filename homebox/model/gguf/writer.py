"""Writes small GGUF files: metadata of plain values, and tensors of float32 or float16.

Format: version 3, as `header.py` describes it, all little-endian.
Invariant: the same arguments give the same bytes, and `GGUFFile` reads from them what was given.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homebox.errors import ModelFormatError
from homebox.model.gguf.types import GGMLType

ALIGNMENT = 32
_UINT32, _FLOAT32, _BOOL, _STRING = 4, 6, 7, 8
_TYPES = {"<f4": GGMLType.F32, "<f2": GGMLType.F16}
_MAX_NAME = 63  # bytes that llama.cpp keeps of a tensor's name

Plain = str | bool | int | float


def write_gguf(
    path: Path, metadata: Mapping[str, Plain], tensors: Mapping[str, npt.NDArray[np.floating]]
) -> None:
    """Write a file; whole numbers become uint32, others float32, tensors keep their type.

    Raises ModelFormatError for what the format cannot hold.
    """
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [_text(key), _value(key, value)]
    offset = 0
    for name, tensor in tensors.items():
        kind = _TYPES.get(tensor.dtype.str)
        if kind is None or not 1 <= tensor.ndim <= 4 or len(name.encode()) > _MAX_NAME:
            raise ModelFormatError(
                f"{path}: {name}: {tensor.dtype} {list(tensor.shape)} under a name of "
                f"{len(name.encode())} bytes cannot be written"
            )
        # Sizes stand innermost first.
        sizes = struct.pack(f"<{tensor.ndim}Q", *reversed(tensor.shape))
        head += [_text(name), struct.pack("<I", tensor.ndim), sizes]
        head.append(struct.pack("<IQ", kind, offset))
        offset += _padded(tensor.nbytes)
    start = b"".join(head)
    with path.open("wb") as file:
        file.write(start.ljust(_padded(len(start)), b"\0"))
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes().ljust(_padded(tensor.nbytes), b"\0"))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Plain) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if not 0 <= value < 1 << 32:
        raise ModelFormatError(f"{key}: {value} does not fit into uint32")
    return struct.pack("<II", _UINT32, value)

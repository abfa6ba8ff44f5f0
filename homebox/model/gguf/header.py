"""Reads what stands before the tensors of a GGUF file that nobody vouches for.

Format: magic, version, two counts, metadata (key, type, value), the table of tensors (name, sizes,
type, offset), then from the next multiple of the alignment on the tensors' bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Little-endian files of versions 2 and 3
differ in that number only.
The one idea: every length and count is compared with the bytes that are left before it is used.
Invariant: the tensors of a `Header` that exists lie inside the file behind the header, aligned and
without overlaps, each exactly as long as its type and shape say.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from homebox.errors import ModelFormatError
from homebox.model.gguf.dequantisers import SUPPORTED_NAMES
from homebox.model.gguf.metadata import ALIGNMENT, U32, Data, Reader, Value, read_metadata, shown
from homebox.model.gguf.types import BLOCKS, GGMLType
from homebox.model.loading.mistakes import CUT_OFF

MAX_KEYS = 1 << 12
MAX_TENSORS = 1 << 13
_MAX_NAME = 64
_MAX_AXES = 4
_MIN_ALIGNMENT, _MAX_ALIGNMENT = 8, 1 << 16
_DEFAULT_ALIGNMENT = 32
# Bytes of the shortest entry of the metadata, and of the table.
_LEAST_KEY = 8 + 1 + 4 + 1
_LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

_OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `begin` and `end` count bytes of the file; `shape` outermost first."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself; metadata and tensors in the file's order."""

    version: int
    alignment: int
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]
    data_start: int


class _Entry(NamedTuple):
    """An entry of the table as it is in the file: sizes innermost first, `offset` from the data."""

    name: str
    sizes: tuple[int, ...]
    kind: int
    offset: int


def parse(data: Data, where: str) -> Header:
    """Return the header of a file whose bytes are `data`.

    Raises ModelFormatError naming `where` and the field.
    """
    reader = Reader(data, where)
    version = _version(reader)
    tensors = reader.count("tensor count", _LEAST_TENSOR, MAX_TENSORS)
    keys = reader.count("metadata count", _LEAST_KEY, MAX_KEYS)
    metadata = read_metadata(reader, keys)
    alignment = _alignment(reader, metadata)
    entries = [_entry(reader, number) for number in range(tensors)]
    data_start = -(-reader.position // alignment) * alignment
    table: dict[str, TensorInfo] = {}
    for entry in entries:
        if entry.name in table:
            raise reader.fail(shown(entry.name), "occurs twice in the table of tensors")
        table[entry.name] = _placed(reader, entry, alignment, data_start)
    check_overlaps(table, where)
    return Header(version, alignment, metadata, table, data_start)


def _version(reader: Reader) -> int:
    magic = reader.take(4, "magic")
    if magic in _OLD_MAGICS:
        raise reader.fail("magic", "is that of the formats before GGUF; convert the file anew")
    if magic != b"GGUF":
        raise reader.fail("magic", f"{magic!r} is not GGUF's")
    version: int = reader.scalar(U32, "version")
    if version in (2, 3):
        return version
    if version and version & 0xFFFF == 0:
        raise reader.fail("version", "the file is big-endian; only little-endian is supported")
    raise reader.fail("version", f"{version} is not supported; supported: 2, 3")


def _alignment(reader: Reader, metadata: dict[str, Value]) -> int:
    value = metadata.get(ALIGNMENT, _DEFAULT_ALIGNMENT)
    low, high = _MIN_ALIGNMENT, _MAX_ALIGNMENT
    if type(value) is not int or not low <= value <= high or value & (value - 1):
        raise reader.fail(ALIGNMENT, f"must be a power of two from {low} to {high}")
    return value


def _entry(reader: Reader, number: int) -> _Entry:
    name = reader.name(f"name of tensor {number}", _MAX_NAME)
    field = shown(name)
    axes: int = reader.scalar(U32, field)
    if not 1 <= axes <= _MAX_AXES:
        raise reader.fail(field, f"shape: {axes} axes; must have 1 to {_MAX_AXES}")
    reader.require(8 * axes + 12, field)
    *sizes, kind, offset = struct.unpack_from(f"<{axes}QIQ", reader.data, reader.position)
    reader.position += 8 * axes + 12
    return _Entry(name, tuple(sizes), kind, offset)


def _placed(reader: Reader, entry: _Entry, alignment: int, data_start: int) -> TensorInfo:
    """Check an entry of the table against the file."""
    name, sizes, kind, offset = entry
    field = shown(name)
    try:
        known = GGMLType(kind)
    except ValueError:
        raise reader.fail(field, f"unknown type {kind}; supported: {SUPPORTED_NAMES}") from None
    block, nbytes = BLOCKS[known]
    space = max(reader.size - data_start, 0)
    count = 1
    for size in sizes:
        count *= size
        if not 0 < size < 1 << 63 or count * nbytes > space * block:
            raise reader.fail(
                field,
                f"shape: {list(sizes)} of {known.name} does not fit into {space} bytes; {CUT_OFF}",
            )
    if sizes[0] % block:
        raise reader.fail(
            field, f"shape: a row of {sizes[0]} numbers is no multiple of {known.name}'s {block}"
        )
    if offset % alignment:
        raise reader.fail(field, f"offset: {offset} is no multiple of {alignment}")
    length = count // block * nbytes
    if offset > space - length:
        raise reader.fail(
            field,
            f"offset: {length} bytes at {offset} are beyond the {space} bytes of data; {CUT_OFF}",
        )
    begin = data_start + offset
    return TensorInfo(name, known, sizes[::-1], begin, begin + length)


def check_overlaps(tensors: dict[str, TensorInfo], where: str) -> None:
    """Check that no two tensors share a byte."""
    for before, after in pairwise(sorted(tensors.values(), key=lambda info: info.begin)):
        if after.begin < before.end:
            raise ModelFormatError(
                f"{where}: {shown(after.name)}: offset: overlaps with {shown(before.name)}"
            )

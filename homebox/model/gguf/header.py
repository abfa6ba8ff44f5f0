"""Reads what stands before the tensors of a GGUF file that nobody vouches for.

Format: magic, version, two counts, metadata (key, type, value), the table of tensors (name, sizes,
type, offset), then from the next multiple of the alignment on the tensors' bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Little-endian files of versions 2 and 3
differ in that number only.
The one idea: every length and count is compared with the bytes that are left before it is used.
Invariant: the tensors of a `Header` that exists lie inside the file behind the header, aligned and
without overlaps, each exactly as long as its type and shape say.
"""

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.errors import ModelFormatError
from homebox.model.gguf.types import BLOCKS, GGMLType

MAX_HEADER_BYTES = 128 << 20
MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 15
MAX_STRINGS = 1 << 21  # in arrays; the largest vocabularies have a quarter of them
_MAX_KEY = 65535
_MAX_NAME = 64
_MAX_AXES = 4
_MIN_ALIGNMENT, _MAX_ALIGNMENT = 8, 1 << 16
_DEFAULT_ALIGNMENT = 32
_LEAST_KEY = 8 + 1 + 4 + 1  # bytes of the shortest entry of the metadata, and of the table
_LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

_OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

Data = bytes | mmap.mmap
Value = bool | int | float | str | tuple[str, ...] | npt.NDArray[Any]


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


class _Reader:
    """A place in the file; every read is checked and moves on."""

    def __init__(self, data: Data, where: str) -> None:
        self.data = data
        self.where = where
        self.position = 0
        self.size = len(data)
        self.end = min(self.size, MAX_HEADER_BYTES)
        self.strings = 0  # so far, in arrays

    def fail(self, field: str, reason: str) -> ModelFormatError:
        return ModelFormatError(f"{self.where}: {field}: {reason}")

    def require(self, count: int, field: str) -> None:
        if count > self.end - self.position:
            if self.end < self.size:
                raise self.fail(field, f"the header is above {MAX_HEADER_BYTES} bytes")
            raise self.fail(
                field, f"{count} bytes at {self.position} are beyond the file's {self.size}"
            )

    def scalar(self, form: struct.Struct, field: str) -> Any:
        self.require(form.size, field)
        (value,) = form.unpack_from(self.data, self.position)
        self.position += form.size
        return value

    def take(self, count: int, field: str) -> bytes:
        self.require(count, field)
        begin = self.position
        self.position += count
        return self.data[begin : self.position]

    def text(self, field: str) -> str:
        raw = self.take(self.scalar(_U64, field), field)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(field, "is not UTF-8") from None

    def name(self, field: str, limit: int) -> str:
        length = self.scalar(_U64, field)
        if not 0 < length <= limit:
            raise self.fail(field, f"has {length} bytes; must have 1 to {limit}")
        try:
            text = self.take(length, field).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(field, "is not UTF-8") from None
        if not text.isprintable():
            raise self.fail(field, f"{ascii(text)[:80]} has characters that cannot be printed")
        return text

    def count(self, what: str, least: int, limit: int) -> int:
        """Read how many entries will follow, each of `least` bytes or more."""
        count: int = self.scalar(_U64, what)
        if count > limit:
            raise self.fail(what, f"{count} is above {limit}")
        return count


def parse(data: Data, where: str) -> Header:
    """Return the header of a file whose bytes are `data`.

    Raises ModelFormatError naming `where` and the field.
    """
    reader = _Reader(data, where)
    version = _version(reader)
    tensors = reader.count("tensor count", _LEAST_TENSOR, MAX_TENSORS)
    keys = reader.count("metadata count", _LEAST_KEY, MAX_KEYS)
    reader.require(keys * _LEAST_KEY + tensors * _LEAST_TENSOR, "counts")
    metadata = _metadata(reader, keys)
    alignment = _alignment(reader, metadata)
    entries = [_entry(reader, number) for number in range(tensors)]
    data_start = -(-reader.position // alignment) * alignment
    table: dict[str, TensorInfo] = {}
    for name, kind, shape, offset in entries:
        if name in table:
            raise reader.fail(_shown(name), "occurs twice in the table of tensors")
        table[name] = _placed(reader, name, kind, shape, offset, alignment, data_start)
    check_overlaps(table, where)
    return Header(version, alignment, metadata, table, data_start)


def _version(reader: _Reader) -> int:
    magic = reader.take(4, "magic")
    if magic in _OLD_MAGICS:
        raise reader.fail("magic", "is that of the formats before GGUF; convert the file anew")
    if magic != b"GGUF":
        raise reader.fail("magic", f"{magic!r} is not GGUF's")
    version: int = reader.scalar(_U32, "version")
    if version in (2, 3):
        return version
    if version and version & 0xFFFF == 0:
        raise reader.fail("version", "the file is big-endian; only little-endian is supported")
    raise reader.fail("version", f"{version} is not supported; supported: 2, 3")


def _metadata(reader: _Reader, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for number in range(count):
        key = reader.name(f"metadata key {number}", _MAX_KEY)
        field = _shown(key)
        if key in found:
            raise reader.fail(field, "occurs twice in the metadata")
        found[key] = _value(reader, field, reader.scalar(_U32, field))
    return found


def _value(reader: _Reader, field: str, kind: int) -> Value:
    if kind == _STRING:
        return reader.text(field)
    if kind == _ARRAY:
        return _array(reader, field)
    form = _SCALARS.get(kind)
    if form is None:
        raise reader.fail(field, f"unknown type of value {kind}")
    value: int | float = reader.scalar(form, field)
    if kind == _BOOL:
        if value > 1:
            raise reader.fail(field, f"a bool must be 0 or 1, not {value}")
        return bool(value)
    return value


def _array(reader: _Reader, field: str) -> Value:
    kind: int = reader.scalar(_U32, field)
    count: int = reader.scalar(_U64, field)
    if kind == _STRING:
        return _texts(reader, field, count)
    if kind == _ARRAY:
        raise reader.fail(field, "arrays of arrays are not supported")
    form = _SCALARS.get(kind)
    if form is None:
        raise reader.fail(field, f"unknown type of value {kind} in an array")
    raw = reader.take(count * form.size, field)
    if kind == _BOOL:
        if raw.translate(None, b"\0\1"):
            raise reader.fail(field, "every bool must be 0 or 1")
        return np.frombuffer(raw, np.bool_)
    return np.frombuffer(raw, form.format)


def _texts(reader: _Reader, field: str, count: int) -> tuple[str, ...]:
    """Read an array of strings; vocabularies have hundreds of thousands, so the loop is tight."""
    reader.require(count * _U64.size, field)
    reader.strings += count
    if reader.strings > MAX_STRINGS:
        raise reader.fail(field, f"the arrays hold more than {MAX_STRINGS} strings")
    data, position, end = reader.data, reader.position, reader.end
    length_at = _U64.unpack_from
    texts: list[str] = []
    try:
        for _ in range(count):
            begin = position + 8
            position = begin + length_at(data, position)[0]
            if position > end:
                break
            texts.append(data[begin:position].decode("utf-8"))
    except UnicodeDecodeError:
        raise reader.fail(field, f"string {len(texts)} is not UTF-8") from None
    except struct.error:  # the length itself
        position = end + 1
    if position > end:
        reader.position = end
        reader.require(position - end, f"{field}: string {len(texts)}")
    reader.position = position
    return tuple(texts)


def _alignment(reader: _Reader, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if (
        type(value) is not int
        or not _MIN_ALIGNMENT <= value <= _MAX_ALIGNMENT
        or value & (value - 1)
    ):
        raise reader.fail(
            "general.alignment",
            f"must be a power of two from {_MIN_ALIGNMENT} to {_MAX_ALIGNMENT}",
        )
    return value


def _entry(reader: _Reader, number: int) -> tuple[str, int, tuple[int, ...], int]:
    """Read one entry of the table: name, type, sizes innermost first, offset."""
    name = reader.name(f"name of tensor {number}", _MAX_NAME)
    field = _shown(name)
    axes: int = reader.scalar(_U32, field)
    if not 1 <= axes <= _MAX_AXES:
        raise reader.fail(field, f"shape: {axes} axes; must have 1 to {_MAX_AXES}")
    reader.require(8 * axes + 12, field)
    *sizes, kind, offset = struct.unpack_from(f"<{axes}QIQ", reader.data, reader.position)
    reader.position += 8 * axes + 12
    return name, kind, tuple(sizes), offset


def _placed(
    reader: _Reader,
    name: str,
    kind: int,
    sizes: tuple[int, ...],
    offset: int,
    alignment: int,
    data_start: int,
) -> TensorInfo:
    """Check an entry of the table against the file."""
    field = _shown(name)
    try:
        known = GGMLType(kind)
    except ValueError:
        raise reader.fail(field, f"unknown type {kind}") from None
    block, nbytes = BLOCKS[known]
    space = max(reader.size - data_start, 0)
    count = 1
    for size in sizes:
        count *= size
        if not 0 < size < 1 << 63 or count * nbytes > space * block:
            raise reader.fail(
                field, f"shape: {list(sizes)} of {known.name} does not fit into {space} bytes"
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
            field, f"offset: {length} bytes at {offset} are beyond the {space} bytes of data"
        )
    begin = data_start + offset
    return TensorInfo(name, known, sizes[::-1], begin, begin + length)


def check_overlaps(tensors: dict[str, TensorInfo], where: str) -> None:
    """Check that no two tensors share a byte."""
    for before, after in pairwise(sorted(tensors.values(), key=lambda info: info.begin)):
        if after.begin < before.end:
            raise ModelFormatError(
                f"{where}: {_shown(after.name)}: offset: overlaps with {_shown(before.name)}"
            )


def _shown(name: str) -> str:
    """Return a name as errors show it; what it says is not to be trusted."""
    return name[:80] if name.isascii() else ascii(name)[:80]

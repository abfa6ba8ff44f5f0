"""Reads the metadata of a GGUF file: keys with numbers, texts and arrays of them.

Format: the section on key-value pairs of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
The one idea: every length and count is compared with the bytes that are left before it is used.
Invariant: what is kept is at most a few times larger than the part of the file that it comes from.
"""

import mmap
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.errors import ModelFormatError
from homebox.model.loading.mistakes import CUT_OFF

MAX_HEADER_BYTES = 128 << 20
MAX_STRINGS = 1 << 20  # in arrays; large vocabularies and their merges are two thirds of it
ALIGNMENT = "general.alignment"  # the one key that says how to read the file
_MAX_KEY = 65535

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
U32, U64 = _SCALARS[4], _SCALARS[10]

Data = bytes | mmap.mmap
Value = bool | int | float | str | tuple[str, ...] | npt.NDArray[Any]


class Reader:
    """A place in the file; every read is checked and moves on."""

    def __init__(self, data: Data, where: str) -> None:
        self.data = data
        self.where = where
        self.position = 0
        self.size = len(data)
        self.end = min(self.size, MAX_HEADER_BYTES)
        self.strings = 0  # so far, in arrays

    def fail(self, field: str, reason: str) -> ModelFormatError:
        """Make the error that names file and field."""
        return ModelFormatError(f"{self.where}: {field}: {reason}")

    def require(self, count: int, field: str) -> None:
        """Raise unless `count` bytes are left."""
        if count <= self.end - self.position:
            return
        if self.end < self.size:
            raise self.fail(field, f"the header is above {MAX_HEADER_BYTES} bytes")
        raise self.fail(
            field, f"{count} bytes at {self.position} are beyond the file's {self.size}; {CUT_OFF}"
        )

    def scalar(self, form: struct.Struct, field: str) -> Any:
        """Read one number."""
        self.require(form.size, field)
        (value,) = form.unpack_from(self.data, self.position)
        self.position += form.size
        return value

    def take(self, count: int, field: str) -> bytes:
        """Read `count` bytes."""
        self.require(count, field)
        begin = self.position
        self.position += count
        return self.data[begin : self.position]

    def text(self, field: str, length: int | None = None) -> str:
        """Read a string; its length stands before it, unless it is given."""
        raw = self.take(self.scalar(U64, field) if length is None else length, field)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(field, "is not UTF-8") from None

    def name(self, field: str, limit: int) -> str:
        """Read a string of 1 to `limit` bytes that can be printed on one line."""
        length: int = self.scalar(U64, field)
        if not 0 < length <= limit:
            raise self.fail(field, f"has {length} bytes; must have 1 to {limit}")
        text = self.text(field, length)
        if not text.isprintable():
            raise self.fail(field, f"{ascii(text)[:80]} has characters that cannot be printed")
        return text

    def count(self, field: str, least: int, limit: int) -> int:
        """Read how many entries follow: at most `limit`, each of at least `least` bytes."""
        count: int = self.scalar(U64, field)
        if count > limit:
            raise self.fail(field, f"{count} is above {limit}")
        self.require(count * least, field)
        return count


def read_metadata(reader: Reader, count: int) -> dict[str, Value]:
    """Return `count` keys with their values; raises ModelFormatError naming the key."""
    found: dict[str, Value] = {}
    for number in range(count):
        key = reader.name(f"metadata key {number}", _MAX_KEY)
        field = shown(key)
        if key in found:
            raise reader.fail(field, "occurs twice in the metadata")
        kind: int = reader.scalar(U32, field)
        if key == ALIGNMENT and kind != _UINT32:
            raise reader.fail(field, "must be a uint32")
        found[key] = _value(reader, field, kind)
    return found


def _value(reader: Reader, field: str, kind: int) -> Value:
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


def _array(reader: Reader, field: str) -> Value:
    kind: int = reader.scalar(U32, field)
    count: int = reader.scalar(U64, field)
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


def _texts(reader: Reader, field: str, count: int) -> tuple[str, ...]:
    """Read an array of strings; vocabularies have hundreds of thousands, so the loop is tight."""
    reader.require(count * U64.size, field)
    reader.strings += count
    if reader.strings > MAX_STRINGS:
        raise reader.fail(field, f"the arrays hold more than {MAX_STRINGS} strings")
    data, position, end = reader.data, reader.position, reader.end
    length_at = U64.unpack_from
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


def shown(name: str) -> str:
    """Return a name as errors show it; what it says is not to be trusted."""
    return name[:80] if name.isascii() else ascii(name)[:80]

"""Reads sentencepiece `.model` files that nobody vouches for.

Format: the protocol-buffer message ModelProto of sentencepiece's sentencepiece_model.proto.
The sentencepiece library trusts its input (a damaged normaliser table reads outside of memory), so
it never sees the file: `parse_model` checks every field that homebox uses, and `Vocabulary.pack`
writes a fresh message with those fields alone.
Invariant: a `Vocabulary` that exists is safe to give to the library.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from homebox.errors import ModelFormatError

MAX_MODEL_BYTES = 32 << 20
_MAX_PIECES = 1 << 20
_MAX_PIECE_BYTES = 512
_MAX_REPLACEMENT_BYTES = 1024
SPACE = "\u2581"  # how a piece writes a space

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_SUPPORTED = ("unigram", "bpe")

Field = tuple[int, int, int | bytes]  # number, wire type, value


@dataclass(frozen=True, slots=True)
class VocabularyPiece:
    """One entry of the vocabulary; `kind` is one of NORMAL .. BYTE."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What homebox uses of a `.model` file, checked."""

    pieces: tuple[VocabularyPiece, ...]
    kind: str  # unigram or bpe
    byte_fallback: bool
    space_as_suffix: bool
    unknown_surface: str
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    def with_kinds(self, kinds: dict[int, int]) -> "Vocabulary":
        """Return a copy in which the pieces of these ids have these kinds."""
        pieces = list(self.pieces)
        for index, kind in kinds.items():
            pieces[index] = replace(pieces[index], kind=kind)
        return replace(self, pieces=tuple(pieces))

    def pack(self) -> bytes:
        """Return a ModelProto with exactly these contents."""
        out = bytearray()
        for piece in self.pieces:
            body = _bytes_field(1, piece.text.encode()) + b"\x15" + struct.pack("<f", piece.score)
            out += _bytes_field(1, body + _int_field(3, piece.kind))
        unknown = next((piece.text for piece in self.pieces if piece.kind == UNKNOWN), "<unk>")
        number = next(key for key, name in _KINDS.items() if name == self.kind)
        trainer = _int_field(3, number) + _int_field(4, len(self.pieces))
        trainer += _int_field(24, int(self.space_as_suffix)) + _int_field(35, self.byte_fallback)
        trainer += _bytes_field(44, self.unknown_surface.encode())
        trainer += _bytes_field(45, unknown.encode())
        normalizer = _bytes_field(1, b"homebox") + _bytes_field(2, self.charsmap)
        normalizer += _int_field(3, self.add_dummy_prefix)
        normalizer += _int_field(4, self.remove_extra_whitespaces)
        normalizer += _int_field(5, self.escape_whitespaces)
        return bytes(out + _bytes_field(2, trainer) + _bytes_field(3, normalizer))


def parse_model(data: bytes, where: str) -> Vocabulary:
    """Check the bytes of a `.model` file; raises ModelFormatError naming `where` and the field."""
    if len(data) > MAX_MODEL_BYTES:
        raise ModelFormatError(f"{where}: longer than {MAX_MODEL_BYTES} bytes")
    pieces: list[VocabularyPiece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, wire, value in _fields(data, where, "model"):
        if number in (1, 2, 3) and wire != 2:
            raise ModelFormatError(f"{where}: field {number}: has wire type {wire}, not 2")
        if number == 1:
            if len(pieces) == _MAX_PIECES:
                raise ModelFormatError(f"{where}: pieces: more than {_MAX_PIECES}")
            pieces.append(_piece(_as_bytes(value), where, len(pieces)))
        elif number == 2:
            trainer |= _merge(_as_bytes(value), where, "trainer_spec", _TRAINER)
        elif number == 3:
            normalizer |= _merge(_as_bytes(value), where, "normalizer_spec", _NORMALIZER)
    kind = _KINDS.get(_int(trainer, 3, 1), "unknown")
    if kind not in _SUPPORTED:
        raise ModelFormatError(
            f"{where}: trainer_spec.model_type: {kind} is not supported; supported: "
            f"{', '.join(_SUPPORTED)}"
        )
    charsmap = _as_bytes(normalizer.get(2, b""))
    check_charsmap(charsmap, where)
    vocabulary = Vocabulary(
        pieces=tuple(pieces),
        kind=kind,
        byte_fallback=bool(_int(trainer, 35, 0)),
        space_as_suffix=bool(_int(trainer, 24, 0)),
        unknown_surface=_text(trainer, 44, " \u2047 ", f"{where}: trainer_spec.unk_surface"),
        charsmap=charsmap,
        add_dummy_prefix=bool(_int(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_int(normalizer, 4, 1)),
        escape_whitespaces=bool(_int(normalizer, 5, 1)),
    )
    check_pieces(vocabulary, where)
    return vocabulary


# field number -> wire type of the fields that are used
_TRAINER = {3: 0, 24: 0, 35: 0, 44: 2}
_NORMALIZER = {2: 2, 3: 0, 4: 0, 5: 0}


def check_pieces(vocabulary: Vocabulary, where: str) -> None:
    """Check what pieces must be together: unique, with one UNKNOWN and all bytes or none."""
    pieces = vocabulary.pieces
    texts = [piece.text for piece in pieces]
    if len(set(texts)) != len(texts):
        seen: set[str] = set()
        twice = next(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise ModelFormatError(f"{where}: pieces: {ascii(twice)[:60]} occurs twice")
    unknown = sum(piece.kind == UNKNOWN for piece in pieces)
    if unknown != 1:
        raise ModelFormatError(f"{where}: pieces: {unknown} of type UNKNOWN, there must be one")
    if not any(piece.kind == NORMAL for piece in pieces):
        raise ModelFormatError(f"{where}: pieces: none of type NORMAL")
    values = [byte_of(piece.text) for piece in pieces if piece.kind == BYTE]
    if None in values:
        raise ModelFormatError(f"{where}: pieces: one of type BYTE is not named <0x00> to <0xFF>")
    if vocabulary.byte_fallback != (len(values) == 256) or len(values) not in (0, 256):
        raise ModelFormatError(
            f"{where}: pieces: {len(values)} of type BYTE; there must be 256 with byte_fallback "
            "and none without"
        )
    if len(vocabulary.unknown_surface) > 64:
        raise ModelFormatError(f"{where}: trainer_spec.unk_surface: longer than 64 characters")


def byte_of(text: str) -> int | None:
    """Return the value of a byte piece's name such as <0x0A>, None if it is none."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        digits = text[3:5]
        if all(digit in "0123456789ABCDEF" for digit in digits):
            return int(digits, 16)
    return None


def _piece(body: bytes, where: str, index: int) -> VocabularyPiece:
    field = f"{where}: pieces[{index}]"
    values = _merge(body, where, f"pieces[{index}]", {1: 2, 2: 5, 3: 0})
    raw = _as_bytes(values.get(1, b""))
    if not 0 < len(raw) <= _MAX_PIECE_BYTES:
        raise ModelFormatError(f"{field}.piece: must be 1 to {_MAX_PIECE_BYTES} bytes")
    text = _decode(raw, f"{field}.piece")
    if "\0" in text:
        raise ModelFormatError(f"{field}.piece: holds a NUL character")
    score = struct.unpack("<f", _as_bytes(values.get(2, bytes(4))))[0]
    if not math.isfinite(score):
        raise ModelFormatError(f"{field}.score: is not finite")
    kind = _int(values, 3, NORMAL)
    if not NORMAL <= kind <= BYTE:
        raise ModelFormatError(f"{field}.type: unknown type {kind}")
    return VocabularyPiece(text, score, kind)


def check_charsmap(charsmap: bytes, where: str) -> None:
    """Check a normaliser table so that no text can lead its lookup outside of its memory.

    Layout: 4-byte length, a double-array trie of 32-bit units (darts-clone), then the replacement
    texts, each ended by a NUL. A unit's child for byte c is unit[index ^ offset ^ c].
    """
    field = f"{where}: normalizer_spec.precompiled_charsmap"
    if not charsmap:
        return
    length = int.from_bytes(charsmap[:4], "little")
    texts = charsmap[4 + length :]
    if len(charsmap) < 4 or length % 1024 or length == 0 or 4 + length >= len(charsmap):
        raise ModelFormatError(f"{field}: wrong length of the trie")
    _decode(texts, field)
    if texts[-1] != 0:
        raise ModelFormatError(f"{field}: the last text does not end")
    if max(len(text) for text in texts.split(b"\0")) > _MAX_REPLACEMENT_BYTES:
        raise ModelFormatError(f"{field}: a text is longer than {_MAX_REPLACEMENT_BYTES} bytes")
    units = np.frombuffer(charsmap, dtype="<u4", count=length // 4, offset=4).astype(np.int64)
    inner = units < 1 << 31  # the others hold a value, and no byte leads to them
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    base = (np.arange(len(units), dtype=np.int64) ^ offsets)[inner]
    if np.any(base | 0xFF >= len(units)):
        raise ModelFormatError(f"{field}: the trie points outside of itself")
    leaves = units[base[((units[inner] >> 8) & 1) == 1]] & 0x7FFFFFFF
    if np.any(leaves >= len(texts)):
        raise ModelFormatError(f"{field}: the trie points outside of its texts")


def _fields(data: bytes, where: str, message: str) -> Iterator[Field]:
    """Yield the fields of one protocol-buffer message; 32- and 64-bit values come as bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position, where, message)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ModelFormatError(f"{where}: {message}: field number {number}")
        if wire == 0:
            value, position = _varint(data, position, where, message)
            yield number, wire, value
            continue
        if wire == 2:
            size, position = _varint(data, position, where, message)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ModelFormatError(f"{where}: {message}: field {number}: wire type {wire}")
        if size > len(data) - position:
            raise ModelFormatError(f"{where}: {message}: field {number}: cut off")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: bytes, position: int, where: str, message: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ModelFormatError(f"{where}: {message}: cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelFormatError(f"{where}: {message}: a number is longer than 10 bytes")


def _merge(
    data: bytes, where: str, message: str, expected: dict[int, int]
) -> dict[int, int | bytes]:
    """Return field number -> last value of the fields in `expected`, whose wire types must fit."""
    result: dict[int, int | bytes] = {}
    for number, wire, value in _fields(data, where, message):
        if number in expected:
            if wire != expected[number]:
                raise ModelFormatError(f"{where}: {message}: field {number}: wire type {wire}")
            result[number] = value
    return result


def _as_bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else b""


def _int(values: dict[int, int | bytes], number: int, default: int) -> int:
    value = values.get(number, default)
    return value if isinstance(value, int) else default


def _text(values: dict[int, int | bytes], number: int, default: str, where: str) -> str:
    return _decode(_as_bytes(values[number]), where) if number in values else default


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFormatError(f"{where}: not UTF-8 text") from None


def _bytes_field(number: int, value: bytes) -> bytes:
    return _pack_varint(number << 3 | 2) + _pack_varint(len(value)) + value


def _int_field(number: int, value: int) -> bytes:
    return _pack_varint(number << 3) + _pack_varint(int(value))


def _pack_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

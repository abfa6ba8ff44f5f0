"""Turns text into token ids and back: a sentencepiece vocabulary, and a decoder for streams.

The one idea: text is data. Pieces that steer the model (roles, end of turn, begin, end) are never
produced by encoding text, whatever the text says; only code that names their ids inserts them.
Invariant: the texts that a `StreamDecoder` gives out, joined, are what `decode` returns.
"""

import codecs
import re
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from homebox.errors import ModelFormatError, ModelNotFoundError, RequestError
from homebox.model.sentencepiece_file import (
    BYTE,
    CONTROL,
    MAX_MODEL_BYTES,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    byte_of,
    parse_model,
)

# User-defined pieces are matched inside text by sentencepiece. Ordinary ones ("\n", runs of spaces)
# may be; those that look like a mark of a chat format may not.
_MARK = re.compile(r"<[^<>\s\u2581]+>|\[/?[A-Za-z_]+\]")
# Marks that stand inside an answer and belong to its text; what follows is for a program to read.
CALL_MARKS = ("<tool_call>", "</tool_call>")


class Tokenizer:
    """A vocabulary of `size` pieces.

    `special` maps the text of each steering piece (control pieces, and user-defined ones that look
    like <this> or [THIS]) to its id; `hidden` are the ids of those that decoding leaves out: all
    but the marks of tool calls.
    """

    def __init__(self, vocabulary: Vocabulary, where: str = "tokenizer.model") -> None:
        self.size = len(vocabulary.pieces)
        marks = {
            piece.text: index
            for index, piece in enumerate(vocabulary.pieces)
            if piece.kind == USER_DEFINED and _MARK.fullmatch(piece.text)
        }
        plain = vocabulary.with_kinds(dict.fromkeys(marks.values(), CONTROL))
        self.special = {
            piece.text: index for index, piece in enumerate(plain.pieces) if piece.kind == CONTROL
        }
        calls = {marks[text] for text in CALL_MARKS if text in marks}
        self.hidden = frozenset(self.special.values()) - calls
        self._pieces = tuple(piece.text for piece in vocabulary.pieces)
        self._bytes = [
            b"" if index in self.hidden else _surface(vocabulary, index)
            for index in range(self.size)
        ]
        # Byte pieces are not text for the rule that takes away a leading space.
        self._raw = frozenset(
            index for index, piece in enumerate(vocabulary.pieces) if piece.kind == BYTE
        )
        self.strips_space = vocabulary.add_dummy_prefix or vocabulary.remove_extra_whitespaces
        self.strips_all_spaces = vocabulary.remove_extra_whitespaces
        longest_first = sorted(self.special, key=len, reverse=True)
        self._split = re.compile("|".join(re.escape(text) for text in longest_first) or r"(?!)")
        self._plain = _processor(plain, where)
        self._answer = (
            _processor(plain.with_kinds(dict.fromkeys(calls, USER_DEFINED)), where)
            if calls
            else self._plain
        )

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Read a `.model` file; raises ModelFormatError or ModelNotFoundError."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_MODEL_BYTES + 1)
        except FileNotFoundError:
            raise ModelNotFoundError(f"{path} does not exist") from None
        except OSError as error:
            raise ModelFormatError(f"{path}: cannot be read: {error.strerror}") from None
        return cls(parse_model(data, str(path)), str(path))

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Return the ids of `text`, without begin or end marks.

        With `special`, the texts of steering pieces become those pieces: only for text that this
        program wrote itself. Lone surrogates, which are no text, become U+FFFD.
        """
        text = _repair(text)
        if not special:
            return _run(self._plain, text)
        ids: list[int] = []
        start = 0
        for match in self._split.finditer(text):
            ids += _run(self._plain, text[start : match.start()])
            ids.append(self.special[match.group()])
            start = match.end()
        return ids + _run(self._plain, text[start:])

    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of a text that the assistant wrote: its marks of tool calls count."""
        return _run(self._answer, _repair(text))

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Return the text of `ids`; steering pieces are left out unless `special` shows them.

        Bytes that are no UTF-8 become U+FFFD. A leading space that encoding added is taken away.
        """
        decoder = StreamDecoder(self, special=special)
        return "".join(decoder.push(index) for index in ids) + decoder.flush()

    def piece(self, index: int) -> str:
        """Return the vocabulary's own spelling of a token, for people who debug."""
        return self._pieces[index] if 0 <= index < self.size else f"<{index}>"

    def piece_bytes(self, index: int) -> bytes:
        """Return the bytes that a token stands for; none for steering and padding tokens."""
        if index < 0:
            raise RequestError(f"token id {index} is negative", param="prompt")
        return self._bytes[index] if index < self.size else b""

    def is_text(self, index: int) -> bool:
        """Tell whether the token begins the text: not a steering, padding or single-byte token."""
        return bool(self.piece_bytes(index)) and index not in self._raw


class StreamDecoder:
    """Turns one token after another into text, and never gives out half a character.

    With `continuation`, the ids carry on a text, so that their leading space is part of it.
    """

    def __init__(
        self, tokenizer: Tokenizer, continuation: bool = False, special: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._strip = tokenizer.strips_space and not continuation
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """Return the text that is complete after token `index`; may be empty."""
        if self._special and index in self._tokenizer.hidden:
            return self._utf8.decode(b"", final=True) + self._tokenizer.piece(index)
        data = self._tokenizer.piece_bytes(index)
        if self._strip and data:
            data = self._strip_start(index, data)
        return self._utf8.decode(data)

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", final=True)

    def _strip_start(self, index: int, data: bytes) -> bytes:
        if not self._tokenizer.is_text(index):
            self._strip = False
            return data
        if not self._tokenizer.strips_all_spaces:
            self._strip = False
            return data[1:] if data.startswith(b" ") else data
        stripped = data.lstrip(b" ")
        self._strip = not stripped
        return stripped


def _surface(vocabulary: Vocabulary, index: int) -> bytes:
    piece = vocabulary.pieces[index]
    if piece.kind == CONTROL:
        return b""
    if piece.kind == UNKNOWN:
        return vocabulary.unknown_surface.encode()
    if piece.kind == BYTE:
        value = byte_of(piece.text)
        return b"" if value is None else bytes([value])
    return piece.text.replace(SPACE, " ").encode()


def _processor(vocabulary: Vocabulary, where: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(vocabulary.pack())
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelFormatError(f"{where}: sentencepiece refuses it: {error}") from None
    return processor


def _run(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    return list(processor.EncodeAsIds(text)) if text else []


def _repair(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

"""Tokenizes with a sentencepiece vocabulary that was checked and written anew.

The one idea: what sentencepiece would find in text by itself (user-defined pieces that are marks)
is made a control piece first, which it never finds; a second processor finds the marks of tool
calls, for texts that the assistant wrote.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import sentencepiece

from homebox.errors import ModelFormatError
from homebox.model.files.json_file import read_bytes
from homebox.model.loading.mistakes import disguise
from homebox.model.tokenizer.base import (
    CALL_MARKS,
    MARK,
    After,
    Restore,
    Settings,
    Surfaces,
    Tokenizer,
    repaired,
)
from homebox.model.tokenizer.sentencepiece_file import (
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


class SentencePieceTokenizer(Tokenizer):
    """A vocabulary of a `.model` file, or of a GGUF file of the same kind.

    Steering pieces are the control pieces, and user-defined ones that look like <this> or [THIS].
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        where: str = "tokenizer.model",
        settings: Settings | None = None,
    ) -> None:
        marks = {
            piece.text: index
            for index, piece in enumerate(vocabulary.pieces)
            if piece.kind == USER_DEFINED and MARK.fullmatch(piece.text)
        }
        plain = vocabulary.with_kinds(dict.fromkeys(marks.values(), CONTROL))
        special = {
            piece.text: index for index, piece in enumerate(plain.pieces) if piece.kind == CONTROL
        }
        calls = {marks[text] for text in CALL_MARKS if text in marks}
        hidden = frozenset(special.values()) - calls
        super().__init__(_surfaces(vocabulary), special, hidden, settings or Settings())
        self._where = where
        self._vocabulary = plain
        self._processor = _processor(plain, where)
        self._answer = (
            _processor(plain.with_kinds(dict.fromkeys(calls, USER_DEFINED)), where)
            if calls
            else self._processor
        )

    @classmethod
    def from_file(cls, path: Path, settings: Settings | None = None) -> "SentencePieceTokenizer":
        """Read a `.model` file; raises ModelFormatError or ModelNotFoundError."""
        return cls(read_vocabulary(path), str(path), settings)

    def encode_marked(
        self, text: str, restore: Restore | None = None, after: After = ""
    ) -> list[int]:
        """Return the ids of a text with steering pieces; see `Tokenizer`.

        A space is put before a text that follows a piece if the settings ask for it.
        """
        ids: list[int] = []
        behind_mark = not self.settings.marks_begin
        continued = after == "text" or (after == "mark" and behind_mark)
        swallowed = False
        for section, mark in self._sections(repaired(text)):
            if swallowed:
                section = section.lstrip()
            plain = repaired(section.translate(restore or {}))
            processor = self._continuing if continued else self._processor
            ids += _run(processor, plain)
            continued = continued and not section
            if mark is not None:
                ids.append(self.special[mark])
                swallowed = ids[-1] in self.settings.swallowing
                continued = behind_mark
        return ids

    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of a text that the assistant wrote: its marks of tool calls count."""
        return _run(self._answer, repaired(text))

    def _plain(self, text: str) -> list[int]:
        return _run(self._processor, text)

    @cached_property
    def _continuing(self) -> sentencepiece.SentencePieceProcessor:
        if not self._vocabulary.add_dummy_prefix:
            return self._processor
        return _processor(replace(self._vocabulary, add_dummy_prefix=False), self._where)

    def _sections(self, text: str) -> Iterator[tuple[str, str | None]]:
        """Yield each text between steering pieces with the piece that follows it, if any."""
        start = 0
        for match in self._marks.finditer(text):
            yield text[start : match.start()], match.group()
            start = match.end()
        yield text[start:], None


def read_vocabulary(path: Path) -> Vocabulary:
    """Read and check a `.model` file; raises ModelFormatError or ModelNotFoundError."""
    data = read_bytes(path, MAX_MODEL_BYTES)
    known = disguise(data)
    if known:
        raise ModelFormatError(f"{path}: {known}")
    return parse_model(data, str(path))


def _surfaces(vocabulary: Vocabulary) -> Surfaces:
    pieces = vocabulary.pieces
    return Surfaces(
        spellings=tuple(piece.text for piece in pieces),
        data=tuple(_surface(vocabulary, index) for index in range(len(pieces))),
        raw=frozenset(index for index, piece in enumerate(pieces) if piece.kind == BYTE),
        strips_space=vocabulary.add_dummy_prefix or vocabulary.remove_extra_whitespaces,
        strips_all_spaces=vocabulary.remove_extra_whitespaces,
    )


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

"""Tokenizes with the `tokenizers` package, for `tokenizer.json` and the BPE vocabularies of GGUF.

The one idea: to the package every steering token has a secret name, so that it finds one only where
this program wrote that name. So its own rules about what stands around such tokens apply in full,
and yet no text can name one.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

from homebox.errors import ModelFormatError, RequestError
from homebox.model.files.json_file import read_json_file
from homebox.model.tokenizer.base import After, Restore, Settings, Surfaces, Tokenizer, repaired
from homebox.model.tokenizer.json_tokenizer_file import (
    MAX_FILE_BYTES,
    MAX_ITEMS,
    TokenizerFile,
    check_tokenizer,
)
from homebox.model.tokenizer.sentencepiece_file import SPACE, byte_of


class JsonTokenizer(Tokenizer):
    """A vocabulary with the steps around it, as the `tokenizers` package describes them.

    Steering pieces are added tokens that are special, or look like <this> or [THIS]; the latter
    are visible in answers.
    """

    def __init__(self, file: TokenizerFile, where: str, settings: Settings | None = None) -> None:
        special = {token.text: token.index for token in file.added if token.steers}
        hidden = frozenset(token.index for token in file.added if token.special)
        super().__init__(_surfaces(file), special, hidden, settings or Settings())
        self._names = {text: file.names[index] for text, index in special.items()}
        # A steering token behind which a text is not the first one, and loses nothing.
        keeping = (t["content"] for t in file.clean["added_tokens"] if not t["rstrip"])
        self._begin = next((name for name in keeping if name in file.names.values()), "")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(
                json.dumps(file.clean, ensure_ascii=False, separators=(",", ":"))
            )
        except BaseException as error:
            if not _theirs(error):
                raise
            raise ModelFormatError(f"{where}: the tokenizers package refuses it: {error}") from None

    @classmethod
    def from_file(cls, path: Path, settings: Settings | None = None) -> "JsonTokenizer":
        """Read a `tokenizer.json`; raises ModelFormatError or ModelNotFoundError."""
        return cls(read_tokenizer(path), str(path), settings)

    def encode_marked(
        self, text: str, restore: Restore | None = None, after: After = ""
    ) -> list[int]:
        """Return the ids of a text with steering pieces; see `Tokenizer`."""
        named = self._marks.sub(lambda match: self._names[match.group()], repaired(text))
        named = repaired(named.translate(restore or {}))
        if not after or not named or not self._begin:
            return self._run(named)
        return self._run(self._begin + named)[1:]

    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of a text that the assistant wrote: its visible marks count."""
        named = self._shown.sub(lambda match: self._names[match.group()], repaired(text))
        return self._run(named)

    def _plain(self, text: str) -> list[int]:
        return self._run(text)

    def _run(self, text: str) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except BaseException as error:
            if not _theirs(error):
                raise
            # Oniguruma gives up after ten million steps of a pattern.
            raise RequestError(f"this model's tokenizer gave up: {error}") from None


def read_tokenizer(path: Path) -> TokenizerFile:
    """Read and check a `tokenizer.json`; raises ModelFormatError or ModelNotFoundError."""
    return check_tokenizer(read_json_file(path, MAX_FILE_BYTES, MAX_ITEMS), str(path))


def byte_characters() -> dict[str, int]:
    """Return character -> byte of GPT-2's spelling of bytes (openai/gpt-2, encoder.py)."""
    same = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in same]
    spelled = {chr(value): value for value in same}
    return spelled | {chr(256 + number): value for number, value in enumerate(others)}


def _theirs(error: BaseException) -> bool:
    # A panic of the package's Rust is a BaseException that it does not export.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _surfaces(file: TokenizerFile) -> Surfaces:
    size = max(file.tokens, default=-1) + 1
    spellings = [""] * size
    data = [b""] * size
    raw = set()
    added = {token.index for token in file.added}
    table = str.maketrans({text: chr(value) for text, value in byte_characters().items()})
    for index, text in file.tokens.items():
        spellings[index] = text
        if index in added:
            data[index] = repaired(text).encode()
        elif file.decoder == "bytes":
            data[index] = _spelled_bytes(text, table)
        else:
            value = byte_of(text) if file.byte_fallback else None
            if value is not None:
                raw.add(index)
            plain = text.replace(SPACE, " ")
            data[index] = repaired(plain).encode() if value is None else bytes([value])
    return Surfaces(tuple(spellings), tuple(data), frozenset(raw), file.strips_space)


def _spelled_bytes(text: str, table: dict[int, Any]) -> bytes:
    try:
        return text.translate(table).encode("latin-1")
    except UnicodeEncodeError:
        return repaired(text).encode()

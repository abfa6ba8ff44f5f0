"""Finds the vocabulary of a model, whatever file holds it, and makes a tokenizer of it.

Where a directory has `tokenizer.json` it counts, as in Hugging Face's own libraries; else
`tokenizer.model`.
"""

import os
from pathlib import Path

from homebox.errors import ModelNotFoundError
from homebox.model.files.mapped_file import open_regular
from homebox.model.gguf import GGUFFile
from homebox.model.tokenizer.base import CALL_MARKS, Settings, StreamDecoder, Tokenizer
from homebox.model.tokenizer.gguf_vocabulary import tokenizer_of
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer, read_tokenizer
from homebox.model.tokenizer.sentencepiece_file import CONTROL, USER_DEFINED
from homebox.model.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer, read_vocabulary
from homebox.model.tokenizer.settings import CONFIG, TEMPLATE, end_ids, read_settings

__all__ = ["CALL_MARKS", "StreamDecoder", "Tokenizer", "load_tokenizer", "tokenizer_files"]

MODEL, JSON = "tokenizer.model", "tokenizer.json"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a directory, a `.model`, a `tokenizer.json` or a GGUF file.

    Raises ModelNotFoundError or ModelFormatError naming file and field.
    """
    path = Path(path)
    if path.is_dir():
        return _of_directory(path)
    kind = _kind(path)
    if kind == "gguf":
        with GGUFFile(path) as file:
            return tokenizer_of(file.metadata, str(path))
    if kind == "json":
        found = read_tokenizer(path)
        ids = {text: index for index, text in found.tokens.items()}
        settings = Settings(found.prefix, found.suffix, end_ids(ids.get))
        return JsonTokenizer(found, str(path), settings)
    return SentencePieceTokenizer.from_file(path)


def tokenizer_files(directory: Path) -> tuple[str, ...]:
    """Return the names of the files of a model directory that its tokenizer is made of."""
    vocabulary = JSON if (directory / JSON).exists() else MODEL
    names = (vocabulary, CONFIG, TEMPLATE)
    return tuple(name for name in names if (directory / name).exists())


def _of_directory(directory: Path) -> Tokenizer:
    path = directory / JSON
    if path.exists():
        file = read_tokenizer(path)
        ids = {text: index for index, text in file.tokens.items()}
        settings = read_settings(directory, ids.get, file.prefix, file.suffix)
        return JsonTokenizer(file, str(path), settings)
    path = directory / MODEL
    if not path.exists():
        raise ModelNotFoundError(
            f"{directory} has neither {JSON} nor {MODEL}, so no text can become tokens; get it "
            "from where the model came from"
        )
    vocabulary = read_vocabulary(path)
    steering = {
        piece.text: index
        for index, piece in enumerate(vocabulary.pieces)
        if piece.kind in (CONTROL, USER_DEFINED)
    }
    settings = read_settings(directory, steering.get, None, ())
    return SentencePieceTokenizer(vocabulary, str(path), settings)


def _kind(path: Path) -> str:
    with os.fdopen(open_regular(path), "rb") as file:
        start = file.read(64)
    if start.startswith(b"GGUF"):
        return "gguf"
    return "json" if path.suffix == ".json" or start.lstrip()[:1] == b"{" else "model"

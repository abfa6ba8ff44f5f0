"""Text <-> ids, whatever file holds the vocabulary."""

from homebox.model.tokenizer.base import CALL_MARKS, StreamDecoder, Tokenizer
from homebox.model.tokenizer.load import load_tokenizer, tokenizer_files

__all__ = ["CALL_MARKS", "StreamDecoder", "Tokenizer", "load_tokenizer", "tokenizer_files"]

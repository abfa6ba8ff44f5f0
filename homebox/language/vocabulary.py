"""The vocabulary of the built-in model: a sentencepiece model trained on the generated text.

Values must be cut alike wherever they stand: spaces belong to the word behind them, a text begins
as if a space stood before it, and no piece mixes letters with punctuation. Digits are single
pieces, and any byte can be written.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from homebox.language.generate import Generator
from homebox.language.tools import CALL_END, CALL_START
from homebox.language.turns import Turn

ROLE_PIECES = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|tool|>",
}
END_PIECE = "<|end|>"
_SYMBOLS = (*ROLE_PIECES.values(), END_PIECE, CALL_START, CALL_END, "\n", "'s")


def train_vocabulary(path: Path | None, size: int, documents: int, seed: int) -> bytes:
    """Train a vocabulary of `size` pieces on generated documents and return the model file.

    The same arguments give the same bytes (one thread, no shuffling). Writes the file too where a
    path is given.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(documents, seed),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        character_coverage=1.0,
        user_defined_symbols=list(_SYMBOLS),
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    data = model.getvalue()
    if path is not None:
        path.write_bytes(data)
    return data


def _lines(documents: int, seed: int) -> Iterator[str]:
    generator = Generator(seed)
    for _ in range(documents):
        for turn in generator.document(1.0):
            yield from turn.content.split("\n")


class Vocabulary:
    """Turns documents into ids and loss weights, in the chat format of the built-in model."""

    def __init__(self, model: bytes) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.size: int = self._pieces.get_piece_size()
        self.roles = {role: self._pieces.piece_to_id(p) for role, p in ROLE_PIECES.items()}
        self.end: int = self._pieces.piece_to_id(END_PIECE)

    def encode(self, text: str) -> list[int]:
        """Cut a text into piece ids."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Join piece ids to a text."""
        text: str = self._pieces.decode(ids)
        return text

    def render(self, document: list[Turn]) -> tuple[list[int], list[bool]]:
        """Return the ids of a document and, for each, whether predicting it is a target.

        Every message is its role's piece, its text, and the end piece. Targets are the text and
        the end of the answers that are to be learned.
        """
        ids: list[int] = []
        targets: list[bool] = []
        for turn in document:
            text = self.encode(turn.content)
            ids += [self.roles[turn.role], *text, self.end]
            targets += [False, *(turn.learn for _ in text), turn.learn]
        return ids, targets

"""Runs one sequence to its end: the simple way to generate, for one caller and one thread."""

from collections.abc import Iterator

from homebox.model.generation.contract import Piece
from homebox.model.generation.sequence import Sequence


def run(sequence: Sequence) -> Iterator[Piece]:
    """Yield the pieces of a sequence until it ends; leaving the loop early frees its slot."""
    try:
        while not sequence.finished:
            piece = sequence.step()
            if piece is not None:
                yield piece
    finally:
        sequence.close()


def text_of(sequence: Sequence) -> str:
    """Return the whole answer of a sequence."""
    return "".join(piece.text for piece in run(sequence))

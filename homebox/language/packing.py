"""Packs documents into the rows of a training batch.

A row holds whole documents one behind the other; `segments` numbers them, so that attention stays
within a document. Positions run on through the row, which a rotary embedding does not notice.
"""

from collections.abc import Iterator
from typing import NamedTuple

from homebox.language.generate import Generator
from homebox.language.vocabulary import Vocabulary


class Batch(NamedTuple):
    """Rows of equal length; `weights[r][t]` is 1.0 where `targets[r][t]` is to be predicted.

    `ids`, `targets` and `segments` are piece ids, the ids one position later, and the number of
    the document from 1; 0 is padding.
    """

    ids: list[list[int]]
    targets: list[list[int]]
    weights: list[list[float]]
    segments: list[list[int]]


class Packer:
    """Draws documents from a generator and packs them, always in the same way."""

    def __init__(
        self,
        generator: Generator,
        vocabulary: Vocabulary,
        rows: int,
        length: int,
        waiting: int = 16,
    ) -> None:
        self._generator = generator
        self._vocabulary = vocabulary
        self._rows = rows
        self._length = length
        self._limit = waiting
        self._waiting: list[tuple[list[int], list[bool]]] = []

    def batch(self, progress: float) -> Batch:
        """Pack the next batch for a training that is this far (0 to 1)."""
        packed = [self._row(progress) for _ in range(self._rows)]
        return Batch(*(list(column) for column in zip(*packed, strict=True)))

    def _row(self, progress: float) -> tuple[list[int], list[int], list[float], list[int]]:
        ids: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        segments: list[int] = []
        for number, (document, learn) in enumerate(self._fitting(progress), start=1):
            ids += document
            targets += [*document[1:], 0]
            weights += [*(1.0 if flag else 0.0 for flag in learn[1:]), 0.0]
            segments += [number] * len(document)
        rest = self._length - len(ids)
        padding = [0] * rest
        return ids + padding, targets + padding, weights + [0.0] * rest, segments + padding

    def _fitting(self, progress: float) -> Iterator[tuple[list[int], list[bool]]]:
        room = self._length
        while True:
            while len(self._waiting) < self._limit:
                document = self._vocabulary.render(self._generator.document(progress))
                if len(document[0]) <= self._length:
                    self._waiting.append(document)
            index = next((i for i, (ids, _) in enumerate(self._waiting) if len(ids) <= room), None)
            if index is None:
                return
            document = self._waiting.pop(index)
            room -= len(document[0])
            yield document

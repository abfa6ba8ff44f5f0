"""What the frozen base thinks of the next token: its most probable ids, at places that are asked.

The one idea: two small programs. One reads packed rows and leaves their hidden states in memory,
the other one makes probabilities of a few of them, of which the host keeps the top. Invariant: an
opinion is a function of the base and of the document, to the bit: rows are at most as long as one
split of attention's keys, or hold one document from their beginning, so neighbours change nothing.
"""

import dataclasses
import json
from collections.abc import Generator, Sequence

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, Device, using
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec, capture
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.decoder.gated import capped_logits
from homebox.model.training.batches import Floats, Ints
from homebox.model.training.cross_entropy import buffer_bytes, chunk_rows
from homebox.model.training.distillation import TOP
from homebox.model.training.frozen_base import FrozenBase
from homebox.model.training.packed_rows import Rows
from homebox.model.training.row_decoder import RowDecoder
from homebox.model.training.trainer import Trainable

SPLIT = 256  # keys that attention sums in one go
MOST = 64  # places whose probabilities are computed at a time


@dataclasses.dataclass(frozen=True)
class Asked:
    """A document of the teacher: its tokens, and the places whose next token is asked for."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Opinion:
    """The top of each place asked: ids (P, TOP) int32 and probabilities (P, TOP) float32."""

    ids: Ints
    probabilities: Floats

    def cut(self, lengths: Sequence[int]) -> "list[Opinion]":
        """Return the opinions on documents with so many places each, of which this is all."""
        ends = np.cumsum(lengths)[:-1]
        parts = zip(np.split(self.ids, ends), np.split(self.probabilities, ends), strict=True)
        return [Opinion(ids, probabilities) for ids, probabilities in parts]


class Teacher:
    """The base as a teacher, for documents of at most `length` tokens."""

    def __init__(
        self, model: Trainable, length: int, *, numerics: str = "f32", device: Device = HOST
    ) -> None:
        self.shape = (max(1, SPLIT // length), length)
        self._device = device
        with using(device):
            self._base = FrozenBase.of(model.config, model.base_tensors(), numerics)
            self._decoder = RowDecoder(model.config, self._base, self.shape)
            count, vocabulary = self.shape[0] * length, model.config.vocab_size
            self._hidden = Tensor.zeros((count, model.config.hidden_size))
            self._rows = chunk_rows(min(count, MOST), vocabulary, buffer_bytes(device))
            self._reading = self._read_program()
            self._asking = self._ask_program()

    def opinions(
        self, documents: Sequence[Asked], stop: StopFlag
    ) -> Generator[None, None, list[Opinion]]:
        """Return the opinions on documents, of which none may be longer than a row."""
        found: list[Opinion] = []
        for rows in self._packed(documents):
            yield from self._read(rows, stop)
            places = [np.array(document.places, np.int32) + at for at, document in rows]
            # All places of a batch at once: those of one document would seldom fill a program.
            opinion = yield from self._asked(np.concatenate(places), stop)
            found += opinion.cut([len(each) for each in places])
        return found

    def _packed(self, documents: Sequence[Asked]) -> list[list[tuple[int, Asked]]]:
        """Deal documents out to batches, in order; each with its place in a batch's rows."""
        rows, length = self.shape
        together = length <= SPLIT
        batches: list[list[tuple[int, Asked]]] = []
        row, used = rows, 0
        for document in documents:
            if row < rows and (used + len(document.ids) > length or not together):
                row, used = row + 1, 0
            if row >= rows:
                batches.append([])
                row, used = 0, 0
            batches[-1].append((row * length + used, document))
            used += len(document.ids)
        return batches

    def _read(
        self, documents: Sequence[tuple[int, Asked]], stop: StopFlag
    ) -> Generator[None, None, None]:
        """Leave the hidden states of a batch in memory."""
        ids, segment, position = (np.zeros(self.shape, np.int32) for _ in range(3))
        for number, (at, document) in enumerate(documents, 1):
            size = len(document.ids)
            ids.reshape(-1)[at : at + size] = document.ids
            segment.reshape(-1)[at : at + size] = number
            position.reshape(-1)[at : at + size] = range(size)
        for name, value in (("ids", ids), ("segment", segment), ("position", position)):
            self._reading.set_input(name, value)
        yield from _run(self._reading, stop)

    def _asked(self, places: Ints, stop: StopFlag) -> Generator[None, None, Opinion]:
        parts: list[Opinion] = []
        for start in range(0, len(places), self._rows):
            part = np.zeros(self._rows, np.int32)
            given = places[start : start + self._rows]
            part[: len(given)] = given
            self._asking.set_input("place", part)
            yield from _run(self._asking, stop)
            parts.append(most_probable(self._asking.output(0).numpy()[: len(given)]))
            yield
        ids, p = ([getattr(part, name) for part in parts] for name in ("ids", "probabilities"))
        return Opinion(np.concatenate(ids), np.concatenate(p))

    # -- the graphs -----------------------------------------------------------------------------

    def _key(self) -> str:
        config = dataclasses.asdict(self._base.config)
        about = [self._base.numerics, self._base.layout(), self.shape, self._rows]
        return json.dumps([config, *about])

    def _read_program(self) -> Program:
        def read(ids: Tensor, segment: Tensor, position: Tensor) -> list[Tensor]:
            rows = Rows(ids, segment, position)
            hidden, _ = self._decoder.hidden(rows, self._decoder.layers(rows))
            return [self._hidden.store(self._decoder.normed(hidden))]

        inputs = {name: Spec(self.shape, dt.i32) for name in ("ids", "segment", "position")}
        buffers = self._decoder.buffers() | {"teacher:hidden": self._hidden.buffer}
        return capture(read, inputs, name="teacher reads", key=self._key(), buffers=buffers)

    def _ask_program(self) -> Program:
        def ask(place: Tensor) -> Tensor:
            logits = self._base.forward(self._hidden.gather(place), self._base.head)
            logits = capped_logits(self._base.config, logits).contiguous()
            return (logits.logsumexp().contiguous() * -1.0 + logits).exp()

        buffers = self._decoder.buffers() | {"teacher:hidden": self._hidden.buffer}
        inputs = {"place": Spec((self._rows,), dt.i32)}
        return capture(ask, inputs, name="teacher answers", key=self._key(), buffers=buffers)


def most_probable(probabilities: Floats) -> Opinion:
    """Return the TOP ids of each row (P, V) by falling probability, equal ones by id.

    Where there are fewer ids, -1 with probability 0 follows.
    """
    count, vocabulary = probabilities.shape
    ids = np.full((count, TOP), -1, np.int32)
    found = np.zeros((count, TOP), np.float32)
    kept = min(TOP, vocabulary)
    for row, p in enumerate(probabilities):  # one by one: a copy of all would be many megabytes
        likely = np.flatnonzero(p >= np.partition(p, vocabulary - kept)[vocabulary - kept])
        # Stable, so that of equal ones the first id stands first.
        best = likely[np.argsort(-p[likely], kind="stable")][:kept]
        ids[row, :kept], found[row, :kept] = best, p[best]
    return Opinion(ids, found)


def _run(program: Program, stop: StopFlag) -> Generator[None, None, None]:
    finished = program.run(stop=stop)
    while not finished:
        yield
        finished = program.resume(stop)

"""The embedding of a text: the mean of the model's last hidden states, computed piece by piece.

The one idea: it takes a slot like an answer and one chunk a step, so answers go on beside it.
Invariant: the same ids and weights give the same bits, whatever else runs; the slot is given back
exactly once.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Ids
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homebox.model.adapters import Adapters, Slots
from homebox.model.config import ModelConfig
from homebox.model.passing import own_slot
from homebox.model.prefixes.sharing import Prefixes
from homebox.model.strictmath import Float32

CHUNK = 64  # ids of a step: the rows of the program that returns all hidden states


class Hidden(Protocol):
    """The part of the transformer that an embedding needs."""

    def hidden_part(
        self, slot: int, position: int, ids: npt.NDArray[np.int32], adapter: int
    ) -> Float32:
        """Return the last hidden states of at most 64 ids at a position of a slot, (T, H)."""
        ...

    def release(self, slot: int) -> None:
        """Give the memory of a slot back."""
        ...


class Embedder(Protocol):
    """The part of a model that an embedding needs."""

    config: ModelConfig
    context: int
    adapters: Adapters
    slots: Slots
    prefixes: Prefixes

    @property
    def transformer(self) -> Hidden:
        """What computes."""
        ...


def embedding(model: Embedder, ids: Ids[int], adapter: str) -> Iterator[Float32 | None]:
    """Yield None for each step but the last, which yields the vector, float32 (hidden_size,).

    States are added in float64, one after the other, so that the sum has one order everywhere. The
    iterator belongs to the thread that owns the model; whoever leaves it early closes it. Raises
    ContextLengthError, RequestError, ModelNotFoundError and NoFreeSlotError at the first step.
    """
    with own_slot(model, ids, adapter) as (slot, index):
        total = np.zeros(model.config.hidden_size)
        array = np.array(ids, dtype=np.int32)
        for at in range(0, len(array), CHUNK):
            for state in model.transformer.hidden_part(slot, at, array[at : at + CHUNK], index):
                total += state
            if at + CHUNK < len(array):
                yield None
        yield (total / len(array)).astype(np.float32)

"""Takes a text in, piece by piece, in a slot of its own: for whoever wants more than its last row.

The one idea: like an answer it has a slot and its memory from the start, and between two pieces
others may compute. Invariant: nothing of it is shared with anybody, and the slot is given back
exactly once, also where the one who asked leaves early.
"""

from collections.abc import Generator, Iterator
from collections.abc import Sequence as Ids
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import numpy as np

from homebox.model.adapters import Adapters, Slots
from homebox.model.config import ModelConfig
from homebox.model.generation.contract import Forward
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import SamplingParams
from homebox.model.generation.stepping import ROWS, check_prompt
from homebox.model.prefixes.sharing import Prefixes
from homebox.model.strictmath import Float32

Passing: TypeAlias = Generator[tuple[int, Float32], None, None]


class Releasing(Protocol):
    """The part of the transformer that a slot needs."""

    def release(self, slot: int) -> None:
        """Give the memory of a slot back."""
        ...


class Roomy(Protocol):
    """The part of a model that has slots and the memory for them."""

    config: ModelConfig
    context: int
    adapters: Adapters
    slots: Slots
    prefixes: Prefixes

    @property
    def transformer(self) -> Releasing:
        """What computes."""
        ...


class Reader(Roomy, Protocol):
    """The part of a model that `passed` needs."""

    @property
    def transformer(self) -> Forward:
        """What computes."""
        ...


@contextmanager
def own_slot(model: Roomy, ids: Ids[int], adapter: str) -> Iterator[tuple[int, int]]:
    """Give a slot with the memory for `ids`, and the adapter's number, for as long as the block.

    Raises ContextLengthError, RequestError, ModelNotFoundError and NoFreeSlotError.
    """
    check_prompt(ids, model.config.vocab_size, model.context + 1)
    index = model.adapters.take(adapter)
    slot = -1
    try:
        slot = model.slots.take()
        # Nobody's, so that nothing is shared; only the memory is set aside.
        nobody = GenerationRequest(ids, SamplingParams(), adapter)
        model.prefixes.begin(slot, nobody, len(ids))
        yield slot, index
    finally:
        if slot >= 0:
            model.prefixes.end(slot)
            model.transformer.release(slot)
            model.slots.give_back(slot)
        model.adapters.give_back(index)


def passed(model: Reader, ids: Ids[int], adapter: str) -> Passing:
    """Yield the logits after each of `ids` by parts: where a part begins, and float32 (8, V).

    They are the bits that `Model.logits` gives at once. The iterator belongs to the thread that
    owns the model; whoever leaves it early closes it. Raises what `own_slot` does.
    """
    array = np.array(ids, dtype=np.int32)
    with own_slot(model, ids, adapter) as (slot, index):
        for at in range(0, len(array), ROWS):
            part = array[at : at + ROWS]
            count = len(part)
            places = range(at, at + count)
            yield at, model.transformer.decode([slot] * count, part, places, [index] * count)

"""The embedding of a text: the mean of the model's last hidden states, computed piece by piece.

The one idea: it takes a slot like an answer and one chunk a step, so answers go on beside it.
Invariant: the same ids and weights give the same bits, whatever else runs; the slot is given back
exactly once.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Ids
from typing import TYPE_CHECKING

import numpy as np

from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import SamplingParams
from homebox.model.generation.stepping import check_prompt
from homebox.model.strictmath import Float32

if TYPE_CHECKING:
    from homebox.model.model import Model

CHUNK = 64  # ids of a step: the rows of the program that returns all hidden states


def embedding(model: "Model", ids: Ids[int], adapter: str) -> Iterator[Float32 | None]:
    """Yield None for each step but the last, which yields the vector, float32 (hidden_size,).

    States are added in float64, one after the other, so that the sum has one order everywhere. The
    iterator belongs to the thread that owns the model; whoever leaves it early closes it. Raises
    ContextLengthError, RequestError, ModelNotFoundError and NoFreeSlotError at the first step.
    """
    check_prompt(ids, model.config.vocab_size, model.context + 1)
    index = model.adapters.take(adapter)
    slot = -1
    try:
        slot = model.slots.take()
        # Nobody's, so that nothing is shared; only the memory is set aside.
        nobody = GenerationRequest(ids, SamplingParams(), adapter)
        model.prefixes.begin(slot, nobody, len(ids))
        total = np.zeros(model.config.hidden_size)
        array = np.array(ids, dtype=np.int32)
        for at in range(0, len(array), CHUNK):
            for state in model.transformer.hidden_part(slot, at, array[at : at + CHUNK], index):
                total += state
            if at + CHUNK < len(array):
                yield None
        yield (total / len(array)).astype(np.float32)
    finally:
        if slot >= 0:
            model.prefixes.end(slot)
            model.transformer.release(slot)
            model.slots.give_back(slot)
        model.adapters.give_back(index)

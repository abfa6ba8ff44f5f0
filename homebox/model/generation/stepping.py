"""Steps the sequences of a model together: rows of tokens in one pass, prompts chunk by chunk.

The one idea: one pass over the weights serves the newest tokens of all sequences that write, and
where few write, guesses of what follows them. Invariant: what a sequence says does not depend on
who is stepped with it, nor on how its prompt was cut; a sequence that breaks breaks no other.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Ids
from functools import partial
from typing import TypeAlias

import numpy as np

from homebox.errors import ContextLengthError, NoFreeSlotError, RequestError
from homebox.model.generation.contract import Forward, Piece, Steppable
from homebox.model.generation.request import GenerationRequest
from homebox.model.strictmath import Float32

ROWS = 8  # of one pass, tokens and guesses: the largest decode program
# So many tokens fill a smaller program: a guess then costs all of them a third more time on a CPU,
# and is made only where much was repeated already. With fewer a pass of 8 rows takes less than
# twice as long as one of 1; with more it is the larger program anyway.
FILLED = 4
FASTER = 3 / 4  # of the time for each id, for which a longer chunk is taken
CHUNK_SECONDS = 0.06  # that others may wait for their next token because somebody reads

Outcome: TypeAlias = Piece | Exception | None
Rows = list[tuple[int, int, int, int]]


class Pace:
    """How much of a prompt is read at once while others write: what takes `CHUNK_SECONDS`.

    The sizes are those of prefill programs, as a part of one costs as much as all of it. What is
    known of a size is its best time; how much slower the machine is now, and at this depth of a
    prompt, the latest chunk says.
    """

    def __init__(self, seconds: float = CHUNK_SECONDS) -> None:
        self._seconds = seconds
        self._best: dict[int, float] = {}  # ids of a chunk -> seconds
        self._once: set[int] = set()  # sizes that were taken once: perhaps they were compiled then
        self._latest = (0, 0.0)

    def most(self, transformer: Forward) -> int:
        """Return how many ids the next chunk may have."""
        shared = transformer.shared_chunk
        if not self._best:
            return shared
        sizes = sorted({max(shared // 4, 1), shared, transformer.prefill_chunk})
        fitting = [size for size in sizes if self._expected(size) <= self._seconds]
        chosen = max(fitting, default=sizes[0])
        return next((size for size in sizes if self._pays(size, chosen)), chosen)

    def _pays(self, larger: int, chosen: int) -> bool:
        """Whether a chunk that takes up to twice as long as it may reads so much faster.

        A large model's weights are read once a chunk, whatever its size: with small ones whoever
        waits to begin waits for most of the time for nothing.
        """
        taken = self._expected(larger)
        each, now = taken / larger, self._expected(chosen) / chosen
        return larger > chosen and taken <= 2 * self._seconds and each <= FASTER * now

    def note(self, count: int, seconds: float) -> None:
        """Hear how long a chunk of `count` ids took."""
        if count in self._best:
            self._once.discard(count)
        else:
            self._once.add(count)
            # As if the machine were at its best, as what is known of other sizes.
            known, latest = self._latest
            self._best[count] = seconds * (self._best[known] / latest if known else 1.0)
        self._best[count] = min(self._best[count], seconds)
        self._latest = count, max(seconds, 1e-9)

    def _expected(self, size: int) -> float:
        count, seconds = self._latest
        # Four times the ids cost less than four times as much.
        supposed = float(seconds * (size / count) ** 0.75)
        if size not in self._best:
            return supposed
        known = self._best[size] * seconds / self._best[count]
        return min(known, supposed) if size in self._once else known


def step_all(
    transformer: Forward, sequences: Ids[Steppable], pace: Pace | None = None
) -> list[Outcome]:
    """Step several sequences of a model: tokens of those that write, and one prompt chunk.

    Of those that still read their prompts only the first is stepped, so that nobody waits for more
    than one chunk. Returns for each sequence what it brought, None, or, where it broke and was
    closed, the error.
    """
    outcomes: list[Outcome] = [None] * len(sequences)
    reading = [i for i, each in enumerate(sequences) if each.reading]
    writing = [i for i, each in enumerate(sequences) if not each.finished and not each.reading]
    if writing:
        _write(transformer, sequences, writing, outcomes)
    if reading:
        first = sequences[reading[0]]
        pace = pace or Pace()
        most = pace.most(transformer) if writing else transformer.prefill_chunk
        begun, before = time.perf_counter(), first.prefilled
        outcomes[reading[0]] = _settled(first, partial(first.read, most))
        if first.prefilled - before == most:
            pace.note(most, time.perf_counter() - begun)
    return outcomes


def _write(
    transformer: Forward, sequences: Ids[Steppable], writing: list[int], outcomes: list[Outcome]
) -> None:
    """Take the newest tokens of sequences in, with guesses, and let them choose what follows."""
    spare = max(ROWS - len(writing), 0)
    rows: dict[int, Rows] = {}
    for left, i in zip(range(len(writing), 0, -1), writing, strict=True):
        try:
            # What one does not need is for the others.
            rows[i] = sequences[i].rows(-(-spare // left), sure=len(writing) == FILLED)
            spare -= len(rows[i]) - 1
        except Exception as error:
            sequences[i].close()
            outcomes[i] = error
    if not rows:
        return
    try:
        logits = _decode(transformer, rows)
    except NoFreeSlotError as error:
        if all(len(each) == 1 for each in rows.values()):
            _break(sequences, rows, outcomes, error)
            return
        # There is no memory left for guesses, perhaps for the tokens alone.
        rows = {i: sequences[i].rows() for i in rows}
        try:
            logits = _decode(transformer, rows)
        except Exception as failure:
            _break(sequences, rows, outcomes, failure)
            return
    except Exception as error:
        _break(sequences, rows, outcomes, error)
        return
    at = 0
    for i, own in rows.items():
        part = logits[at : at + len(own)]
        outcomes[i] = _settled(sequences[i], partial(sequences[i].answer, part))
        at += len(own)


def _decode(transformer: Forward, rows: dict[int, Rows]) -> Float32:
    flat = [row for own in rows.values() for row in own]
    slots, ids, positions, adapters = zip(*flat, strict=True)
    return transformer.decode(slots, np.array(ids, np.int32), positions, adapters)


def _break(
    sequences: Ids[Steppable], rows: dict[int, Rows], outcomes: list[Outcome], error: Exception
) -> None:
    for i in rows:
        sequences[i].close(broken=True)
        outcomes[i] = error


def _settled(sequence: Steppable, action: Callable[[], Outcome]) -> Outcome:
    try:
        return action()
    except Exception as error:
        sequence.close(broken=True)
        return error


def check_request(request: GenerationRequest, vocab_size: int, context: int) -> None:
    """Check that a request can be started; raises RequestError or ContextLengthError."""
    check_prompt(request.prompt_ids, vocab_size, context)
    if any(index >= vocab_size for index, _ in request.sampling.logit_bias):
        raise RequestError(
            f"logit_bias must name token ids from 0 to {vocab_size - 1}", param="logit_bias"
        )


def check_prompt(prompt_ids: Ids[int], vocab_size: int, context: int) -> None:
    """Check that a prompt can be taken in; raises RequestError or ContextLengthError."""
    if not prompt_ids:
        raise RequestError("the prompt is empty", param="messages")
    if not all(0 <= index < vocab_size for index in prompt_ids):
        raise RequestError(f"token ids must be from 0 to {vocab_size - 1}", param="prompt")
    if len(prompt_ids) >= context:
        raise ContextLengthError(context, len(prompt_ids))

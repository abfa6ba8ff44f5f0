"""What the generation of an answer needs of others: the transformer, the sampler, and each other.

The one idea: a sequence and whoever steps it know each other by these few methods only.
"""

from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homebox.model.generation.guide import Bits
from homebox.model.generation.logprobs import TokenLogprob
from homebox.model.generation.sampling import SamplingParams
from homebox.model.strictmath import Float32


class Forward(Protocol):
    """The part of the transformer that a sequence needs."""

    prefill_chunk: int  # most ids of one `forward`
    shared_chunk: int  # the same while others wait for their next token

    def forward(
        self, slot: int, position: int, ids: npt.NDArray[np.int32], adapter: int
    ) -> Float32:
        """Take `ids` in at `position` of `slot`; return the last one's logits, float32 (V,)."""
        ...

    def decode(
        self, slots: Ids[int], ids: npt.NDArray[np.int32], positions: Ids[int], adapters: Ids[int]
    ) -> Float32:
        """Take one id in for each of several rows; return their logits, float32 (B, V).

        Rows of the same slot must follow each other, at positions that do.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget what a slot holds from position `length` on."""
        ...

    def release(self, slot: int) -> None:
        """Give the memory of a slot back."""
        ...


class Chooser(Protocol):
    """Chooses the tokens of one sequence; `sampling.Sampler` is the one there is."""

    seed: int

    def next(self, logits: Float32, allowed: Bits | None = None) -> int:
        """Return the id chosen from `logits`, float32 (V,), among the `allowed` ones."""
        ...


MakeChooser = Callable[[SamplingParams, Ids[int]], Chooser]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought: text (may be empty), its tokens, and at the end why it ended."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None  # "stop" or "length" in the last piece
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens, if they were asked for


class Steppable(Protocol):
    """A sequence as whoever steps it knows it."""

    @property
    def finished(self) -> bool:
        """Whether no step will bring anything more."""
        ...

    @property
    def reading(self) -> bool:
        """Whether the next step takes in a part of the prompt."""
        ...

    @property
    def prefilled(self) -> int:
        """The number of prompt tokens taken in so far."""
        ...

    def read(self, most: int) -> Piece | None:
        """Take in the next `most` ids of the prompt; return the first piece after the last one."""
        ...

    def rows(self, guesses: int = 0, sure: bool = False) -> list[tuple[int, int, int, int]]:
        """Return slot, id, position and adapter of the newest token, and of guesses after it.

        `sure`: only of guesses that follow a long repetition.
        """
        ...

    def answer(self, logits: Float32) -> Piece:
        """Return the piece that follows from the logits (rows, V) of `rows`."""
        ...

    def close(self, broken: bool = False) -> None:
        """Give the KV slot back."""
        ...


def joined(pieces: Ids[Piece]) -> Piece:
    """Return several pieces in a row as one."""
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(index for piece in pieces for index in piece.token_ids),
        pieces[-1].finish_reason,
        tuple(each for piece in pieces for each in piece.logprobs),
    )

"""What limits the choice of the next token: a grammar, a form that was asked for, a budget.

The one idea: whoever samples asks for the tokens that may come and says which one came; everything
else about grammars stays with the guide. Invariant: a guide belongs to one answer and hears of each
of its tokens once, in order.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint32]


class Guide(Protocol):
    """Limits one answer; any method may raise a HomeboxError, which ends the answer."""

    def mask(self) -> Bits | None:
        """Return which tokens may come next; None: all.

        Bit i % 32 of word i // 32 stands for token i; there are ceil(vocabulary / 32) words.
        """
        ...

    def take(self, token: int) -> None:
        """Take note of the token that came."""
        ...

    def ahead(self) -> Sequence[int]:
        """Return tokens that must come next whatever the model thinks, as far as known."""
        ...

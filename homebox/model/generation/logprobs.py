"""Says how likely the model found a token, whatever was chosen and why.

The one idea: log-probabilities are of the model's own distribution, the logarithm of the softmax of
its logits as they come, before penalties, biases, grammars and temperature. Invariant: they have
the same bits on every machine: float64, `strictmath.exp`, one sum from the first token to the last,
and a logarithm that is rounded correctly.
"""

import math
from dataclasses import dataclass
from decimal import Context, Decimal

import numpy as np

from homebox.errors import EngineError
from homebox.model.generation.drawing import descending
from homebox.model.strictmath import Float32, exp

MAX_TOP = 20  # of the likeliest tokens, as in OpenAI's API
_EXACT = Context(prec=25)  # digits; the result is then rounded to the 16 of a float64


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a chosen token was, and the likeliest ones; natural logarithms."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # likeliest first, equal ones by rising id


def token_logprob(logits: Float32, token: int, top: int) -> TokenLogprob:
    """Return the log-probability of `token` and of the `top` likeliest ones.

    `logits` is float32 (V,). Raises EngineError if there is NaN among them or nothing finite.
    """
    scores = logits.astype(np.float64)
    largest = float(np.max(scores))
    if not math.isfinite(largest):
        raise EngineError("the model's logits are not finite; its weights may be damaged")
    shifted = scores - largest
    # One after the other: the order of numpy's own sum depends on the machine.
    total = float(np.cumsum(exp(np.maximum(shifted, -1000.0)))[-1])
    logarithm = float(_EXACT.ln(Decimal(total)))
    likeliest = descending(scores, min(top, len(scores))).tolist() if top else []
    found = tuple((index, float(shifted[index]) - logarithm) for index in likeliest)
    return TokenLogprob(token, float(shifted[token]) - logarithm, found)

"""Draws from weights by their exponents, without computing all of them exactly.

The one idea: what is drawn is decided by exact sums of `strictmath.exp`, but a quick exponential
is enough to know the outcome unless it is closer than `MARGIN` to being another. Then, and only
then, the exact sums are computed. Invariant: the same scores and random number give what the exact
sums give, on every machine.
"""

import numpy as np
import numpy.typing as npt

from homebox.model.strictmath import Float64, exp

# Of a sum. Quick and exact exponentials differ by some 1e-15 of themselves, sums of a million of
# them by 1e-10 of the whole.
MARGIN = 1e-9
FIRST_SORTED = 256  # tokens that top_p looks at first
BLOCK = 64  # weights that are added before their sums are

Ids = npt.NDArray[np.int64]


def tempered(scores: Float64, temperature: float) -> Float64:
    """Return the exponents of the weights of `scores` (V,): at most 0, the largest is 0."""
    shifted = scores - np.max(scores)
    with np.errstate(over="ignore"):
        shifted /= temperature
    return np.maximum(shifted, -1000.0, out=shifted)


def draw(exponents: Float64, uniform: float) -> int:
    """Return the index that a number in [0, 1) draws from the weights e^exponents (V,)."""
    quick = np.exp(exponents)
    whole = len(quick) // BLOCK * BLOCK
    sums = np.cumsum(quick[:whole].reshape(-1, BLOCK).sum(axis=1))
    before = float(sums[-1]) if whole else 0.0
    total = before + float(quick[whole:].sum())
    low, high = (uniform - MARGIN) * total, (uniform + MARGIN) * total
    block = int(np.searchsorted(sums, low, side="right"))
    start = float(sums[block - 1]) if block else 0.0
    inside = start + np.cumsum(quick[block * BLOCK : (block + 1) * BLOCK])
    first, last = (int(np.searchsorted(inside, point, side="right")) for point in (low, high))
    if first == last < len(inside) and low > 0.0:
        return block * BLOCK + first
    return at(np.cumsum(exp(exponents)), uniform)


def at(totals: Float64, uniform: float) -> int:
    """Return the index that a number in [0, 1) draws, by running totals (N,) of the weights."""
    point = uniform * totals[-1]
    # The product may round up to the total itself, which lies after the last one.
    return min(int(np.searchsorted(totals, point, side="right")), len(totals) - 1)


def likeliest(exponents: Float64, top_p: float, min_p: float) -> tuple[Ids, Float64]:
    """Return ids and weights by falling weight: as many as top_p wants, or min_p might."""
    quick = np.exp(exponents)
    if top_p >= 1.0:
        kept = np.flatnonzero(quick >= min_p * (1.0 - MARGIN))  # the largest weight is 1
        weights = exp(exponents[kept])
        kept, weights = kept[weights >= min_p], weights[weights >= min_p]
        order = np.argsort(-exponents[kept], kind="stable")
        return kept[order].astype(np.int64), weights[order]
    total = float(quick.sum())
    low, high = top_p * total * (1.0 - MARGIN), top_p * total * (1.0 + MARGIN)
    count = FIRST_SORTED
    while True:  # few tokens hold most of the weight, so sorting them all is seldom needed
        ids = descending(exponents, count)
        weights = exp(exponents[ids])
        keep = reach(weights, low)
        if keep != reach(weights, high):
            low = high = top_p * float(np.cumsum(exp(exponents))[-1])
            keep = reach(weights, low)
        if keep < len(ids) or len(ids) == len(exponents):
            return ids[:keep], weights[:keep]
        count *= 16


def reach(weights: Float64, share: float) -> int:
    """Return how many of the first weights it takes to reach a share of the whole."""
    return int(np.searchsorted(np.cumsum(weights), share, side="left")) + 1


def descending(scores: Float64, count: int) -> Ids:
    """Return ids by falling score, equal scores by rising id; only the first `count` unless 0."""
    if 0 < count < len(scores):
        # Sorting a whole large vocabulary costs more than the rest of sampling together.
        bound = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = np.flatnonzero(scores >= bound)
        order = np.argsort(-scores[kept], kind="stable")[:count]
        return kept[order].astype(np.int64)
    return np.argsort(-scores, kind="stable").astype(np.int64)

"""Attention as a graph: scores, softmax over what may be seen, weighted values.

The one idea: it is written out in primitive operations, in the one form that the engine's rule R3
recognises and turns into a single kernel with a running maximum; without the rule the same graph
runs as it stands, with the scores in memory.
Invariant: a row that sees nothing gives zeros, and a key that a row does not see has no influence
on its bits.
"""

from homebox.engine.graph.tensor import Tensor

UNSEEN = -1e30  # the score of what is not seen


def masked_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Return softmax(q k^T) v over the keys that are seen, (B, H, G, T, D) float32.

    q (B, H, G, T, D) is scaled already; k (B, H, 1, L, D) and v (B, H, 1, L, D) serve G query heads
    each; seen is boolean and broadcasts to (B, H, G, T, L).
    """
    scores = seen.where(q @ k.transpose(), UNSEEN)
    top = scores.max(-1, keepdim=True).detach()
    weights = seen.where((scores - top).exp(), 0.0)
    total = weights.sum(-1, keepdim=True).maximum(1.0)  # below 1 only where nothing is seen
    return (weights @ v) * total.recip()


def visible(positions: Tensor, keys: int, window: int | None = None) -> Tensor:
    """Return who sees whom: bool (B, 1, 1, T, keys) for queries at positions (B, T) int32.

    A query sees the keys up to its own position; with a window, only the last `window` of them.
    """
    rows = positions.reshape((positions.shape[0], 1, 1, positions.shape[1], 1))
    place = Tensor.iota(keys).reshape((1, 1, 1, 1, keys))
    seen = place <= rows
    return seen if window is None else seen & (place > rows + -window)

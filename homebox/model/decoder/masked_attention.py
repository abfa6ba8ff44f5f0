"""Attention as a graph: scores, softmax over what may be seen, weighted values.

The one idea: it is written out in primitive operations, in the one form that the engine's rule R3
recognises and turns into a single kernel with a running maximum; without the rule the same graph
runs as it stands, with the scores in memory.
Invariant: a row that sees nothing gives zeros, and a key that a row does not see has no influence
on its bits.
"""

from homebox.engine.graph.tensor import Tensor

UNSEEN = -1e30  # the score of what is not seen


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Return softmax(q k^T) v over the keys that are seen, (B, H, G, T, D) float32.

    q (B, H, G, T, D) is scaled already; k (B, H, 1, L, D) and v (B, H, 1, L, D) serve G query heads
    each; seen is boolean and broadcasts to (B, H, G, T, L). With a `cap` scores are
    cap * tanh(q k^T / cap), as in Gemma 2 (arXiv 2408.00118). `sinks` (H, G) float32 are scores of
    no key: they take their part of the softmax and add nothing, as in gpt-oss (arXiv 2508.10925).
    """
    scores = seen.where(capped(q @ k.transpose(), cap), UNSEEN)
    sink = None if sinks is None else as_scores(sinks)
    top = highest(scores, sink).detach()
    weights = seen.where((scores - top).exp(), 0.0)
    return (weights @ v) * total_of(weights, top, sink).recip()


def capped(scores: Tensor, cap: float | None) -> Tensor:
    """Return cap * tanh(scores / cap), or the scores if there is no cap."""
    return scores if cap is None else (scores * (1.0 / cap)).tanh() * cap


def as_scores(sinks: Tensor) -> Tensor:
    """Return sinks (H, G) as scores of every row: (1, H, G, 1, 1)."""
    heads, groups = sinks.shape
    return sinks.reshape((1, heads, groups, 1, 1))


def highest(scores: Tensor, sink: Tensor | None) -> Tensor:
    """Return the highest score of each row, its sink's included."""
    top = scores.max(-1, keepdim=True)
    return top if sink is None else top.maximum(sink)


def total_of(weights: Tensor, top: Tensor, sink: Tensor | None) -> Tensor:
    """Return the sum of each row's weights and of its sink's, at least 1."""
    total = weights.sum(-1, keepdim=True)
    if sink is not None:
        total = total + (sink - top).exp()
    return total.maximum(1.0)  # below 1 only where nothing is seen


def visible(positions: Tensor, keys: int, window: int | None = None) -> Tensor:
    """Return who sees whom: bool (B, 1, 1, T, keys) for queries at positions (B, T) int32.

    A query sees the keys up to its own position; with a window, only the last `window` of them.
    """
    rows = positions.reshape((positions.shape[0], 1, 1, positions.shape[1], 1))
    place = Tensor.iota(keys).reshape((1, 1, 1, 1, keys))
    seen = place <= rows
    return seen if window is None else seen & (place > rows + -window)

"""Attention of packed rows for training: forwards from q, k, v, and backwards from what was kept.

The probabilities are never kept: the backward pass computes them anew from q and k, as flash
attention does (Dao et al., arXiv 2205.14135, section 3.1), one layer at a time.
"""

from dataclasses import dataclass

from homebox.engine.grad import gradient
from homebox.engine.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.decoder import Rotary, Rows, attention_mask, rms_norm
from homebox.model.masked_attention import UNSEEN, masked_attention


@dataclass(frozen=True)
class RowAttention:
    """Grouped-query attention within the documents of a batch of rows."""

    config: ModelConfig
    rotary: Rotary
    rows: Rows
    norms: tuple[Tensor, Tensor] | None  # of query and key, each (dim,), if the model has them

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (N, heads * dim), k, v (N, kv heads * dim) -> (N, heads * dim)."""
        seen = attention_mask(self.rows)
        return self._flat(masked_attention(self._query(q), self._key(k), self._shared(v), seen))

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, g: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of q, k and v from the output and its gradient, as in `forward`."""
        query, key, value = self._query(q), self._key(k), self._shared(v)
        rotated_query, rotated_key = query.contiguous(), key.contiguous()
        scores = rotated_query @ rotated_key.transpose()
        p = attention_mask(self.rows).where(scores, UNSEEN).softmax().contiguous()
        outer = self._grouped(g)
        # The sum over keys of p * dp is what a row's output has in common with its gradient.
        common = self._grouped(out * g).sum(-1, keepdim=True)
        d_scores = (p * (outer @ value.transpose() - common)).contiguous()
        (d_q,) = gradient(query, [q], d_scores @ rotated_key)
        (d_k,) = gradient(key, [k], _over_groups(d_scores, rotated_query))
        return d_q, d_k, self._flat(_over_groups(p, outer))

    def _heads(self, x: Tensor, norm: Tensor | None) -> Tensor:
        """Return x (N, heads * dim) normed and rotated: (R, T, heads, dim)."""
        rows, length = self.rows.shape
        x = x.reshape((rows, length, -1, self.config.head_dim))
        if norm is not None:
            x = rms_norm(x, norm, self.config.rms_eps)
        return self.rotary(x, self.rows.position)

    def _query(self, q: Tensor) -> Tensor:
        """Return the scaled queries, (R, kv heads, groups, T, dim)."""
        rotated = self._heads(q, self.norms[0] if self.norms else None)
        return self._grouped(rotated * self.config.head_dim**-0.5)

    def _key(self, k: Tensor) -> Tensor:
        """Return the keys, (R, kv heads, 1, T, dim)."""
        return self._shared(self._heads(k, self.norms[1] if self.norms else None))

    def _grouped(self, x: Tensor) -> Tensor:
        """Return x with heads * dim numbers a place as (R, kv heads, groups, T, dim)."""
        rows, length = self.rows.shape
        shared, dim = self.config.num_kv_heads, self.config.head_dim
        groups = self.config.num_heads // shared
        return x.reshape((rows, length, shared, groups, dim)).permute(0, 2, 3, 1, 4)

    def _shared(self, x: Tensor) -> Tensor:
        """Return x with kv heads * dim numbers a place as (R, kv heads, 1, T, dim)."""
        rows, length = self.rows.shape
        shape = (rows, length, self.config.num_kv_heads, 1, self.config.head_dim)
        return x.reshape(shape).permute(0, 2, 3, 1, 4)

    def _flat(self, x: Tensor) -> Tensor:
        """Undo `_grouped` or `_shared`: (N, heads * dim)."""
        rows, length = self.rows.shape
        return x.permute(0, 3, 1, 2, 4).reshape((rows * length, -1))


def _over_groups(a: Tensor, b: Tensor) -> Tensor:
    """Sum a (.., G, T, T') times b (.., G, T, D) over groups and queries: (.., 1, T', D)."""
    *front, groups, queries, keys = a.shape
    n, dim = len(front), b.shape[-1]
    order = (*range(n), n + 2, n, n + 1)
    wide = (*front, keys, dim, groups, queries)
    first = a.permute(*order).reshape((*front, keys, 1, groups, queries))
    second = b.permute(*order).reshape((*front, 1, dim, groups, queries))
    total = (first.expand(wide) * second.expand(wide)).sum((n + 2, n + 3))
    return total.reshape((*front, 1, keys, dim))

"""Attention of packed rows for training: forwards from q, k, v, and backwards from what was kept.

The probabilities are never kept: the backward pass computes them anew from q and k, as flash
attention does (Dao et al., arXiv 2205.14135, section 3.1), a block of queries at a time.
"""

from dataclasses import dataclass

from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor, size_of
from homebox.model.config import ModelConfig
from homebox.model.decoder import Rotary, Rows, rms_norm
from homebox.model.masked_attention import UNSEEN, masked_attention

BLOCK = 128  # queries of which the backward pass takes the probabilities at a time


def visible(rows: Rows) -> Tensor:
    """Return who may look at whom, bool (R, 1, 1, T, T): places of the same document before it.

    Said as bounds on the key's place, so that a kernel passes over all keys outside of them.
    """
    count, length = rows.shape
    place = Tensor.iota(length)
    one, other = rows.segment.reshape((count, length, 1)), rows.segment.reshape((count, 1, length))
    distance = one.equal(other).where((place * -1 + length).reshape((1, 1, length)), 0)
    first = (distance.max(-1) * -1 + length).contiguous()  # (R, T): where the document begins
    key = place.reshape((1, 1, length))
    seen = (key >= first.reshape((count, length, 1))) & (key <= place.reshape((1, length, 1)))
    return seen.reshape((count, 1, 1, length, length))


@dataclass(frozen=True)
class RowAttention:
    """Grouped-query attention within the documents of a batch of rows."""

    config: ModelConfig
    rotary: Rotary
    rows: Rows
    norms: tuple[Tensor, Tensor] | None  # of query and key, each (dim,), if the model has them

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (N, heads * dim), k, v (N, kv heads * dim) -> (N, heads * dim)."""
        query, key, value = self._query(q), self._key(k), self._shared(v)
        return self._flat(masked_attention(query, key, value, visible(self.rows)))

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, g: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of q, k and v from the output and its gradient, as in `forward`."""
        query, key, value = self._query(q), self._key(k), self._shared(v)
        keys = key.contiguous()
        whole = _Tiles(
            query.contiguous(),
            keys,
            _panels(keys),
            _panels(value),
            self._grouped(out),
            self._grouped(g),
            visible(self.rows),
        )
        length = self.rows.shape[1]
        starts = range(0, length, BLOCK)
        parts = [whole.backward(start, min(BLOCK, length - start)) for start in starts]
        d_query = parts[0][0].cat(*(part[0] for part in parts[1:]), axis=3)
        d_key, d_value = (_sum_of_prefixes([part[i] for part in parts], length) for i in (1, 2))
        (d_q,) = gradient(query, [q], d_query)
        (d_k,) = gradient(key, [k], d_key)
        return d_q, d_k, self._flat(d_value)

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


@dataclass(frozen=True)
class _Tiles:
    """What a block of queries takes its part of, each (R, kv heads, groups or 1, T, dim)."""

    query: Tensor
    key: Tensor
    key_panels: Tensor
    value_panels: Tensor
    out: Tensor
    g: Tensor
    seen: Tensor  # (R, 1, 1, T, T)

    def backward(self, start: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of `size` queries, and their parts of those of keys and values.

        A block of queries sees nothing behind its own end, so keys and values are those before it.
        With e = exp(score - top), l its sum and p = e / l, the division goes to the small side:
        dv = e^T (g / l), and dscore = p (g v^T - out g) = e ((g / l) v^T - out (g / l)).
        """
        end = start + size
        query, out, g = (x.slice(3, start, size) for x in (self.query, self.out, self.g))
        keys, key_panels, value_panels = (
            x.slice(3, 0, end) for x in (self.key, self.key_panels, self.value_panels)
        )
        seen = self.seen.slice(3, start, size).slice(4, 0, end)
        scores = seen.where(query @ key_panels.transpose(), UNSEEN).contiguous()
        e = (scores - scores.max(-1, keepdim=True)).exp().contiguous()
        g = (g * e.sum(-1, keepdim=True).recip()).contiguous()
        common = (out * g).sum(-1, keepdim=True)
        d_scores = (e * (g @ value_panels.transpose() - common)).contiguous()
        d_query = (d_scores @ keys).contiguous()
        return d_query, _over_groups(d_scores, query).contiguous(), _over_groups(e, g).contiguous()


def _panels(x: Tensor) -> Tensor:
    """Return x (.., T, dim) in memory as [T / 16][dim][16], as products with x^T read it."""
    *front, length, dim = x.shape
    if not isinstance(length, int) or length % 16:
        return x
    n = len(front)
    order = (*range(n), n, n + 2, n + 1)
    panels = x.reshape((*front, length // 16, 16, dim)).permute(*order).contiguous()
    return panels.permute(*order).reshape(x.shape)


def _sum_of_prefixes(parts: list[Tensor], length: int) -> Tensor:
    """Add parts that hold the first places of axis 3, up to all `length` of them."""
    total = parts[-1]
    for part in reversed(parts[:-1]):
        total = total + part.pad(3, 0, length - size_of(part.shape[3]))
    return total


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

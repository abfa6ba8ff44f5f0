"""Attention of packed rows for training: forwards from q, k, v, and backwards from what was kept.

The probabilities are never kept: the backward pass computes them anew from q and k, as flash
attention does (Dao et al., arXiv 2205.14135, section 3.1), a block of queries at a time.
Invariant: it computes what the serving decoder computes for the same layer: norms of heads or of
everything, rotation or none, growth of queries, soft cap, sinks and window. Sinks are frozen.
"""

from dataclasses import dataclass

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.decoder.masked_attention import UNSEEN, as_scores, highest, masked_attention
from homebox.model.training.packed_rows import Rotary, Rows, rms_norm

BLOCK = 128  # queries of which the backward pass takes the probabilities at a time
PANEL = 16  # places that lie together as products with x^T read them
# Scores so far below the highest weigh nothing: no sum in float32 shows 3e-20 of it, and with
# denormal factors a product takes three times as long.
NOTHING = -45.0


def visible(rows: Rows, window: int | None = None) -> Tensor:
    """Return who may look at whom, bool (R, 1, 1, T, T): places of the same document before it.

    With a window, only the last `window` places, the own one included. Said as bounds on the key's
    place, so that a kernel passes over all keys outside of them.
    """
    count, length = rows.shape
    place = Tensor.iota(length)
    one, other = rows.segment.reshape((count, length, 1)), rows.segment.reshape((count, 1, length))
    distance = one.equal(other).where((place * -1 + length).reshape((1, 1, length)), 0)
    begin = distance.max(-1) * -1 + length  # (R, T): where the document begins
    if window is not None and window < length:
        begin = begin.maximum((place + (1 - window)).reshape((1, length)))
    first = begin.contiguous()
    key = place.reshape((1, 1, length))
    seen = (key >= first.reshape((count, length, 1))) & (key <= place.reshape((1, length, 1)))
    return seen.reshape((count, 1, 1, length, length))


@dataclass(frozen=True)
class RowAttention:
    """Grouped-query attention of one layer within the documents of a batch of rows."""

    config: ModelConfig
    layer: int
    rotary: Rotary | None  # None for a layer without positions
    rows: Rows
    norms: tuple[Tensor, Tensor] | None  # weights of query and key, if the model has them
    sinks: Tensor | None = None  # (heads,), if the model has them

    @property
    def window(self) -> int | None:
        """How many places a query sees, if not all before it."""
        return self.config.windows[self.layer]

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (N, heads * dim), k, v (N, kv heads * dim) -> (N, heads * dim)."""
        query, key, value = self._query(q), self._key(k), self._shared(v)
        seen, cap = visible(self.rows, self.window), self.config.attention_cap
        return self._flat(masked_attention(query, key, value, seen, cap, self._sinks()))

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
            visible(self.rows, self.window),
            self._sinks(),
            self.config.attention_cap,
        )
        length = self.rows.shape[1]
        blocks = [Block.at(start, length, self.window) for start in range(0, length, BLOCK)]
        parts = [whole.backward(block) for block in blocks]
        d_query = parts[0][0].cat(*(part[0] for part in parts[1:]), axis=3)
        d_key, d_value = (
            _sum_of_parts([part[i] for part in parts], blocks, length) for i in (1, 2)
        )
        (d_q,) = gradient(query, [q], d_query)
        (d_k,) = gradient(key, [k], d_key)
        return d_q, d_k, self._flat(d_value)

    def _heads(self, x: Tensor, norm: Tensor | None) -> Tensor:
        """Return x (N, heads * dim) normed and rotated: (R, T, heads, dim)."""
        rows, length = self.rows.shape
        if norm is not None and self.config.qk_norm == "whole":
            x = rms_norm(x, norm, self.config.rms_eps)
        x = x.reshape((rows, length, -1, self.config.head_dim))
        if norm is not None and self.config.qk_norm == "head":
            x = rms_norm(x, norm, self.config.rms_eps)
        return x if self.rotary is None else self.rotary(x, self.rows.position)

    def _query(self, q: Tensor) -> Tensor:
        """Return the scaled queries, (R, kv heads, groups, T, dim)."""
        rotated = self._heads(q, self.norms[0] if self.norms else None)
        scaled = rotated * self.config.score_scale
        if self.config.query_growth is not None:
            scaled = scaled * self._growth(*self.config.query_growth)
        return self._grouped(scaled)

    def _growth(self, factor: float, places: int) -> Tensor:
        """Return 1 + factor * log(1 + floor(position / places)), (R, T, 1, 1)."""
        position = self.rows.position.reshape((*self.rows.shape, 1, 1))
        return ((position // places).cast(dt.f32) + 1.0).log() * factor + 1.0

    def _sinks(self) -> Tensor | None:
        """Return the sinks as (kv heads, groups)."""
        shared = self.config.num_kv_heads
        return None if self.sinks is None else self.sinks.reshape((shared, -1))

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
class Block:
    """Queries start .. end - 1, and the keys first .. end - 1 that some of them may see."""

    first: int
    start: int
    end: int

    @classmethod
    def at(cls, start: int, length: int, window: int | None) -> "Block":
        """Return the block that begins with query `start`."""
        first = 0 if window is None else max(0, start - window + 1)
        return cls(first // PANEL * PANEL, start, min(start + BLOCK, length))


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
    sinks: Tensor | None  # (kv heads, groups)
    cap: float | None

    def backward(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of some queries, and their parts of those of keys and values.

        With e = exp(score - top), l its sum and p = e / l, the division goes to the small side:
        dv = e^T (g / l), and dscore = p (g v^T - out g) = e ((g / l) v^T - out (g / l)).
        A sink takes part in top and l only. The derivative of c tanh(x / c) is 1 - tanh(x / c)^2.
        """
        size, count = block.end - block.start, block.end - block.first
        query, out, g = (x.slice(3, block.start, size) for x in (self.query, self.out, self.g))
        keys, key_panels, value_panels = (
            x.slice(3, block.first, count) for x in (self.key, self.key_panels, self.value_panels)
        )
        seen = self.seen.slice(3, block.start, size).slice(4, block.first, count)
        scores, slope = query @ key_panels.transpose(), None
        if self.cap is not None:
            turned = (scores * (1.0 / self.cap)).tanh().contiguous()
            scores, slope = turned * self.cap, turned * turned * -1.0 + 1.0
        scores = seen.where(scores, UNSEEN).contiguous()
        sink = None if self.sinks is None else as_scores(self.sinks)
        top = highest(scores, sink)
        below = scores - top
        e = (below > NOTHING).where(below.exp(), 0.0).contiguous()
        total = e.sum(-1, keepdim=True)
        if sink is not None:
            total = total + (sink - top).exp()
        g = (g * total.recip()).contiguous()
        common = (out * g).sum(-1, keepdim=True)
        d_scores = e * (g @ value_panels.transpose() - common)
        d_scores = (d_scores if slope is None else d_scores * slope).contiguous()
        d_query = (d_scores @ keys).contiguous()
        return d_query, _over_groups(d_scores, query).contiguous(), _over_groups(e, g).contiguous()


def _panels(x: Tensor) -> Tensor:
    """Return x (.., T, dim) in memory as [T / 16][dim][16], as products with x^T read it."""
    *front, length, dim = x.shape
    if not isinstance(length, int) or length % PANEL:
        return x
    n = len(front)
    order = (*range(n), n, n + 2, n + 1)
    panels = x.reshape((*front, length // PANEL, PANEL, dim)).permute(*order).contiguous()
    return panels.permute(*order).reshape(x.shape)


def _sum_of_parts(parts: list[Tensor], blocks: list[Block], length: int) -> Tensor:
    """Add parts that hold the keys of blocks along axis 3, of `length` keys in all."""
    wide = [p.pad(3, b.first, length - b.end) for p, b in zip(parts, blocks, strict=True)]
    total = wide[-1]
    for part in reversed(wide[:-1]):
        total = total + part
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

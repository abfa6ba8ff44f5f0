"""The decoder's graph for training: packed rows of whole documents, no cache, everything at once.

`hidden_states` takes weights by name from a function, so that the same graph trains the whole model
or an adapter on a frozen one. Several documents share a row; segments keep them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

from homebox.engine.graph.tensor import Tensor
from homebox.model.config import ModelConfig, Rope
from homebox.model.decoder.panels import sizes
from homebox.model.decoder.rope import rope_tables

Lookup = Callable[[str], Tensor]
Linear = Callable[[str, Tensor], Tensor]  # name of the matrix, x (N, in) -> (N, out)


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows as tensors, all int32 (rows, length).

    `segment` numbers the documents of a row from 1, 0 is padding; `position` is the place in the
    document or in the row.
    """

    ids: Tensor
    segment: Tensor
    position: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length."""
        rows, length = self.ids.shape
        if not isinstance(rows, int) or not isinstance(length, int):
            raise TypeError("training batches have a fixed shape")
        return rows, length


class Rotary:
    """Rotary tables on the device, for `positions` positions."""

    def __init__(self, rope: Rope, positions: int) -> None:
        self.dim = rope.dim
        cos, sin = rope_tables(rope, positions)
        self.cos = Tensor.from_numpy(cos, frozen=True)
        self.sin = Tensor.from_numpy(sin, frozen=True)

    def __call__(self, x: Tensor, position: Tensor) -> Tensor:
        """Rotate x (R, T, H, D): halves (a, b) -> (a cos - b sin, b cos + a sin).

        Only the first channels turn where the rope has fewer than D.
        """
        rows, length, heads, dim = sizes(x)
        if dim != self.dim:
            turned = self(x.slice(3, 0, self.dim), position)
            return turned.cat(x.slice(3, self.dim, dim - self.dim), axis=3)
        half = dim // 2
        pairs = x.reshape((rows, length, heads, 2, half))
        shape = (rows, length, 1, 1, half)
        cos = self.cos.gather(position).reshape(shape)
        sin = self.sin.gather(position).reshape(shape)
        side = Tensor.iota(2).reshape((1, 1, 1, 2, 1)).equal(0)
        swapped = pairs.slice(3, 1, 2, -1)
        return (pairs * cos + swapped * side.where(sin * -1.0, sin)).reshape(x.shape)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, along the last axis."""
    return x * ((x * x).mean(-1, keepdim=True) + eps).rsqrt() * weight


def hidden_states(
    config: ModelConfig, weight: Lookup, linear: Linear, rotary: Rotary, batch: Rows
) -> Tensor:
    """Return the normed hidden states of all places, (rows * length, hidden); Llama only."""
    rows, length = batch.shape
    x = weight("embed").gather(batch.ids.reshape((rows * length,)))
    mask = attention_mask(batch)
    for i in range(config.num_layers):
        name = f"layers.{i}"
        normed = rms_norm(x, weight(f"{name}.attn_norm"), config.rms_eps)
        q, k, v = (linear(f"{name}.{n}", normed) for n in "qkv")
        x = x + linear(f"{name}.o", attend(config, rotary, batch, mask, q, k, v))
        normed = rms_norm(x, weight(f"{name}.mlp_norm"), config.rms_eps)
        inner = linear(f"{name}.gate", normed).silu() * linear(f"{name}.up", normed)
        x = x + linear(f"{name}.down", inner)
    return rms_norm(x, weight("norm"), config.rms_eps)


def attention_mask(batch: Rows) -> Tensor:
    """Return who may look at whom: bool (rows, 1, 1, length, length)."""
    rows, length = batch.shape
    place = Tensor.iota(length)
    causal = place.reshape((1, length)) <= place.reshape((length, 1))
    one = batch.segment.reshape((rows, length, 1))
    same = one.equal(batch.segment.reshape((rows, 1, length)))
    return (causal & same).reshape((rows, 1, 1, length, length))


def attend(
    config: ModelConfig,
    rotary: Rotary,
    batch: Rows,
    mask: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Tensor:
    """Grouped-query attention within documents: q, k, v (N, heads * dim) -> (N, heads * dim)."""
    rows, length = batch.shape
    heads, shared, dim = config.num_heads, config.num_kv_heads, config.head_dim
    groups = heads // shared
    query = rotary(q.reshape((rows, length, heads, dim)), batch.position) * dim**-0.5
    key = rotary(k.reshape((rows, length, shared, dim)), batch.position)
    query = query.reshape((rows, length, shared, groups, dim)).permute(0, 2, 3, 1, 4)
    key = key.permute(0, 2, 1, 3).reshape((rows, shared, 1, length, dim))
    value = v.reshape((rows, length, shared, 1, dim)).permute(0, 2, 3, 1, 4)
    scores = query @ key.transpose()
    weights = mask.where(scores, -1e30).softmax()
    out = (weights @ value).permute(0, 3, 1, 2, 4)
    return out.reshape((rows * length, heads * dim))

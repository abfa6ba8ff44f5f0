"""The decoder of Llama and Qwen3 as a graph over packed weights and a paged cache.

The one idea: a matrix sees x times the norm's weight, and the row's 1/rms is multiplied in after
the product, so that rounding the operand needs no statistics and one kernel does all of it.
Invariant: a row's result depends on its own sequence only: not on the rows beside it, nor on how a
prompt was cut.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from homebox.engine.graph.device import Buffer
from homebox.engine.graph.formats import Format
from homebox.engine.graph.tensor import Tensor
from homebox.model.activations import Activations, rounded
from homebox.model.adapter_memory import AdapterMemory, Chosen
from homebox.model.config import ModelConfig, Rope
from homebox.model.panels import sizes
from homebox.model.rope import rope_tables


class PackedMatrices(Protocol):
    """Where the base's weights come from, in any format.

    `buffers` is their memory by names that are the same in every process; without it programs are
    not kept on disk. `tensors` has all of them by name, for whoever copies them to a device.
    """

    form: Format
    buffers: dict[str, Buffer]
    tensors: dict[str, Tensor]

    def tensor(self, name: str) -> Tensor:
        """Return a weight as a float32 tensor: (out, in), or (n,) for a norm.

        Names: embed, norm, head, and layers.{i}. with qkv (q, k and v stacked), o, gate, up, down,
        attn_norm, mlp_norm and, where heads are normalised, q_norm, k_norm.
        """
        ...


class Cache(Protocol):
    """What the decoder needs of the memory of keys and values."""

    def append(self, layer: int, k: Tensor, v: Tensor, places: Tensor) -> Tensor:
        """Write k, v (N, kv heads, head_dim); return the layer's memory afterwards."""
        ...

    def attend(
        self, layer: int, memory: Tensor, query: Tensor, positions: Tensor, tables: Tensor
    ) -> Tensor:
        """Attend from query (B, T, heads, head_dim); return (B, T, heads * head_dim)."""
        ...


@dataclass(frozen=True)
class Rows:
    """N = B * T rows of B sequences: where each stands, all of it known at run time only."""

    positions: Tensor  # int32 (B, T), place in its sequence; -1 for a row that is not used
    places: Tensor  # int32 (N,), page * 64 + offset in the cache; -1 leaves no key
    tables: Tensor  # int32 (B, pages), the sequences' pages
    chosen: Chosen  # their adapters
    last: Tensor | None  # int32 (1,), the only row whose logits are wanted; None: all


class Decoder:
    """Writes the graph of one forward pass, or of a range of its layers.

    The range that begins with layer 0 embeds ids, the one that ends with the last layer gives
    logits; in between hidden states come and go. The rotary tables lie on the current device.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedMatrices,
        cache: Cache,
        context: int,
        activations: Activations,
        layers: range | None = None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.cache = cache
        self.activations = activations
        self.layers = range(config.num_layers) if layers is None else layers
        cos, sin = rope_tables(Rope(config.rope_theta, config.head_dim), context)
        self.cos = Tensor.from_numpy(np.stack([cos, cos], 1), frozen=True)  # (P, 2, D / 2)
        self.sin = Tensor.from_numpy(np.stack([-sin, sin], 1), frozen=True)

    @property
    def first(self) -> bool:
        """Whether its input is ids."""
        return self.layers.start == 0

    @property
    def last(self) -> bool:
        """Whether its output is logits."""
        return self.layers.stop == self.config.num_layers

    def run(self, x: Tensor, rows: Rows, adapters: AdapterMemory | None) -> Tensor:
        """Return the logits (N, V), or (1, V) of the row `rows.last`; or hidden states (N, H).

        x is ids (N,) int32 for the first layers, else the hidden states that came before, (N, H).
        """
        if self.first:
            # In memory, so that statistics of rows are summed in the same order in every program.
            x = self.weights.tensor("embed").gather(x).contiguous()
        for layer in self.layers:
            only = rows.last if layer == self.config.num_layers - 1 else None
            x = _Block(self, layer, rows, adapters).run(x, only)
        if not self.last:
            return x
        weighted, scale = self.norm(x, "norm")
        head = self.weights.tensor("embed" if self.config.tied else "head")
        return rounded(weighted, self.activations).linear(head) * scale

    def norm(self, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return RMSNorm in two factors: x * weight, and 1 / rms of each row (N, 1)."""
        scale = ((x * x).mean(-1, keepdim=True) + self.config.rms_eps).rsqrt()
        return x * self.weights.tensor(name), scale

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotary embedding of x (N, H, D): halves (a, b) -> (a cos - b sin, b cos + a sin)."""
        rows, heads, dim = sizes(x)
        pairs = x.reshape((rows, heads, 2, dim // 2))
        cos = self.cos.gather(positions).reshape((rows, 1, 2, dim // 2))
        sin = self.sin.gather(positions).reshape((rows, 1, 2, dim // 2))
        swapped = pairs.slice(2, 1, 2, -1)
        return (pairs * cos + swapped * sin).reshape((rows, heads, dim))


class _Block:
    """One layer for given rows."""

    def __init__(
        self, decoder: Decoder, layer: int, rows: Rows, adapters: AdapterMemory | None
    ) -> None:
        self.decoder = decoder
        self.config = decoder.config
        self.layer = layer
        self.prefix = f"layers.{layer}."
        self.rows = rows
        self.adapters = adapters

    def run(self, x: Tensor, only: Tensor | None) -> Tensor:
        """Return the layer's output for x (N, hidden), or for the row `only` of it."""
        weighted, scale = self.decoder.norm(x, f"{self.prefix}attn_norm")
        (qkv,) = self._products("qkv", weighted, ("qkv",))
        if only is not None:
            x = x.contiguous().gather(only).contiguous()
        attended = self._attend(qkv * scale, only)
        (added,) = self._products("o", attended, ("o",))
        x = x + added
        weighted, scale = self.decoder.norm(x, f"{self.prefix}mlp_norm")
        gate, up = self._products("mlp", weighted, ("gate", "up"))
        # In memory: a factor that moved into the next product would change its rounding.
        inner = ((gate * scale).silu() * (up * scale)).contiguous()
        (added,) = self._products("down", inner, ("down",))
        return x + added

    def _products(self, source: str, x: Tensor, names: tuple[str, ...]) -> list[Tensor]:
        """Multiply an input with the matrices that read it, each with its part of the adapter."""
        operand = rounded(x, self.decoder.activations)
        weights = [self.decoder.weights.tensor(self.prefix + name) for name in names]
        found = [operand.linear(weight) for weight in weights]
        chosen = self.rows.chosen
        if self.adapters is None or not chosen.slots:
            return found
        if sizes(x)[0] != sizes(self.rows.places)[0] and chosen.rows is not None:
            raise TypeError("a single row of a chunk takes the chunk's adapter")
        narrow = self.adapters.narrow(self.prefix + source, x, chosen)
        return [
            self.adapters.add(self.prefix + name, y, narrow[self.prefix + name], chosen)
            for name, y in zip(names, found, strict=True)
        ]

    def _attend(self, qkv: Tensor, only: Tensor | None) -> Tensor:
        """Write keys and values (N), and attend from all rows or from one: (N, heads * D)."""
        c, rows = self.config, self.rows
        batch, length = sizes(rows.positions)
        count, dim = batch * length, c.head_dim
        flat = rows.positions.reshape((count,))
        q, k, v = self._split(qkv)
        key = self.decoder.rotate(self._head_norm(k.reshape((count, -1, dim)), "k_norm"), flat)
        value = v.reshape((count, c.num_kv_heads, dim))
        memory = self.decoder.cache.append(self.layer, key, value, rows.places)
        if only is not None:
            q, flat = q.gather(only), flat.gather(only)
            batch, length, count = 1, 1, 1
        query = self.decoder.rotate(self._head_norm(q.reshape((count, -1, dim)), "q_norm"), flat)
        query = query.reshape((batch, length, c.num_heads, dim))
        positions = flat.reshape((batch, length))
        attended = self.decoder.cache.attend(self.layer, memory, query, positions, rows.tables)
        return attended.reshape((count, c.num_heads * dim))

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        q, k = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        return qkv.slice(1, 0, q), qkv.slice(1, q, k), qkv.slice(1, q + k, k)

    def _head_norm(self, x: Tensor, name: str) -> Tensor:
        """RMSNorm over each head of x (N, H, D), where the model has it."""
        if not self.config.qk_norm:
            return x
        scale = ((x * x).mean(-1, keepdim=True) + self.config.rms_eps).rsqrt()
        return x * scale * self.decoder.weights.tensor(self.prefix + name)

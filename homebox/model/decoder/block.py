"""The decoder as a graph over packed weights and a paged cache.

The one idea: a matrix sees x times the norm's weight, and the row's 1/rms is multiplied in after
the product, so that rounding the operand needs no statistics and one kernel does all of it.
Invariant: a row's result depends on its own sequence only: not on the rows beside it, nor on how a
prompt was cut.
"""

from dataclasses import dataclass
from typing import Protocol

from homebox.engine.graph.device import Buffer
from homebox.engine.graph.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.decoder.activations import Activations, rounded
from homebox.model.decoder.adapter_memory import AdapterMemory, Chosen
from homebox.model.decoder.experts import Mixture
from homebox.model.decoder.gated import capped_logits, gated
from homebox.model.decoder.panels import sizes
from homebox.model.decoder.rotary import Rotation, growth_table
from homebox.model.weights.placed_weights import PackedMatrices


class Cache(Protocol):
    """What the decoder needs of the memory of keys and values."""

    def append(self, layer: int, k: Tensor, v: Tensor, places: Tensor) -> Tensor:
        """Write k, v (N, kv heads, head_dim); return the layer's memory afterwards."""
        ...

    def attend(
        self,
        layer: int,
        memory: Tensor,
        query: Tensor,
        positions: Tensor,
        tables: Tensor,
        window: int | None = None,
        cap: float | None = None,
        sinks: Tensor | None = None,
        scale: float | None = None,
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
    logits; in between hidden states come and go. The tables of places lie on the current device.
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
        self.rotations = {rope: Rotation(rope, context) for rope in config.ropes}
        self.growth: Tensor | None = None  # of queries, by place
        if config.query_growth is not None:
            table = growth_table(config.query_growth, context)
            self.growth = Tensor.from_numpy(table, frozen=True)

    @property
    def first(self) -> bool:
        """Whether its input is ids."""
        return self.layers.start == 0

    @property
    def last(self) -> bool:
        """Whether its output is logits."""
        return self.layers.stop == self.config.num_layers

    @property
    def buffers(self) -> dict[str, Buffer]:
        """The memory of the tables, by names that are the same in every process."""
        found = {} if self.growth is None else {"growth": self.growth.buffer}
        for i, rotation in enumerate(self.rotations.values()):
            found |= {f"rope:{i}:cos": rotation.cos.buffer, f"rope:{i}:sin": rotation.sin.buffer}
        return found

    def run(
        self, x: Tensor, rows: Rows, adapters: AdapterMemory | None, hidden: bool = False
    ) -> Tensor:
        """Return the logits (N, V), or (1, V) of the row `rows.last`; or hidden states (N, H).

        x is ids (N,) int32 for the first layers, else the hidden states that came before, (N, H).
        With `hidden` the last layers give what the head reads, after the last norm.
        """
        if self.first:
            x = self.weights.tensor("embed").gather(x)
            if self.config.embed_scale != 1.0:
                x = x * self.config.embed_scale
            # In memory, so that statistics of rows are summed in the same order in every program.
            x = x.contiguous()
        for layer in self.layers:
            only = rows.last if layer == self.config.num_layers - 1 else None
            x = _Block(self, layer, rows, adapters).run(x, only)
        if not self.last:
            return x
        weighted, scale = self.norm(x, "norm")
        if hidden:
            return weighted * scale
        head = self.weights.tensor("embed" if self.config.tied else "head")
        logits = rounded(weighted, self.activations).linear(head) * scale
        return capped_logits(self.config, logits)

    def norm(self, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return RMSNorm in two factors: x * weight, and 1 / rms of each row (N, 1)."""
        scale = ((x * x).mean(-1, keepdim=True) + self.config.rms_eps).rsqrt()
        return x * self.weights.tensor(name), scale


class _Block:
    """One layer for given rows."""

    def __init__(
        self, decoder: Decoder, layer: int, rows: Rows, adapters: AdapterMemory | None
    ) -> None:
        self.decoder = decoder
        self.config = decoder.config
        self.layer = layer
        self.shape = decoder.config.layers[layer]
        self.prefix = f"layers.{layer}."
        self.rows = rows
        self.adapters = adapters

    def run(self, x: Tensor, only: Tensor | None) -> Tensor:
        """Return the layer's output for x (N, hidden), or for the row `only` of it."""
        weighted, scale = self._normed(x, "attn_norm")
        (qkv,) = self._products("qkv", weighted, ("qkv",))
        qkv = self._biased(_scaled(qkv, scale), "qkv_bias", self.config.qkv_bias)
        if only is not None:
            x = x.contiguous().gather(only).contiguous()
        (added,) = self._products("o", self._attend(qkv, only), ("o",))
        added = self._biased(added, "o_bias", self.config.o_bias)
        x = self._sum(x, self._added(added, "attn_post_norm"), self.config.post_norm)
        added = self._mixture(x) if self.shape.sparse else self._mlp(x)
        loose = self.config.post_norm or self.shape.sparse
        return self._sum(x, self._added(added, "mlp_post_norm"), loose)

    def _sum(self, x: Tensor, added: Tensor, loose: bool) -> Tensor:
        """Return the residual stream, in memory also where no product's kernel writes it there.

        Else statistics of its rows would not be summed in the same order in every program.
        """
        return (x + added).contiguous() if loose else x + added

    def _mlp(self, x: Tensor) -> Tensor:
        biased = self.config.mlp_bias
        weighted, scale = self._normed(x, "mlp_norm")
        products = self._products("mlp", weighted, ("gate", "up"))
        gate, up = (
            self._biased(_scaled(y, scale), f"{name}_bias", biased)
            for name, y in zip(("gate", "up"), products, strict=True)
        )
        # In memory: a factor that moved into the next product would change its rounding.
        inner = gated(self.config.activation, gate, up).contiguous()
        (added,) = self._products("down", inner, ("down",))
        return self._biased(added, "down_bias", biased)

    def _mixture(self, x: Tensor) -> Tensor:
        if self.config.experts is None:
            raise TypeError("a sparse layer has experts")
        activations = self.decoder.activations
        weighted, scale = self._normed(x, "mlp_norm")
        mixture = Mixture(
            self.config.experts, self._weight, lambda rows: rounded(rows, activations)
        )
        return mixture.forward(_scaled(weighted, scale).contiguous())

    def _weight(self, name: str) -> Tensor:
        return self.decoder.weights.tensor(self.prefix + name)

    def _normed(self, x: Tensor, name: str) -> tuple[Tensor, Tensor | None]:
        """Return what a product reads, and the factor of each row that comes after it."""
        return self.decoder.norm(x, self.prefix + name) if self.config.pre_norm else (x, None)

    def _biased(self, y: Tensor, name: str, there: bool) -> Tensor:
        return y + self._weight(name) if there else y

    def _added(self, y: Tensor, norm: str) -> Tensor:
        """Return what a half of the layer adds to the residual stream."""
        if self.config.post_norm:
            weighted, scale = self.decoder.norm(y.contiguous(), self.prefix + norm)
            y = weighted * scale
        return y if self.config.residual_scale == 1.0 else y * self.config.residual_scale

    def _products(self, source: str, x: Tensor, names: tuple[str, ...]) -> list[Tensor]:
        """Multiply an input with the matrices that read it, each with its part of the adapter."""
        operand = rounded(x, self.decoder.activations)
        found = [operand.linear(self._weight(name)) for name in names]
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
        key = self._heads(k, "k_norm", flat)
        value = v.reshape((count, c.num_kv_heads, dim))
        memory = self.decoder.cache.append(self.layer, key, value, rows.places)
        if only is not None:
            q, flat = q.gather(only), flat.gather(only)
            batch, length, count = 1, 1, 1
        query = self._heads(q, "q_norm", flat)
        if self.decoder.growth is not None:
            query = query * self.decoder.growth.gather(flat).reshape((count, 1, 1))
        query = query.reshape((batch, length, c.num_heads, dim))
        attended = self.decoder.cache.attend(
            self.layer,
            memory,
            query,
            flat.reshape((batch, length)),
            rows.tables,
            self.shape.window,
            c.attention_cap,
            self._sinks(),
            c.score_scale,
        )
        return attended.reshape((count, c.num_heads * dim))

    def _sinks(self) -> Tensor | None:
        c = self.config
        if not c.sinks:
            return None
        return self._weight("sinks").reshape((c.num_kv_heads, c.num_heads // c.num_kv_heads))

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        q, k = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        return qkv.slice(1, 0, q), qkv.slice(1, q, k), qkv.slice(1, q + k, k)

    def _heads(self, x: Tensor, norm: str, positions: Tensor) -> Tensor:
        """Return x (N, heads * D) normed, where the model does that, and rotated: (N, heads, D)."""
        c = self.config
        if c.qk_norm == "whole":
            weighted, scale = self.decoder.norm(x.contiguous(), self.prefix + norm)
            x = weighted * scale
        x = x.reshape((sizes(x)[0], -1, c.head_dim))
        if c.qk_norm == "head":
            scale = ((x * x).mean(-1, keepdim=True) + c.rms_eps).rsqrt()
            x = x * scale * self._weight(norm)
        if self.shape.rope is None:
            return x
        return self.decoder.rotations[self.shape.rope](x, positions)


def _scaled(y: Tensor, scale: Tensor | None) -> Tensor:
    return y if scale is None else y * scale

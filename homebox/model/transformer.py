"""The Llama-shaped decoder as programs of the engine: prefill chunks, decode, whole sequences.

One graph serves all of them: `Block` writes a layer for T positions whose place in the sequence is
read from the vars buffer, so each program is compiled once. Norm weights are folded into the next
matrix, q, k and v are one matrix. Keys lie in panels of 16 positions and values in panels of 16
channels, as the contraction reads them.
Invariant: a position's result has the same bits whether it came alone or in a chunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homebox.engine import dtype as dt
from homebox.engine.capture import Program, Spec, capture
from homebox.engine.ops import Sym
from homebox.engine.tensor import Tensor
from homebox.model.adapter_memory import AdapterMemory
from homebox.model.config import PROJECTIONS, ModelConfig
from homebox.model.kv_cache import KVCache
from homebox.model.panels import PANEL, round_up, sizes
from homebox.model.rope import rope_tables
from homebox.model.strictmath import Float32

CHUNK = 64


@dataclass(frozen=True)
class Place:
    """Where T tokens stand: all of it read from the vars buffer at run time."""

    positions: Tensor  # int32 (T,), in the sequence
    written: Tensor  # int32 (T,), the same, or -1 for padding that leaves no key
    slot: Sym
    length: Sym  # tokens in the slot, these included
    adapter: Sym | None  # its slot; None compiles the base alone


class Weights:
    """The base's matrices on the device, frozen; norm weights folded into what follows them."""

    def __init__(self, config: ModelConfig, arrays: Mapping[str, np.ndarray]) -> None:
        self.embed = Tensor.from_numpy(arrays["embed"], frozen=True)
        head = arrays["embed" if config.tied else "head"]
        self.head = Tensor.from_numpy(head * arrays["norm"], frozen=True)
        self.layers: list[dict[str, Tensor]] = []
        for i in range(config.num_layers):
            part = {n: arrays[f"layers.{i}.{n}"] for n in (*PROJECTIONS, "attn_norm", "mlp_norm")}
            qkv = np.concatenate([part["q"], part["k"], part["v"]]) * part["attn_norm"]
            folded = {
                "qkv": qkv,
                "o": part["o"],
                "gate": part["gate"] * part["mlp_norm"],
                "up": part["up"] * part["mlp_norm"],
                "down": part["down"],
            }
            on_device = {k: Tensor.from_numpy(v, frozen=True) for k, v in folded.items()}
            for name in ("attn_norm", "mlp_norm"):
                on_device[name] = Tensor.from_numpy(part[name], frozen=True)
            self.layers.append(on_device)


class Transformer:
    """A decoder with its base weights, KV slots and adapters; see the module's note.

    `context` is rounded up to a multiple of 16 positions.
    """

    prefill_chunk = CHUNK

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray],
        context: int,
        slots: int = 8,
        adapters: int = 8,
        rank: int = 16,
    ) -> None:
        self.config = config
        self.context = round_up(context, 4 * PANEL)
        self.weights = Weights(config, weights)
        cos, sin = rope_tables(self.context, config.head_dim, config.rope_theta)
        self.cos = Tensor.from_numpy(np.stack([cos, cos], 1), frozen=True)
        self.sin = Tensor.from_numpy(np.stack([-sin, sin], 1), frozen=True)
        self.cache = KVCache(config, slots + 1, self.context)  # the last slot is for all_logits
        self.adapters = AdapterMemory(config, adapters, rank)
        self.slots = slots
        self._programs: dict[tuple[int, bool, bool], Program] = {}

    # -- running --------------------------------------------------------------------------------

    def forward(self, slot: int, position: int, ids: np.ndarray, adapter: int) -> Float32:
        """Process `ids` (at most `prefill_chunk`) from `position` on; return the last logits."""
        out = self._run(slot, position, ids, adapter, every=False)
        logits: Float32 = out[0].copy()
        return logits

    def all_logits(self, ids: np.ndarray, adapter: int = 0) -> Float32:
        """Return the logits after each of `ids` in a fresh context, (T, V)."""
        parts = [
            self._run(self.slots, i, ids[i : i + CHUNK], adapter, every=True)[
                : len(ids[i : i + CHUNK])
            ].copy()
            for i in range(0, len(ids), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.config.vocab_size), np.float32)

    def set_adapter(
        self, index: int, tensors: Mapping[str, np.ndarray] | None, scale: float
    ) -> None:
        """Put an adapter into a slot (1 ..), or clear it; slot 0 is the base and stays empty."""
        self.adapters.write(index, tensors, scale)

    def _run(
        self, slot: int, position: int, ids: np.ndarray, adapter: int, every: bool
    ) -> np.ndarray:
        count = len(ids)
        rows = 1 if count == 1 and not every else CHUNK
        program = self.program(rows, adapter != 0, every)
        padded = np.zeros(rows, np.int32)
        padded[:count] = ids
        program.set_input("ids", padded)
        values = {
            "slot": slot,
            "start": position,
            "count": count,
            "length": position + count,
            "adapter": adapter,
        }
        program.run(values)
        return program.output(0)

    # -- the graph ------------------------------------------------------------------------------

    def program(self, rows: int, adapted: bool, every: bool) -> Program:
        """Return the program for `rows` positions, compiling it at first use."""
        key = (rows, adapted, every)
        if key not in self._programs:
            self._programs[key] = self._capture(rows, adapted, every)
        return self._programs[key]

    def _capture(self, rows: int, adapted: bool, every: bool) -> Program:
        slot = Sym("slot", 0, self.slots)
        start = Sym("start", 0, self.context - 1)
        count = Sym("count", 1, rows)
        length = Sym("length", 1, self.context)
        adapter = Sym("adapter", 0, self.adapters.slots - 1)

        def step(ids: Tensor) -> list[Tensor]:
            offset = Tensor.iota(rows)
            positions = offset + Tensor.variable(start)
            written = (offset < Tensor.variable(count)).where(positions, -1)
            place = Place(positions, written, slot, length, adapter if adapted else None)
            x = self.weights.embed.gather(ids)
            for layer in range(self.config.num_layers):
                x = self._layer(layer, x, place)
            if not every:
                last = (Tensor.variable(count) + -1).reshape((1,))
                x = x.contiguous().gather(last)
            return [self._norm(x).linear(self.weights.head)]

        name = f"{'chunk' if rows > 1 else 'decode'}{'+lora' if adapted else ''}"
        syms = [slot, start, count, length, adapter]
        return capture(step, {"ids": Spec((rows,), dt.i32)}, syms, name)

    def _norm(self, x: Tensor) -> Tensor:
        """RMSNorm without its weight, which is folded into the next matrix."""
        return x * ((x * x).mean(-1, keepdim=True) + self.config.rms_eps).rsqrt()

    def _layer(self, i: int, x: Tensor, place: Place) -> Tensor:
        w = self.weights.layers[i]
        adapter = place.adapter

        def lora(name: str, source: Tensor, y: Tensor) -> Tensor:
            if adapter is None:
                return y
            return self.adapters.add(f"layers.{i}.{name}", source, y, adapter)

        normed = self._norm(x)
        weighted = normed * w["attn_norm"] if adapter is not None else normed
        q, k, v = self._split(normed.linear(w["qkv"]))
        q, k, v = (lora(n, weighted, t) for n, t in (("q", q), ("k", k), ("v", v)))
        attended = self._attend(i, (q, k, v), place)
        x = x + lora("o", attended, attended.linear(w["o"]))
        normed = self._norm(x)
        weighted = normed * w["mlp_norm"] if adapter is not None else normed
        gate = lora("gate", weighted, normed.linear(w["gate"]))
        up = lora("up", weighted, normed.linear(w["up"]))
        inner = gate.silu() * up
        return x + lora("down", inner, inner.linear(w["down"]))

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        q, k = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        return qkv.slice(1, 0, q), qkv.slice(1, q, k), qkv.slice(1, q + k, k)

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotary embedding of x (T, H, D): halves (a, b) -> (a cos - b sin, b cos + a sin)."""
        rows, heads, dim = sizes(x)
        pairs = x.reshape((rows, heads, 2, dim // 2))
        cos = self.cos.gather(positions).reshape((rows, 1, 2, dim // 2))
        sin = self.sin.gather(positions).reshape((rows, 1, 2, dim // 2))
        swapped = pairs.slice(2, 1, 2, -1)
        return (pairs * cos + swapped * sin).reshape((rows, heads, dim))

    def _attend(self, i: int, qkv: tuple[Tensor, Tensor, Tensor], place: Place) -> Tensor:
        """Causal grouped-query attention over the slot's cache: (T, heads * head_dim)."""
        c, cache, positions, (q, k, v) = self.config, self.cache, place.positions, qkv
        rows, dim = sizes(q)[0], c.head_dim
        groups = c.num_heads // c.num_kv_heads
        query = self._rotate(q.reshape((rows, c.num_heads, dim)), positions) * (dim**-0.5)
        key = self._rotate(k.reshape((rows, c.num_kv_heads, dim)), positions)
        value = v.reshape((rows, c.num_kv_heads, dim))
        keys, values = cache.append(i, key, value, place.written, Tensor.variable(place.slot))
        heads = query.reshape((rows, c.num_kv_heads, groups, dim)).permute(1, 2, 0, 3)
        past_k = keys.slice(0, place.slot, 1).permute(0, 1, 2, 4, 3)
        past_k = past_k.reshape((c.num_kv_heads, 1, cache.context, dim)).slice(2, 0, place.length)
        past_v = values.slice(0, place.slot, 1).permute(0, 1, 3, 2, 4)
        past_v = past_v.reshape((c.num_kv_heads, 1, cache.context, cache.dim)).slice(
            2, 0, place.length
        )
        scores = heads @ past_k.transpose()  # (kv, groups, T, length)
        seen = Tensor.iota(place.length).reshape((1, place.length)) <= positions.reshape((rows, 1))
        weights = seen.where(scores, float("-inf")).softmax()
        out = (weights @ past_v).permute(2, 0, 1, 3)  # (T, kv, groups, dim)
        if cache.dim != dim:
            out = out.slice(3, 0, dim)
        return out.reshape((rows, c.num_heads * dim))

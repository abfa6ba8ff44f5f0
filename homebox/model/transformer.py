"""The Llama-shaped decoder as programs of the engine: prefill chunks, decode, whole sequences.

One graph serves all of them: `Block` writes a layer for T positions whose place in the sequence is
read from the vars buffer, so each program is compiled once. Norm weights are folded into the next
matrix, q, k and v are one matrix. Keys lie in panels of 16 positions and values in panels of 16
channels, as the contraction reads them.
Invariant: a position's result has the same bits whether it came alone or in a chunk.
"""

import math
from collections.abc import Mapping

import numpy as np

from homebox.engine import dtype as dt
from homebox.engine.capture import Program, Spec, capture
from homebox.engine.ops import Sym
from homebox.engine.tensor import Tensor
from homebox.model.config import PROJECTIONS, ModelConfig
from homebox.model.rope import rope_tables
from homebox.model.strictmath import Float32

PANEL = 16
CHUNK = 64


def round_up(n: int, to: int = PANEL) -> int:
    return -(-n // to) * to


class AdapterMemory:
    """LoRA matrices of all slots, in the layout that contractions read; scale is folded into B.

    A: (slots, rank / 16, in, 16), B: (slots, out / 16, rank, 16).
    """

    def __init__(self, config: ModelConfig, slots: int, rank: int) -> None:
        self.rank = round_up(rank)
        self.slots = slots
        self.tensors: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in range(config.num_layers):
            for name in PROJECTIONS:
                out, inner = config.projection_shape(name)
                a = Tensor.zeros((slots, self.rank // PANEL, inner, PANEL))
                b = Tensor.zeros((slots, round_up(out) // PANEL, self.rank, PANEL))
                self.tensors[f"layers.{layer}.{name}"] = (a, b)

    def write(self, index: int, tensors: Mapping[str, np.ndarray] | None, scale: float) -> None:
        """Replace the adapter of one slot; None clears it."""
        for name, (a_tensor, b_tensor) in self.tensors.items():
            a_memory = a_tensor.buffer.array.reshape(_sizes(a_tensor))[index]
            b_memory = b_tensor.buffer.array.reshape(_sizes(b_tensor))[index]
            a_memory[:], b_memory[:] = 0.0, 0.0
            if tensors is None:
                continue
            a, b = tensors[f"{name}.A"], tensors[f"{name}.B"]
            a_memory[:] = to_panels(_padded_rows(a, self.rank))
            wide = np.zeros((b.shape[0], self.rank), np.float32)
            wide[:, : b.shape[1]] = b * np.float32(scale)
            b_memory[:] = to_panels(_padded_rows(wide, round_up(b.shape[0])))

    def add(self, name: str, x: Tensor, y: Tensor, slot: Sym) -> Tensor:
        """Return y + scale * B (A x) for x (T, in), y (T, out) and the adapter in `slot`."""
        a, b = self.tensors[name]
        narrow = a.slice(0, slot, 1).permute(0, 1, 3, 2).reshape((self.rank, x.shape[1]))
        wide = b.slice(0, slot, 1).permute(0, 1, 3, 2)
        weight = wide.reshape((_sizes(b)[1] * PANEL, self.rank)).slice(0, 0, _sizes(y)[1])
        return y + x.linear(narrow).linear(weight)


def _sizes(t: Tensor) -> tuple[int, ...]:
    return tuple(d for d in t.shape if isinstance(d, int))


def _padded_rows(array: np.ndarray, rows: int) -> np.ndarray:
    out = np.zeros((rows, array.shape[1]), np.float32)
    out[: array.shape[0]] = array
    return out


def to_panels(array: np.ndarray) -> np.ndarray:
    """Return a (rows, columns) matrix as (rows / 16, columns, 16)."""
    rows, columns = array.shape
    return array.reshape(rows // PANEL, PANEL, columns).transpose(0, 2, 1)


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


class Cache:
    """Keys and values of all slots, one pair of buffers per layer.

    Keys (slots, kv heads, context / 16, head_dim, 16); values (slots, kv heads, dim / 16, context, 16).
    """

    def __init__(self, config: ModelConfig, slots: int, context: int) -> None:
        self.config, self.slots, self.context = config, slots, context
        self.dim = round_up(config.head_dim)
        heads = config.num_kv_heads
        key_shape = (slots, heads, context // PANEL, config.head_dim, PANEL)
        value_shape = (slots, heads, self.dim // PANEL, context, PANEL)
        self.key_shape, self.value_shape = key_shape, value_shape
        layers = range(config.num_layers)
        self.keys = [Tensor.zeros((math.prod(key_shape),)) for _ in layers]
        self.values = [Tensor.zeros((math.prod(value_shape),)) for _ in layers]

    def append(
        self, layer: int, k: Tensor, v: Tensor, places: Tensor, slot: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write k, v (T, kv heads, head_dim) at `places` (T,) of a slot; negative ones are skipped.

        Returns the layer's memory after the writes.
        """
        c = self.config
        heads, dim = c.num_kv_heads, c.head_dim
        shape = (k.shape[0], heads, dim)
        at = places.reshape((k.shape[0], 1, 1)).broadcast(shape)
        head = Tensor.iota(heads).reshape((1, heads, 1)).broadcast(shape)
        channel = Tensor.iota(dim).reshape((1, 1, dim)).broadcast(shape)
        row = (slot * heads).reshape((1, 1, 1)).broadcast(shape) + head
        key_at = ((row * (self.context // PANEL) + at // PANEL) * dim + channel) * PANEL + at % PANEL
        blocks = self.dim // PANEL
        value_at = ((row * blocks + channel // PANEL) * self.context + at) * PANEL + channel % PANEL
        outside = at < 0
        keys = self.keys[layer].store(k, outside.where(-1, key_at))
        values = self.values[layer].store(v, outside.where(-1, value_at))
        return keys.reshape(self.key_shape), values.reshape(self.value_shape)


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
        self.cache = Cache(config, slots + 1, self.context)  # the last slot is for all_logits
        self.adapters = AdapterMemory(config, adapters, rank)
        self.slots = slots
        self._programs: dict[tuple[int, bool, bool], Program] = {}

    # -- running --------------------------------------------------------------------------------

    def forward(self, slot: int, position: int, ids: np.ndarray, adapter: int) -> Float32:
        """Process `ids` (at most `prefill_chunk`) at `position` and on; return the last logits (V,)."""
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
            places = (offset < Tensor.variable(count)).where(positions, -1)
            x = self.weights.embed.gather(ids)
            for layer in range(self.config.num_layers):
                x = self._layer(layer, x, positions, places, slot, length, adapter if adapted else None)
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

    def _layer(
        self,
        i: int,
        x: Tensor,
        positions: Tensor,
        places: Tensor,
        slot: Sym,
        length: Sym,
        adapter: Sym | None,
    ) -> Tensor:
        w = self.weights.layers[i]

        def lora(name: str, source: Tensor, y: Tensor) -> Tensor:
            if adapter is None:
                return y
            return self.adapters.add(f"layers.{i}.{name}", source, y, adapter)

        normed = self._norm(x)
        weighted = normed * w["attn_norm"] if adapter is not None else normed
        q, k, v = self._split(normed.linear(w["qkv"]))
        q, k, v = (lora(n, weighted, t) for n, t in (("q", q), ("k", k), ("v", v)))
        attended = self._attend(i, q, k, v, positions, places, slot, length)
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
        rows, heads, dim = _sizes(x)
        pairs = x.reshape((rows, heads, 2, dim // 2))
        cos = self.cos.gather(positions).reshape((rows, 1, 2, dim // 2))
        sin = self.sin.gather(positions).reshape((rows, 1, 2, dim // 2))
        swapped = pairs.slice(2, 1, 2, -1)
        return (pairs * cos + swapped * sin).reshape((rows, heads, dim))

    def _attend(
        self,
        i: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        places: Tensor,
        slot: Sym,
        length: Sym,
    ) -> Tensor:
        """Causal grouped-query attention over the slot's cache: (T, heads * head_dim)."""
        c, cache = self.config, self.cache
        rows, dim = _sizes(q)[0], c.head_dim
        groups = c.num_heads // c.num_kv_heads
        query = self._rotate(q.reshape((rows, c.num_heads, dim)), positions) * (dim**-0.5)
        key = self._rotate(k.reshape((rows, c.num_kv_heads, dim)), positions)
        value = v.reshape((rows, c.num_kv_heads, dim))
        keys, values = cache.append(i, key, value, places, Tensor.variable(slot))
        heads = query.reshape((rows, c.num_kv_heads, groups, dim)).permute(1, 2, 0, 3)
        past_k = keys.slice(0, slot, 1).permute(0, 1, 2, 4, 3)
        past_k = past_k.reshape((c.num_kv_heads, 1, cache.context, dim)).slice(2, 0, length)
        past_v = values.slice(0, slot, 1).permute(0, 1, 3, 2, 4)
        past_v = past_v.reshape((c.num_kv_heads, 1, cache.context, cache.dim)).slice(2, 0, length)
        scores = heads @ past_k.transpose()  # (kv, groups, T, length)
        seen = Tensor.iota(length).reshape((1, length)) <= positions.reshape((rows, 1))
        weights = seen.where(scores, float("-inf")).softmax()
        out = (weights @ past_v).permute(2, 0, 1, 3)  # (T, kv, groups, dim)
        if cache.dim != dim:
            out = out.slice(3, 0, dim)
        return out.reshape((rows, c.num_heads * dim))

"""A Llama and Qwen3 decoder in plain numpy: the oracle that models of the engine are compared with.

Written from the formulas alone (RMSNorm, rotary positions, grouped-query attention, SwiGLU; for
Qwen3 RMSNorm of each head's query and key), one token sequence at a time, nothing fused and nothing
cached except keys and values.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.model.config import PROJECTIONS, ModelConfig
from homebox.model.decoder.rope import rope_tables

Array = npt.NDArray[Any]


class ReferenceLlama:
    """Offers what `homebox.model.decoder.transformer.Transformer` offers, slowly."""

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, Array],
        context: int,
        slots: int = 8,
        adapters: int = 8,
        rank: int = 16,
        dtype: type[np.floating[Any]] = np.float64,
    ) -> None:
        self.config = config
        self.weights = {name: array.astype(dtype) for name, array in weights.items()}
        self.dtype = dtype
        self.context = context
        self.prefill_chunk = 16
        self.shared_chunk = 8
        tables = rope_tables(config.ropes[0], context)
        self.cos, self.sin = tables[0].astype(dtype), tables[1].astype(dtype)
        self.adapters: list[tuple[dict[str, Array], float] | None] = [None] * adapters
        self.cache: list[list[tuple[Array, Array]]] = [[] for _ in range(slots)]
        self.calls: list[tuple[int, int, int, int]] = []

    def set_adapter(self, index: int, tensors: dict[str, Array] | None, scale: float) -> None:
        if tensors is None:
            self.adapters[index] = None
        else:
            wide = {name: array.astype(self.dtype) for name, array in tensors.items()}
            self.adapters[index] = (wide, scale)

    def forward(self, slot: int, position: int, ids: Array, adapter: int) -> Array:
        assert 0 < len(ids) <= self.prefill_chunk
        assert position + len(ids) <= self.context
        self.calls.append((slot, position, len(ids), adapter))
        if position == 0:
            self.cache[slot] = []
        return self._run(self.cache[slot], position, ids, adapter)[-1]

    def decode(self, slots: Any, ids: Array, positions: Any, adapters: Any) -> Array:
        rows = zip(slots, ids, positions, adapters, strict=True)
        return np.stack([self.forward(s, p, np.array([i]), a) for s, i, p, a in rows])

    def prepare(self) -> bool:
        return False

    def truncate(self, slot: int, length: int) -> None:
        pass  # whatever comes at a position replaces what was there

    def release(self, slot: int) -> None:
        self.cache[slot] = []

    def all_logits(self, ids: Array, adapter: int = 0) -> Array:
        return self._run([], 0, ids, adapter)

    def hidden(self, ids: Array, adapter: int = 0) -> Array:
        return self._states([], 0, ids, adapter).astype(np.float32)

    def _linear(self, x: Array, name: str, adapter: int) -> Array:
        y = x @ self.weights[name].T
        chosen = self.adapters[adapter]
        if chosen is not None:
            tensors, scale = chosen
            y = y + scale * (x @ tensors[f"{name}.A"].T) @ tensors[f"{name}.B"].T
        return y

    def _run(
        self, cache: list[tuple[Array, Array]], position: int, ids: Array, adapter: int
    ) -> Array:
        head = self.weights["embed" if self.config.tied else "head"]
        logits: Array = (self._states(cache, position, ids, adapter) @ head.T).astype(np.float32)
        return logits

    def _states(
        self, cache: list[tuple[Array, Array]], position: int, ids: Array, adapter: int
    ) -> Array:
        config = self.config
        x = self.weights["embed"][ids]  # (T, d)
        for layer in range(config.num_layers):
            prefix = f"layers.{layer}."
            names = {name: prefix + name for name in PROJECTIONS}
            h = self._norm(x, prefix + "attn_norm")
            q, k, v = (self._linear(h, names[name], adapter) for name in "qkv")
            q, k, v = self._heads(q), self._heads(k), self._heads(v)  # (H, T, D)
            if config.qk_norm:
                q, k = self._norm(q, prefix + "q_norm"), self._norm(k, prefix + "k_norm")
            q, k = self._rotate(q, position), self._rotate(k, position)
            if len(cache) <= layer:
                cache.append((k, v))
            else:
                old_k, old_v = (array[:, :position] for array in cache[layer])
                k, v = np.concatenate([old_k, k], 1), np.concatenate([old_v, v], 1)
                cache[layer] = (k, v)
            x = x + self._linear(self._attend(q, k, v, position), names["o"], adapter)
            h = self._norm(x, prefix + "mlp_norm")
            gate = self._linear(h, names["gate"], adapter)
            gate = gate / (1 + np.exp(-gate))
            up = self._linear(h, names["up"], adapter)
            x = x + self._linear(gate * up, names["down"], adapter)
        return self._norm(x, "norm")

    def _norm(self, x: Array, name: str) -> Array:
        mean = np.mean(x * x, axis=-1, keepdims=True)
        result: Array = x / np.sqrt(mean + self.config.rms_eps) * self.weights[name]
        return result

    def _heads(self, x: Array) -> Array:
        return x.reshape(len(x), -1, self.config.head_dim).transpose(1, 0, 2)

    def _rotate(self, x: Array, position: int) -> Array:
        length, half = x.shape[1], x.shape[2] // 2
        cos, sin = (table[position : position + length] for table in (self.cos, self.sin))
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _attend(self, q: Array, k: Array, v: Array, position: int) -> Array:
        group = self.config.num_heads // self.config.num_kv_heads
        k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(self.config.head_dim)
        later = np.arange(k.shape[1])[None, :] > position + np.arange(q.shape[1])[:, None]
        scores = np.where(later[None], -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out: Array = (weights @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)
        return out

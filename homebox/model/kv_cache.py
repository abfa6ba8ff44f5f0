"""Keys and values of past tokens, per layer and slot, in the layout that attention reads."""

import math

from homebox.engine.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.panels import PANEL, round_up


class KVCache:
    """Keys and values of all slots, one pair of buffers per layer.

    Keys: (slots, kv heads, context / 16, head_dim, 16).
    Values: (slots, kv heads, dim / 16, context, 16), dim = head_dim rounded up to 16.
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
        block = row * (self.context // PANEL) + at // PANEL
        key_at = (block * dim + channel) * PANEL + at % PANEL
        blocks = self.dim // PANEL
        value_at = ((row * blocks + channel // PANEL) * self.context + at) * PANEL + channel % PANEL
        outside = at < 0
        keys = self.keys[layer].store(k, outside.where(-1, key_at))
        values = self.values[layer].store(v, outside.where(-1, value_at))
        return keys.reshape(self.key_shape), values.reshape(self.value_shape)

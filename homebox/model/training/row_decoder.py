"""The decoder over packed rows on a frozen base, with an adapter or without: one graph for both.

Whatever is computed from rows in training (gradients, losses, likelihoods, a teacher's opinion)
begins here, so that all of it reads the same model. Invariant: nothing is written; results are
functions of the rows, the frozen base and the adapter's memory.
"""

from homebox.engine.graph.device import Buffer
from homebox.engine.graph.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.training.frozen_base import FrozenBase
from homebox.model.training.lora_layer import Kept, LoraLayer, Low
from homebox.model.training.packed_rows import Rotary, Rows, rms_norm
from homebox.model.training.parameters import Parameters, groups_of
from homebox.model.training.row_attention import RowAttention


class RowDecoder:
    """A frozen base for rows of one shape (rows, length); its tables lie on the device in use."""

    def __init__(self, config: ModelConfig, base: FrozenBase, shape: tuple[int, int]) -> None:
        self.config, self.base, self.shape = config, base, shape
        self.rotary = {rope: Rotary(rope, shape[1]) for rope in config.ropes}

    def layers(
        self, rows: Rows, parameters: Parameters | None = None, scale: float = 1.0
    ) -> list[LoraLayer]:
        """Return the layers, with the adapter of `parameters` if there is one."""
        return [self._layer(i, rows, parameters, scale) for i in range(self.config.num_layers)]

    def hidden(self, rows: Rows, layers: list[LoraLayer]) -> tuple[Tensor, list[Kept]]:
        """Return the hidden states (N, H) before the last norm, and what each layer keeps."""
        x = self.base.tensors["embed"].gather(rows.ids.reshape((self.shape[0] * self.shape[1],)))
        if self.config.embed_scale != 1.0:
            x = x * self.config.embed_scale
        x = x.contiguous()
        keeps = []
        for layer in layers:
            x, kept = layer.forward(x)
            keeps.append(kept)
        return x, keeps

    def normed(self, x: Tensor) -> Tensor:
        """Return hidden states as the matrix of the logits takes them."""
        return rms_norm(x, self.base.tensors["norm"], self.config.rms_eps)

    def buffers(self) -> dict[str, Buffer]:
        """Return the memory of weights and tables, by names that are the same everywhere."""
        tables: dict[str, Buffer] = {}
        for i, rotary in enumerate(self.rotary.values()):
            tables |= {f"rotary:{i}:cos": rotary.cos.buffer, f"rotary:{i}:sin": rotary.sin.buffer}
        return self.base.buffers() | tables

    def _layer(self, i: int, rows: Rows, parameters: Parameters | None, scale: float) -> LoraLayer:
        norms = None
        if self.config.qk_norm:
            first, second = (self.base.tensors[f"layers.{i}.{n}_norm"] for n in "qk")
            norms = first, second
        rope = self.config.layers[i].rope
        rotary = None if rope is None else self.rotary[rope]
        sinks = self.base.tensors[f"layers.{i}.sinks"] if self.config.sinks else None
        attention = RowAttention(self.config, i, rotary, rows, norms, sinks)
        low: dict[str, Low] = {}
        if parameters is not None:
            groups = groups_of(self.config, i)
            low = {g: _low(parameters, f"layers.{i}", g, groups[g], scale) for g in groups}
        return LoraLayer(self.base, i, attention, low)


def _low(
    parameters: Parameters, layer: str, group: str, members: tuple[str, ...], scale: float
) -> Low:
    a = parameters.a(f"{layer}.{group}.A")
    return Low(a, tuple(parameters.b(f"{layer}.{member}.B") for member in members), scale)

"""LoRA matrices on the device: one memory for all slots, so that a swap compiles nothing."""

from collections.abc import Mapping

import numpy as np

from homebox.engine.ops import Sym
from homebox.engine.tensor import Tensor
from homebox.model.config import PROJECTIONS, ModelConfig
from homebox.model.panels import PANEL, padded_rows, round_up, sizes, to_panels


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
            a_memory = a_tensor.buffer.array.reshape(sizes(a_tensor))[index]
            b_memory = b_tensor.buffer.array.reshape(sizes(b_tensor))[index]
            a_memory[:], b_memory[:] = 0.0, 0.0
            if tensors is None:
                continue
            a, b = tensors[f"{name}.A"], tensors[f"{name}.B"]
            a_memory[:] = to_panels(padded_rows(a, self.rank))
            wide = np.zeros((b.shape[0], self.rank), np.float32)
            wide[:, : b.shape[1]] = b * np.float32(scale)
            b_memory[:] = to_panels(padded_rows(wide, round_up(b.shape[0])))

    def add(self, name: str, x: Tensor, y: Tensor, slot: Sym) -> Tensor:
        """Return y + scale * B (A x) for x (T, in), y (T, out) and the adapter in `slot`."""
        a, b = self.tensors[name]
        narrow = a.slice(0, slot, 1).permute(0, 1, 3, 2).reshape((self.rank, x.shape[1]))
        wide = b.slice(0, slot, 1).permute(0, 1, 3, 2)
        weight = wide.reshape((sizes(b)[1] * PANEL, self.rank)).slice(0, 0, sizes(y)[1])
        return y + x.linear(narrow).linear(weight)

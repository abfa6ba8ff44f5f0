"""LoRA matrices on the device: one memory for all slots, so that a swap compiles nothing.

The one idea: projections that read the same input share one matrix A, so an adapter costs one
narrow product per input and one product more inside each of the base's.
Invariant: slot 0 is the base and stays zero; a row that names it gets exactly the base's result.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homebox.engine.device import Buffer
from homebox.engine.ops import Sym
from homebox.engine.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.panels import PANEL, padded_rows, round_up, sizes, to_panels

RANKS = (8, 16, 32, 64)
# A matrix of the base -> the projections stacked in it; the input -> the matrices that read it.
MATRICES = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate": ("gate",),
    "up": ("up",),
    "down": ("down",),
}
INPUTS = {"qkv": ("qkv",), "o": ("o",), "mlp": ("gate", "up"), "down": ("down",)}


@dataclass(frozen=True)
class Chosen:
    """Which adapter the rows of a program use.

    With `slot` all rows use that one, save those where `rows` (N,) is 0, if it is given; without
    `slot`, each row names its own in `rows`.
    """

    slot: Sym | None
    rows: Tensor | None


def rank_bucket(rank: int) -> int:
    """Return the rank that memory is laid out for."""
    return next((size for size in RANKS if rank <= size), round_up(rank, RANKS[-1]))


class AdapterMemory:
    """LoRA matrices of all slots, in the layout that contractions read; scale is folded into B.

    For each input A: (slots, columns / 16, in, 16), the columns of its projections side by side,
    `rank` each. For each matrix B: (slots, out / 16, columns, 16); where a matrix stacks several
    projections, each of them reads its own columns only and the rest of B is zero.
    """

    def __init__(self, config: ModelConfig, slots: int, rank: int) -> None:
        self.config = config
        self.slots = slots
        self.rank = rank
        self.a: dict[str, Tensor] = {}
        self.b: dict[str, Tensor] = {}
        for layer in range(config.num_layers):
            for source, matrices in INPUTS.items():
                columns = sum(len(MATRICES[m]) for m in matrices) * rank
                inner = config.projection_shape(MATRICES[matrices[0]][0])[1]
                shape = (slots, round_up(columns) // PANEL, inner, PANEL)
                self.a[f"layers.{layer}.{source}"] = Tensor.zeros(shape)
                for matrix in matrices:
                    shape = (slots, self._outputs(matrix) // PANEL, self._columns(matrix), PANEL)
                    self.b[f"layers.{layer}.{matrix}"] = Tensor.zeros(shape)

    def _columns(self, matrix: str) -> int:
        return len(MATRICES[matrix]) * self.rank

    def _outputs(self, matrix: str) -> int:
        total = sum(self.config.projection_shape(name)[0] for name in MATRICES[matrix])
        return round_up(total)

    @property
    def buffers(self) -> dict[str, Buffer]:
        """All memory, by names that are the same in every process."""
        found = {f"adapters:a:{name}": t.buffer for name, t in self.a.items()}
        return found | {f"adapters:b:{name}": t.buffer for name, t in self.b.items()}

    def write(self, index: int, tensors: Mapping[str, np.ndarray] | None, scale: float) -> None:
        """Replace the adapter of one slot; None clears it."""
        for t in (*self.a.values(), *self.b.values()):
            t.buffer.array.reshape(sizes(t))[index] = 0.0
        if tensors is None:
            return
        for layer in range(self.config.num_layers):
            for source, matrices in INPUTS.items():
                self._write_input(index, f"layers.{layer}.", source, matrices, tensors)
                for matrix in matrices:
                    self._write_matrix(index, f"layers.{layer}.", matrix, tensors, scale)

    def take_over(self, other: "AdapterMemory") -> None:
        """Copy the adapters of a memory with the same slots and a smaller rank."""
        for layer in range(self.config.num_layers):
            for source, matrices in INPUTS.items():
                name = f"layers.{layer}.{source}"
                count = sum(len(MATRICES[matrix]) for matrix in matrices)
                self._spread(other, other.a[name], self.a[name], count, axis=1)
                for matrix in matrices:
                    name = f"layers.{layer}.{matrix}"
                    self._spread(other, other.b[name], self.b[name], len(MATRICES[matrix]), axis=2)

    def _spread(
        self, other: "AdapterMemory", old: Tensor, new: Tensor, parts: int, axis: int
    ) -> None:
        """Copy (slots, rows, k) in panels; `axis` holds `parts` times the rank."""
        source, target = (rows_of(t) for t in (old, new))
        for part in range(parts):
            there = slice(part * other.rank, (part + 1) * other.rank)
            here = slice(part * self.rank, part * self.rank + other.rank)
            if axis == 1:
                target[:, here] = source[:, there]
            else:
                target[:, :, here] = source[:, :, there]
        slots, blocks, inner, _ = sizes(new)
        panels = target.reshape(slots, blocks, PANEL, inner).transpose(0, 1, 3, 2)
        new.buffer.array.reshape(sizes(new))[:] = panels

    def _write_input(
        self,
        index: int,
        prefix: str,
        source: str,
        matrices: tuple[str, ...],
        tensors: Mapping[str, np.ndarray],
    ) -> None:
        names = [name for matrix in matrices for name in MATRICES[matrix]]
        stacked = np.concatenate(
            [padded_rows(tensors[f"{prefix}{name}.A"], self.rank) for name in names]
        )
        t = self.a[prefix + source]
        memory = t.buffer.array.reshape(sizes(t))[index]
        memory[:] = to_panels(padded_rows(stacked, round_up(len(stacked))))

    def _write_matrix(
        self,
        index: int,
        prefix: str,
        matrix: str,
        tensors: Mapping[str, np.ndarray],
        scale: float,
    ) -> None:
        wide = np.zeros((self._outputs(matrix), self._columns(matrix)), np.float32)
        row = 0
        for number, name in enumerate(MATRICES[matrix]):
            b = tensors[f"{prefix}{name}.B"]
            column = number * self.rank
            wide[row : row + len(b), column : column + b.shape[1]] = b * np.float32(scale)
            row += len(b)
        t = self.b[prefix + matrix]
        t.buffer.array.reshape(sizes(t))[index] = to_panels(wide)

    def narrow(self, name: str, x: Tensor, chosen: Chosen) -> dict[str, Tensor]:
        """Return A x for an input x (N, in): for each matrix that reads it, (N, columns)."""
        prefix, source = name.rsplit(".", 1)
        u = self._product(x, self.a[name], chosen)
        if chosen.slot is not None and chosen.rows is not None:
            u = chosen.rows.reshape((sizes(x)[0], 1)).equal(0).where(0.0, u)
        found, at = {}, 0
        for matrix in INPUTS[source]:
            found[matrix] = u.slice(1, at, self._columns(matrix))
            at += self._columns(matrix)
        return {f"{prefix}.{matrix}": part for matrix, part in found.items()}

    def wide(self, name: str, u: Tensor, y: Tensor, chosen: Chosen) -> Tensor:
        """Return scale * B u for u (N, columns), shaped like y (N, out), to which it is added."""
        return self._product(u, self.b[name], chosen).slice(1, 0, sizes(y)[1])

    def _product(self, x: Tensor, memory: Tensor, chosen: Chosen) -> Tensor:
        _, blocks, inner, _ = sizes(memory)
        rows = sizes(x)[0]
        if chosen.slot is not None:
            panels = memory.slice(0, chosen.slot, 1).permute(0, 1, 3, 2)
            return x.linear(panels.reshape((blocks * PANEL, inner)))
        if chosen.rows is None:
            raise TypeError("no row says which adapter it uses")
        each = memory.gather(chosen.rows).permute(0, 1, 3, 2)
        weights = each.reshape((rows, blocks * PANEL, inner)).transpose()
        return x.reshape((rows, 1, inner)).matmul(weights).reshape((rows, blocks * PANEL))


def rows_of(t: Tensor) -> np.ndarray:
    """Return a copy of (slots, rows / 16, k, 16) memory as (slots, rows, k)."""
    slots, blocks, inner, _ = sizes(t)
    panels = t.buffer.array.reshape(sizes(t)).transpose(0, 1, 3, 2)
    return panels.reshape(slots, blocks * PANEL, inner)

"""LoRA matrices on the device: one memory for all slots, so that a swap compiles nothing.

The one idea: projections that read the same input share one matrix A, so an adapter costs one
narrow product per input and one product more inside each of the base's.
Invariant: slot 0 is the base and stays zero; a row that names it gets exactly the base's result.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.formats import F32
from homebox.engine.graph.ops import Sym
from homebox.engine.graph.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.decoder.panels import PANEL, padded_rows, round_up, sizes, to_panels

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
    """Which adapters the rows of a program use.

    With one slot and no `rows` all rows use that slot. Else `rows` (N,) int32 says the slot of each
    row, and `slots` are those that occur, save the base; places that are not needed hold 0.
    """

    slots: tuple[Sym, ...]
    rows: Tensor | None


def rank_bucket(rank: int) -> int:
    """Return the rank that memory is laid out for."""
    return next((size for size in RANKS if rank <= size), round_up(rank, RANKS[-1]))


def inputs_of(config: ModelConfig, layer: int) -> dict[str, tuple[str, ...]]:
    """Return those of `INPUTS` that a layer adapts."""
    adapted = config.adapted(layer)
    return {name: found for name, found in INPUTS.items() if MATRICES[found[0]][0] in adapted}


def adapter_bytes(config: ModelConfig, slots: int, rank: int, layer: int = 0) -> int:
    """Return the bytes that the adapters of one layer take, each of rank `rank_bucket(rank)`."""
    wide, total = rank_bucket(rank), 0
    for matrices in inputs_of(config, layer).values():
        inner = config.projection_shape(MATRICES[matrices[0]][0])[1]
        total += F32.nbytes(round_up(wide * sum(len(MATRICES[m]) for m in matrices)), inner)
        for matrix in matrices:
            outputs = sum(config.projection_shape(name)[0] for name in MATRICES[matrix])
            total += F32.nbytes(round_up(outputs), wide * len(MATRICES[matrix]))
    return slots * total


class AdapterMemory:
    """LoRA matrices of all slots as packed float32 (`formats`), a slot below the other.

    For each input A: (columns, in), the columns of its projections one below the other, `rank` of
    each. For each matrix B: (out, columns), with the scale folded in; where a matrix stacks several
    projections, each of them reads its own columns only and the rest of B is zero. `layers` are
    those that are held, by default all.
    """

    def __init__(
        self, config: ModelConfig, slots: int, rank: int, layers: range | None = None
    ) -> None:
        self.config = config
        self.slots = slots
        self.rank = rank
        self.layers = range(config.num_layers) if layers is None else layers
        self.a: dict[str, Stack] = {}
        self.b: dict[str, Stack] = {}
        for layer in self.layers:
            for source, matrices in inputs_of(config, layer).items():
                columns = sum(len(MATRICES[m]) for m in matrices) * rank
                inner = config.projection_shape(MATRICES[matrices[0]][0])[1]
                self.a[f"layers.{layer}.{source}"] = Stack(slots, columns, inner)
                for matrix in matrices:
                    stack = Stack(slots, self._outputs(matrix), self._columns(matrix))
                    self.b[f"layers.{layer}.{matrix}"] = stack

    def _columns(self, matrix: str) -> int:
        return len(MATRICES[matrix]) * self.rank

    def _outputs(self, matrix: str) -> int:
        return sum(self.config.projection_shape(name)[0] for name in MATRICES[matrix])

    @property
    def buffers(self) -> dict[str, Buffer]:
        """All memory, by names that are the same in every process."""
        found = {f"adapters:a:{name}": stack.memory.buffer for name, stack in self.a.items()}
        return found | {f"adapters:b:{name}": s.memory.buffer for name, s in self.b.items()}

    def write(self, index: int, tensors: Mapping[str, np.ndarray] | None, scale: float) -> None:
        """Replace the adapter of one slot; None clears it."""
        for stack in (*self.a.values(), *self.b.values()):
            stack.clear(index)
        if tensors is not None:
            for layer in self.layers:
                self.write_layer(index, layer, tensors, scale)

    def write_layer(
        self, index: int, layer: int, tensors: Mapping[str, np.ndarray], scale: float
    ) -> None:
        """Write what one of the layers has of an adapter into a slot."""
        for source, matrices in inputs_of(self.config, layer).items():
            self._write_input(index, f"layers.{layer}.", source, matrices, tensors)
            for matrix in matrices:
                self._write_matrix(index, f"layers.{layer}.", matrix, tensors, scale)

    def take_over(self, other: "AdapterMemory") -> None:
        """Copy the adapters of a memory with the same slots and a smaller rank."""
        # Memory of slots that were never filled is not touched, and so costs nothing.
        for name, stack in self.a.items():
            count = stack.rows // self.rank
            for slot in other.a[name].filled():
                old = other.a[name].matrix(slot).reshape(count, other.rank, -1)
                new = np.zeros((count, self.rank, old.shape[2]), np.float32)
                new[:, : other.rank] = old
                stack.write(slot, new.reshape(stack.rows, -1))
        for name, stack in self.b.items():
            count = stack.columns // self.rank
            for slot in other.b[name].filled():
                old = other.b[name].matrix(slot).reshape(-1, count, other.rank)
                new = np.zeros((len(old), count, self.rank), np.float32)
                new[:, :, : other.rank] = old
                stack.write(slot, new.reshape(-1, stack.columns))

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
        self.a[prefix + source].write(index, stacked)

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
        self.b[prefix + matrix].write(index, wide)

    def narrow(self, name: str, x: Tensor, chosen: Chosen) -> dict[str, list[Tensor]]:
        """Return A x for an input x (N, in): by matrix that reads it, (N, columns) per slot."""
        prefix, source = name.rsplit(".", 1)
        found: dict[str, list[Tensor]] = {f"{prefix}.{matrix}": [] for matrix in INPUTS[source]}
        for slot in chosen.slots:
            u = self.a[name].product(x, slot)
            if chosen.rows is not None:
                meant = chosen.rows.equal(Tensor.variable(slot).reshape((1,)))
                u = meant.reshape((sizes(x)[0], 1)).where(u, 0.0)
            at = 0
            for matrix in INPUTS[source]:
                found[f"{prefix}.{matrix}"].append(u.slice(1, at, self._columns(matrix)))
                at += self._columns(matrix)
        return found

    def add(self, name: str, y: Tensor, narrow: list[Tensor], chosen: Chosen) -> Tensor:
        """Return y (N, out), the base's product with a matrix, plus scale * B A x."""
        for slot, u in zip(chosen.slots, narrow, strict=True):
            y = y + self.b[name].product(u, slot)
        return y


class Stack:
    """A float32 matrix (rows, columns) for each slot, in panels of 16 rows; zero at first."""

    def __init__(self, slots: int, rows: int, columns: int) -> None:
        self.slots, self.rows, self.columns = slots, rows, columns
        self.height = round_up(rows)
        self._size = F32.nbytes(self.height, columns)  # bytes of a slot
        self.memory = Tensor.zeros((slots * self._size,), dt.u8)
        self._filled: set[int] = set()

    def filled(self) -> list[int]:
        """Return the slots that were written to since they were cleared."""
        return sorted(self._filled)

    def write(self, slot: int, matrix: np.ndarray) -> None:
        """Replace the matrix of a slot."""
        panels = np.ascontiguousarray(to_panels(padded_rows(matrix, self.height)))
        self._filled.add(slot)
        self._put(slot, panels.reshape(-1).view(np.uint8))

    def clear(self, slot: int) -> None:
        """Let the matrix of a slot be zero; what was never written to is not touched."""
        if slot in self._filled:
            self._put(slot, np.zeros(self._size, np.uint8))
            self._filled.discard(slot)

    def matrix(self, slot: int) -> np.ndarray:
        """Return a copy of the matrix of a slot."""
        stored = self.memory.buffer.read(slot * self._size, self._size).view(np.float32)
        panels: np.ndarray = stored.reshape(self.height // PANEL, self.columns, PANEL)
        rows = panels.transpose(0, 2, 1).reshape(self.height, self.columns)
        return rows[: self.rows]

    def _put(self, slot: int, values: np.ndarray) -> None:
        self.memory.buffer.write(values, slot * self._size)

    def product(self, x: Tensor, slot: Sym) -> Tensor:
        """Multiply x (N, columns) with the matrix of a slot: (N, rows)."""
        whole = Tensor.packed(F32, self.slots * self.height, self.columns, self.memory)
        each = whole.reshape((self.slots, self.height, self.columns)).slice(0, slot, 1)
        return x.linear(each.reshape((self.height, self.columns)).slice(0, 0, self.rows))

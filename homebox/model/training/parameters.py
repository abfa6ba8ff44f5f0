"""The trained tensors of an adapter in flat memory: values, gradients and both moments of AdamW.

Everything that an update does to one number it does to all, so that one update is a handful of
kernels, whatever the number of layers. What the forward pass wants together lies together: the A of
projections with one input are rows of one matrix, and every B lies in panels [out / 16][rank][16],
a packed matrix, whose product joins that of the frozen one in its kernel.
Invariant: the order of the numbers, and so that of the norm's sum, follows from the shapes alone.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer, using
from homebox.engine.graph.formats import F32, PANEL
from homebox.engine.graph.ops import Op, node
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec, capture
from homebox.errors import ConfigError
from homebox.model.config import ModelConfig
from homebox.model.lora import adapter_shapes
from homebox.model.strictmath import Float32
from homebox.model.training.optimiser import Scalars, StepScalars, adamw, clip_factor, global_norm

GROUPS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
BETAS = (0.9, 0.99)  # runs are a few hundred steps: 0.999 would hold on to the first ones
CLIP = 1.0
STATE = ("values", "first", "second", "powers")  # what training goes on from
State = dict[str, npt.NDArray[Any]]
_WIDTH = 1024  # of the rows in which updates walk through the memory


def groups_of(config: ModelConfig, layer: int) -> dict[str, tuple[str, ...]]:
    """Return the groups of a layer's projections that have adapters."""
    adapted = config.adapted(layer)
    return {group: members for group, members in GROUPS.items() if members[0] in adapted}


class Parameters:
    """An adapter of one rank in training."""

    def __init__(self, config: ModelConfig, rank: int, start: Mapping[str, Float32]) -> None:
        self.rank = rank
        self.shapes = adapter_shapes(config, rank)
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}
        size = 0
        for layer in range(config.num_layers):
            for group, members in groups_of(config, layer).items():
                _, inputs = config.projection_shape(members[0])
                wanted: dict[str, tuple[int, ...]] = {f"{group}.A": (rank * len(members), inputs)}
                for member in members:
                    outputs = config.projection_shape(member)[0]
                    wanted[f"{member}.B"] = (-(-outputs // PANEL), rank, PANEL)
                for name, shape in wanted.items():
                    self.places[f"layers.{layer}.{name}"] = (size, shape)
                    size += -(-math.prod(shape) // PANEL) * PANEL
        self._flat = (-(-size // _WIDTH), _WIDTH)
        self.values, self.gradients, *self._moments = (Tensor.zeros(self._flat) for _ in range(4))
        self._scalars = StepScalars(*BETAS)
        self.load(start)
        self.buffers: dict[str, Buffer] = {}  # views of values and gradients, by stable names
        for name in self.places:
            at, shape = self.places[name]
            count = math.prod(shape)
            self.buffers[f"gradients:{name}"] = self.gradients.buffer.part(at, count)
            self.buffers[f"values:{name}"] = (
                self.values.buffer.part(at, 4 * count, dt.u8)
                if name.endswith(".B")
                else self.values.buffer.part(at, count)
            )
        self._clear: Program | None = None
        self.program = self._capture(f"{rank} {self._flat} {BETAS} {CLIP}")

    def a(self, name: str) -> Tensor:
        """Return the values of a group's A, (members * rank, in)."""
        buffer = self.buffers[f"values:{name}"]
        return Tensor(node(Op.BUFFER, dt.f32, self.places[name][1], (), buffer))

    def b(self, name: str) -> Tensor:
        """Return the values of a B as the matrix (out, rank) that its panels stand for."""
        buffer = self.buffers[f"values:{name}"]
        memory = Tensor(node(Op.BUFFER, dt.u8, (buffer.count,), (), buffer))
        return Tensor.packed(F32, *self.shapes[name], memory)

    def add(self, name: str, gradient: Tensor) -> Tensor:
        """Return the store that adds a gradient: of an A as it is, of a B as (rank, out)."""
        buffer = self.buffers[f"gradients:{name}"]
        memory = Tensor(node(Op.BUFFER, dt.f32, self.places[name][1], (), buffer))
        if name.endswith(".B"):
            blocks, rank, _ = self.places[name][1]
            outputs = self.shapes[name][0]
            padded = gradient.pad(1, 0, blocks * PANEL - outputs)
            gradient = padded.reshape((rank, blocks, PANEL)).permute(1, 0, 2)
        return memory.store(memory + gradient)

    def load(self, adapter: Mapping[str, Float32]) -> None:
        """Take the values of an adapter; names and shapes as in `adapter_shapes`."""
        flat = np.zeros(math.prod(self._flat), np.float32)
        for name, (rows, _) in self.shapes.items():
            if name.endswith(".A"):
                self._rows(flat, name)[:] = adapter[name]
                continue
            panels = self._flat_part(flat, name).reshape(-1, self.rank, PANEL)
            padded = np.zeros((panels.shape[0] * PANEL, self.rank), np.float32)
            padded[:rows] = adapter[name]
            panels[:] = padded.reshape(-1, PANEL, self.rank).transpose(0, 2, 1)
        self.values.buffer.write(flat)

    def adapter(self) -> dict[str, Float32]:
        """Return a copy of the adapter."""
        flat = self.values.buffer.read()
        return {name: self._copy(flat, name) for name in self.shapes}

    def gradient(self) -> dict[str, Float32]:
        """Return a copy of the gradient that was gathered since the last update."""
        flat = self.gradients.buffer.read()
        return {name: self._copy(flat, name) for name in self.shapes}

    def take_gradient(self) -> Float32:
        """Return all gradients in one piece, and let them be zero again."""
        taken: Float32 = self.gradients.buffer.read().copy()
        if self._clear is None:
            zero = self.gradients.store(Tensor.full(self._flat, 0.0))
            with using(self.gradients.buffer.device):
                self._clear = capture(
                    lambda: [zero],
                    name="clear gradients",
                    key=f"{self._flat}",
                    buffers={"gradients": self.gradients.buffer},
                )
        self._clear.run()
        return taken

    def put_gradient(self, flat: Float32) -> None:
        """Set all gradients to what `take_gradient` returned, or to a sum of such."""
        self.gradients.buffer.write(flat)

    def all_values(self) -> Float32:
        """Return all values in one piece; in host memory a view."""
        flat: Float32 = self.values.buffer.read()
        return flat

    def put_values(self, flat: Float32) -> None:
        """Set all values to those of other parameters of the same shape."""
        self.values.buffer.write(flat)

    def state(self) -> State:
        """Return a copy of all that the next update depends on, once gradients are forgotten."""
        wholes = (self.values, *self._moments)
        found: State = {
            name: whole.buffer.read().copy() for name, whole in zip(STATE, wholes, strict=False)
        }
        return found | {STATE[-1]: self._scalars.powers.copy()}

    def restore(self, state: State) -> None:
        """Go on where `state` was taken; raises ConfigError if it is that of another adapter."""
        size = math.prod(self._flat)
        wanted = dict.fromkeys(STATE[:-1], ((size,), np.float32)) | {STATE[-1]: ((2,), np.float64)}
        for name, (shape, kind) in wanted.items():
            given = state.get(name)
            if given is None or given.size != math.prod(shape) or given.dtype != kind:
                raise ConfigError(f"this is no state of an adapter of {size} numbers: {name}")
        for name, whole in zip(STATE, (self.values, *self._moments), strict=False):
            whole.buffer.write(state[name])
        self._scalars.powers = state[STATE[-1]].astype(np.float64)
        self.take_gradient()

    def update(self, rate: float) -> float:
        """Take a step of AdamW along the gathered gradient, forget it, and return its norm."""
        self.program.set_input("scalars", self._scalars.next(rate))
        self.program.run()
        return float(self.program.output(0))

    def _copy(self, flat: Float32, name: str) -> Float32:
        """Return an adapter's tensor in its own shape."""
        if name.endswith(".A"):
            return self._rows(flat, name).copy()
        panels = self._flat_part(flat, name).reshape(-1, self.rank, PANEL)
        rows = panels.transpose(0, 2, 1).reshape(-1, self.rank)
        return np.ascontiguousarray(rows[: self.shapes[name][0]])

    def _rows(self, flat: Float32, name: str) -> Float32:
        """Return the rows of the A of one projection, a view."""
        prefix, kind, _ = name.rsplit(".", 2)
        group = next(g for g, members in GROUPS.items() if kind in members)
        stacked = f"{prefix}.{group}.A"
        rows = self._flat_part(flat, stacked).reshape(self.places[stacked][1])
        place = GROUPS[group].index(kind) * self.rank
        part: Float32 = rows[place : place + self.rank]
        return part

    def _flat_part(self, flat: Float32, name: str) -> Float32:
        at, shape = self.places[name]
        return flat[at : at + math.prod(shape)]

    def _capture(self, key: str) -> Program:
        def update(scalars: Tensor) -> list[Tensor]:
            norm = global_norm([self.gradients])
            scaled = self.gradients * clip_factor(norm, CLIP)
            moments = (self._moments[0], self._moments[1])
            stores = adamw(self.values, scaled, moments, Scalars.of(scalars), BETAS)
            return [norm, *stores, self.gradients.store(Tensor.full(self._flat, 0.0))]

        wholes = (self.values, self.gradients, *self._moments)
        names = ("values", "gradients", "first", "second")
        buffers = {name: whole.buffer for name, whole in zip(names, wholes, strict=True)}
        inputs = {"scalars": Spec((4,))}
        with using(self.values.buffer.device):
            return capture(update, inputs, name="adapter update", key=key, buffers=buffers)

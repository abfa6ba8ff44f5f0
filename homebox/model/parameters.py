"""The trained tensors of an adapter in flat memory: values, gradients and both moments of AdamW.

Everything that an update does to one number it does to all, so that one update is a handful of
kernels, whatever the number of layers. What the forward pass wants together lies together: the A of
projections with one input are rows of one matrix, and every B lies transposed, (rank, out).
Invariant: the order of the numbers, and so that of the norm's sum, follows from the shapes alone.
"""

from collections.abc import Mapping

from homebox.engine import dtype as dt
from homebox.engine.capture import Program, Spec, capture
from homebox.engine.device import Buffer
from homebox.engine.ops import Op, node
from homebox.engine.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.lora import adapter_shapes
from homebox.model.optimiser import Scalars, StepScalars, adamw, clip_factor, global_norm
from homebox.model.strictmath import Float32

GROUPS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
BETAS = (0.9, 0.999)
CLIP = 1.0
_ALIGNED = 16  # elements: a part starts at a whole cache line
_WIDTH = 1024  # of the rows in which updates walk through the memory


class Parameters:
    """An adapter of one rank in training."""

    def __init__(self, config: ModelConfig, rank: int, start: Mapping[str, Float32]) -> None:
        self.rank = rank
        self.shapes = adapter_shapes(config, rank)
        self.places: dict[str, tuple[int, tuple[int, int]]] = {}
        size = 0
        for layer in range(config.num_layers):
            for group, members in GROUPS.items():
                _, inputs = config.projection_shape(members[0])
                wanted = {f"{group}.A": (rank * len(members), inputs)}
                for member in members:
                    wanted[f"{member}.B"] = (rank, config.projection_shape(member)[0])
                for name, shape in wanted.items():
                    self.places[f"layers.{layer}.{name}"] = (size, shape)
                    size += -(-shape[0] * shape[1] // _ALIGNED) * _ALIGNED
        self._flat = (-(-size // _WIDTH), _WIDTH)
        self.values, self.gradients, *self._moments = (Tensor.zeros(self._flat) for _ in range(4))
        self._scalars = StepScalars(*BETAS)
        self.load(start)
        self.program = self._capture()

    def part(self, whole: Tensor, name: str) -> Tensor:
        """Return the tensor of a name in `values` or `gradients`, a view."""
        at, shape = self.places[name]
        array = whole.buffer.array[at : at + shape[0] * shape[1]]
        return Tensor(node(Op.BUFFER, dt.f32, shape, (), Buffer.over(array, dt.f32)))

    def load(self, adapter: Mapping[str, Float32]) -> None:
        """Take the values of an adapter; names and shapes as in `adapter_shapes`."""
        for name in self.shapes:
            self._view(self.values, name)[:] = adapter[name]

    def adapter(self) -> dict[str, Float32]:
        """Return a copy of the adapter."""
        return {name: self._view(self.values, name).copy() for name in self.shapes}

    def gradient(self) -> dict[str, Float32]:
        """Return a copy of the gradient that was gathered since the last update."""
        return {name: self._view(self.gradients, name).copy() for name in self.shapes}

    def update(self, rate: float) -> float:
        """Take a step of AdamW along the gathered gradient, forget it, and return its norm."""
        self.program.set_input("scalars", self._scalars.next(rate))
        self.program.run()
        return float(self.program.output(0))

    def _view(self, whole: Tensor, name: str) -> Float32:
        """Return the numpy view of an adapter's tensor in its own orientation."""
        prefix, kind, side = name.rsplit(".", 2)
        if side == "B":
            return self._rows(whole, name).T
        group = next(g for g, members in GROUPS.items() if kind in members)
        place = GROUPS[group].index(kind)
        rows = self._rows(whole, f"{prefix}.{group}.A")
        return rows[place * self.rank : (place + 1) * self.rank]

    def _rows(self, whole: Tensor, name: str) -> Float32:
        at, (rows, columns) = self.places[name]
        flat: Float32 = whole.buffer.array
        return flat[at : at + rows * columns].reshape(rows, columns)

    def _capture(self) -> Program:
        def update(scalars: Tensor) -> list[Tensor]:
            norm = global_norm([self.gradients])
            scaled = self.gradients * clip_factor(norm, CLIP)
            moments = (self._moments[0], self._moments[1])
            stores = adamw(self.values, scaled, moments, Scalars.of(scalars), BETAS)
            return [norm, *stores, self.gradients.store(Tensor.full(self._flat, 0.0))]

        return capture(update, {"scalars": Spec((4,))}, name="adapter update")

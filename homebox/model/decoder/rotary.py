"""Tables that depend on a row's place, on the device: rotations, and how queries grow.

Source of the growth: the temperature of attention over long contexts as Llama 4 has it,
1 + b log(1 + floor(place / n)). Invariant: tables have the same bits on every machine.
"""

from decimal import Decimal

import numpy as np

from homebox.engine.graph.tensor import Tensor
from homebox.model.config import Rope
from homebox.model.decoder.panels import sizes
from homebox.model.decoder.rope import rope_tables
from homebox.model.strictmath import Float32, round_float32


class Rotation:
    """The rotation of heads by their places, for `positions` places."""

    def __init__(self, rope: Rope, positions: int) -> None:
        self.dim = rope.dim
        cos, sin = rope_tables(rope, positions)
        self.cos = Tensor.from_numpy(np.stack([cos, cos], 1), frozen=True)  # (P, 2, dim / 2)
        self.sin = Tensor.from_numpy(np.stack([-sin, sin], 1), frozen=True)

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate x (N, H, D): halves (a, b) -> (a cos - b sin, b cos + a sin).

        Only the first `dim` channels turn. `positions` (N,) int32; one below 0 gives any number.
        """
        rows, heads, dim = sizes(x)
        if dim != self.dim:
            turned = self(x.slice(2, 0, self.dim), positions)
            return turned.cat(x.slice(2, self.dim, dim - self.dim), axis=2)
        pairs = x.reshape((rows, heads, 2, dim // 2))
        cos = self.cos.gather(positions).reshape((rows, 1, 2, dim // 2))
        sin = self.sin.gather(positions).reshape((rows, 1, 2, dim // 2))
        swapped = pairs.slice(2, 1, 2, -1)
        return (pairs * cos + swapped * sin).reshape((rows, heads, dim))


def growth_table(growth: tuple[float, int], positions: int) -> Float32:
    """Return the factors of queries at each place, float32 (positions,)."""
    slope, step = growth
    steps = -(-positions // step)
    each = [round_float32(1 + Decimal(slope) * Decimal(1 + i).ln()) for i in range(steps)]
    return np.repeat(np.array(each, np.float32), step)[:positions]

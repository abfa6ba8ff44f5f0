"""The arithmetic of products with weights: what the operand of activations is rounded to.

An operand's type decides which kernel multiplies: float32 is exact, bf16 is rounded to 8 bits of
precision, int8 is rounded to integers with a scale for each 32 of them.
"""

from typing import Literal

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.tensor import Tensor

Activations = Literal["f32", "bf16", "int8"]


def rounded(x: Tensor, activations: Activations) -> Tensor:
    """Return x (m, k) as the arithmetic sees it, float32 again."""
    if activations == "int8":
        return x.quantised()
    return x.cast(dt.bf16).cast(dt.f32) if activations == "bf16" else x

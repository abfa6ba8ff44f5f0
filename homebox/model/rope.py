"""Makes the cosine and sine tables of rotary position embeddings.

Source: Su et al., RoFormer (arXiv 2104.09864), in the layout that Llama checkpoints of Hugging
Face use: the first half of a head's values is rotated against its second half.
Invariant: the tables have the same bits on every machine, because weights are named by hash.
"""

from decimal import Decimal, localcontext

import numpy as np

from homebox.model.strictmath import Float32, cos_sin, round_float32


def inverse_frequencies(head_dim: int, theta: float) -> Float32:
    """Return theta^(-2i/head_dim), i = 0 .. head_dim/2 - 1, each correctly rounded to float32."""
    with localcontext(prec=60):
        logarithm = Decimal(theta).ln()
        values = [
            (-logarithm * (2 * i) / head_dim).exp() if i else Decimal(1)
            for i in range(head_dim // 2)
        ]
    return np.array([round_float32(value) for value in values], dtype=np.float32)


def rope_tables(positions: int, head_dim: int, theta: float) -> tuple[Float32, Float32]:
    """Return (cos, sin), float32 (positions, head_dim / 2), of the angles position * frequency.

    As in Hugging Face's code the angle itself is rounded to float32 before cos and sin are taken.
    """
    steps = np.arange(positions, dtype=np.float32)
    angles = steps[:, None] * inverse_frequencies(head_dim, theta)[None, :]
    return cos_sin(angles)

"""Optimiser steps as graph: AdamW for everything, Muon for stacks of matrices.

Each function returns the stores that make up one update. Rates come from the vars of the step in a
small float32 tensor, so that a schedule needs no recompiling.
Sources: AdamW, arXiv 1711.05101; Muon (Newton-Schulz orthogonalised momentum), K. Jordan 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homebox.engine.graph.tensor import Tensor, size_of

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Scalars:
    """What changes from step to step, as views of one float32 tensor of 4 numbers."""

    rate: Tensor  # learning rate of AdamW
    matrix_rate: Tensor  # learning rate of Muon
    first: Tensor  # 1 / (1 - beta1^t)
    second: Tensor  # 1 / (1 - beta2^t)

    @staticmethod
    def of(values: Tensor) -> "Scalars":
        """Return the four numbers of a float32 tensor (4,)."""
        parts = [values.slice(0, i, 1).reshape(()) for i in range(4)]
        return Scalars(*parts)


class StepScalars:
    """Computes the numbers of a step on the host, by multiplication alone (the same everywhere)."""

    def __init__(self, beta1: float, beta2: float) -> None:
        self._betas = (beta1, beta2)
        self.powers = np.ones(2)  # beta1^t, beta2^t

    def next(self, rate: float, matrix_rate: float = 0.0) -> np.ndarray:
        """Return the (4,) float32 input of the next step."""
        self.powers *= self._betas
        first, second = (1.0 / (1.0 - p) for p in self.powers)
        return np.array([rate, matrix_rate, first, second], np.float32)


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, a scalar."""
    total: Tensor | None = None
    for g in gradients:
        part = (g * g).sum(-1).sum()
        total = part if total is None else total + part
    if total is None:
        raise ValueError("there are no gradients")
    return total.sqrt()


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """Return min(1, limit / norm), a scalar."""
    ratio = (norm + 1e-6).recip() * limit
    return (ratio < 1.0).where(ratio, 1.0).contiguous()


def adamw(
    weight: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    scalars: Scalars,
    betas: tuple[float, float],
    decay: float = 0.0,
    eps: float = 1e-8,
) -> list[Tensor]:
    """Return the stores of one AdamW step: both moments, then the weight."""
    beta1, beta2 = betas
    m = moments[0].store(moments[0] * beta1 + gradient * (1.0 - beta1))
    v = moments[1].store(moments[1] * beta2 + gradient * gradient * (1.0 - beta2))
    step = m * scalars.first * ((v * scalars.second).sqrt() + eps).recip()
    new = weight * (scalars.rate * -decay + 1.0) - step * scalars.rate
    return [m, v, weight.store(new)]


def orthogonalised(update: Tensor, steps: int = 5) -> Tensor:
    """Return matrices (L, rows, columns) with singular values near 1 and the same directions."""
    rows, columns = size_of(update.shape[1]), size_of(update.shape[2])
    x = update.transpose(1, 2) if rows > columns else update
    square = (x * x).sum(-1, keepdim=True).sum(1, keepdim=True)
    x = (x * (square.sqrt() + 1e-7).recip()).contiguous()
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        poly = gram * b + (gram @ gram) * c
        x = x * a + poly @ x
    return x.transpose(1, 2) if rows > columns else x


def muon(
    weight: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    scalars: Scalars,
    beta: float,
    decay: float,
    steps: int,
) -> list[Tensor]:
    """Return the stores of one Muon step for a stack of matrices (L, rows, columns)."""
    m = momentum.store(momentum * beta + gradient * (1.0 - beta))
    update = orthogonalised((gradient * (1.0 - beta) + m * beta).contiguous(), steps)
    rows, columns = size_of(weight.shape[1]), size_of(weight.shape[2])
    scale = max(1.0, rows / columns) ** 0.5
    new = weight * (scalars.matrix_rate * -decay + 1.0) - update * (scalars.matrix_rate * scale)
    return [m, weight.store(new)]

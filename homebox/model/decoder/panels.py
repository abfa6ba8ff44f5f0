"""Panels: how matrices lie so that 16 neighbouring outputs are read at once."""

import numpy as np

from homebox.engine.graph.tensor import Tensor, size_of

PANEL = 16


def round_up(n: int, to: int = PANEL) -> int:
    """Return the next multiple of `to`."""
    return -(-n // to) * to


def sizes(t: Tensor) -> tuple[int, ...]:
    """Return a shape that is known at compile time."""
    return tuple(size_of(d) for d in t.shape)


def padded_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Return a matrix with zero rows added up to `rows`, float32."""
    out = np.zeros((rows, array.shape[1]), np.float32)
    out[: array.shape[0]] = array
    return out


def to_panels(array: np.ndarray) -> np.ndarray:
    """Return a (rows, columns) matrix as (rows / 16, columns, 16)."""
    rows, columns = array.shape
    return array.reshape(rows // PANEL, PANEL, columns).transpose(0, 2, 1)

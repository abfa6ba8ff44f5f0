"""Chooses the kernels' format for a GGUF file: what loses nothing, or else what loses least.

The one idea: losses are measured on samples of the file's own matrices, because they depend on the
numbers. Invariant: the choice follows from the file and the memory that is free, and is said.
"""

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from homebox.engine.graph.formats import BF16, Q4, Q8, Format, pack, unpack
from homebox.model.config import ModelConfig, is_vector
from homebox.model.gguf.types import GGMLType
from homebox.model.packed_layout import AUTO, choose_format
from homebox.model.stored import widened

if TYPE_CHECKING:
    from homebox.model.gguf_model import GGUFWeights

log = logging.getLogger(__name__)

EXACT = {Q8: GGMLType.Q8_0, Q4: GGMLType.Q4_0}
_PLAIN = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
_SAMPLES, _ROWS = 8, 16  # matrices that are looked at, and rows of each


def served_format(
    config: ModelConfig, weights: object, asked: str, available: int | None
) -> Format:
    """Return the format of a model's weights: `choose_format`, but a GGUF file's own when "auto".

    Raises ConfigError for a name that is no format.
    """
    # Late: reading those files asks here which types are exact.
    from homebox.model.gguf_model import GGUFWeights

    form = choose_format(config, asked)
    if asked == AUTO and form is Q8 and isinstance(weights, GGUFWeights):
        return choose_gguf_format(weights, available)
    return form


def choose_gguf_format(weights: "GGUFWeights", available: int | None) -> Format:
    """Return the format that loses least of a large file's matrices, and log what it is.

    Q8_0 and Q4_0 lose nothing as q8 and q4; float types become q8 as those of other files do. Of
    all others samples are packed as bf16 and as q8; bf16 is taken where it is nearer and
    `available` bytes of memory hold it (None: they do).
    """
    shapes = weights.config.weight_shapes()
    matrices = [name for name, shape in shapes.items() if not is_vector(name, shape)]
    sizes: dict[GGMLType, int] = {}
    for name in matrices:
        kind = weights.kind(name)
        sizes[kind] = sizes.get(kind, 0) + math.prod(shapes[name])
    usual = max(sizes, key=lambda kind: sizes[kind])
    for form, kind in EXACT.items():
        if usual is kind:
            log.info("%s: %s becomes %s, exactly", weights.file.path, usual.name, form)
            return form
    if usual in _PLAIN:
        return Q8
    alike = [name for name in matrices if weights.kind(name) is usual]
    losses = {form: loss_of(weights, alike, form) for form in (BF16, Q8)}
    best = min(losses, key=lambda form: losses[form])
    # bf16 takes two bytes for each number.
    if best is BF16 and available is not None and 2 * weights.config.parameters > available:
        best = Q8
    text = ", ".join(f"{form} {loss:.1e}" for form, loss in losses.items())
    log.info("%s: %s becomes %s (relative loss: %s)", weights.file.path, usual.name, best, text)
    return best


def loss_of(weights: "GGUFWeights", names: list[str], form: Format) -> float:
    """Return the relative loss (RMS) of samples of some matrices in a format."""
    wrong = total = 0.0
    for name in names[:: max(1, len(names) // _SAMPLES)][:_SAMPLES]:
        values = widened(next(weights.pieces(name))[:_ROWS])
        rounded = unpack(form, pack(form, values), *values.shape)
        wrong += float(np.square(rounded - values, dtype=np.float64).sum())
        total += float(np.square(values, dtype=np.float64).sum())
    return math.sqrt(wrong / total) if total else 0.0

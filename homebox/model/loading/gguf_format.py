"""Chooses the kernels' format for a GGUF file: what loses nothing, or else what loses least.

The one idea: losses are measured on samples of the file's own matrices, because they depend on the
numbers. Invariant: the choice follows from the file and the memory that is free, and is said.
"""

import logging
import math

import numpy as np

from homebox.engine.graph.formats import BF16, F32, Q8, Format, pack, unpack
from homebox.model.config import ModelConfig, is_vector
from homebox.model.files.stored import widened
from homebox.model.gguf.types import GGMLType
from homebox.model.loading.gguf_model import EXACT, GGUFWeights
from homebox.model.weights.packed_layout import AUTO, Packing, choose_format

log = logging.getLogger(__name__)

_INSIDE = {BF16: (GGMLType.BF16, GGMLType.MXFP4)}  # types whose numbers a format holds
_LEAST_SHARE = 0.005  # of the numbers, to be spoken of
_PLAIN = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
_SAMPLES, _ROWS = 8, 16  # matrices that are looked at, and rows of each


def served_packing(
    config: ModelConfig, weights: object, asked: str, available: int | None
) -> Packing:
    """Return the formats of a model's weights: `choose_format`, but a GGUF file's own when "auto".

    Raises ConfigError for a name that is no format.
    """
    form = choose_format(config, asked)
    if asked == AUTO and form is Q8 and isinstance(weights, GGUFWeights):
        return choose_gguf_packing(weights, available)
    return Packing(form)


def choose_gguf_packing(weights: GGUFWeights, available: int | None) -> Packing:
    """Return the formats that lose least of a large file's matrices, and log what they are.

    Q8_0 and Q4_0 lose nothing as q8 and q4. What a file of Q4_0 has in a finer type (llama.cpp
    leaves embedding and head in Q6_K) becomes q8: the loss of bf16 would be smaller still, but is
    far below that of 4 bits either way, and the head would be read at half the speed. Float types
    become q8 as those of other files do. Of all others samples are packed as bf16 and as q8; bf16
    is taken where it is nearer and `available` bytes of memory hold it (None: they do).
    """
    matrices = _matrices(weights)
    sizes: dict[GGMLType, int] = {}
    for name, count in matrices.items():
        kind = weights.kind(name)
        sizes[kind] = sizes.get(kind, 0) + count
    usual = max(sizes, key=lambda kind: sizes[kind])
    for form, kind in EXACT.items():
        if usual is kind:
            finer = [name for name in matrices if weights.kind(name) is not kind]
            return Packing(form, tuple((name, Q8) for name in finer if form is not Q8))
    if usual in _PLAIN:
        return Packing(Q8)
    alike = [name for name in matrices if weights.kind(name) is usual]
    losses = {form: loss_of(weights, alike, form) for form in (BF16, Q8)}
    best = min(losses, key=lambda form: losses[form])
    # bf16 takes two bytes for each number.
    if best is BF16 and available is not None and 2 * weights.config.parameters > available:
        best = Q8
    text = ", ".join(f"{form} {loss:.1e}" for form, loss in losses.items())
    log.info("%s: %s becomes %s (relative loss: %s)", weights.file.path, usual.name, best, text)
    return Packing(best)


def kept_as(weights: object, packing: Packing) -> str:
    """Return the format for a person, of a GGUF file with what its types become in it."""
    if not isinstance(weights, GGUFWeights):
        return str(packing)
    total, sizes = 0, dict[tuple[GGMLType, str], int]()
    for name, count in _matrices(weights).items():
        kind, form = weights.kind(name), packing.of((name,))
        inside = form is F32 or kind in _INSIDE.get(form, ())
        exact = inside or (EXACT.get(form) is kind and weights.as_it_lies(name))
        how = "exactly" if exact else "rounded"
        if form is not packing.form:
            how += f" to {form}" if not exact else f" as {form}"
        sizes[kind, how] = sizes.get((kind, how), 0) + count
        total += count
    said = [
        f"{kind.name} {how} ({100 * size / total:.0f} %)"
        for (kind, how), size in sorted(sizes.items(), key=lambda item: -item[1])
        if size >= _LEAST_SHARE * total
    ]
    return f"{packing}: {', '.join(said)}"


def _matrices(weights: GGUFWeights) -> dict[str, int]:
    """Return the names of a model's matrices and their numbers of numbers."""
    shapes = weights.config.weight_shapes()
    return {n: math.prod(shape) for n, shape in shapes.items() if not is_vector(n, shape)}


def loss_of(weights: GGUFWeights, names: list[str], form: Format) -> float:
    """Return the relative loss (RMS) of samples of some matrices in a format."""
    wrong = total = 0.0
    for name in names[:: max(1, len(names) // _SAMPLES)][:_SAMPLES]:
        values = widened(next(weights.pieces(name))[:_ROWS])
        rounded = unpack(form, pack(form, values), *values.shape)
        wrong += float(np.square(rounded - values, dtype=np.float64).sum())
        total += float(np.square(values, dtype=np.float64).sum())
    return math.sqrt(wrong / total) if total else 0.0

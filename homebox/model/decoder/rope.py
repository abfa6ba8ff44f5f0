"""Makes the cosine and sine tables of rotary position embeddings, with every kind of scaling.

Source: Su et al., RoFormer (arXiv 2104.09864), in the layout that Llama checkpoints of Hugging
Face use: the first half of a head's values is rotated against its second half. A scaling changes
the frequencies, and for some kinds the size of cos and sin, so that positions beyond those of the
training look like ones that the model knows.
Invariant: the tables have the same bits on every machine, because weights are named by hash: every
frequency is computed in decimals and rounded once.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.config import Rope
from homebox.model.strictmath import MAX_ANGLE, PI, Float32, cos_sin, round_float32

_DIGITS = 60
_SINGULAR = Decimal("0.001")  # the width of a ramp whose ends coincide


def inverse_frequencies(rope: Rope, context: int) -> Float32:
    """Return the angle that a position turns each pair of channels by, float32 (dim / 2,).

    Unscaled it is theta^(-2i/dim), i = 0 .. dim/2 - 1. `context` is the number of positions that
    are served, which the kinds dynamic and longrope depend on. Each is correctly rounded.
    """
    with localcontext(prec=_DIGITS):
        values = _SCALINGS[rope.kind](rope, context)
    return np.array([round_float32(value) for value in values], dtype=np.float32)


def rope_tables(rope: Rope, positions: int) -> tuple[Float32, Float32]:
    """Return (cos, sin), float32 (positions, dim / 2), of the angles position * frequency.

    The frequencies are those of `rope.served` positions, or of `positions` where that is 0.
    As in Hugging Face's code the angle itself is rounded to float32 before cos and sin are taken,
    and they are rounded before they are multiplied with the attention factor. Raises
    ModelFormatError for angles above 2^24, which a scaling by less than 1 can lead to.
    """
    steps = np.arange(positions, dtype=np.float32)
    frequencies = inverse_frequencies(rope, rope.served or positions)
    fastest = float(frequencies.max()) * positions
    if not fastest <= MAX_ANGLE:
        raise ModelFormatError(
            f"the rotary positions turn by up to {fastest:.3g} in {positions} places, more than "
            f"{MAX_ANGLE:.3g}: a factor of the rope scaling is too small"
        )
    angles = steps[:, None] * frequencies[None, :]
    cos, sin = cos_sin(angles)
    if rope.attention_factor == 1.0:
        return cos, sin
    factor = np.float32(rope.attention_factor)
    return cos * factor, sin * factor


def _powers(theta: Decimal, dim: int) -> list[Decimal]:
    """Return theta^(-2i/dim), i = 0 .. dim/2 - 1."""
    logarithm = theta.ln()
    return [(-logarithm * (2 * i) / dim).exp() if i else Decimal(1) for i in range(dim // 2)]


def _default(rope: Rope, context: int) -> list[Decimal]:
    return _powers(Decimal(rope.theta), rope.dim)


def _linear(rope: Rope, context: int) -> list[Decimal]:
    """Positions are pressed together by the factor."""
    return [value / Decimal(rope.factor) for value in _default(rope, context)]


def _dynamic(rope: Rope, context: int) -> list[Decimal]:
    """A larger base beyond the original context, so that only slow channels are pressed together.

    Source: the "NTK-aware" base of YaRN (arXiv 2309.00071), appendix A.1, with the scale that
    follows from the length.
    """
    theta = Decimal(rope.theta)
    if context > rope.original and rope.dim > 2:
        factor = Decimal(rope.factor)
        scale = factor * context / rope.original - (factor - 1)
        theta *= (scale.ln() * rope.dim / (rope.dim - 2)).exp()
    return _powers(theta, rope.dim)


def _llama3(rope: Rope, context: int) -> list[Decimal]:
    """Slow channels are pressed together, fast ones are kept, those in between are blended.

    Slow and fast is meant in turns within the original context: at most `low_freq`, at least
    `high_freq`. Source: the reference code of Llama 3.1.
    """
    low, high = Decimal(rope.low_freq), Decimal(rope.high_freq)
    values = []
    for value in _default(rope, context):
        turns = rope.original * value / (2 * PI)
        pressed = value / Decimal(rope.factor)
        if turns < low:
            values.append(pressed)
        elif turns > high or low == high:
            values.append(value)
        else:
            kept = (turns - low) / (high - low)
            values.append((1 - kept) * pressed + kept * value)
    return values


def _yarn(rope: Rope, context: int) -> list[Decimal]:
    """The same with a blend that is linear in the channel's number.

    Source: YaRN (arXiv 2309.00071), section 3.2; `truncate` rounds the ends to whole channels.
    """
    low, high = _turning(rope, rope.beta_fast), _turning(rope, rope.beta_slow)
    if rope.truncate:
        low = low.to_integral_value(ROUND_FLOOR)
        high = high.to_integral_value(ROUND_CEILING)
    low, high = max(low, Decimal(0)), min(high, Decimal(rope.dim - 1))
    width = high - low if high != low else _SINGULAR
    values = []
    for i, value in enumerate(_default(rope, context)):
        pressed = min(max((i - low) / width, Decimal(0)), Decimal(1))
        values.append(value / Decimal(rope.factor) * pressed + value * (1 - pressed))
    return values


def _turning(rope: Rope, turns: float) -> Decimal:
    """Return the channel, not a whole number, that turns so often in the original context."""
    wavelength = rope.original / (Decimal(turns) * 2 * PI)
    return rope.dim * wavelength.ln() / (2 * Decimal(rope.theta).ln())


def _longrope(rope: Rope, context: int) -> list[Decimal]:
    """Each channel has its own factor, another one beyond the original context.

    Source: LongRoPE (arXiv 2402.13753). The factors count as float32.
    """
    factors = rope.long_factors if context > rope.original else rope.short_factors
    pairs = zip(_default(rope, context), factors, strict=True)
    return [value / Decimal(float(np.float32(factor))) for value, factor in pairs]


_SCALINGS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}

"""Reads how positions are rotated: `rope_parameters`, or `rope_scaling` and `rope_theta` before it.

Invariant: a `Rope` that is returned is within limits and has all that its kind needs.
"""

import math
from decimal import Decimal
from typing import Any

from homebox.model.config import MAX_POSITIONS, Rope
from homebox.model.files.config_fields import Fields
from homebox.model.files.json_file import show

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
THETA = (1.0, 1e12)
FACTOR = (1e-3, 1e6)


def read_rope(
    fields: Fields,
    head_dim: int,
    positions: int,
    theta: float,
    aliases: dict[str, str] | None = None,
) -> Rope:
    """Return the rotation that a configuration describes; `theta` is its usual base.

    `aliases` gives further names of kinds. Raises ModelFormatError.
    """
    given = fields.part("rope_scaling") or fields.part("rope_parameters")
    base = fields.number("rope_theta", *THETA, default=theta)
    partial = fields.number("partial_rotary_factor", 0.01, 1.0, default=1.0)
    if given is None:
        return Rope(base, _turning(fields, head_dim, partial))
    return rope_from(given, fields, head_dim, positions, base, partial, aliases)


def rope_from(
    given: Fields,
    whole: Fields,
    head_dim: int,
    positions: int,
    theta: float,
    partial: float = 1.0,
    aliases: dict[str, str] | None = None,
) -> Rope:
    """Return the rotation that an object of rope parameters describes; `whole` is around it."""
    base = given.number("rope_theta", *THETA, default=theta)
    partial = given.number("partial_rotary_factor", 0.01, 1.0, default=partial)
    dim = _turning(given, head_dim, partial)
    key = "rope_type" if given.get("rope_type") is not None else "type"
    kind = given.get(key)
    if isinstance(kind, str) and aliases and kind in aliases:
        kind = aliases[kind]
    if kind is None:
        kind = "default"
    if not isinstance(kind, str) or kind not in KINDS:
        given.fail(key, f"{show(kind)} is not supported; supported: {', '.join(KINDS)}")
    extra: dict[str, Any] = {}
    if kind in ("linear", "dynamic"):
        extra = {"factor": given.number("factor", *FACTOR), "original": positions}
    elif kind == "llama3":
        extra = _llama3(given, positions)
    elif kind == "yarn":
        extra = _yarn(given, positions)
    elif kind == "longrope":
        extra = _longrope(given, whole, dim, positions)
    if dim < 4 and kind in ("dynamic", "yarn"):
        given.fail(key, f"{kind} needs at least 4 channels, not {dim}")
    if kind in ("dynamic", "yarn") and base <= 1.0:
        given.fail("rope_theta", f"must be above 1 for {kind}")
    return Rope(base, dim, kind, **extra)  # type: ignore[arg-type]


def _turning(fields: Fields, head_dim: int, partial: float) -> int:
    """Return how many channels of a head turn."""
    dim = int(head_dim * partial)
    if dim < 2 or dim % 2:
        fields.fail(
            "partial_rotary_factor", f"lets {dim} of {head_dim} channels turn; must be even"
        )
    return dim


def _original(fields: Fields, positions: int) -> int:
    return fields.integer("original_max_position_embeddings", 1, MAX_POSITIONS, default=positions)


def _llama3(given: Fields, positions: int) -> dict[str, Any]:
    low = given.number("low_freq_factor", 1e-3, 1e4)
    high = given.number("high_freq_factor", 1e-3, 1e4)
    if high <= low:
        given.fail("high_freq_factor", f"must be above low_freq_factor, {low:g}")
    factor = given.number("factor", *FACTOR)
    original = _original(given, positions)
    return {"factor": factor, "original": original, "low_freq": low, "high_freq": high}


def _yarn(given: Fields, positions: int) -> dict[str, Any]:
    original = _original(given, positions)
    factor = given.number("factor", *FACTOR, default=positions / original)
    attention = given.optional_number("attention_factor", 1e-3, 1e3)
    if attention is None:
        scale = given.optional_number("mscale", 1e-3, 1e3)
        all_dim = given.optional_number("mscale_all_dim", 1e-3, 1e3)
        attention = _magnitude(factor, 1.0)
        if scale and all_dim:
            attention = _magnitude(factor, scale) / _magnitude(factor, all_dim)
    return {
        "factor": factor,
        "original": original,
        "beta_fast": given.number("beta_fast", 1e-3, 1e4, default=32.0),
        "beta_slow": given.number("beta_slow", 1e-3, 1e4, default=1.0),
        "truncate": given.boolean("truncate", default=True),
        "attention_factor": attention,
    }


def _magnitude(factor: float, scale: float) -> float:
    """Return YaRN's temperature of the attention (arXiv 2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * scale * _log(factor) + 1.0


def _longrope(given: Fields, whole: Fields, dim: int, positions: int) -> dict[str, Any]:
    outer = "original_max_position_embeddings"
    original = _original(whole if whole.get(outer) is not None else given, positions)
    factor = given.number("factor", *FACTOR, default=positions / original)
    if whole.get(outer) is not None:
        factor = positions / original
    attention = given.optional_number("attention_factor", 1e-3, 1e3)
    if attention is None:
        attention = 1.0
        if factor > 1 and original > 1:
            attention = math.sqrt(1 + _log(factor) / _log(original))
    return {
        "factor": factor,
        "original": original,
        "attention_factor": attention,
        "short_factors": given.numbers("short_factor", dim // 2, *FACTOR),
        "long_factors": given.numbers("long_factor", dim // 2, *FACTOR),
    }


def _log(x: float) -> float:
    """Return the natural logarithm with the same bits on every machine."""
    return float(Decimal(x).ln())

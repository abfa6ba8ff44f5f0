"""Trials of matrix units: tiles whose every number differs, computed by each vendor's instructions.

One idea: factors are random integers of which no two lines are alike, and each team multiplies
other lines, so that a wrong row, column, place along k or team changes a result; the sums are exact
in any order. Invariant: a unit is granted only to the variant whose products were all right.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebox.engine.codegen.opencl_mma import (
    KINDS,
    LINE,
    UNITS,
    VARIANTS,
    Variant,
    mma_text,
    options,
    width_text,
)
from homebox.engine.opencl.probe_sources import Probe

Array = NDArray[Any]
_ITEMS = 256
_LINES = 48  # of each factor; a team begins at a line of its own
_STEPS = 2  # products that are added up
_STEP = _STEPS * LINE + 16  # bytes from line to line, so that neighbours meet other banks
_SIDE = 16


def mma_probes() -> tuple[Probe, ...]:
    """Return the ways to multiply tiles, by the types of their numbers."""
    return tuple(_probe(variant, kind) for kind in KINDS for variant in VARIANTS)


def _probe(variant: Variant, kind: str) -> Probe:
    a, b = _factor(kind, 31), _factor(kind, 32)
    teams = _ITEMS // variant.width
    rows, columns = (np.random.default_rng(seed).integers(1, 5, _LINES) for seed in (33, 34))
    wanted = np.empty((teams, _SIDE, _SIDE), np.float32)
    for team in range(teams):
        top, left = _places(team)
        up, across = slice(top, top + _SIDE), slice(left, left + _SIDE)
        wanted[team] = a[up] @ b[across].T
        if kind == "i8":
            wanted[team] *= rows[up][:, None] * columns[across][None, :]
    scales = np.concatenate([rows, columns]).astype(np.float32)
    given = _stored(kind, a) + _stored(kind, b) + scales.tobytes()
    largest = 128 if variant.width < 16 else 256  # their results must fit local memory
    return Probe(
        f"tiles of {kind} ({variant.name})",
        UNITS[kind],
        _source(variant, kind, largest),
        given,
        wanted.tobytes(),
        unit=UNITS[kind],
        options=tuple(options(variant.name)),
        items=(_ITEMS,),
        groups=((largest,), (64,)),
        shows="<f4",
    )


def _places(team: int) -> tuple[int, int]:
    """Return the first line of a team's factors."""
    return team, team * 5 % 32


def _factor(kind: str, seed: int) -> Array:
    """Return lines of integers whose products sum exactly in float32."""
    most, count = (128, _STEPS * LINE) if kind == "i8" else (9, _STEPS * LINE // 2)
    return np.random.default_rng(seed).integers(-most, most, (_LINES, count))


def _stored(kind: str, numbers: Array) -> bytes:
    if kind == "i8":
        return numbers.astype(np.int8).tobytes()
    if kind == "f16":
        return numbers.astype(np.float16).tobytes()
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _source(variant: Variant, kind: str, largest: int) -> str:
    """Return a kernel in which each team multiplies lines of its own and writes 16 x 16 sums."""
    line, lines = _STEPS * LINE, _LINES
    sums = "i32" if kind == "i8" else "f32"
    scaled = [
        "  hb_sums_f32 total; hb_zero_f32(&total);",
        "  hb_scale(&total, &sums, scales + top, scales + 48 + left);",
    ]
    store = "total" if kind == "i8" else "sums"
    return "\n".join(
        [
            width_text(variant.width) + mma_text(),
            "HB_MMA_KERNEL",
            "__kernel void probe(__global const uchar *given, __global uchar *found) {",
            f"  __local uchar box[{2 * lines * _STEP}] __attribute__((aligned(16)));",
            f"  __local float scales[{2 * lines}], out[{largest // variant.width * 256}];",
            "  int l = get_local_id(0), size = get_local_size(0);",
            f"  for (int i = l; i < {2 * lines * line}; i += size)",
            f"    box[i / {line} * {_STEP} + i % {line}] = given[i];",
            # What an earlier kernel left there must not pass for results.
            f"  for (int i = l; i < size / {variant.width} * 256; i += size) out[i] = -1.0f;",
            f"  for (int i = l; i < {2 * lines}; i += size)",
            f"    scales[i] = ((__global const float *)(given + {2 * lines * line}))[i];",
            "  barrier(CLK_LOCAL_MEM_FENCE);",
            f"  int team = get_global_id(0) / {variant.width}, top = team, left = team * 5 % 32;",
            f"  hb_sums_{sums} sums; hb_zero_{sums}(&sums);",
            f"  for (int k = 0; k < {line}; k += {LINE}) {{",
            f"    hb_a a = hb_load_a(box + top * {_STEP} + k, {_STEP});",
            f"    hb_b b = hb_load_b(box + ({lines} + left) * {_STEP} + k, {_STEP});",
            f"    hb_mma_{kind}(&sums, &a, &b);",
            "  }",
            *(scaled if kind == "i8" else []),
            f"  hb_store_f32(out + l / {variant.width} * 256, 16, &{store});",
            "  barrier(CLK_LOCAL_MEM_FENCE);",
            "  __global float *to = (__global float *)found + "
            f"get_group_id(0) * (size / {variant.width} * 256);",
            f"  for (int i = l; i < size / {variant.width} * 256; i += size) to[i] = out[i];",
            "}",
        ]
    )

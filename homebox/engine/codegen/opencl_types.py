"""How the linear IR's types and constants are spelled in OpenCL C.

The one idea: a type has a form in memory and a form in variables, which differ for bools (bytes;
`bool`, or vectors of `char` that are 0 or -1, as OpenCL compares) and for half precision on devices
without it (f32 that happen to fit; the core functions vload_half and vstore_half convert). bf16
always is its 16 bits. Invariant: a variable's form holds every value of the type exactly.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.errors import EngineError

VECTORS = (1, 2, 4, 8, 16)  # lanes that OpenCL C has without padding
SIGNED = {1: "char", 2: "short", 4: "int", 8: "long"}
UNSIGNED = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong"}


def vector(name: str, lanes: int) -> str:
    """Return the name of a type's vector."""
    if lanes not in VECTORS:
        raise EngineError(f"OpenCL C has no vectors of {lanes} lanes; use {VECTORS}")
    return name if lanes == 1 else f"{name}{lanes}"


def held(dtype: DType, lanes: int, half: bool) -> str:
    """Return the type of a variable; `half`: whether the device computes in half precision."""
    if dtype is dt.boolean:
        return "bool" if lanes == 1 else vector("char", lanes)
    if dtype is dt.f16 and not half:
        return vector("float", lanes)
    return vector(dtype.opencl, lanes)


def held_bytes(dtype: DType, half: bool) -> int:
    """Return the bytes of a lane in a variable."""
    return 4 if dtype is dt.f16 and not half else dtype.size


def component(name: str, lane: int, lanes: int) -> str:
    """Return one lane of a variable."""
    return name if lanes == 1 else f"{name}.s{lane:x}"


def components(name: str, first: int, count: int) -> str:
    """Return some neighbouring lanes of a vector."""
    return f"{name}.s{''.join(f'{k:x}' for k in range(first, first + count))}"


def joined(kind: str, parts: Sequence[str]) -> str:
    """Return a vector of this type made of its parts; a scalar is its only part."""
    return parts[0] if len(parts) == 1 else f"({kind})({', '.join(parts)})"


def literal(value: Any, dtype: DType, half: bool) -> str:
    """Return a scalar constant, floats by their exact value."""
    if dtype is dt.boolean:
        return "true" if value else "false"
    if dtype is dt.bf16:
        bits = struct.unpack("<I", struct.pack("<f", value))[0] >> 16  # it is one already
        return f"(ushort)0x{bits:04x}"
    if dtype is dt.f16 and half:
        return f"as_half((ushort)0x{struct.unpack('<H', _half(value))[0]:04x})"
    if dtype is dt.f16:
        return _float(struct.unpack("<e", _half(value))[0])
    if dtype is dt.f32:
        return _float(struct.unpack("<f", _single(value))[0])
    if dtype is dt.f64:
        bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        return float(value).hex() if math.isfinite(value) else f"as_double(0x{bits:016x}ul)"
    return _integer(int(value), dtype)


def _half(value: float) -> bytes:
    try:
        return struct.pack("<e", value)
    except OverflowError:
        return struct.pack("<e", math.copysign(math.inf, value))


def _single(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _float(value: float) -> str:
    if math.isfinite(value):
        return f"{value.hex()}f" if value != int(value) or abs(value) > 1e6 else f"{value:.1f}f"
    return f"as_float(0x{struct.unpack('<I', struct.pack('<f', value))[0]:08x}u)"


def _integer(value: int, dtype: DType) -> str:
    """Return an integer; i64 that fit 32 bits are written as `int`, which C widens as needed."""
    if dtype is dt.u32:
        return f"{value}u"
    if value == -(1 << 63):
        return "(-0x7fffffffffffffffL - 1L)"
    if value == -(1 << 31):
        return "(-0x7fffffff - 1)"
    text = f"{value}L" if not -(1 << 31) <= value < 1 << 31 else str(value)
    if dtype.size < 4:
        return f"({dtype.opencl})({text})"
    return f"({text})" if value < 0 else text

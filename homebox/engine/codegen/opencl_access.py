"""Loads and stores of the linear IR as OpenCL C.

The one idea: what is promised to be aligned goes through pointers to whole vectors of up to 16
bytes (bytes and halves travel in words), so that a GPU needs one access; everything else through
vloadN, or lane by lane where a mask says so. Invariant: a masked-off lane touches no memory.
"""

from dataclasses import dataclass

from homebox.engine.codegen.opencl_types import component, components, held, joined, vector
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType

WIDEST = 16  # bytes of one access


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer's name, what it points to, and where that lies."""

    name: str
    dtype: DType
    space: str  # __global, __local or __private
    constant: bool  # memory that the kernel never writes
    aliased: bool  # written, and read as elements of several types

    @property
    def element(self) -> str:
        """The type that lies in memory."""
        return f"hb_any_{self.dtype.opencl}" if self.aliased else self.dtype.opencl

    def to(self, kind: str) -> str:
        """Return the type of a pointer to elements of this kind in the same memory."""
        return f"{'const ' if self.constant else ''}{self.space} {kind} *"


def load(
    pointer: Pointer, index: str, lanes: int, mask: str | None, half: bool, whole: bool
) -> str:
    """Return an expression for consecutive elements; `whole`: the address is aligned to all."""
    if mask is not None:
        return masked(pointer, [plus(index, k) for k in range(lanes)], mask, half)
    if lanes == 1:
        return _one(pointer, index, half)
    soft = pointer.dtype is dt.f16 and not half
    if whole:
        step = min(lanes, WIDEST // pointer.dtype.size)
        parts = [_aligned(pointer, plus(index, k), step, soft) for k in range(0, lanes, step)]
        found = joined(held(pointer.dtype, lanes, half), parts)
    else:
        name = "vload_half" if soft else "vload"
        found = f"{name}{lanes}(0, {pointer.name} + {index})"
    if pointer.dtype is dt.boolean:
        return f"({found} != ({vector('uchar', lanes)})(0))" if not whole else found
    return found


def masked(pointer: Pointer, places: list[str], mask: str | None, half: bool) -> str:
    """Return an expression for elements at any places; masked-off lanes are 0."""
    lanes = len(places)
    zero = "false" if pointer.dtype is dt.boolean else "0"
    parts = []
    for k, place in enumerate(places):
        got = _one(pointer, place, half)
        if mask is not None:
            got = f"({component(mask, k, lanes)} ? {got} : {zero})"
        parts.append(f"-({got})" if pointer.dtype is dt.boolean and lanes > 1 else got)
    return joined(held(pointer.dtype, lanes, half), parts)


def store(
    pointer: Pointer, index: str, value: str, lanes: int, mask: str | None, half: bool, whole: bool
) -> list[str]:
    """Return statements that write consecutive elements."""
    if mask is not None or lanes == 1:
        return scattered(pointer, [plus(index, k) for k in range(lanes)], value, mask, half)
    soft = pointer.dtype is dt.f16 and not half
    if pointer.dtype is dt.boolean:
        value = f"as_{vector('uchar', lanes)}({value} & ({vector('char', lanes)})(1))"
    if not whole:
        name, rounding = ("vstore_half", "_rte") if soft else ("vstore", "")
        return [f"{name}{lanes}{rounding}({value}, 0, {pointer.name} + {index});"]
    step = min(lanes, WIDEST // pointer.dtype.size)
    lines = []
    for k in range(0, lanes, step):
        part = value if step == lanes else components(f"({value})", k, step)
        place = f"({pointer.name} + {plus(index, k)})"
        if soft:
            lines.append(f"vstorea_half{step}_rte({part}, 0, {place});")
            continue
        kind, same = _carrier(pointer.dtype, step)
        part = part if same else f"as_{kind.removeprefix('hb_any_')}({part})"
        lines.append(f"*({pointer.to(kind)}){place} = {part};")
    return lines


def scattered(
    pointer: Pointer, places: list[str], value: str, mask: str | None, half: bool
) -> list[str]:
    """Return statements that write lanes to any places, in order."""
    lanes, lines = len(places), []
    for k, place in enumerate(places):
        lane = component(value, k, lanes)
        if pointer.dtype is dt.boolean:
            lane = f"({lane} ? 1 : 0)"
        if pointer.dtype is dt.f16 and not half:
            line = f"vstore_half_rte({lane}, {place}, {pointer.name});"
        else:
            line = f"{pointer.name}[{place}] = {lane};"
        lines.append(line if mask is None else f"if ({component(mask, k, lanes)}) {line}")
    return lines


def plus(index: str, offset: int) -> str:
    """Return an index moved by a constant."""
    return f"{index} + {offset}" if offset else index


def _one(pointer: Pointer, place: str, half: bool) -> str:
    if pointer.dtype is dt.f16 and not half:
        return f"vload_half({place}, {pointer.name})"
    found = f"{pointer.name}[{place}]"
    return f"({found} != 0)" if pointer.dtype is dt.boolean else found


def _carrier(dtype: DType, lanes: int) -> tuple[str, bool]:
    """Return the type as which so many elements travel, and whether it is their own."""
    size = lanes * dtype.size
    if dtype.size >= 4 or size < 4:
        return vector(dtype.opencl, lanes), True
    return vector("uint", size // 4) if size > 4 else "hb_any_uint", False


def _aligned(pointer: Pointer, place: str, lanes: int, soft: bool) -> str:
    if soft:
        return f"vloada_half{lanes}(0, {pointer.name} + {place})"
    kind, same = _carrier(pointer.dtype, lanes)
    got = f"*({pointer.to(kind)})({pointer.name} + {place})"
    if not same:
        got = f"as_{vector(pointer.dtype.opencl, lanes)}({got})"
    if pointer.dtype is dt.boolean:
        return f"({got} != ({vector('uchar', lanes)})(0))"
    return got

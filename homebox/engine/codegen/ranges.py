"""Which integers of a SIMT kernel need 64 bits: bounds of each value, and what its uses demand.

GPUs do 64-bit index arithmetic in several instructions. Two facts make 32 bits enough: an interval
that fits (bounds follow from ids, loops, sizes and constants), or uses that need the lower half
only (an index into a memory below 2^31 elements; sums and products pass this on). The invariant:
a value that the interpreter computes lies in its interval, whatever the buffers contain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homebox.engine.codegen.linear import Inst, Kernel
from homebox.engine.graph.dtype import DType, i64

Interval = tuple[int, int]  # both ends belong to it

INT32: Interval = (-(1 << 31), (1 << 31) - 1)
_IDS: Interval = (0, INT32[1])  # of groups, if nothing is known of the grid
_ACCESS = frozenset({"load", "store", "prefetch"})
_RING = frozenset({"add", "sub", "mul"})  # the lower half of the result needs lower halves only


@dataclass(frozen=True, slots=True)
class Ranges:
    """By instruction: bounds (None if no scalar integer), and how it may be held.

    `wraps`: the operation may leave its type's range. `width` of an i64: "int" (the value fits
    32 bits), "low" (32 bits are enough, though the value may not fit) or "long".
    """

    bounds: tuple[Interval | None, ...]
    wraps: tuple[bool, ...]
    width: tuple[str, ...]


def analyse(
    kernel: Kernel, most_groups: Sequence[int] = (), variables: Sequence[Interval] = ()
) -> Ranges:
    """Return bounds and widths of a kernel's integers.

    `most_groups` is the largest grid it runs on, by axis; `variables` gives the least and the
    largest value of each entry of the vars buffer. What is not given is any int32.
    """
    bounds: list[Interval | None] = []
    wraps: list[bool] = []
    for inst in kernel.body:
        operands = [bounds[arg] for arg in inst.args]
        found = _bound(kernel, inst, operands, most_groups, variables)
        limits = _limits(inst.dtype)
        over = found is not None and (found[0] < limits[0] or found[1] > limits[1])
        bounds.append(limits if over else found)
        wraps.append(over)
    return Ranges(tuple(bounds), tuple(wraps), _widths(kernel, bounds))


def fits(bound: Interval | None, limits: Interval = INT32) -> bool:
    """Whether an interval is known and inside of others' limits."""
    return bound is not None and limits[0] <= bound[0] and bound[1] <= limits[1]


def _limits(dtype: DType) -> Interval:
    bits = 8 * dtype.size
    return (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.kind == "i" else (0, (1 << bits) - 1)
    )


def _bound(
    kernel: Kernel,
    inst: Inst,
    operands: list[Interval | None],
    most_groups: Sequence[int],
    variables: Sequence[Interval],
) -> Interval | None:
    """Return the interval of a result, beyond its type if the operation may leave that."""
    if inst.lanes != 1 or inst.dtype.kind not in "iu":
        return None
    op, every = inst.op, _limits(inst.dtype)
    if op == "const":
        return int(inst.arg), int(inst.arg)
    if op == "var":
        return variables[inst.arg] if inst.arg < len(variables) else INT32
    if op == "group":
        return (0, max(most_groups[inst.arg] - 1, 0)) if most_groups else _IDS
    if op == "local":
        return 0, kernel.group[inst.arg] - 1
    if op == "lane":
        return 0, 0
    if op == "cast" and kernel.body[inst.args[0]].dtype.kind == "b":
        return 0, 1
    known = [bound for bound in operands if bound is not None]
    if op == "where" and len(known) == 2:
        return _hull(*known)
    if len(known) < len(inst.args) or not known:
        return every
    if op == "loop":
        return known[0][0], max(known[1][1] - 1, known[0][0])
    if op == "cast":
        return known[0] if fits(known[0], every) else every
    return _arithmetic(op, known, every)


def _arithmetic(op: str, known: list[Interval], every: Interval) -> Interval:
    if len(known) != 2:
        return every
    (a, b), (c, d) = known
    if op == "add":
        return a + c, b + d
    if op == "sub":
        return a - d, b - c
    if op == "mul":
        corners = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)
    if op == "min":
        return min(a, c), min(b, d)
    if op == "max":
        return max(a, c), max(b, d)
    if a < 0 or c < 0:
        return _signed_bits(op, known) if op in ("and", "or", "xor") else every
    if op == "idiv":
        return a // max(d, 1), b // max(c, 1)
    if op == "mod":
        return (a, b) if b < c else (0, min(b, max(d - 1, 0)))
    if op == "shr":
        return a >> min(d, 63), b >> min(c, 63)
    if op == "shl":
        return (a << c, b << d) if d < 64 else every
    if op == "and":
        return 0, min(b, d)
    if op in ("or", "xor"):
        return 0, (1 << max(b.bit_length(), d.bit_length())) - 1
    return every


def _signed_bits(op: str, known: list[Interval]) -> Interval:
    """Return what a bit operation can give if an operand may be negative."""
    most = [high for low, high in known if low >= 0]
    if op == "and" and most:
        return 0, most[0]
    bits = max(max(high, -low - 1).bit_length() for low, high in known)
    return -(1 << bits), (1 << bits) - 1


def _hull(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _widths(kernel: Kernel, bounds: list[Interval | None]) -> tuple[str, ...]:
    """Go from uses to definitions, and let each use say whether it needs all 64 bits."""
    body = kernel.body
    full = [False] * len(body)
    width = ["long"] * len(body)
    small = _small_memories(kernel)
    for position in range(len(body) - 1, -1, -1):
        inst = body[position]
        index = inst.dtype is i64 and inst.lanes == 1
        if index and _is_int(inst, bounds[position], body, bounds):
            width[position] = "int"
        elif index and not full[position] and inst.op in _RING:
            width[position] = "low"
        for place, source in enumerate(inst.args):
            if inst.op in _ACCESS and place == 1:
                half = small[inst.args[0]]
            elif inst.op == "cast":
                half = inst.dtype.kind in "iu" and inst.dtype.size <= 4
            else:
                half = index and inst.op in _RING and width[position] != "long"
            full[source] = full[source] or not half
    return tuple(width)


def _is_int(
    inst: Inst, bound: Interval | None, body: tuple[Inst, ...], bounds: list[Interval | None]
) -> bool:
    if not fits(bound) or inst.op in ("reg", "get", "set"):
        return False
    if inst.op != "loop":
        return True
    start, end = (bounds[arg] for arg in inst.args)
    # The counter begins even where there is no round, and takes one step beyond its end.
    return fits(start) and end is not None and fits((end[0], end[1] - 1 + inst.arg))


def _small_memories(kernel: Kernel) -> list[bool]:
    """Tell of each pointer whether every element's number fits 31 bits."""
    small: list[bool] = []
    for inst in kernel.body:
        count = 0
        if inst.op == "param":
            count = kernel.params[inst.arg].count
        elif inst.op in ("stack", "shared"):
            count = inst.arg
        elif inst.op == "view":
            owner = inst
            while owner.op == "view":
                owner = kernel.body[owner.args[0]]
            held = kernel.params[owner.arg].count if owner.op == "param" else owner.arg
            count = held * owner.dtype.size // inst.dtype.size
        small.append(0 < count <= INT32[1])
    return small

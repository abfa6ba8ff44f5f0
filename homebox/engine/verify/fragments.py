"""Matrix fragments of the linear IR: what makes them well formed, and what they compute.

Every work-item of a team holds whole tiles here, where a machine would deal them out; what it reads
is noted for the first two of the team, which is enough for every race to be seen. Invariant: sums
of floats are exact before they are rounded once for each `mma`, so machines differ by rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebox.engine.codegen.linear import FRAGMENT_K, Inst, Kernel
from homebox.engine.graph.dtype import bf16, f32, i32, i64
from homebox.engine.verify.arithmetic import fma
from homebox.engine.verify.memories import Memory
from homebox.engine.verify.oracle import widen
from homebox.engine.verify.site import Site

Array = NDArray[Any]
Values = list[Any]
Step = Callable[[Values], Any]

SIDE = 16  # rows and columns of a tile
ALIGNED = 16  # bytes
SILENT = frozenset({"mma", "fragment_scale", "fragment_add", "fragment_store"})
HELD = frozenset({"fragment_zero", "fragment_a", "fragment_b"})  # values that only fragments take
OPERANDS = {
    "fragment_zero": (),
    "fragment_a": ("shared", "index"),
    "fragment_b": ("shared", "index"),
    "mma": ("fragment_zero", "fragment_a", "fragment_b"),
    "fragment_scale": ("fragment_zero", "fragment_zero", "shared", "index", "shared", "index"),
    "fragment_add": ("fragment_zero", "fragment_zero"),
    "fragment_store": ("shared", "index", "fragment_zero"),
}
ARITY = {op: len(kinds) for op, kinds in OPERANDS.items()}


def check_fragment(kernel: Kernel, site: Site, inst: Inst, guarded: bool) -> None:
    """Raise EngineError if a fragment operation is malformed; `guarded`: it is in an `if`."""
    body = kernel.body

    def require(condition: bool, message: str) -> None:
        if not condition:
            site.fail(message)

    flat = all(side == 1 for side in kernel.group[1:])
    require(flat, "needs work-groups that are one work-item wide but for the first axis")
    require(not guarded, "stands under a condition, so not all of its team may reach it")
    require(inst.lanes == 1, "has one lane")
    operands = [body[source] for source in inst.args]
    for source, operand, kind in zip(inst.args, operands, OPERANDS[inst.op], strict=True):
        root = operand
        while kind == "shared" and root.op == "view":
            root = body[root.args[0]]
        if kind == "index":
            fits = operand.dtype is i64 and operand.lanes == 1 and operand.op not in HELD
            require(fits, f"%{source} is no i64 scalar")
        else:
            require(root.op == kind, f"%{source} ({root.op}) must be {kind}")
    if inst.op == "fragment_zero":
        _check_width(require, inst.arg, kernel.group[0])
        require(inst.dtype in (f32, i32), f"sums are f32 or i32, not {inst.dtype}")
    elif inst.op in ("fragment_a", "fragment_b"):
        step, width = inst.arg
        _check_width(require, width, kernel.group[0])
        require(inst.dtype is operands[0].dtype, f"the pointer is to {operands[0].dtype}")
        require(inst.dtype.name in FRAGMENT_K, f"there are no factors of {inst.dtype}")
        aligned = step > 0 and step * inst.dtype.size % ALIGNED == 0
        require(aligned, f"a step of {step} is no multiple of {ALIGNED} bytes")
    elif inst.op == "mma":
        sums, a, b = operands
        require(a.dtype is b.dtype, f"multiplies {a.dtype} by {b.dtype}")
        require(sums.dtype is (f32 if a.dtype.is_float else i32), f"adds {a.dtype} to {sums.dtype}")
        require(a.arg[1] == b.arg[1] == sums.arg, "its tiles are held by teams of other widths")
    elif inst.op == "fragment_scale":
        kinds = [operands[i].dtype for i in (0, 1, 2, 4)]
        require(kinds == [f32, i32, f32, f32], f"needs f32, i32, f32, f32, has {kinds}")
        require(operands[0].arg == operands[1].arg, "its sums are held by teams of other widths")
    elif inst.op == "fragment_add":
        alike = [(x.dtype, x.arg) for x in operands]
        require(alike == [(f32, alike[0][1])] * 2, "needs f32 sums of teams of one width")
    else:
        require(operands[0].dtype is operands[2].dtype, "stores into elements of another type")
        require(isinstance(inst.arg, int) and inst.arg >= SIDE, f"has lines of {inst.arg}")


def _check_width(require: Callable[[bool, str], None], width: Any, group: int) -> None:
    fits = isinstance(width, int) and 0 < width <= 64 and width & (width - 1) == 0
    require(fits and group % width == 0, f"groups of {group} have no whole teams of {width!r}")


@dataclass(slots=True)
class Factor:
    """A factor as it was read, and where, so that changes can be noticed."""

    stored: Array
    numbers: Array
    memory: Memory
    places: Array


def fragment_step(position: int, inst: Inst, body: tuple[Inst, ...], site: Site) -> Step:
    """Return the function that carries out one fragment operation for one work-item."""
    if inst.op == "fragment_zero":
        kind = inst.dtype.to_numpy()

        def zero(values: Values) -> None:
            values[position] = np.zeros((SIDE, SIDE), kind)

        return zero
    if inst.op in ("fragment_a", "fragment_b"):
        return _read(position, inst, site)
    if inst.op == "mma":
        return _multiply(inst, site)
    if inst.op == "fragment_add":
        return _add(*inst.args)
    if inst.op == "fragment_scale":
        return _scale(inst, body[inst.args[0]].arg, site)
    return _store(inst, body[inst.args[2]].arg, site)


def _note(memory: Memory, places: Array, values: Values, width: int, site: Site) -> None:
    """Note a read by the team; two readers are seen by whichever work-item writes."""
    frame = values[-1]
    if frame.local[0] % width < 2:
        memory.read(places.reshape(-1), frame, site)


def _read(position: int, inst: Inst, site: Site) -> Step:
    pointer, index = inst.args
    step, width = inst.arg
    lines = np.arange(SIDE)[:, None] * step + np.arange(FRAGMENT_K[inst.dtype.name])
    unit = ALIGNED // inst.dtype.size

    def read(values: Values) -> None:
        memory: Memory = values[pointer]
        if values[index] % unit:
            site.fail(f"element {values[index]} is at no multiple of {ALIGNED} bytes")
        places = values[index] + lines
        _note(memory, places, values, width, site)
        stored = memory.data[places]
        numbers = widen(stored) if inst.dtype is bf16 else stored
        kind = np.float64 if inst.dtype.is_float else np.int64
        values[position] = Factor(stored, numbers.astype(kind), memory, places)

    return read


def _multiply(inst: Inst, site: Site) -> Step:
    sums, a, b = inst.args

    def multiply(values: Values) -> None:
        total: Array = values[sums]
        factors: list[Factor] = [values[a], values[b]]
        for factor in factors:
            if factor.memory.data[factor.places].tobytes() != factor.stored.tobytes():
                site.fail("the memory of a factor has changed since it was read")
        product = factors[0].numbers @ factors[1].numbers.T
        total[...] = (total.astype(product.dtype) + product).astype(total.dtype)

    return multiply


def _add(sums: int, parts: int) -> Step:
    def add(values: Values) -> None:
        values[sums][...] += values[parts]

    return add


def _scale(inst: Inst, width: int, site: Site) -> Step:
    sums, whole, *ways = inst.args

    def scale(values: Values) -> None:
        factors = []
        for pointer, index in (ways[:2], ways[2:]):
            places = values[index] + np.arange(SIDE)
            _note(values[pointer], places, values, width, site)
            factors.append(values[pointer].data[places])
        both = factors[0][:, None] * factors[1][None, :]
        numbers = values[whole].astype(np.float32)
        values[sums][...] = fma(numbers, both, values[sums], f32)

    return scale


def _store(inst: Inst, width: int, site: Site) -> Step:
    pointer, index, sums = inst.args

    def store(values: Values) -> None:
        memory, frame = values[pointer], values[-1]
        mine = np.arange(frame.local[0] % width, SIDE * SIDE, width)
        places = values[index] + mine // SIDE * inst.arg + mine % SIDE
        memory.write(places, frame, site)
        memory.data[places] = values[sums].reshape(-1)[mine]

    return store

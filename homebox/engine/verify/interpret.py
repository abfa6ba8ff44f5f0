"""An interpreter of the linear IR that checks what a machine would let pass.

It computes what a kernel must compute, to the bit, and stops with `EngineError` at an access
outside of a buffer, a read of memory that nothing has written, a race, a barrier that some
work-items do not reach, or an undefined division or shift. The one idea: units and work-items run
one after another, and the memories they share notice who touched what (`memories`). Units take
turns on two threads, each of which has memory of its own that it keeps.
The body is compiled once into nested Python functions over a list of values.
"""

from collections.abc import Callable, Generator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebox.engine.codegen.linear import FRAGMENTS, Inst, Kernel
from homebox.engine.verify.arithmetic import PARTIAL, constant, operation, settle
from homebox.engine.verify.check import check_kernel
from homebox.engine.verify.fragments import fragment_step
from homebox.engine.verify.memories import Frame, Memory, Tracker, bind, called, smallest_views
from homebox.engine.verify.site import Site, format_instruction, format_kernel
from homebox.errors import EngineError

__all__ = ["format_instruction", "format_kernel", "run", "run_simt"]

Array = NDArray[Any]
Values = list[Any]  # one entry per instruction, then the frame
Stop = tuple[int, tuple[int, ...]]  # a barrier, and the counters of the loops around it
_GIVEN = frozenset({"param", "var", "lo", "hi", "first", "group", "local"})
_THREADS = 2
ALIGNED = 16  # bytes to which an "aligned" access is at a multiple, at most
Step = Callable[[Values], Any]  # returns None, or a generator of stops if it contains a barrier


def run(
    kernel: Kernel,
    buffers: Sequence[Array],
    variables: Array,
    units: tuple[int, int] = (0, 1),
) -> None:
    """Run a CPU kernel on each unit of `units` (lo, hi) by itself; buffers are written in place.

    `buffers` are C-contiguous arrays of the params' numpy types, `variables` is int32.
    Raises EngineError at the first violation.
    """
    if kernel.group:
        raise EngineError("a SIMT kernel needs run_simt and a grid")
    program = _Program(kernel)
    params = bind(kernel, buffers, 1)
    kept: list[dict[int, Memory]] = [{} for _ in range(_THREADS)]
    called_before = [False] * _THREADS
    with np.errstate(all="ignore"):
        for unit in range(*units):
            thread = unit % _THREADS
            frame = Frame(unit, 1, (unit,), (unit, unit + 1), kept=kept[thread])
            frame.first, called_before[thread] = not called_before[thread], True
            frame.epoch = unit
            program.walk(program.values(params, variables, frame))


def run_simt(
    kernel: Kernel, buffers: Sequence[Array], variables: Array, grid: tuple[int, ...]
) -> None:
    """Run a SIMT kernel on `grid` work-groups per axis; buffers are written in place.

    The work-items of a group take turns at barriers. Arguments and errors are those of `run`.
    """
    if not kernel.group or len(grid) != len(kernel.group):
        raise EngineError(f"a grid of {len(grid)} axes does not fit groups of {kernel.group}")
    program = _Program(kernel)
    size = int(np.prod(kernel.group))
    params = bind(kernel, buffers, size)
    epoch = 0
    with np.errstate(all="ignore"):
        for number, group in enumerate(product(*map(range, grid))):
            shared: dict[int, Memory] = {}
            items = []
            for place, local in enumerate(product(*map(range, kernel.group))):
                frame = Frame(number * size + place, size, group, local, shared)
                items.append(program.values(params, variables, frame))
            epoch = program.group(items, epoch) + 1


class _Program:
    """A kernel compiled to Python functions."""

    def __init__(self, kernel: Kernel) -> None:
        check_kernel(kernel)
        self.kernel, self.body = kernel, kernel.body
        self.position = 0
        self.loops: list[int] = []
        self.initial: Values = [None] * len(self.body)
        self.given = [i for i, inst in enumerate(self.body) if inst.op in _GIVEN]
        self.smallest = smallest_views(kernel)
        self.has_barrier = any(inst.op == "barrier" for inst in self.body)
        self.walk = _sequence(self.block())

    def values(self, params: list[Memory], variables: Array, frame: Frame) -> Values:
        """Return a fresh list of values for one unit or work-item."""
        values = self.initial.copy()
        for position in self.given:
            inst = self.body[position]
            if inst.op == "param":
                values[position] = params[inst.arg]
            elif inst.op == "var":
                if inst.arg >= len(variables):
                    Site(self.kernel, position).fail(f"there are {len(variables)} variables")
                values[position] = int(variables[inst.arg])
            elif inst.op in ("lo", "hi"):
                values[position] = frame.local[inst.op == "hi"]
            elif inst.op == "first":
                values[position] = frame.first
            else:
                values[position] = (frame.group if inst.op == "group" else frame.local)[inst.arg]
        values.append(frame)
        return values

    def group(self, items: list[Values], epoch: int) -> int:
        """Run the work-items of one group from barrier to barrier; return the last epoch."""
        if not self.has_barrier:
            for values in items:
                values[-1].epoch = epoch
                self.walk(values)
            return epoch
        walkers = [self.walk(values) for values in items]
        while True:
            for values in items:
                values[-1].epoch = epoch
            stops: list[Stop | None] = [next(walker, None) for walker in walkers]
            if any(stop != stops[0] for stop in stops):
                self.diverged(items, stops)
            if stops[0] is None:
                return epoch
            epoch += 1

    def diverged(self, items: list[Values], stops: list[Stop | None]) -> None:
        other = next(i for i, stop in enumerate(stops) if stop != stops[0])
        said = []
        for i in (0, other):
            stop = stops[i]
            where = "has ended" if stop is None else f"waits at {stop[0]} in rounds {list(stop[1])}"
            said.append(f"{called(items[i][-1].item, items[i][-1])} {where}")
        stop = stops[0] or stops[other]
        Site(self.kernel, stop[0] if stop else 0).fail(f"barrier divergence: {', '.join(said)}")

    # Compilation: each method returns a step and consumes its instructions.

    def block(self) -> list[tuple[bool, Step]]:
        """Compile up to the end of the scope; each step with whether it is a generator."""
        steps: list[tuple[bool, Step]] = []
        while self.position < len(self.body):
            position, inst = self.position, self.body[self.position]
            self.position += 1
            if inst.op in ("endloop", "endif"):
                break
            if inst.op in ("const", "lane"):
                self.initial[position] = _fixed(inst)
            elif inst.op in _GIVEN:
                continue  # set before the body runs
            elif inst.op == "loop":
                steps.append(self.loop(position, inst))
            elif inst.op == "if":
                steps.append(self.when(inst))
            elif inst.op == "barrier":
                steps.append((True, self.barrier(position)))
            else:
                steps.append((False, self.plain(position, inst)))
        return steps

    def loop(self, position: int, inst: Inst) -> tuple[bool, Step]:
        (lo, hi), stride = inst.args, inst.arg
        self.loops.append(position)
        steps = self.block()
        self.loops.pop()
        body = _sequence(steps)

        def plain(values: Values) -> None:
            for i in range(values[lo], values[hi], stride):
                values[position] = i
                body(values)

        def stopping(values: Values) -> Generator[Stop, None, None]:
            for i in range(values[lo], values[hi], stride):
                values[position] = i
                yield from body(values)

        generator = _stops(steps)
        return generator, stopping if generator else plain

    def when(self, inst: Inst) -> tuple[bool, Step]:
        condition = inst.args[0]
        steps = self.block()
        body = _sequence(steps)

        def plain(values: Values) -> None:
            if values[condition]:
                body(values)

        def stopping(values: Values) -> Generator[Stop, None, None]:
            if values[condition]:
                yield from body(values)

        generator = _stops(steps)
        return generator, stopping if generator else plain

    def barrier(self, position: int) -> Step:
        loops = tuple(self.loops)

        def step(values: Values) -> Generator[Stop, None, None]:
            yield position, tuple(values[loop] for loop in loops)

        return step

    def plain(self, position: int, inst: Inst) -> Step:
        site = Site(self.kernel, position)
        if inst.op in ("load", "gather"):
            return _load(position, inst, site)
        if inst.op in ("store", "scatter"):
            return _store(inst, site)
        if inst.op == "prefetch":
            return lambda values: None
        if inst.op in ("reg", "get", "set"):
            target = inst.args[0] if inst.op == "set" else position
            source = inst.args[-1]

            def move(values: Values) -> None:
                values[target] = values[source]

            return move
        if inst.op in ("stack", "shared", "keep"):
            return _memory(position, inst, inst.dtype.size // self.smallest[position])
        if inst.op == "view":
            return _view(position, inst)
        if inst.op in FRAGMENTS:
            return fragment_step(position, inst, self.body, site)
        return _arithmetic(position, inst, [self.body[arg] for arg in inst.args], site)


def _stops(steps: list[tuple[bool, Step]]) -> bool:
    return any(generator for generator, _ in steps)


def _sequence(steps: list[tuple[bool, Step]]) -> Step:
    if not _stops(steps):
        plain = tuple(step for _, step in steps)

        def straight(values: Values) -> None:
            for step in plain:
                step(values)

        return straight

    def stopping(values: Values) -> Generator[Stop, None, None]:
        for generator, step in steps:
            if generator:
                yield from step(values)
            else:
                step(values)

    return stopping


def _fixed(inst: Inst) -> Any:
    if inst.op == "const":
        return constant(inst)
    return settle(np.arange(inst.lanes, dtype=np.int32) if inst.lanes > 1 else 0, inst)


def _arithmetic(position: int, inst: Inst, operands: list[Inst], site: Site) -> Step:
    function, args = operation(inst, operands), inst.args
    if inst.op in PARTIAL:
        total = function

        def function(*given: Any) -> Any:
            try:
                return total(*given)
            except ValueError as error:
                site.fail(str(error))

    if len(args) == 2:
        a, b = args

        def binary(values: Values) -> None:
            values[position] = function(values[a], values[b])

        return binary

    def general(values: Values) -> None:
        values[position] = function(*[values[arg] for arg in args])

    return general


def _memory(position: int, inst: Inst, cells: int) -> Step:
    dtype, count, name = inst.dtype.to_numpy(), inst.arg, f"the {inst.op} memory %{position}"

    def made(tracker: Tracker | None) -> Memory:
        known = np.zeros(count * cells, np.bool_)
        return Memory(name, np.zeros(count, dtype), tracker, known, cells)

    def stack(values: Values) -> None:
        values[position] = made(None)

    def keep(values: Values) -> None:
        kept = values[-1].kept
        if position not in kept:
            kept[position] = made(None)
        values[position] = kept[position]

    def shared(values: Values) -> None:
        memories = values[-1].shared
        if position not in memories:
            memories[position] = made(Tracker())
        values[position] = memories[position]

    return {"stack": stack, "keep": keep, "shared": shared}[inst.op]


def _view(position: int, inst: Inst) -> Step:
    pointer, dtype = inst.args[0], inst.dtype.to_numpy()

    def view(values: Values) -> None:
        values[position] = values[pointer].viewed(dtype)

    return view


def _places(inst: Inst, mask: int | None, site: Site) -> Callable[[Values], tuple[Any, Any]]:
    """Return a function that tells which elements an access touches, and with which lanes."""
    index, lanes = inst.args[1], inst.lanes
    spread = inst.op in ("gather", "scatter")
    promised = min(lanes, max(1, ALIGNED // inst.dtype.size)) if inst.arg == "aligned" else 1

    def places(values: Values) -> tuple[Any, Any]:
        first = values[index]
        if promised > 1 and first % promised:
            site.fail(f"element {first} is not at a multiple of {promised} elements")
        if not spread and mask is None:
            return range(first, first + lanes), None
        indices = np.atleast_1d(first) if spread else first + np.arange(lanes)
        if mask is None:
            return indices, None
        active = np.flatnonzero(values[mask])
        return indices[active], active

    return places


def _load(position: int, inst: Inst, site: Site) -> Step:
    pointer, lanes, dtype = inst.args[0], inst.lanes, inst.dtype.to_numpy()
    places = _places(inst, inst.args[2] if len(inst.args) == 3 else None, site)

    def load(values: Values) -> None:
        memory: Memory = values[pointer]
        indices, active = places(values)
        memory.read(indices, values[-1], site)
        if active is None:
            if lanes == 1:
                values[position] = settle(memory.data[int(indices[0])], inst)
            elif isinstance(indices, range):
                values[position] = memory.data[indices.start : indices.stop].copy()
            else:
                values[position] = memory.data[indices]
            return
        result = np.zeros(lanes, dtype)
        result[active] = memory.data[indices]
        values[position] = settle(result[0] if lanes == 1 else result, inst)

    return load


def _store(inst: Inst, site: Site) -> Step:
    pointer, source = inst.args[0], inst.args[2]
    places = _places(inst, inst.args[3] if len(inst.args) == 4 else None, site)

    def store(values: Values) -> None:
        memory: Memory = values[pointer]
        indices, active = places(values)
        memory.write(indices, values[-1], site)
        value = values[source]
        if isinstance(indices, range):
            memory.data[indices.start : indices.stop] = value
            return
        lanes = np.atleast_1d(value)
        if active is not None:
            lanes = lanes[active]
        for index, element in zip(indices, lanes):  # in this order: the last of equal indices stays
            memory.data[index] = element

    return store

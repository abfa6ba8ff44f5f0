"""A program that runs: a plan whose names have become addresses, and its own memory.

Running it copies nothing and looks at no graph: the run-time integers go into the vars buffer and
one launch list goes to the worker pool. A run can be suspended between two launches and finished
later. Invariants: every program has an arena of its own, so whatever runs in between cannot disturb
a suspended one; an output can be read only until the next run begins.
"""

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.ops import Shape, Sym, numel_max, size_max
from homebox.engine.runtime.program_plan import Array, Launch, Place, Plan, dtype_of, shape_of
from homebox.engine.runtime.runtime_cpu import ROW, StopFlag, pool
from homebox.errors import EngineError

if TYPE_CHECKING:
    from homebox.engine.fusion.fuse import Region
    from homebox.engine.fusion.schedule import Lowered
    from homebox.engine.runtime.assemble import Graph

BRIEF = 5e-3  # seconds that a run goes on if it is asked to stop from the start


class _Constant:
    """A value that depends on frozen memory only; holds that, so that no address is used again."""

    __slots__ = ("__weakref__", "buffer", "sources")

    def __init__(self, buffer: Buffer, sources: Sequence[object]) -> None:
        self.buffer, self.sources = buffer, sources


_constants: "weakref.WeakValueDictionary[tuple[object, ...], _Constant]"
_constants = weakref.WeakValueDictionary()
_constants_lock = threading.Lock()


class Value(NamedTuple):
    """An input or output of a program: where it is and what shape and type it has."""

    buffer: Buffer
    shape: Shape
    dtype: DType


class LaunchTime(NamedTuple):
    """What one launch took. `pieces` counts the launches that it was cut into."""

    title: str
    nanoseconds: int
    longest: int  # nanoseconds of the longest piece
    pieces: int


class Output:
    """An output of the last run, readable until the next one begins: then EngineError."""

    __slots__ = ("_array", "_generation", "_program")

    def __init__(self, program: "Program", array: np.ndarray) -> None:
        self._program, self._array, self._generation = program, array, program.generation

    def numpy(self) -> np.ndarray:
        """Return a view of the memory itself, to be read at once: it changes with the next run."""
        program = self._program
        if program.generation != self._generation or program.suspended:
            raise EngineError(
                f"{program.name}: this output was overwritten by a later run; "
                "copy it before the program runs again"
            )
        return self._array

    def copy(self) -> np.ndarray:
        """Return the values in memory of their own."""
        return self.numpy().copy()

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, run-time ones as they were given."""
        return self._array.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype, copy=copy)

    def __getitem__(self, key: Any) -> Any:
        return self.numpy()[key]

    def __len__(self) -> int:
        return len(self._array)

    def __float__(self) -> float:
        return float(self.numpy())


class Program:
    """A compiled function: an ordered launch list over fixed memory. Made by `capture`."""

    def __init__(
        self,
        plan: Plan,
        code: Mapping[str, int],
        buffers: Mapping[str, Buffer],
        inputs: Mapping[str, Buffer] | None = None,
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self.generation = 0
        self.graph: Graph | None = None  # what it was made of, if it was made here
        self.trace: Callable[[Mapping[str, Buffer]], Graph] | None = None  # else how to get it
        self.syms = plan.syms()
        self._code = [code[name] for name, _ in plan.kernels]
        self._buffers = {name: buffers[name] for name in plan.buffers}
        sizes = {s.name: s for s in self.syms}
        self._inputs = inputs or {
            name: Buffer(numel_max(shape_of(a.shape, sizes)), dtype_of(a.dtype))
            for name, a in plan.inputs.items()
        }
        self._outputs = [Buffer(m.elements, dtype_of(m.dtype)) for m in plan.outputs]
        self.arena = Buffer(plan.arena, dt.u8, dense=True)
        self.variables = Buffer(max(len(self.syms), 1), dt.i32)
        self._constants: list[_Constant] = []
        self._compute_constants()
        self.inputs = {name: self._value(a, sizes) for name, a in plan.inputs.items()}
        self.roots = [self._value(a, sizes) for a in plan.roots]
        self._next: int | None = None  # the row to go on with, while suspended
        self._lay_out()

    # -- memory ---------------------------------------------------------------------------------

    def _buffer(self, place: Place) -> Buffer:
        if place.kind == "buffer":
            return self._buffers[place.name]
        if place.kind == "input":
            return self._inputs[place.name]
        return self._outputs[place.at] if place.kind == "output" else self._constant(place)

    def _constant(self, place: Place) -> Buffer:
        return self._constants[place.at].buffer

    def _value(self, array: Array, sizes: Mapping[str, Sym]) -> Value:
        shape = shape_of(array.shape, sizes)
        return Value(self._buffer(array.place), shape, dtype_of(array.dtype))

    def address_of(self, place: Place) -> int:
        """Return where a place of the plan is in this process."""
        if place.kind == "arena":
            return self.arena.address + place.at
        return self._buffer(place).address

    def _compute_constants(self) -> None:
        """Find what another program has computed already, compute the rest."""
        for at, (memory, launch) in enumerate(self.plan.constants):
            sources: list[object] = []
            for i in launch.arguments:
                place = self.plan.places[i]
                if place.kind == "constant":
                    sources.append(None if place.at == at else self._constants[place.at])
                else:
                    sources.append(self._buffer(place))
            key = (self.plan.kernels[launch.kernel], launch.fixed, *map(id, sources))
            with _constants_lock:
                found = _constants.get(key)
                if found is not None:
                    self._constants.append(found)
                    continue
                made = _Constant(Buffer(memory.elements, dtype_of(memory.dtype)), sources)
                self._constants.append(made)
                arguments = self._arguments(launch)
                row = (self._code[launch.kernel], arguments.ctypes.data, launch.fixed)
                pool().run(np.array([(*row, launch.chunk, 0)], np.int64))
                made.buffer.frozen = True
                _constants[key] = made

    def _arguments(self, launch: Launch) -> np.ndarray:
        pointers = [self.address_of(self.plan.places[i]) for i in launch.arguments]
        return np.array([*pointers, self.variables.address], np.int64)

    # -- launches -------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Write the launch list; launches that are too long are cut into ranges of units."""
        where = [self.address_of(place) for place in self.plan.places]
        pointers: list[int] = []
        rows: list[tuple[int, int, int, int, int]] = []
        self._starts: list[int] = []
        ends: dict[tuple[int, tuple[tuple[str, int], ...]], list[int]] = {}
        bounds = {s.name: s.hi for s in self.syms}
        for launch in self.plan.launches:
            begin = 8 * len(pointers)
            pointers += [where[i] for i in launch.arguments]
            pointers.append(self.variables.address)
            self._starts.append(len(rows))
            most = _units(launch.fixed, launch.dynamic, bounds)
            function = self._code[launch.kernel]
            for lo in range(0, max(most, 1), launch.most):
                if launch.dynamic:
                    ends.setdefault((launch.fixed, launch.dynamic), []).append(len(rows))
                hi = min(lo + launch.most, most)
                rows.append((function, begin, hi, launch.chunk, lo))
        self._pointers = np.array(pointers, np.int64)
        self.launches = np.array(rows, np.int64).reshape(len(rows), ROW)
        self.launches[:, 1] += self._pointers.__array_interface__["data"][0]
        self._dynamic = [
            (fixed, dynamic, np.array(at), self.launches[at, 2].copy())
            for (fixed, dynamic), at in ends.items()
        ]

    def _set_variables(self, variables: Mapping[str, int] | None) -> None:
        values = variables or {}
        for i, sym in enumerate(self.syms):
            value = values.get(sym.name)
            if value is None:
                raise EngineError(f"{self.name}: no value for the run-time integer {sym.name!r}")
            if not sym.lo <= value <= sym.hi:
                raise EngineError(
                    f"{self.name}: {sym.name} = {value} is outside of {sym.lo} .. {sym.hi}"
                )
            self.variables.array[i] = value
        for fixed, dynamic, at, most in self._dynamic:
            self.launches[at, 2] = np.minimum(most, _units(fixed, dynamic, values))

    # -- running --------------------------------------------------------------------------------

    @property
    def suspended(self) -> bool:
        """Whether a run was begun and not finished."""
        return self._next is not None

    def run(self, variables: Mapping[str, int] | None = None, stop: StopFlag | None = None) -> bool:
        """Execute on the memory as it is; `variables` gives a value for each Sym, in its bounds.

        Once `stop` is set, by any thread, the run is suspended after the launch in progress and
        this returns False; `resume` finishes it with the bits that it would have had. If it is set
        from the start, the run gets on for 5 ms, so that whoever is always asked to stop gets
        through too.
        """
        if self._next is not None:
            raise EngineError(
                f"{self.name} is suspended in the middle of a run; resume or abandon it first"
            )
        self._set_variables(variables)
        self.generation += 1
        if stop is None and len(self.launches) and _profiling():
            self._show_run(variables or {})
            return True
        return self._go_on(0, stop)

    def resume(self, stop: StopFlag | None = None) -> bool:
        """Go on with a suspended run; returns like `run`."""
        if self._next is None:
            raise EngineError(f"{self.name} is not suspended; there is nothing to resume")
        return self._go_on(self._next, stop)

    def abandon(self) -> None:
        """Forget a suspended run; what its stores have written so far stays written."""
        self._next = None

    def _go_on(self, first: int, stop: StopFlag | None) -> bool:
        count = len(self.launches)
        self._next = first  # stays if the pool refuses
        if stop is not None and stop.is_set():
            until = time.perf_counter() + BRIEF
            while self._next < count:
                pool().run(self.launches[self._next : self._next + 1])
                self._next += 1
                if time.perf_counter() >= until:
                    break
        else:
            rows = self.launches[first:] if first else self.launches
            self._next += pool().run(rows, 0 if stop is None else stop.address)
        if self._next < count:
            return False
        self._next = None
        return True

    def profile(self, variables: Mapping[str, int] | None = None) -> list[LaunchTime]:
        """Run and return the time of each launch of the plan, in order.

        Nobody else gets a turn during a piece: `longest` should stay below 20 ms.
        """
        self._set_variables(variables)
        self.generation += 1
        times = pool().run_profiled(self.launches)
        ends = [*self._starts[1:], len(times)]
        parts = [times[a:b] for a, b in zip(self._starts, ends, strict=True)]
        return [
            LaunchTime(launch.title, int(part.sum()), int(part.max()), len(part))
            for launch, part in zip(self.plan.launches, parts, strict=True)
        ]

    def _show_run(self, variables: Mapping[str, int]) -> None:
        from homebox.engine.inspection import debug

        times = pool().run_profiled(self.launches)
        debug.show_run(self, variables, np.add.reduceat(times, self._starts))

    # -- looking inside -------------------------------------------------------------------------

    def _graph(self) -> "Graph":
        if self.graph is None:
            if self.trace is None:
                raise EngineError(f"{self.name} was made without a graph")
            self.graph = self.trace(self._inputs)
        return self.graph

    @property
    def regions(self) -> tuple["Region", ...]:
        """The regions of the graph in order; a program from the disk makes it anew for that."""
        return self._graph().regions

    @property
    def kernels(self) -> list[tuple["Region", "Lowered", str]]:
        """Region, kernel and name of each launch of the plan."""
        graph = self._graph()
        running = [
            (region, low)
            for region, low in zip(graph.regions, graph.lowered, strict=True)
            if region.root not in graph.constant
        ]
        names = [self.plan.kernels[launch.kernel][0] for launch in self.plan.launches]
        return [(*each, name) for each, name in zip(running, names, strict=True)]

    # -- values ---------------------------------------------------------------------------------

    def set_input(self, name: str, value: np.ndarray) -> None:
        """Copy an array into an input; its shape must be the declared one.

        An axis of run-time size takes any number within its bounds; what a longer value left behind
        stays in memory. The next `run` must be told the same sizes.
        """
        if self._next is not None:
            raise EngineError(f"{self.name} is suspended; its inputs cannot change now")
        target = self.inputs[name]
        array = np.asarray(value)
        fits = len(array.shape) == len(target.shape) and all(
            d.lo <= have <= d.hi if isinstance(d, Sym) else have == d
            for have, d in zip(array.shape, target.shape)
        )
        if not fits or not np.can_cast(array.dtype, target.dtype.to_numpy(), "same_kind"):
            raise EngineError(
                f"{self.name}: input {name} is {array.dtype} {array.shape}, "
                f"declared {target.dtype} {target.shape}"
            )
        memory = target.buffer.array.reshape(tuple(size_max(d) for d in target.shape))
        memory[tuple(slice(0, d) for d in array.shape)] = array

    def output(self, i: int, values: Mapping[str, int] | None = None) -> Output:
        """Return an output of the last run; `values` gives sizes known only at run time."""
        root = self.roots[i]
        shape = tuple(size_max(d) for d in root.shape)
        array = root.buffer.array[: numel_max(root.shape)].reshape(shape)
        if any(isinstance(d, Sym) for d in root.shape):
            known = values or {}
            array = array[
                tuple(slice(0, known[d.name] if isinstance(d, Sym) else d) for d in root.shape)
            ]
        return Output(self, array)

    def __call__(self, **given: np.ndarray | int) -> list[np.ndarray]:
        """Set inputs and run-time integers by name, run, and return copies of the outputs."""
        names = {s.name for s in self.syms}
        unknown = set(given) - names - set(self.inputs)
        if unknown:
            raise EngineError(f"{self.name} has no input {', '.join(sorted(unknown))}")
        values = {k: int(v) for k, v in given.items() if k in names}
        for name, target in self.inputs.items():
            if name not in given:
                continue
            array = np.asarray(given[name])
            for have, d in zip(array.shape, target.shape):
                if isinstance(d, Sym) and values.get(d.name, have) != have:
                    raise EngineError(
                        f"{self.name}: input {name} has {have} elements along an axis whose size "
                        f"{d.name} is {values[d.name]}"
                    )
            self.set_input(name, array)
        self.run(values)
        return [self.output(i, values).copy() for i in range(len(self.roots))]


def asked() -> bool:
    """Whether the environment asks to look inside; what shows it is loaded only then."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("DEBUG", "GRAPH"))


def _profiling() -> bool:
    """Whether somebody wants the times of launches."""
    if not asked() and "homebox.engine.inspection.debug" not in sys.modules:
        return False
    from homebox.engine.inspection import debug

    return debug.profiling()


def _units(fixed: int, dynamic: Sequence[tuple[str, int]], values: Mapping[str, int]) -> int:
    for name, by in dynamic:
        fixed *= -(-values[name] // by)
    return fixed

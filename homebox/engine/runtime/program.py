"""A program that runs: a plan whose names have become addresses, and its own memory.

Running it copies nothing and looks at no graph: the run-time integers go into the vars buffer and
one launch list goes to the worker pool. A run can be suspended between two launches and finished
later. Invariants: every program has an arena of its own, so whatever runs in between cannot disturb
a suspended one; an output can be read only until the next run begins.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from homebox.engine.graph.device import Buffer
from homebox.engine.graph.ops import Sym, size_max
from homebox.engine.runtime import watching
from homebox.engine.runtime.backend import Backend, Code
from homebox.engine.runtime.input_memory import InputMemory
from homebox.engine.runtime.program_memory import ProgramMemory, Value
from homebox.engine.runtime.program_plan import Place, Plan
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.engine.simt.target import Low
from homebox.errors import EngineError

if TYPE_CHECKING:
    from homebox.engine.fusion.draft import Region
    from homebox.engine.runtime.assemble import Graph


class LaunchTime(NamedTuple):
    """What one launch took. `pieces` counts the launches that it was cut into."""

    title: str
    nanoseconds: int
    longest: int  # nanoseconds of the longest piece
    pieces: int


class Output:
    """An output of the last run, readable until the next one begins: then EngineError."""

    __slots__ = ("_array", "_generation", "_program", "_value", "shape")

    shape: tuple[int, ...]

    def __init__(self, program: "Program", value: Value, shape: tuple[int, ...]) -> None:
        self._program, self._value, self.shape = program, value, shape
        self._generation = program.generation
        self._array: np.ndarray | None = None

    def numpy(self) -> np.ndarray:
        """Return the values, to be read at once: in host memory they change with the next run."""
        program = self._program
        if program.abandoned:
            raise EngineError(
                f"{program.name}: its last run was abandoned, so this output is not whole; "
                "run the program again"
            )
        if program.generation != self._generation or program.suspended:
            raise EngineError(
                f"{program.name}: this output was overwritten by a later run; "
                "copy it before the program runs again"
            )
        if self._array is None:
            # Rows that this run did not compute need not leave the device.
            full = (*self.shape[:1], *(size_max(d) for d in self._value.shape[1:]))
            array = self._value.buffer.read(0, math.prod(full)).reshape(full)
            self._array = array[tuple(slice(0, d) for d in self.shape)]
        return self._array

    def copy(self) -> np.ndarray:
        """Return the values in memory of their own."""
        return self.numpy().copy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype, copy=copy)

    def __getitem__(self, key: Any) -> Any:
        return self.numpy()[key]

    def __len__(self) -> int:
        return len(self.numpy())

    def __float__(self) -> float:
        return float(self.numpy())


class Program:
    """A compiled function: an ordered launch list over fixed memory. Made by `capture`."""

    def __init__(
        self,
        plan: Plan,
        code: Mapping[str, Code],
        buffers: Mapping[str, Buffer],
        backend: Backend,
        inputs: InputMemory | None = None,
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self.generation = 0
        self.graph: Graph | None = None  # what it was made of, if it was made here
        self.trace: Callable[[Mapping[str, Buffer]], Graph] | None = None  # else how to get it
        self.syms = plan.syms()
        self.backend = backend
        self._placed = ProgramMemory(plan, code, buffers, backend, inputs)
        self.memory = self._placed.inputs
        self.arena = self._placed.arena
        self.inputs = {name: self._placed.value(a) for name, a in plan.inputs.items()}
        self.roots = [self._placed.value(a) for a in plan.roots]
        self._next: int | None = None  # the piece to go on with, while suspended
        self.abandoned = False  # whether the last run was given up
        self.launches = self._placed.launches(plan.launches)

    def address_of(self, place: Place) -> int:
        """Return where a place of the plan is in this process."""
        return self._placed.address_of(place)

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
            self.memory.set_variable(i, value)
        self.memory.send()
        self.launches.bind(values)

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
        self.abandoned = False
        if stop is None and self.launches.count and watching.profiling():
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
        self.abandoned = self.abandoned or self.suspended
        self._next = None

    def _go_on(self, first: int, stop: StopFlag | None) -> bool:
        self._next = first  # stays if the device refuses
        self._next = self.launches.run(first, stop)
        if self._next < self.launches.count:
            return False
        self._next = None
        return True

    def profile(self, variables: Mapping[str, int] | None = None) -> list[LaunchTime]:
        """Run and return the time of each launch of the plan, in order.

        Nobody else gets a turn during a piece: `longest` should stay below 20 ms.
        """
        self._set_variables(variables)
        self.generation += 1
        self.abandoned = False
        times = self.launches.profile()
        ends = [*self.launches.starts[1:], len(times)]
        parts = [times[a:b] for a, b in zip(self.launches.starts, ends, strict=True)]
        return [
            LaunchTime(launch.title, int(part.sum()), int(part.max()), len(part))
            for launch, part in zip(self.plan.launches, parts, strict=True)
        ]

    def _show_run(self, variables: Mapping[str, int]) -> None:
        times = np.add.reduceat(self.launches.profile(), self.launches.starts)
        watching.tell_run(self, variables, times)

    # -- looking inside -------------------------------------------------------------------------

    def _graph(self) -> "Graph":
        if self.graph is None:
            if self.trace is None:
                raise EngineError(f"{self.name} was made without a graph")
            self.graph = self.trace(self.memory.buffers)
        return self.graph

    @property
    def regions(self) -> tuple["Region", ...]:
        """The regions of the graph in order; a program from the disk makes it anew for that."""
        return self._graph().regions

    @property
    def kernels(self) -> list[tuple["Region", Low, str]]:
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
        memory = self.memory.arrays[name].reshape(tuple(size_max(d) for d in target.shape))
        memory[tuple(slice(0, d) for d in array.shape)] = array
        self.memory.changed = True

    def output(self, i: int, values: Mapping[str, int] | None = None) -> Output:
        """Return an output of the last run; `values` gives sizes known only at run time."""
        root = self.roots[i]
        known = values or {}
        return Output(
            self, root, tuple(known[d.name] if isinstance(d, Sym) else d for d in root.shape)
        )

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

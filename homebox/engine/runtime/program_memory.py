"""The memory of one program: where each place of its plan lies in this process.

The one idea: what depends on frozen memory alone is computed once and belongs to all programs that
need it, as long as one of them is there; temporaries, inputs and outputs are each program's own.
Invariant: no address of it changes while the program lives.
"""

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Block, Buffer
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.ops import Shape, numel_max
from homebox.engine.runtime.backend import Backend, Code, Launches
from homebox.engine.runtime.input_memory import InputMemory
from homebox.engine.runtime.program_plan import Array, Launch, Place, Plan, dtype_of, shape_of


class Value(NamedTuple):
    """An input or output of a program: where it is and what shape and type it has."""

    buffer: Buffer
    shape: Shape
    dtype: DType


class Constant:
    """A value that depends on frozen memory only; holds that, so that no address is used again."""

    __slots__ = ("__weakref__", "buffer", "sources")

    def __init__(self, buffer: Buffer, sources: Sequence[object]) -> None:
        self.buffer, self.sources = buffer, sources


_constants: "weakref.WeakValueDictionary[tuple[object, ...], Constant]"
_constants = weakref.WeakValueDictionary()
_constants_lock = threading.Lock()


class ProgramMemory:
    """Constants, inputs, outputs and temporaries of a plan, and what runs on them.

    `code` are the kernels by name, `buffers` the memory that the graph names. Without `inputs` the
    program gets inputs of its own.
    """

    def __init__(
        self,
        plan: Plan,
        code: Mapping[str, Code],
        buffers: Mapping[str, Buffer],
        backend: Backend,
        inputs: InputMemory | None = None,
    ) -> None:
        self._plan, self._backend = plan, backend
        self._code = [code[name] for name, _ in plan.kernels]
        self._buffers = {name: buffers[name] for name in plan.buffers}
        self._sizes = {s.name: s for s in plan.syms()}
        self.inputs = inputs or self._new_inputs()
        self._outputs = [
            Buffer(m.elements, dtype_of(m.dtype), device=backend.device) for m in plan.outputs
        ]
        self.arena = Buffer(plan.arena, dt.u8, dense=True, device=backend.device)
        self.constants: list[Constant] = []
        self._compute_constants()

    def _new_inputs(self) -> InputMemory:
        wanted = {
            name: (numel_max(shape_of(array.shape, self._sizes)), dtype_of(array.dtype))
            for name, array in self._plan.inputs.items()
        }
        return InputMemory(wanted, len(self._sizes), self._backend.device)

    def value(self, array: Array) -> Value:
        """Return an input or output of the plan with its memory."""
        shape = shape_of(array.shape, self._sizes)
        return Value(self._buffer(array.place), shape, dtype_of(array.dtype))

    def address_of(self, place: Place) -> int:
        """Return where a place of the plan is in this process."""
        if place.kind == "arena":
            return self.arena.address + place.at
        return self._buffer(place).address

    def launches(self, launches: Sequence[Launch]) -> Launches:
        """Make launches of the plan ready to run on this memory."""
        bounds = {name: size.hi for name, size in self._sizes.items()}
        variables = self.inputs.variables
        return self._backend.launches(launches, self._code, self._where, variables, bounds)

    def _buffer(self, place: Place) -> Buffer:
        if place.kind == "buffer":
            return self._buffers[place.name]
        if place.kind == "input":
            return self.inputs.buffers[place.name]
        if place.kind == "output":
            return self._outputs[place.at]
        return self.constants[place.at].buffer

    def _where(self, number: int) -> tuple[Block, int]:
        """Return the block of a place of the plan, and the bytes from its start."""
        place = self._plan.places[number]
        if place.kind == "arena":
            return self.arena.block, self.arena.offset + place.at
        buffer = self._buffer(place)
        return buffer.block, buffer.offset

    def _compute_constants(self) -> None:
        """Find what another program has computed already, compute the rest."""
        for at, (memory, launch) in enumerate(self._plan.constants):
            sources: list[object] = []
            for i in launch.arguments:
                place = self._plan.places[i]
                if place.kind == "constant":
                    sources.append(None if place.at == at else self.constants[place.at])
                else:
                    sources.append(self._buffer(place))
            key = (self._plan.kernels[launch.kernel], launch.grid, *map(id, sources))
            with _constants_lock:
                found = _constants.get(key)
                if found is not None:
                    self.constants.append(found)
                    continue
                buffer = Buffer(
                    memory.elements, dtype_of(memory.dtype), device=self._backend.device
                )
                made = Constant(buffer, sources)
                self.constants.append(made)
                self.launches([launch._replace(most=max(1, launch.grid[0].fixed))]).run(0, None)
                buffer.read(0, min(buffer.count, 1))  # who finds it later must find it computed
                buffer.frozen = True
                _constants[key] = made

"""A scheduled program as plain data: what to launch in which order, and where each pointer leads.

One idea: addresses belong to a process, everything else about a program does not. So a plan names
memory (a buffer of the caller by its name, an input, an output, a constant, an offset of the arena)
and kernels by their cache keys; whoever holds those names can run it without having the graph.
Invariant: encoding and decoding give an equal plan, and a plan that does not fit the caller's
buffers is refused as a whole.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from homebox.engine.graph.device import Buffer
from homebox.engine.graph.dtype import ALL, DType
from homebox.engine.graph.ops import Dim, Shape, Sym
from homebox.errors import EngineError

FORMAT = 3  # raised whenever the fields below change their meaning
DTYPES = {each.name: each for each in ALL}

Size = int | str  # of an axis; a string names a run-time integer


class Place(NamedTuple):
    """Where a pointer leads. `kind`: buffer or input (`name`), output, constant or arena (`at`)."""

    kind: str
    name: str = ""
    at: int = 0  # number of the output or constant; bytes from the arena's start


class Memory(NamedTuple):
    """A block of elements that comes from outside or that a program owns."""

    elements: int
    dtype: str
    frozen: bool = False


class Array(NamedTuple):
    """An input or output as the caller sees it."""

    place: Place
    shape: tuple[Size, ...]
    dtype: str


class Axis(NamedTuple):
    """How many work units or groups there are along one axis of a launch.

    ceil of (`fixed` times the product of ceil(run-time integer / its divisor)) / `by`.
    """

    fixed: int
    dynamic: tuple[tuple[str, int], ...] = ()
    by: int = 1

    def groups(self, values: Mapping[str, int]) -> int:
        """Return the number; `values` gives each run-time integer by name."""
        total = self.fixed
        for name, by in self.dynamic:
            total *= -(-values[name] // by)
        return -(-total // self.by)


class Launch(NamedTuple):
    """One launch. On a CPU there is one axis, and more than `most` units are cut into several."""

    kernel: int  # in the plan's list
    arguments: tuple[int, ...]  # in the plan's list of places; the vars buffer follows by itself
    grid: tuple[Axis, ...]
    chunk: int  # units that a thread takes at a time (CPU)
    most: int
    title: str


class Plan(NamedTuple):
    """A program without addresses; see the module's note."""

    name: str
    variables: tuple[tuple[str, int, int], ...]  # name, least, most: in the order of the vars
    inputs: dict[str, Array]
    roots: tuple[Array, ...]
    buffers: dict[str, Memory]  # the caller's, as they must be
    aliases: tuple[tuple[str, str, int], ...]  # buffers that share bytes; see `aliases_of`
    outputs: tuple[Memory, ...]
    constants: tuple[tuple[Memory, Launch], ...]  # computed once, from frozen memory only
    arena: int  # bytes
    kernels: tuple[tuple[str, str], ...]  # name of the function, key of its object
    places: tuple[Place, ...]
    launches: tuple[Launch, ...]

    def encode(self) -> bytes:
        """Return the plan as JSON."""
        return json.dumps(self, separators=(",", ":")).encode()

    def syms(self) -> list[Sym]:
        """Return the run-time integers, in the order of the vars buffer."""
        return [Sym(*each) for each in self.variables]

    def misfit(self, buffers: Mapping[str, Buffer]) -> str:
        """Return why the plan does not fit these buffers, or nothing if it does."""
        for name, want in self.buffers.items():
            if name not in buffers:
                return f"there is no buffer {name}"
            have = memory_like(buffers[name])
            if have != want:
                return f"buffer {name} is {have}, not {want}"
        if self.aliases != aliases_of(buffers):
            return "other buffers share memory than before"
        return ""


def decode(data: bytes) -> Plan:
    """Return the plan of its JSON; raises EngineError if that is not what `encode` gives."""
    try:
        plan = Plan(*json.loads(data))
        return plan._replace(
            variables=tuple((name, lo, hi) for name, lo, hi in plan.variables),
            inputs={name: _array(*each) for name, each in plan.inputs.items()},
            roots=tuple(_array(*each) for each in plan.roots),
            buffers={name: Memory(*each) for name, each in plan.buffers.items()},
            aliases=tuple((one, other, start) for one, other, start in plan.aliases),
            outputs=tuple(Memory(*each) for each in plan.outputs),
            constants=tuple((Memory(*memory), _launch(*each)) for memory, each in plan.constants),
            kernels=tuple((name, key) for name, key in plan.kernels),
            places=tuple(Place(*each) for each in plan.places),
            launches=tuple(_launch(*each) for each in plan.launches),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise EngineError(
            f"a stored program is not readable ({error!r}); it is made again"
        ) from None


def _array(place: Any, shape: Any, dtype: str) -> Array:
    return Array(Place(*place), tuple(shape), dtype)


def _launch(kernel: int, arguments: Any, grid: Any, *rest: Any) -> Launch:
    axes = tuple(
        Axis(fixed, tuple((n, by) for n, by in dynamic), by) for fixed, dynamic, by in grid
    )
    return Launch(kernel, tuple(arguments), axes, *rest)


def memory_like(buffer: Buffer) -> Memory:
    """Return what a plan notes of a buffer."""
    return Memory(buffer.count, buffer.dtype.name, buffer.frozen)


def aliases_of(buffers: Mapping[str, Buffer]) -> tuple[tuple[str, str, int], ...]:
    """Return (one, other, bytes from one's start to other's) for buffers that share memory.

    A graph's order of reads and writes depends on that. Chains are told by their neighbours.
    """
    found: list[tuple[str, str, int]] = []
    end, first = -1, ""
    placed = [(b.address, name, b.nbytes) for name, b in buffers.items() if b.nbytes]
    for address, name, nbytes in sorted(placed):
        if address < end:
            found.append((first, name, address - buffers[first].address))
        else:
            first = name
        end = max(end, address + nbytes)
    return tuple(found)


def sizes_of(shape: Shape) -> tuple[Size, ...]:
    """Return a shape as plain data."""
    return tuple(d.name if isinstance(d, Sym) else d for d in shape)


def shape_of(sizes: Sequence[Size], syms: Mapping[str, Sym]) -> Shape:
    """Return the shape that `sizes_of` wrote down."""
    dims: list[Dim] = [syms[d] if isinstance(d, str) else d for d in sizes]
    return tuple(dims)


def dtype_of(name: str) -> DType:
    """Return the element type of a name."""
    return DTYPES[name]

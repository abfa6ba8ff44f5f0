"""Compiles functions on tensors into programs that are replayed without any graph work.

`capture` calls a function once with placeholder inputs, cuts the graph into kernels, compiles them
and lays out memory. Running the program copies the inputs in, writes the run-time integers into the
vars buffer and hands one launch list to the worker pool. What depends only on frozen buffers
(packed weights) is computed once, at compile time, and shared by all programs.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homebox.engine import debug
from homebox.engine import dtype as dt
from homebox.engine.cpu import detect
from homebox.engine.device import Buffer
from homebox.engine.dtype import DType
from homebox.engine.fuse import Region, partition
from homebox.engine.jit import Jit
from homebox.engine.llvm import render
from homebox.engine.loops import memory_of
from homebox.engine.lower import lower
from homebox.engine.ops import Node, Op, Shape, Sym, node, numel_max, size_max, toposort
from homebox.engine.plan import order_regions, place
from homebox.engine.runtime_cpu import pool
from homebox.engine.schedule import ContractSchedule, Lowered
from homebox.engine.signature import Lowering
from homebox.engine.tensor import Tensor
from homebox.errors import EngineError

ELEMENTS_PER_CHUNK = 4096
PRODUCTS_PER_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and type of an input."""

    shape: Shape
    dtype: DType = dt.f32


_jit: Jit | None = None
_constants: "weakref.WeakKeyDictionary[Node, Buffer]" = weakref.WeakKeyDictionary()


def jit() -> Jit:
    """Return the process's compiler."""
    global _jit
    if _jit is None:
        _jit = Jit()
    return _jit


class Program:
    """A compiled function: an ordered launch list over fixed memory. Made by `capture`."""

    def __init__(
        self, name: str, inputs: dict[str, Node], roots: Sequence[Node], syms: Sequence[Sym]
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.syms = list(syms)
        cut = partition(roots)
        self.roots = cut.roots
        self.regions = order_regions(cut)
        level = detect().vector
        lowering = Lowering(lambda r: lower(r, cut.realised, self.syms, level), cut.realised)
        lowered = [lowering(region) for region in self.regions]
        self._keep: list[object] = [roots]
        constant = self._constants(lowered)
        self._memory: dict[Node, Buffer] = {}
        self._give_memory(lowered, constant)
        addresses = _compile(lowered)
        self.variables = Buffer(max(len(self.syms), 1), dt.i32)
        self._launches(lowered, addresses, constant)
        debug.show_program(self)

    def _constants(self, lowered: list[Lowered]) -> set[Node]:
        """Return the regions that depend on frozen memory only."""
        constant: set[Node] = set()
        for region, low in zip(self.regions, lowered, strict=True):
            sources = [n for n in low.memory if n is not region.root]
            if region.root.op is not Op.COPY or not sources:
                continue
            if all((n.op is Op.BUFFER and n.arg.frozen) or n in constant for n in sources):
                constant.add(region.root)
        return constant

    def _give_memory(self, lowered: list[Lowered], constant: set[Node]) -> None:
        for root in self.roots:
            owner = memory_of(root)
            if owner.op is not Op.BUFFER and owner not in constant:
                self._memory[owner] = _buffer_for(owner)
        for root in constant:
            if root not in _constants:
                _constants[root] = _buffer_for(root)
            self._memory[root] = _constants[root]
        realised = frozenset(r.root for r in self.regions)
        offsets, size = place(self.regions, realised, self._memory)
        self.arena = Buffer(size, dt.u8)
        self._offsets = offsets

    def address(self, n: Node) -> int:
        """Return where a realised node's values are."""
        owner = memory_of(n)
        if owner.op is Op.BUFFER:
            place_of: int = owner.arg.address
            return place_of
        if owner in self._memory:
            return self._memory[owner].address
        return self.arena.address + self._offsets[owner]

    def _launches(
        self, lowered: list[Lowered], addresses: list[tuple[str, int]], constant: set[Node]
    ) -> None:
        rows: list[list[int]] = []
        once: list[list[int]] = []
        self.kernels: list[tuple[Region, Lowered, str]] = []
        self._dynamic: list[tuple[int, Lowered]] = []
        for region, low, (name, address) in zip(self.regions, lowered, addresses, strict=True):
            pointers = [self.address(n) for n in low.memory] + [self.variables.address]
            args = np.array(pointers, np.int64)
            self._keep.append(args)
            row = [address, args.ctypes.data, low.units.most(), _chunk(low)]
            if region.root in constant:
                if not _constants[region.root].frozen:
                    once.append(row)
                    _constants[region.root].frozen = True
                continue
            if low.units.dynamic:
                self._dynamic.append((len(rows), low))
            rows.append(row)
            self.kernels.append((region, low, name))
        if once:
            pool().run(np.array(once, np.int64))
        self.launches = np.array(rows, np.int64).reshape(len(rows), 4)

    def run(self, variables: Mapping[str, int] | None = None) -> None:
        """Execute on the memory as it is; `variables` gives a value for each Sym, in its bounds."""
        values = dict(variables or {})
        for i, sym in enumerate(self.syms):
            if sym.name not in values:
                raise EngineError(f"{self.name}: no value for the run-time integer {sym.name!r}")
            value = values[sym.name]
            if not sym.lo <= value <= sym.hi:
                raise EngineError(
                    f"{self.name}: {sym.name} = {value} is outside of {sym.lo} .. {sym.hi}"
                )
            self.variables.array[i] = value
        for row, low in self._dynamic:
            self.launches[row, 2] = low.units.count(values)
        if debug.profiling():
            debug.show_run(self, values, pool().run_profiled(self.launches))
        else:
            pool().run(self.launches)

    def set_input(self, name: str, value: np.ndarray) -> None:
        """Copy an array into an input; its shape must be the declared one.

        An axis of run-time size takes any number within its bounds; what a longer value left behind
        stays in memory. The next `run` must be told the same sizes.
        """
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
        memory = target.arg.array.reshape(tuple(size_max(d) for d in target.shape))
        memory[tuple(slice(0, d) for d in array.shape)] = array

    def output(self, i: int, values: Mapping[str, int] | None = None) -> np.ndarray:
        """Return a view of an output's memory; it changes with the next run."""
        root = self.roots[i]
        owner = memory_of(root)
        buffer: Buffer = owner.arg if owner.op is Op.BUFFER else self._memory[owner]
        shape = tuple(d.hi if isinstance(d, Sym) else d for d in root.shape)
        array = buffer.array[: numel_max(root.shape)].reshape(shape)
        cut = tuple(
            slice(0, (values or {})[d.name]) if isinstance(d, Sym) else slice(None)
            for d in root.shape
        )
        return array[cut]

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


def _buffer_for(n: Node) -> Buffer:
    return Buffer(numel_max(n.shape), n.dtype)


def _chunk(low: Lowered) -> int:
    """Return how many units one thread takes at a time: enough work to pay for the taking."""
    wanted = (
        PRODUCTS_PER_CHUNK if isinstance(low.schedule, ContractSchedule) else ELEMENTS_PER_CHUNK
    )
    return max(1, min(wanted // low.work, low.units.most()))


def _compile(lowered: list[Lowered]) -> list[tuple[str, int]]:
    """Return name and address of each kernel; equal kernels are compiled once."""
    names: dict[object, str] = {}
    texts: dict[str, str] = {}
    wanted: list[str] = []
    for low in lowered:
        if low.kernel not in names:
            name = f"k{debug.digest(render(low.kernel, 'kernel', jit().target))}"
            names[low.kernel] = name
            texts[name] = render(low.kernel, name, jit().target)
        wanted.append(names[low.kernel])
    debug.show_sources(texts)
    found = jit().load(texts)
    return [(name, found[name]) for name in wanted]


def capture(
    function: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Mapping[str, Spec] | None = None,
    variables: Sequence[Sym] = (),
    name: str | None = None,
) -> Program:
    """Compile a function of tensors ahead of time.

    `function` is called once, with a placeholder tensor for each entry of `inputs`; it returns one
    tensor or several (stores count as outputs). `variables` declares every Sym that shapes and
    offsets use; an undeclared one raises EngineError.
    """
    places = {
        key: node(Op.BUFFER, spec.dtype, spec.shape, (), Buffer(numel_max(spec.shape), spec.dtype))
        for key, spec in (inputs or {}).items()
    }
    result = function(**{key: Tensor(place) for key, place in places.items()})
    outputs = [result] if isinstance(result, Tensor) else list(result)
    roots = [_own(t) for t in outputs]
    missing = sorted(s.name for s in symbols(roots) - set(variables))
    if missing:
        raise EngineError(
            f"capture: undeclared run-time integers {', '.join(missing)}; name them in `variables`"
        )
    if len({s.name for s in variables}) != len(variables):
        raise EngineError("capture: two run-time integers have the same name")
    title = name or str(getattr(function, "__name__", "program"))
    return Program(title, places, roots, variables)


def symbols(roots: Sequence[Node]) -> set[Sym]:
    """Return the run-time integers that sizes, offsets and values below some nodes depend on."""
    found: set[Sym] = set()
    for each in toposort(roots):
        parts: list[object] = list(each.shape)
        if each.op is Op.VAR:
            parts.append(each.arg)
        elif each.op is Op.SLICE:
            parts.extend(start for start, _, _ in each.arg)
        found.update(part for part in parts if isinstance(part, Sym))
    return found


def _own(t: Tensor) -> Node:
    """Return an output as a node with memory of its own."""
    if t.node.op is Op.STORE:
        return t.node
    return t.contiguous().node


def evaluate(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Compute tensors that depend on nothing undeclared, now; return copies."""
    program = capture(lambda: tensors, name="evaluate")
    program.run()
    return [program.output(i).copy() for i in range(len(tensors))]

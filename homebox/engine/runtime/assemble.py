"""Turns a graph into a scheduled program: kernels compiled, memory laid out, launches in order.

This is all the work that a program on disk saves. What depends only on frozen memory (packed
weights) becomes a constant: it has a launch of its own, which runs when a program is made ready and
finds no equal constant in the process.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homebox.engine.fusion.draft import Partition, Region
from homebox.engine.fusion.fuse import partition
from homebox.engine.fusion.schedule import Lowered
from homebox.engine.fusion.signature import Lowering
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.ops import Node, Op, Sym, memory_of, numel_max, toposort
from homebox.engine.runtime import watching
from homebox.engine.runtime.backend import Backend, Code
from homebox.engine.runtime.plan import order_regions, place
from homebox.engine.runtime.program_plan import (
    Array,
    Axis,
    Launch,
    Memory,
    Place,
    Plan,
    aliases_of,
    memory_like,
    sizes_of,
)
from homebox.engine.simt.target import Low


@dataclass(frozen=True)
class Graph:
    """What a program was made of: regions in order, and (region, kernel, name) per launch."""

    partition: Partition
    regions: tuple[Region, ...]
    lowered: tuple[Low, ...]
    constant: frozenset[Node]  # the roots of regions that are computed once


@dataclass(frozen=True)
class Assembled:
    """A plan, what it needs to run here, and whether another process can run it too."""

    plan: Plan
    code: dict[str, Code]
    buffers: dict[str, Buffer]
    portable: bool  # all memory of the caller's has names
    graph: Graph
    names: tuple[str, ...]  # of each region's kernel


def schedule(roots: Sequence[Node], syms: Sequence[Sym], backend: Backend) -> Graph:
    """Cut a graph into kernels for a backend and order them."""
    cut = partition(roots, backend.resident)
    regions = order_regions(cut)
    lowering = Lowering(lambda r: backend.lower(r, cut.realised, list(syms)), cut.realised)
    lowered = [lowering(region) for region in regions]
    constant = _constants(regions, lowered)
    return Graph(cut, tuple(regions), tuple(lowered), frozenset(constant))


def _constants(regions: Sequence[Region], lowered: Sequence[Low]) -> set[Node]:
    """Return the roots of the regions that depend on frozen memory only."""
    constant: set[Node] = set()
    for region, low in zip(regions, lowered, strict=True):
        sources = [n for n in low.memory if n is not region.root]
        if region.root.op is not Op.COPY or not sources:
            continue
        frozen = all((n.op is Op.BUFFER and n.arg.frozen) or n in constant for n in sources)
        if frozen and not symbols([region.root]):  # walks the graph: asked last
            constant.add(region.root)
    return constant


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


def assemble(
    name: str,
    inputs: Mapping[str, Node],
    roots: Sequence[Node],
    syms: Sequence[Sym],
    buffers: Mapping[str, Buffer],
    backend: Backend,
) -> Assembled:
    """Compile a graph; `buffers` names the caller's memory."""
    graph = schedule(roots, syms, backend)
    where = _Places(inputs, buffers, graph)
    kernels = compile_kernels(graph.lowered, syms, backend)
    numbers = {kernel: i for i, kernel in enumerate(dict.fromkeys(kernels.names))}
    constants: list[tuple[Memory, Launch]] = []
    launches: list[Launch] = []
    for region, low, kernel in zip(graph.regions, graph.lowered, kernels.names, strict=True):
        launch = _launch(region, low, kernel, numbers[kernel], where, backend)
        if region.root in graph.constant:
            constants.append((_memory(region.root, frozen=True), launch))
        else:
            launches.append(launch)
    plan = Plan(
        name=name,
        variables=tuple((s.name, s.lo, s.hi) for s in syms),
        inputs={key: _array(n, where) for key, n in inputs.items()},
        roots=tuple(_array(n, where) for n in graph.partition.roots),
        buffers={key: memory_like(b) for key, b in where.used.items()},
        aliases=aliases_of(buffers),
        outputs=tuple(_memory(n) for n in where.outputs),
        constants=tuple(constants),
        arena=where.arena,
        kernels=tuple((kernel, kernels.keys[kernel]) for kernel in numbers),
        places=tuple(where.numbers),
        launches=tuple(launches),
    )
    return Assembled(plan, kernels.code, where.used, where.portable, graph, kernels.names)


def _memory(n: Node, frozen: bool = False) -> Memory:
    return Memory(numel_max(n.shape), n.dtype.name, frozen)


def _array(n: Node, where: "_Places") -> Array:
    return Array(where.of(n), sizes_of(n.shape), n.dtype.name)


class _Places:
    """Gives every node with memory its place; `numbers` has those that launches use, in order."""

    def __init__(
        self, inputs: Mapping[str, Node], buffers: Mapping[str, Buffer], graph: Graph
    ) -> None:
        self.used: dict[str, Buffer] = {}
        self.numbers: dict[Place, int] = {}
        self.portable = True
        self._inputs = {id(n.arg): key for key, n in inputs.items()}
        self._names: dict[int, str] = {}
        for key, buffer in buffers.items():
            self._names.setdefault(id(buffer), key)
        self._constants = {
            r.root: i for i, r in enumerate(r for r in graph.regions if r.root in graph.constant)
        }
        owners = dict.fromkeys(memory_of(root) for root in graph.partition.roots)
        self.outputs = [n for n in owners if n.op is not Op.BUFFER and n not in self._constants]
        self._outputs = {n: i for i, n in enumerate(self.outputs)}
        fixed: dict[Node, object] = {**self._outputs, **self._constants}
        realised = frozenset(n for r in graph.regions for n in r.written)
        self._offsets, self.arena = place(graph.regions, realised, fixed)

    def of(self, n: Node) -> Place:
        """Return where a realised node's values are."""
        owner = memory_of(n)
        if owner.op is Op.BUFFER:
            return self._given(owner.arg)
        if owner in self._outputs:
            return Place("output", at=self._outputs[owner])
        if owner in self._constants:
            return Place("constant", at=self._constants[owner])
        return Place("arena", at=self._offsets[owner])

    def number(self, n: Node) -> int:
        """Return the number of a node's place in the plan's list."""
        return self.numbers.setdefault(self.of(n), len(self.numbers))

    def _given(self, buffer: Buffer) -> Place:
        if id(buffer) in self._inputs:
            return Place("input", self._inputs[id(buffer)])
        name = self._names.get(id(buffer))
        if name is None:
            self.portable = False
            name = self._names[id(buffer)] = f"unnamed {len(self._names)}"
        self.used[name] = buffer
        return Place("buffer", name)


def _launch(
    region: Region, low: Low, kernel: str, number: int, where: _Places, backend: Backend
) -> Launch:
    chunk, most = backend.cut(low)
    return Launch(
        kernel=number,
        arguments=tuple(where.number(n) for n in low.memory),
        grid=_grid(low),
        chunk=chunk,
        most=most,
        title=f"{kernel[:9]} {region.root.op.name.lower()} {list(sizes_of(region.root.shape))}",
    )


def _grid(low: Low) -> tuple[Axis, ...]:
    """Return a launch's axes of work units or groups as plain data."""
    if isinstance(low, Lowered):
        dynamic = tuple((sym.name, by) for sym, by in low.units.dynamic)
        return (Axis(low.units.fixed, dynamic),)
    axes = []
    for span in low.grid:
        fixed = math.prod(d for d in span.sizes if not isinstance(d, Sym))
        dynamic = tuple((d.name, 1) for d in span.sizes if isinstance(d, Sym))
        axes.append(Axis(fixed, dynamic, span.by))
    return tuple(axes)


@dataclass(frozen=True)
class Kernels:
    """Compiled kernels: the name of each launch's, and by name its key and code."""

    names: tuple[str, ...]
    keys: dict[str, str]
    code: dict[str, Code]


def compile_kernels(lowered: Sequence[Low], syms: Sequence[Sym], backend: Backend) -> Kernels:
    """Compile what is not compiled yet; equal kernels are one."""
    known: dict[object, str] = {}
    texts: dict[str, str] = {}
    names: list[str] = []
    for low in lowered:
        # Regions of one structure share one kernel. A text may use how large the grid gets.
        what = (id(low.kernel), None if isinstance(low, Lowered) else low.grid)
        if what not in known:
            name, text = backend.named(low, syms)
            known[what] = name
            texts[name] = text
        names.append(known[what])
    for each in watching.watchers():
        each.compiling(texts)
    code = backend.load(texts)
    return Kernels(tuple(names), {name: backend.key(text) for name, text in texts.items()}, code)

"""Compiles functions on tensors into programs that are replayed without any graph work.

`capture` calls a function once with placeholder inputs, cuts the graph into kernels, compiles them
and lays out memory. With a key the result is kept on disk, and the next process that asks for the
same program only maps names to addresses: the function is not even called. Invariant: a program
from the disk has the launches, and gives the bits, of one that is compiled anew.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from homebox.engine.codegen.cache import DiskCache, cache_root
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer, Device, current, using
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.ops import Node, Op, Shape, Sym, node, numel_max, toposort
from homebox.engine.runtime import watching
from homebox.engine.runtime.backend import Backend
from homebox.engine.runtime.devices import backend_of
from homebox.engine.runtime.input_memory import InputMemory
from homebox.engine.runtime.program import Program as Program
from homebox.engine.runtime.program_plan import FORMAT, decode, sizes_of
from homebox.errors import EngineError

if TYPE_CHECKING:
    from homebox.engine.graph.tensor import Tensor
    from homebox.engine.runtime.assemble import Graph

log = logging.getLogger(__name__)
_BEGUN = time.time()

SHOWING = ("3", "4")  # DEBUG levels that print schedules and sources

Function = Callable[..., "Tensor | Sequence[Tensor]"]


class Spec(NamedTuple):
    """Shape and type of an input."""

    shape: Shape
    dtype: DType = dt.f32


def capture(
    function: Function,
    inputs: Mapping[str, Spec] | None = None,
    variables: Sequence[Sym] = (),
    name: str | None = None,
    key: str | None = None,
    buffers: Mapping[str, Buffer] | None = None,
) -> Program:
    """Compile a function of tensors ahead of time.

    `function` is called once, with a placeholder tensor for each entry of `inputs`; it returns one
    tensor or several (stores count as outputs). `variables` declares every Sym that shapes and
    offsets use; an undeclared one raises EngineError.

    With a `key` the program is kept on disk. The key must change with everything that decides the
    graph, except for the source code of the engine and of the function's folder, the CPU and the
    switches of the environment, which are added here. `buffers` then names all memory that the
    graph uses; the names must mean the same in every process. A graph that uses other memory is
    compiled, but not kept.
    """
    title = name or str(getattr(function, "__name__", "program"))
    specs = dict(inputs or {})
    if len({s.name for s in variables}) != len(variables):
        raise EngineError("capture: two run-time integers have the same name")
    named = dict(buffers or {})
    device = next(iter(named.values())).device if named else current()
    request = _Request(function, specs, list(variables), title, named, device)
    if key is None:
        return request.compiled(None)
    entry = request.entry(key)
    if entry is None:
        return request.compiled(None)
    return request.stored(entry) or request.compiled(entry)


class _Request(NamedTuple):
    """One call of `capture`."""

    function: Function
    specs: dict[str, Spec]
    variables: list[Sym]
    name: str
    buffers: dict[str, Buffer]
    device: Device

    @property
    def backend(self) -> Backend:
        """What compiles and runs the program."""
        return backend_of(self.device)

    def entry(self, key: str) -> str | None:
        """Return the name of the cache entry: a hash of all that decides the program.

        Returns None if sources changed while this process runs, since nobody knows which it has,
        and where DEBUG wants to see how a program is made.
        """
        if os.environ.get("DEBUG", "") in SHOWING:
            return None
        code = getattr(self.function, "__code__", None)
        folders = [Path(__file__).parents[1]]
        if code is not None:
            folders.append(room_of(Path(code.co_filename)))
        sources = [sources_digest(folder) for folder in folders]
        if None in sources:
            log.info("%s is not kept on disk: sources changed since the start", self.name)
            return None
        parts = [
            FORMAT,
            self.backend.identity,
            sources,
            os.environ.get("NOFUSE", ""),
            self.name,
            [(s.name, s.lo, s.hi) for s in self.variables],
            {n: (sizes_of(spec.shape), spec.dtype.name) for n, spec in self.specs.items()},
            key,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def stored(self, entry: str) -> Program | None:
        """Return the program of a cache entry, if it is there and fits."""
        data = _programs().get(entry)
        if data is None:
            return None
        try:
            plan = decode(data)
        except EngineError as error:
            log.warning("%s: %s", self.name, error)
            return None
        misfit = plan.misfit(self.buffers)
        if misfit:
            log.warning("the stored program %s does not fit: %s; compiling anew", self.name, misfit)
            return None
        code = self.backend.load_objects(dict(plan.kernels))
        if code is None:
            return None
        program = Program(plan, code, self.buffers, self.backend)
        program.trace = self.trace
        _tell(program)
        return program

    def compiled(self, entry: str | None) -> Program:
        """Compile the program; keep it under `entry`."""
        from homebox.engine.runtime.assemble import assemble

        sizes = {n: (numel_max(s.shape), s.dtype) for n, s in self.specs.items()}
        memory = InputMemory(sizes, len(self.variables), self.device)
        places, roots = self.graph(memory.buffers)
        made = assemble(self.name, places, roots, self.variables, self.buffers, self.backend)
        if entry is not None and made.portable:
            _programs().put(entry, made.plan.encode())
        elif entry is not None:
            log.warning("%s is not kept on disk: it uses memory without a name", self.name)
        program = Program(made.plan, made.code, made.buffers, self.backend, memory)
        if entry is None:
            program.graph = made.graph
        else:  # kernels as data are large, and few look at them
            program.trace = self.trace
        _tell(program)
        return program

    def trace(self, memory: Mapping[str, Buffer]) -> "Graph":
        """Return the graph of a program that came from the disk, for those who look inside."""
        from homebox.engine.runtime.assemble import schedule

        return schedule(self.graph(memory)[1], self.variables, self.backend)

    def graph(self, memory: Mapping[str, Buffer]) -> tuple[dict[str, Node], list[Node]]:
        """Call the function; return the inputs' and the outputs' nodes."""
        from homebox.engine.graph.tensor import Tensor
        from homebox.engine.runtime.assemble import symbols

        places = {
            n: node(Op.BUFFER, spec.dtype, spec.shape, (), memory[n])
            for n, spec in self.specs.items()
        }
        with using(self.device):
            result = self.function(**{n: Tensor(place) for n, place in places.items()})
        outputs = [result] if isinstance(result, Tensor) else list(result)
        roots = [_own(t) for t in outputs]
        self._check_devices(roots)
        missing = sorted(s.name for s in symbols(roots) - set(self.variables))
        if missing:
            raise EngineError(
                f"capture: undeclared run-time integers {', '.join(missing)}; "
                "name them in `variables`"
            )
        return places, roots

    def _check_devices(self, roots: Sequence[Node]) -> None:
        for each in toposort(roots):
            if each.op is Op.BUFFER and each.arg.device is not self.device:
                raise EngineError(
                    f"{self.name} runs on {self.device.name}, and uses memory that is not there: "
                    f"{each.arg!r}; copy it first"
                )


def _tell(program: Program) -> None:
    for each in watching.watchers():
        each.made(program)


def _own(t: "Tensor") -> Node:
    """Return an output as a node with memory of its own."""
    if t.node.op is Op.STORE:
        return t.node
    return t.contiguous().node


@cache
def room_of(source: Path) -> Path:
    """Return the folder whose sources decide what a function builds.

    It is the part of the outermost package that the file lies in, as homebox/model, because a
    graph is put together from several rooms of it.
    """
    folder = source.parent
    while (folder.parents[1] / "__init__.py").exists():
        folder = folder.parent
    return folder


def sources_digest(folder: Path) -> str | None:
    """Return a hash of the Python sources in a folder: of what decides a graph besides data.

    Returns None if a file is younger than this process, which may then have read another one.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if path.stat().st_mtime > _BEGUN - 1.0:
            return None
        text = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()


def _programs() -> DiskCache:
    return DiskCache(cache_root() / "programs")


def evaluate(tensors: "Sequence[Tensor]") -> list[np.ndarray]:
    """Compute tensors that depend on nothing undeclared, now; return copies."""
    program = capture(lambda: tensors, name="evaluate")
    program.run()
    return [program.output(i).copy() for i in range(len(tensors))]

"""Runs a graph three ways: numpy oracle, interpreted kernels, compiled kernels.

The oracle says what is right, the interpreter finds accesses outside of memory and races, and the
compiled code must have the interpreter's bits.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.engine.codegen.cpu import detect
from homebox.engine.fusion.draft import Partition
from homebox.engine.fusion.fuse import partition
from homebox.engine.fusion.schedule import Lowered
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Node, Op, Sym, memory_of, numel_max, toposort
from homebox.engine.graph.tensor import Tensor
from homebox.engine.kernels.lower import lower
from homebox.engine.runtime.capture import Program, capture
from homebox.engine.runtime.plan import order_regions
from homebox.engine.verify.interpret import run as interpret
from homebox.engine.verify.oracle import evaluate as oracle
from homebox.engine.verify.oracle import narrow, widen

Array = npt.NDArray[Any]
Values = Mapping[str, int]
LITTLE = 20000  # elements and products that are interpreted without being asked to


def random(*shape: int, seed: int = 0, spread: float = 1.0) -> Array:
    """Return normally distributed float32."""
    values = np.random.default_rng(seed).standard_normal(shape) * spread
    return values.astype(np.float32)


def tensor(array: Array, shape: Sequence[int | Sym] | None = None) -> Tensor:
    """Put an array into device memory; `shape` may name run-time sizes for its axes."""
    made = Tensor.from_numpy(array)
    return made if shape is None else Tensor(_reshaped(made.node, tuple(shape)))


def _reshaped(n: Node, shape: tuple[int | Sym, ...]) -> Node:
    from homebox.engine.graph.ops import node

    return node(Op.BUFFER, n.dtype, shape, (), n.arg)


def in_bf16(array: Array) -> Tensor:
    """Put floats into device memory as bf16."""
    made = Tensor.zeros(array.shape, dt.bf16)
    made.buffer.array[:] = narrow(array).reshape(-1)
    return made


def syms_of(roots: Sequence[Node]) -> list[Sym]:
    """Return the run-time integers of a graph by name."""
    found: dict[str, Sym] = {}
    for each in toposort(roots):
        parts: list[Any] = [*each.shape]
        if each.op is Op.VAR:
            parts.append(each.arg)
        if each.op is Op.SLICE:
            parts += [start for start, _, _ in each.arg]
        found.update({p.name: p for p in parts if isinstance(p, Sym)})
    return [found[name] for name in sorted(found)]


def program_of(tensors: Sequence[Tensor]) -> Program:
    """Capture tensors with all the run-time integers that they mention."""
    return capture(lambda: list(tensors), variables=syms_of([t.node for t in tensors]), name="test")


@contextmanager
def memory_kept(roots: Sequence[Node]) -> Iterator[None]:
    """Put the contents of all buffers below `roots` back afterwards."""
    buffers = [n.arg for n in toposort(roots) if n.op is Op.BUFFER]
    saved = [b.array.copy() for b in buffers]
    yield
    for buffer, content in zip(buffers, saved, strict=True):
        buffer.array[:] = content


def lowered_of(cut: Partition, syms: list[Sym], level: str | None = None) -> list[Lowered]:
    """Lower every region in the order in which they run, for a CPU level or this machine's."""
    level = level or detect().vector
    return [lower(region, cut.realised, syms, level) for region in order_regions(cut)]


def interpreted(
    tensors: Sequence[Tensor], values: Values, most: float = math.inf, level: str | None = None
) -> list[Array] | None:
    """Run a graph's kernels in the checking interpreter and return the values of the tensors.

    Returns None if that takes more than `most` elements and products.
    """
    roots = [t.node if t.node.op is Op.STORE else t.contiguous().node for t in tensors]
    syms = syms_of(roots)
    cut = partition(roots)
    variables = np.array([values[s.name] for s in syms] or [0], np.int32)
    memory: dict[Node, Array] = {}

    def place(n: Node) -> Array:
        if n.op is Op.BUFFER:
            array: Array = n.arg.array
        else:
            if n not in memory:
                # Something that no kernel may rely on.
                memory[n] = np.full(numel_max(n.shape), 77).astype(n.dtype.to_numpy())
            array = memory[n]
        return array.view(np.uint8) if n.dtype is dt.boolean else array

    lows = lowered_of(cut, syms, level)
    if sum(low.units.count(values) * low.work for low in lows) > most:
        return None
    for low in lows:
        count = low.units.count(values)
        interpret(low.kernel, [place(n) for n in low.memory], variables, (0, count))
    return [shown(root, place(memory_of(root)), values) for root in cut.roots]


def shown(root: Node, flat: Array, values: Values) -> Array:
    """Return an output's elements from its memory, cut to the sizes of this run."""
    full = [d.hi if isinstance(d, Sym) else d for d in root.shape]
    array = flat[: math.prod(full)].reshape(full)
    cut = tuple(slice(0, values[d.name] if isinstance(d, Sym) else d) for d in root.shape)
    out: Array = array[cut].copy()
    return out.view(np.bool_) if root.dtype is dt.boolean else out


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays are equal to the bit; NaNs are equal to each other."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind == "f":
        nan = np.isnan(a) & np.isnan(b)
        a, b = np.where(nan, 0, a), np.where(nan, 0, b)
    return a.tobytes() == b.tobytes()


def check_device(
    name: str,
    tensors: Sequence[Tensor],
    values: Values,
    wanted: Sequence[Array],
    tolerance: tuple[float, float],
) -> None:
    """Run a graph on another device as well: strict float32 has the CPU's bits there."""
    from homebox.engine.graph.device import using
    from homebox.engine.runtime.devices import device_named
    from tests.opencl.moved import Moved

    device = device_named(name)
    nodes = toposort([t.node for t in tensors])
    strict = not any(n.op is Op.PACK or n.dtype is dt.bf16 for n in nodes)
    moved = Moved(device).tensors(tensors)
    with using(device):
        program = program_of(moved)
        program.run(values)
        found = [program.output(i, values).copy() for i in range(len(tensors))]
    for i, (want, have) in enumerate(zip(wanted, found, strict=True)):
        assert want.shape == have.shape and want.dtype == have.dtype
        if strict:
            assert same_bits(want, have), f"output {i}: {name} differs from the CPU"
        elif tensors[i].dtype is dt.bf16:
            np.testing.assert_allclose(widen(have), widen(want), *tolerance)
        else:
            np.testing.assert_allclose(have, want, *tolerance, err_msg=f"output {i} on {name}")


def check(
    *tensors: Tensor,
    values: Values | None = None,
    rtol: float = 2e-5,
    atol: float = 2e-5,
    interpret_too: bool | None = None,
    kernels: int | None = None,
) -> list[Array]:
    """Compare compiled values with the oracle and the interpreter; return them.

    Without a wish, only graphs of little work are interpreted. `kernels` is the number of launches
    that the program must have.
    """
    values = values or {}
    roots = [t.node for t in tensors]
    wanted = oracle(roots, dict(values))
    with memory_kept(roots):
        most = {None: LITTLE, True: math.inf, False: -1}[interpret_too]
        stepped = interpreted(tensors, values, most)
    with memory_kept(roots):
        program = program_of(tensors)
        program.run(values)
        found = [program.output(i, values).copy() for i in range(len(tensors))]
    device = os.environ.get("CHECK_DEVICE")
    if device:
        check_device(device, tensors, values, found, (rtol, atol))
    if kernels is not None:
        assert len(program.kernels) == kernels, [str(r.root) for r in program.regions]
    for i, (t, want, have) in enumerate(zip(tensors, wanted, found, strict=True)):
        assert want.shape == have.shape and want.dtype == have.dtype, (want.dtype, have.dtype)
        if stepped is not None:
            assert same_bits(stepped[i], have), f"output {i}: interpreter and machine differ"
        if t.dtype is dt.bf16:
            want, have = widen(want), widen(have)
        np.testing.assert_allclose(have, want, rtol=rtol, atol=atol, err_msg=f"output {i}")
    return found

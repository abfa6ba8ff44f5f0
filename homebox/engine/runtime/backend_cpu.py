"""Programs on the CPU: kernels from the JIT compiler, launch lists for the worker pool."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from homebox.engine.codegen.cache import digest
from homebox.engine.codegen.cpu import cpu_count, detect
from homebox.engine.codegen.jit import shared_jit
from homebox.engine.codegen.llvm import render
from homebox.engine.fusion.draft import Region
from homebox.engine.fusion.schedule import Lowered, MapSchedule, PackedSchedule
from homebox.engine.graph.device import HOST, Block, Buffer, HostDevice
from homebox.engine.graph.ops import Node, Sym
from homebox.engine.kernels.lower import lower
from homebox.engine.runtime.program_plan import Axis, Launch
from homebox.engine.runtime.runtime_cpu import ROW, pool
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.engine.simt.target import Low
from homebox.errors import EngineError

ELEMENTS_PER_CHUNK = 4096
PRODUCTS_PER_CHUNK = 65536
# Work of about 10 ms on one thread, above which a launch is cut: elements, and products by level.
LONG_MAP = 10_000_000
LONG_CONTRACT = {"avx512": 500_000_000, "avx2": 200_000_000, "generic": 40_000_000}
BRIEF = 5e-3  # seconds that a run goes on if it is asked to stop from the start


class CpuBackend:
    """Kernels with explicit lanes for this machine's CPU; code is an address."""

    resident = True

    def __init__(self, device: HostDevice = HOST) -> None:
        self.device = device

    @property
    def identity(self) -> str:
        """The compiler and the CPU."""
        return shared_jit().identity

    def lower(self, region: Region, realised: frozenset[Node], syms: list[Sym]) -> Lowered:
        """Return the kernel of a region."""
        return lower(region, realised, syms, detect().vector)

    def named(self, low: Low, syms: Sequence[Sym]) -> tuple[str, str]:
        """Return a kernel's name and its LLVM IR."""
        text = render(low.kernel, "kernel", shared_jit().target)
        name = f"k{digest(text)}"
        return name, text.replace("@kernel(", f"@{name}(", 1)

    def cut(self, low: Low) -> tuple[int, int]:
        """Return how many units a thread takes at a time, and how many a launch has at most."""
        low = _of_cpu(low)
        return _chunk(low), _most(low)

    def key(self, text: str) -> str:
        """Return the name of an object on disk."""
        return shared_jit().key(text)

    def load(self, texts: Mapping[str, str]) -> dict[str, int]:
        """Return the address of each function."""
        return shared_jit().load(texts)

    def load_objects(self, keys: Mapping[str, str]) -> dict[str, int] | None:
        """Return the address of each function from the disk, or None."""
        return shared_jit().load_objects(keys)

    def launches(
        self,
        launches: Sequence[Launch],
        code: Sequence[int],
        where: Callable[[int], tuple[Block, int]],
        variables: Buffer,
        bounds: Mapping[str, int],
    ) -> "CpuLaunches":
        """Write the launch list for the pool."""
        return CpuLaunches(launches, code, where, variables, bounds)


class CpuLaunches:
    """A launch list in the pool's form; launches that are too long are cut into ranges of units."""

    def __init__(
        self,
        launches: Sequence[Launch],
        code: Sequence[int],
        where: Callable[[int], tuple[Block, int]],
        variables: Buffer,
        bounds: Mapping[str, int],
    ) -> None:
        places: dict[int, int] = {}
        self._kept: list[Block] = []  # what the addresses lead to
        pointers: list[int] = []
        rows: list[tuple[int, int, int, int, int]] = []
        self.starts: list[int] = []
        ends: dict[Axis, list[int]] = {}
        for launch in launches:
            begin = 8 * len(pointers)
            for i in launch.arguments:
                if i not in places:
                    block, offset = where(i)
                    places[i] = block.address + offset
                    self._kept.append(block)
                pointers.append(places[i])
            pointers.append(variables.address)
            self.starts.append(len(rows))
            (axis,) = launch.grid
            most = axis.groups(bounds)
            for lo in range(0, max(most, 1), launch.most):
                if axis.dynamic:
                    ends.setdefault(axis, []).append(len(rows))
                hi = min(lo + launch.most, most)
                rows.append((code[launch.kernel], begin, hi, launch.chunk, lo))
        self._variables = variables
        self._pointers = np.array(pointers, np.int64)
        self.rows = np.array(rows, np.int64).reshape(len(rows), ROW)
        self.rows[:, 1] += self._pointers.__array_interface__["data"][0]
        self._dynamic = [(axis, np.array(at), self.rows[at, 2].copy()) for axis, at in ends.items()]
        self.count = len(rows)

    def bind(self, values: Mapping[str, int]) -> None:
        """Set the number of units of launches whose size is known only now."""
        for axis, at, most in self._dynamic:
            self.rows[at, 2] = np.minimum(most, axis.groups(values))

    def run(self, first: int, stop: StopFlag | None) -> int:
        """Run pieces; see `backend.Launches`."""
        if stop is not None and stop.is_set():
            until = time.perf_counter() + BRIEF
            while first < self.count:
                pool().run(self.rows[first : first + 1])
                first += 1
                if time.perf_counter() >= until:
                    break
            return first
        rows = self.rows[first:] if first else self.rows
        return first + pool().run(rows, 0 if stop is None else stop.address)

    def profile(self) -> np.ndarray:
        """Run all and return the nanoseconds of each piece."""
        return pool().run_profiled(self.rows)


def _of_cpu(low: Low) -> Lowered:
    if not isinstance(low, Lowered):
        raise EngineError("a kernel for work-groups cannot run on the CPU's worker pool")
    return low


def _chunk(low: Lowered) -> int:
    """Return how many units one thread takes at a time: enough work to pay for the taking."""
    if isinstance(low.schedule, PackedSchedule) and low.schedule.streams:
        # Long ways through the weight: the machine reads ahead, and only a few starts cost.
        return max(1, low.units.most() // (4 * cpu_count()))
    small = isinstance(low.schedule, MapSchedule)
    wanted = ELEMENTS_PER_CHUNK if small else PRODUCTS_PER_CHUNK
    return max(1, wanted // max(low.work, 1))


def _most(low: Lowered) -> int:
    """Return the units of one launch; pieces of a longer one are equal, whole chunks at least."""
    map_kernel = isinstance(low.schedule, MapSchedule)
    long = LONG_MAP if map_kernel else LONG_CONTRACT[detect().vector]
    limit = max(long // max(low.work, 1), _chunk(low))
    pieces = -(-low.units.most() // limit)
    most = max(1, -(-low.units.most() // max(pieces, 1)))
    threads = cpu_count()
    return most if pieces < 2 else -(-most // threads) * threads  # none has to wait for another


@cache
def cpu_backend(device: HostDevice = HOST) -> CpuBackend:
    """Return the backend of a CPU device."""
    return CpuBackend(device)

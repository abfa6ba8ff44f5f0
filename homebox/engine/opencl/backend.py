"""Programs on OpenCL devices: what is opened under a name, and the backend that compiles for it.

One idea: a device is opened once, with what it was probed to do; kernels are lowered for groups
of its sizes and units, and nothing else of it reaches them. Invariant: a device that was lost is
never used again; asking for its name opens it anew, with new memory.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from homebox.engine.codegen.cache import digest
from homebox.engine.codegen.opencl import render
from homebox.engine.codegen.opencl_mma import team
from homebox.engine.fusion.draft import Region
from homebox.engine.graph.device import HOST, Block, Buffer
from homebox.engine.graph.ops import Node, Sym
from homebox.engine.opencl.build import Builder, Code
from homebox.engine.opencl.command_trial import faster_commands
from homebox.engine.opencl.launches import OpenClLaunches
from homebox.engine.opencl.memory import OpenClMemory
from homebox.engine.opencl.platform import Found, find
from homebox.engine.opencl.probes import Probes, probe
from homebox.engine.runtime.program_plan import Launch
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import Low, LoweredSimt, Simt, most
from homebox.errors import DeviceError, EngineError

log = logging.getLogger(__name__)

# A card of 80 to 170 multiprocessors needs about as many tiles of 64 x 64 outputs and more.
GPU_ROWS = 1024
_NAME = "kernel_of_homebox"  # until the text is known, from which the name follows


class OpenClDevice(OpenClMemory):
    """An OpenCL device in use: memory, what it was probed to do, and how programs run on it."""

    def __init__(self, entry: Found, budget: int | None = None) -> None:
        super().__init__(entry, budget)
        self.probes: Probes = probe(entry.device)
        if self.probes.unusable:
            raise DeviceError(f"{self.title} cannot be used: {self.probes.unusable}")
        if not self.probes.strict:
            log.warning("%s does not round float32 as the CPU does", self.title)
        self.busy_rows = GPU_ROWS if entry.kind == "gpu" else HOST.busy_rows
        self.backend = OpenClBackend(self, self.probes)
        self.commands = faster_commands(self, self.backend.builder)


_open: dict[str, OpenClDevice] = {}
_open_lock = threading.Lock()


def open_device(name: str, budget: int | None = None) -> OpenClDevice:
    """Return a device by its public name; opens it, anew if it was lost.

    `budget` says how many bytes it may take from now on, also when it is opened anew.
    Raises DeviceError with what to do if there is no such device or it cannot be used.
    """
    with _open_lock:
        device = _open.get(name)
        if device is None or device.lost:
            kept = budget if device is None or budget is not None else device.budget
            device = _open[name] = OpenClDevice(find(name), kept)
        elif budget is not None:
            device.budget = budget
        return device


class OpenClBackend:
    """Kernels of work-groups for one device; see `backend.Backend`."""

    resident = False

    def __init__(self, device: OpenClMemory, probes: Probes) -> None:
        self.device = device
        self.target = Simt(
            probes.group,
            probes.sub_group,
            probes.local_memory,
            probes.units,
            team(probes.options),
        )
        self.builder = Builder(device, probes.options)
        target = (self.target.group, self.target.sub_group, self.target.local_memory)
        self.identity = "\0".join(
            (self.builder.identity, *map(str, target), *sorted(self.target.units))
        )

    def lower(self, region: Region, realised: frozenset[Node], syms: list[Sym]) -> LoweredSimt:
        """Return the kernel of a region."""
        return lower_simt(region, realised, syms, self.target)

    def named(self, low: Low, syms: Sequence[Sym]) -> tuple[str, str]:
        """Return a kernel's name and its OpenCL C."""
        if not isinstance(low, LoweredSimt):
            raise EngineError("a kernel for the CPU's worker pool cannot run in work-groups")
        groups = tuple(-(-most(span.sizes) // span.by) for span in low.grid)
        bounds = [(sym.lo, sym.hi) for sym in syms]
        text = render(low.kernel, _NAME, self.target, groups, bounds)
        name = f"k{digest(text)}"
        return name, text.replace(f"{_NAME}(", f"{name}(", 1)

    def cut(self, low: Low) -> tuple[int, int]:
        """Return what only the CPU's launches use."""
        return 1, 1

    def key(self, text: str) -> str:
        """Return the name of a kernel's entry on disk."""
        return self.builder.key(text)

    def load(self, texts: Mapping[str, str]) -> dict[str, Code]:
        """Compile kernels or take them from the disk."""
        return self.builder.load(texts)

    def load_objects(self, keys: Mapping[str, str]) -> dict[str, Code] | None:
        """Return kernels from the disk, or None."""
        return self.builder.load_objects(keys)

    def launches(
        self,
        launches: Sequence[Launch],
        code: Sequence[Code],
        where: Callable[[int], tuple[Block, int]],
        variables: Buffer,
        bounds: Mapping[str, int],
    ) -> OpenClLaunches:
        """Bind the arguments of a plan's launches."""
        return OpenClLaunches(self.device, launches, code, where, variables, bounds)

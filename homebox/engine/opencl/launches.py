"""The launches of a program on an OpenCL device: arguments bound once, then only enqueued.

One idea: everything that a launch needs is bound to a kernel object of its own when a program is
made ready; a run sets the grids that depend on run-time integers and gives the list to the queue.
A run that may have to make way is given in pieces of a few milliseconds, two at a time, so that the
device never waits for the host. Invariant: launches run in order, each exactly once, whether or
not a run is suspended in between.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from homebox.engine.graph.device import Block, Buffer
from homebox.engine.opencl.build import Code
from homebox.engine.opencl.calls import WORDS, CallError, Kernel, sender
from homebox.engine.opencl.commands import Commands, Recording, still
from homebox.engine.opencl.memory import OpenClBlock, OpenClMemory
from homebox.engine.opencl.platform import import_opencl
from homebox.engine.runtime.program_plan import Axis, Launch
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import EngineError

log = logging.getLogger(__name__)

BRIEF = 5e-3  # seconds that a run goes on if it is asked to stop from the start
_PIECE = 5e-3  # seconds of work between looks at the stop flag; two are under way
_FIRST_PIECE = 16  # launches, before their time is known


class OpenClLaunches:
    """A program's launches with their arguments bound; see `backend.Launches`."""

    def __init__(
        self,
        device: OpenClMemory,
        launches: Sequence[Launch],
        code: Sequence[Code],
        where: Callable[[int], tuple[Block, int]],
        variables: Buffer,
        bounds: Mapping[str, int],
    ) -> None:
        self._cl = import_opencl()
        self._device = device
        self._titles = [launch.title for launch in launches]
        self._kernels: list[Kernel] = []
        self._kept: list[Block] = []  # a kernel does not hold its arguments
        self.count = len(launches)
        self.starts = list(range(self.count))
        # Kernel, number of axes, work-items along each, work-items of a group along each.
        self.rows = np.ones((self.count, WORDS), np.int64)
        self._piece = _FIRST_PIECE
        self._send = sender(self._cl._cl.__file__)
        self._profiled: Any = None  # a queue that measures, made when asked for
        grids: dict[Axis, list[tuple[int, int]]] = {}
        with device.guard("making a program ready"):
            for at, launch in enumerate(launches):
                made = code[launch.kernel]
                kernel = device.calls.kernel(made.program.int_ptr, made.name)
                places = [where(i) for i in launch.arguments]
                self._bind(kernel, [*places, (variables.block, variables.offset)])
                self._kernels.append(kernel)
                self.rows[at, 0] = kernel.address
                self.rows[at, 1] = len(launch.grid)
                self.rows[at, 5:] = made.group
                for column, axis in enumerate(launch.grid, 2):
                    grids.setdefault(axis, []).append((at, column))
        self._grids = [(axis, np.array(at)[:, 0], np.array(at)[:, 1]) for axis, at in grids.items()]
        for axis, rows, columns in self._grids:
            self._set(axis.groups(bounds), rows, columns)
        self._grids = [each for each in self._grids if each[0].dynamic]
        self._ran = False
        # Launches, or rows that are sent; None until a program runs for the second time.
        self._parts: list[Recording | tuple[int, int]] | None = None

    def _bind(self, kernel: Kernel, places: Sequence[tuple[Block, int]]) -> None:
        """Set a kernel's arguments: a memory object and an offset in bytes for each place."""
        for i, (block, offset) in enumerate(places):
            if not isinstance(block, OpenClBlock) or block.owner is not self._device:
                raise EngineError(
                    f"a program of {self._device.name} uses memory that is not there; "
                    "make its buffers on that device"
                )
            self._device.calls.set_argument(kernel.address, 2 * i, block.memory.int_ptr)
            self._device.calls.set_argument(kernel.address, 2 * i + 1, offset)
            self._kept.append(block)

    def _set(self, groups: int, rows: np.ndarray, columns: np.ndarray) -> None:
        self.rows[rows, columns] = groups * self.rows[rows, columns + 3]

    def bind(self, values: Mapping[str, int]) -> None:
        """Set the number of groups of launches whose size is known only now."""
        for axis, rows, columns in self._grids:
            self._set(axis.groups(values), rows, columns)

    # -- running --------------------------------------------------------------------------------

    def run(self, first: int, stop: StopFlag | None) -> int:
        """Give launches to the queue; see `backend.Launches`."""
        if stop is not None:
            return self._run_in_pieces(first, stop)
        if first == 0 and self._device.commands is not None:
            self._replay(self._device.commands)
        else:
            self._enqueue(first, self.count)
        with self._device.guard("running a program"):
            self._device.queue.flush()
        return self.count

    def _replay(self, commands: Commands) -> None:
        """Give all launches to the queue, recorded ones at once; what runs once is not recorded."""
        if self._parts is None and self._ran:
            try:
                self._parts = self._recorded(commands)
            except CallError as error:
                self._device.check()
                title = self._device.title
                log.warning("%s cannot record a program, which runs as a list: %s", title, error)
                self._parts = [(0, self.count)]
        self._ran = True
        for part in self._parts or [(0, self.count)]:
            if isinstance(part, tuple):
                self._enqueue(*part)
                continue
            with self._device.guard("replaying a program"):
                part.enqueue()

    def _recorded(self, commands: Commands) -> list[Recording | tuple[int, int]]:
        """Record launches whose grids never change, where there are enough in a row."""
        changing = [at for _, rows, _ in self._grids for at in rows.tolist()]
        changing += np.flatnonzero(self.rows[:, 2:5].min(axis=1) == 0).tolist()
        queue, kept = self._device.queue.int_ptr, (self._kernels, self._kept)
        return [
            commands.record(queue, self.rows[first:end], kept) if constant else (first, end)
            for first, end, constant in still(self.count, changing)
        ]

    def _run_in_pieces(self, first: int, stop: StopFlag) -> int:
        """Keep two pieces on their way, and look at the flag whenever one is done."""
        asked = stop.is_set()
        start = first
        before = begin = time.perf_counter()
        under_way: deque[tuple[Any, int]] = deque()
        while True:
            going_on = first == start or time.perf_counter() - begin < BRIEF
            stopping = stop.is_set() and not (asked and going_on)
            if first < self.count and not stopping:
                end = min(first + self._piece, self.count)
                under_way.append((self._piece_sent(first, end), end - first))
                first = end
                if len(under_way) < 2 and first < self.count:
                    continue
            if not under_way:
                return first
            event, launches = under_way.popleft()
            with self._device.guard("running a program"):
                event.wait()
            now = time.perf_counter()
            self._learn(launches, now - before)
            before = now

    def _piece_sent(self, first: int, end: int) -> Any:
        """Enqueue launches; return the event of their end."""
        self._enqueue(first, end)
        with self._device.guard("running a program"):
            event = self._cl._cl._enqueue_marker(self._device.queue)
            self._device.queue.flush()
            return event

    def _learn(self, launches: int, seconds: float) -> None:
        """Let the next pieces take about as long as wanted."""
        wanted = int(launches * _PIECE / max(seconds, 1e-6))
        self._piece = min(max(wanted, 1), 4 * self._piece)

    def _enqueue(self, first: int, end: int) -> None:
        if self._send is None:
            self._enqueue_slowly(first, end)
            return
        self._device.check()
        reached, code = self._send(self._device.queue.int_ptr, self.rows, first, end)
        if code:
            with self._device.guard(self._doing(reached)):
                raise CallError("clEnqueueNDRangeKernel", code)

    def _enqueue_slowly(self, first: int, end: int) -> None:
        """Do the same from Python."""
        for at in range(first, end):
            with self._device.guard(self._doing(at)):
                self._launch(self._device.queue, at)

    def _doing(self, at: int) -> str:
        _, axes, *sizes = self.rows[at].tolist()
        items, group = (" x ".join(map(str, part[:axes])) for part in (sizes[:3], sizes[3:]))
        return f"launching {self._titles[at]} ({items} work-items in groups of {group})"

    def _launch(self, queue: Any, at: int) -> Any:
        """Enqueue one launch; return its event, or None if it has no groups."""
        row = self.rows[at].tolist()
        if not all(row[2:5]):
            return None
        event = self._device.calls.enqueue(queue.int_ptr, row)
        return self._cl.Event.from_int_ptr(event, False)

    def profile(self) -> np.ndarray:
        """Run all and return the nanoseconds of each launch, (count,) int64."""
        device = self._device
        device.finish()
        times = np.zeros(self.count, np.int64)
        with device.guard("measuring a program"):
            if self._profiled is None:
                measuring = self._cl.command_queue_properties.PROFILING_ENABLE
                self._profiled = self._cl.CommandQueue(
                    device.context, device.entry.device, measuring
                )
            events = [self._launch(self._profiled, at) for at in range(self.count)]
            self._profiled.finish()
            for at, event in enumerate(events):
                if event is not None:
                    times[at] = event.profile.end - event.profile.start
        return times

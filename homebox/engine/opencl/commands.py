"""Lists of launches that the driver itself records, and replays in one call.

One idea: where a driver has cl_khr_command_buffer, launches whose grids never change can be
recorded once. Whether that is faster than giving them one by one is the driver's affair, so it is
tried when a device is opened, on launches of nothing much; CPU runtimes replay slower than the
list. Invariant: a recording does what the list does, in the same order; a driver that cannot, gives
wrong numbers, or is slower, is never asked again.
"""

import ctypes
import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from homebox.engine.opencl.calls import WORDS, CallError, Kernel

if TYPE_CHECKING:
    from homebox.engine.opencl.build import Builder
    from homebox.engine.opencl.memory import OpenClMemory

log = logging.getLogger(__name__)

EXTENSION = "cl_khr_command_buffer"
LEAST = 8  # launches that are worth a recording
_CAPABILITIES = 0x12A9  # CL_DEVICE_COMMAND_BUFFER_CAPABILITIES_KHR
_MAY_OVERLAP = 1 << 2  # CL_COMMAND_BUFFER_CAPABILITY_SIMULTANEOUS_USE_KHR
_FLAGS, _OVERLAPPING = 0x1293, 1  # CL_COMMAND_BUFFER_FLAGS_KHR, .._SIMULTANEOUS_USE_KHR

_POINTER, _NUMBER, _CODE = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "clCreateCommandBufferKHR": (_POINTER, (_NUMBER, _POINTER, _POINTER, _POINTER)),
    "clFinalizeCommandBufferKHR": (_CODE, (_POINTER,)),
    "clReleaseCommandBufferKHR": (_CODE, (_POINTER,)),
    "clEnqueueCommandBufferKHR": (
        _CODE,
        (_NUMBER, _POINTER, _POINTER, _NUMBER, _POINTER, _POINTER),
    ),
    "clCommandNDRangeKernelKHR": (
        _CODE,
        (*(_POINTER,) * 4, _NUMBER, *(_POINTER,) * 3, _NUMBER, *(_POINTER,) * 3),
    ),
}

_TRIALS = 5
_TRIAL_LAUNCHES = 64
_TRIAL = """
__kernel __attribute__((reqd_work_group_size(64, 1, 1)))
void trial(__global uchar *b0, ulong o0) {
    __global int *x = (__global int *)(b0 + o0);
    size_t i = get_local_id(0);
    x[i] = x[i] * 3 + (int)get_group_id(0) + 1;
}
"""


class Commands:
    """The extension's functions for one device."""

    def __init__(self, memory: "OpenClMemory") -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in _FUNCTIONS.items():
            address = memory.calls.extension(memory.entry.device.platform.int_ptr, name)
            if not address:
                raise CallError(name, 0)
            self._functions[name] = ctypes.CFUNCTYPE(result, *arguments)(address)

    def record(self, queue: int, rows: np.ndarray) -> "Recording":
        """Record launches, rows as `calls.WORDS` has them; raises CallError."""
        queues = _POINTER(queue)
        flags = (ctypes.c_uint64 * 3)(_FLAGS, _OVERLAPPING, 0)
        code = _CODE(0)
        made = self._functions["clCreateCommandBufferKHR"](
            1, ctypes.addressof(queues), ctypes.addressof(flags), ctypes.addressof(code)
        )
        if code.value or not made:
            raise CallError("clCreateCommandBufferKHR", code.value)
        recording = Recording(self, made)
        start = rows.__array_interface__["data"][0]
        for at, row in enumerate(rows.tolist()):
            sizes = start + 8 * (WORDS * at + 2)
            launch = (row[0], row[1], None, sizes, sizes + 24, 0, None, None, None)
            self.checked("clCommandNDRangeKernelKHR", made, None, None, *launch)
        self.checked("clFinalizeCommandBufferKHR", made)
        return recording

    def checked(self, name: str, *arguments: Any) -> None:
        """Call a function; raises CallError."""
        code = self._functions[name](*arguments)
        if code:
            raise CallError(name, code)

    def release(self, address: int) -> None:
        """Give a recording back; an error helps nobody then."""
        self._functions["clReleaseCommandBufferKHR"](address)


class Recording:
    """Launches that the driver has recorded."""

    __slots__ = ("__weakref__", "_address", "_commands")

    def __init__(self, commands: Commands, address: int) -> None:
        self._commands, self._address = commands, address

    def __del__(self) -> None:
        self._commands.release(self._address)

    def enqueue(self) -> None:
        """Give the launches to the queue they were recorded for; raises CallError."""
        self._commands.checked("clEnqueueCommandBufferKHR", 0, None, self._address, 0, None, None)


def commands_of(memory: "OpenClMemory") -> Commands | None:
    """Return the extension's functions if the driver has them as they are needed here."""
    device = memory.entry.device
    try:
        if EXTENSION not in device.extensions.split():
            return None
        if not memory.calls.device_bits(device.int_ptr, _CAPABILITIES) & _MAY_OVERLAP:
            return None
        return Commands(memory)
    except (CallError, memory.cl.Error) as error:
        log.info("%s cannot record launches: %s", memory.title, error)
        return None


def faster_commands(memory: "OpenClMemory", builder: "Builder") -> Commands | None:
    """Return what `commands_of` does if recordings turn out to be right, and faster than lists."""
    from homebox.engine.opencl.calls import sender

    commands, send = commands_of(memory), sender(memory.library)
    if commands is None or send is None:
        return None
    made = builder.load({"trial": _TRIAL})["trial"]
    block = memory.allocate(256)
    kernel: Kernel = memory.calls.kernel(made.program.int_ptr, made.name)
    memory.calls.set_argument(kernel.address, 0, block.memory.int_ptr)
    memory.calls.set_argument(kernel.address, 1, 0)
    rows = np.array([[kernel.address, 1, 64, 1, 1, *made.group]] * _TRIAL_LAUNCHES, np.int64)
    queue = memory.queue.int_ptr
    try:
        recording = commands.record(queue, rows)
        wanted, plain = _tried(memory, block, lambda: send(queue, rows, 0, len(rows)))
        got, recorded = _tried(memory, block, recording.enqueue)
    except (CallError, memory.cl.Error) as error:
        log.warning("%s fails at recording launches: %s", memory.title, error)
        return None
    if not np.array_equal(wanted, got):
        log.warning("%s runs recorded launches wrongly; they are not used", memory.title)
        return None
    log.info("%s: %.0f us for a list, %.0f recorded", memory.title, 1e6 * plain, 1e6 * recorded)
    return commands if recorded < 0.9 * plain else None


def _tried(
    memory: "OpenClMemory", block: Any, launch: Callable[[], object]
) -> tuple[np.ndarray, float]:
    """Return what the launches compute, and the seconds of the fastest of several trials."""
    block.write(0, np.zeros(block.nbytes, np.uint8))
    seconds: list[float] = []
    for _ in range(_TRIALS):
        memory.finish()
        begin = time.perf_counter()
        launch()
        launch()  # the next begins while this one runs, as programs do
        memory.finish()
        seconds.append(time.perf_counter() - begin)
    return block.read(0, block.nbytes), min(seconds)


def still(rows: int, changing: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Cut a list into (first, end, whether it can be recorded), where `changing` rows cannot."""
    parts: list[tuple[int, int, bool]] = []
    begun = 0  # of what is not in a part yet
    for before, after in pairwise([-1, *sorted(set(changing)), rows]):
        if after - before - 1 < LEAST:
            continue
        if begun < before + 1:
            parts.append((begun, before + 1, False))
        parts.append((before + 1, after, True))
        begun = after
    if begun < rows:
        parts.append((begun, rows, False))
    return parts

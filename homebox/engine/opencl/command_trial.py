"""Whether a device gains by recorded launches, found out by trying.

One idea: whether replaying is faster than giving launches one by one is the driver's affair, so it
is tried when a device is opened, on launches of nothing much; CPU runtimes replay slower than the
list. Invariant: a driver that cannot, gives wrong numbers, or is slower, is never asked again, and
the device works without.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from homebox.engine.opencl.build import Builder
from homebox.engine.opencl.calls import CallError, sender
from homebox.engine.opencl.commands import Commands
from homebox.engine.opencl.memory import OpenClMemory
from homebox.errors import DeviceError

log = logging.getLogger(__name__)

EXTENSION = "cl_khr_command_buffer"
_CAPABILITIES = 0x12A9  # CL_DEVICE_COMMAND_BUFFER_CAPABILITIES_KHR
_MAY_OVERLAP = 1 << 2  # CL_COMMAND_BUFFER_CAPABILITY_SIMULTANEOUS_USE_KHR
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


def commands_of(memory: OpenClMemory) -> Commands | None:
    """Return the extension's functions if the driver has them as they are needed here."""
    device = memory.entry.device
    try:
        if EXTENSION not in device.extensions.split():
            return None
        if not memory.calls.device_bits(device.int_ptr, _CAPABILITIES) & _MAY_OVERLAP:
            return None
        return Commands(memory.calls, device.platform.int_ptr)
    except (CallError, memory.cl.Error) as error:
        log.info("%s cannot record launches: %s", memory.title, error)
        return None


def faster_commands(memory: OpenClMemory, builder: Builder) -> Commands | None:
    """Return what `commands_of` does if recordings turn out to be right, and faster than lists."""
    commands, send = commands_of(memory), sender(memory.library)
    if commands is None or send is None:
        return None
    try:
        made = builder.load({"trial": _TRIAL})["trial"]
        block = memory.allocate(256)
        kernel = memory.calls.kernel(made.program.int_ptr, made.name)
        memory.calls.set_argument(kernel.address, 0, block.memory.int_ptr)
        memory.calls.set_argument(kernel.address, 1, 0)
        rows = np.array([[kernel.address, 1, 64, 1, 1, *made.group]] * _TRIAL_LAUNCHES, np.int64)
        queue = memory.queue.int_ptr
        recording = commands.record(queue, rows, (kernel, block))
        wanted, plain = _tried(memory, block, lambda: send(queue, rows, 0, len(rows)))
        got, recorded = _tried(memory, block, recording.enqueue)
    except (CallError, memory.cl.Error, DeviceError) as error:
        memory.check()
        log.warning("%s fails at recording launches: %s", memory.title, error)
        return None
    if not np.array_equal(wanted, got):
        log.warning("%s runs recorded launches wrongly; they are not used", memory.title)
        return None
    log.info("%s: %.0f us for a list, %.0f recorded", memory.title, 1e6 * plain, 1e6 * recorded)
    return commands if recorded < 0.9 * plain else None


def _tried(
    memory: OpenClMemory, block: Any, launch: Callable[[], object]
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

"""Lists of launches that the driver itself records, and replays in one call.

One idea: where a driver has cl_khr_command_buffer, launches whose grids never change can be
recorded once; whether that is worth it is tried (`command_trial.py`). Invariant: a recording does
what the list does, in the same order.
"""

import ctypes
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from homebox.engine.opencl.calls import WORDS, CallError, Calls

LEAST = 8  # launches that are worth a recording
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


class Commands:
    """The extension's functions on one platform, given by its address; raises CallError."""

    def __init__(self, calls: Calls, platform: int) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in _FUNCTIONS.items():
            address = calls.extension(platform, name)
            if not address:
                raise CallError(name, 0)
            self._functions[name] = ctypes.CFUNCTYPE(result, *arguments)(address)

    def record(self, queue: int, rows: np.ndarray, kept: object = None) -> "Recording":
        """Record launches, rows as `calls.WORDS` has them; raises CallError.

        `kept` is what the launches use, kernels and memory: it lives as long as the recording.
        """
        queues = _POINTER(queue)
        flags = (ctypes.c_uint64 * 3)(_FLAGS, _OVERLAPPING, 0)
        code = _CODE(0)
        made = self._functions["clCreateCommandBufferKHR"](
            1, ctypes.addressof(queues), ctypes.addressof(flags), ctypes.addressof(code)
        )
        if code.value or not made:
            raise CallError("clCreateCommandBufferKHR", code.value)
        recording = Recording(self, made, kept)
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

    __slots__ = ("__weakref__", "_address", "_commands", "_kept")

    def __init__(self, commands: Commands, address: int, kept: object) -> None:
        self._commands, self._address, self._kept = commands, address, kept

    def __del__(self) -> None:
        self._commands.release(self._address)

    def enqueue(self) -> None:
        """Give the launches to the queue they were recorded for; raises CallError."""
        self._commands.checked("clEnqueueCommandBufferKHR", 0, None, self._address, 0, None, None)


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

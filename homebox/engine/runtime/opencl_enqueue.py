"""Gives a list of launches to an OpenCL queue in one call, from machine code of our own.

One idea: arguments are bound to kernel objects beforehand, so a launch is a call with numbers that
never change, and a few instructions in a loop can make them all while Python waits outside of its
lock; a call from Python costs a microsecond or two each, and lets other threads in every time.
Invariant: launches are given in order, those without work-groups are left out, and the first one
that the driver refuses ends the list.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from homebox.engine.codegen.jit import shared_jit
from homebox.errors import HomeboxError

WORDS = 8  # of a row: kernel, axes, global sizes, local sizes; 64 bits each

_NAME = "homebox_enqueue"
_IR = f"""
define i64 @{_NAME}(ptr %call, ptr %queue, ptr %rows, i64 %first, i64 %end, ptr %status) {{
entry:
  br label %next
next:
  %i = phi i64 [ %first, %entry ], [ %after, %done ]
  %left = icmp slt i64 %i, %end
  br i1 %left, label %look, label %all
look:
  %at = mul i64 %i, {WORDS}
  %row = getelementptr i64, ptr %rows, i64 %at
  %kernel.place = getelementptr i64, ptr %row, i64 0
  %axes.place = getelementptr i64, ptr %row, i64 1
  %sizes = getelementptr i64, ptr %row, i64 2
  %y.place = getelementptr i64, ptr %row, i64 3
  %z.place = getelementptr i64, ptr %row, i64 4
  %locals = getelementptr i64, ptr %row, i64 5
  %x = load i64, ptr %sizes
  %y = load i64, ptr %y.place
  %z = load i64, ptr %z.place
  %xy = mul i64 %x, %y
  %xyz = mul i64 %xy, %z
  %none = icmp eq i64 %xyz, 0
  br i1 %none, label %done, label %launch
launch:
  %kernel = load ptr, ptr %kernel.place
  %axes = load i64, ptr %axes.place
  %dims = trunc i64 %axes to i32
  %code = call i32 %call(ptr %queue, ptr %kernel, i32 %dims, ptr null, ptr %sizes, ptr %locals,
                         i32 0, ptr null, ptr null)
  %fine = icmp eq i32 %code, 0
  br i1 %fine, label %done, label %refused
refused:
  store i32 %code, ptr %status
  ret i64 %i
done:
  %after = add i64 %i, 1
  br label %next
all:
  ret i64 %end
}}
"""

Send = Callable[[int, np.ndarray, int, int], tuple[int, int]]


@cache
def sender(library: str) -> Send | None:
    """Return a function (queue, rows, first, end) -> (next row, error code), or None.

    `library` is the path of pyopencl's extension module, through which its OpenCL loader is found.
    None where that or the compiler does not work; then launches are made from Python.
    """
    call = _address(library)
    if call is None:
        return None
    try:
        place = shared_jit().load_module(_IR, (_NAME,))[_NAME]
    except (HomeboxError, RuntimeError):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    enqueue = ctypes.CFUNCTYPE(number, pointer, pointer, pointer, number, number, pointer)(place)

    def send(queue: int, rows: np.ndarray, first: int, end: int) -> tuple[int, int]:
        status = ctypes.c_int32(0)
        where = rows.__array_interface__["data"][0]
        reached = enqueue(call, queue, where, first, end, ctypes.addressof(status))
        return int(reached), status.value

    return send


def _address(library: str) -> int | None:
    """Return where the function of the loader that pyopencl uses is."""
    try:
        found: Any = ctypes.CDLL("OpenCL.dll" if sys.platform == "win32" else library)
        return ctypes.cast(found.clEnqueueNDRangeKernel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None

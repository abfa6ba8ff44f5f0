"""Calls of an OpenCL driver that must cost little: kernels with their arguments, lists of launches.

One idea: arguments are bound to kernel objects beforehand, so a launch is a call with numbers that
never change, and a few instructions of machine code make a whole list of them while Python waits
outside of its lock: 0.5 to 1.2 microseconds each on CPU runtimes, the driver's own time. From
Python a launch costs 3 to 8 and lets other threads in each time. A kernel object with its arguments
takes 20 microseconds here, and 850 through pyopencl, which generates code for it. Invariant:
launches are given in order, those without work-groups are left out, and the first one that the
driver refuses ends the list.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from homebox.engine.codegen.jit import shared_jit
from homebox.errors import DeviceError, HomeboxError

WORDS = 8  # of a row: kernel, axes, global sizes, local sizes; 64 bits each

# CL_KERNEL_WORK_GROUP_SIZE, .._COMPILE_WORK_GROUP_SIZE, .._LOCAL_MEM_SIZE
_LARGEST_GROUP, _COMPILED_GROUP, _LOCAL_MEMORY = 0x11B0, 0x11B1, 0x11B2
_PCI_PLACE = 0x410F  # CL_DEVICE_PCI_BUS_INFO_KHR
_SUB_GROUP = 0x2033  # CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE
_POINTER, _NUMBER, _SIZE = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "clCreateKernel": (_POINTER, (_POINTER, ctypes.c_char_p, _POINTER)),
    "clReleaseKernel": (ctypes.c_int32, (_POINTER,)),
    "clSetKernelArg": (ctypes.c_int32, (_POINTER, _NUMBER, _SIZE, _POINTER)),
    "clGetKernelWorkGroupInfo": (
        ctypes.c_int32,
        (_POINTER, _POINTER, _NUMBER, _SIZE, _POINTER, _POINTER),
    ),
    "clGetDeviceInfo": (ctypes.c_int32, (_POINTER, _NUMBER, _SIZE, _POINTER, _POINTER)),
    "clGetExtensionFunctionAddressForPlatform": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "clEnqueueNDRangeKernel": (
        ctypes.c_int32,
        (_POINTER, _POINTER, _NUMBER, _POINTER, _POINTER, _POINTER, _NUMBER, _POINTER, _POINTER),
    ),
}

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


class CallError(Exception):
    """A function of the driver returned `code`."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} failed with code {code}")
        self.code = code


class Calls:
    """Functions of the OpenCL loader that pyopencl uses; objects are given by their addresses."""

    def __init__(self, library: str) -> None:
        try:
            loader: Any = ctypes.CDLL("OpenCL.dll" if sys.platform == "win32" else library)
            self._loader = loader
            self._functions = {name: getattr(loader, name) for name in _FUNCTIONS}
        except (OSError, AttributeError) as error:
            raise DeviceError(
                f"the OpenCL loader of {library} cannot be used ({error}); install pyopencl's own "
                "wheel again"
            ) from error
        for name, (result, arguments) in _FUNCTIONS.items():
            self._functions[name].restype = result
            self._functions[name].argtypes = arguments

    def address(self, name: str) -> int:
        """Return where a function is."""
        return int(ctypes.cast(self._functions[name], _POINTER).value or 0)

    def kernel(self, program: int, name: str) -> "Kernel":
        """Return a new kernel object."""
        code = ctypes.c_int32(0)
        made = self._functions["clCreateKernel"](program, name.encode(), ctypes.addressof(code))
        if code.value or not made:
            raise CallError("clCreateKernel", code.value)
        return Kernel(self, made)

    def release(self, kernel: int) -> None:
        """Give a kernel object back; an error helps nobody then."""
        self._functions["clReleaseKernel"](kernel)

    def set_argument(self, kernel: int, number: int, value: int) -> None:
        """Set an argument of 8 bytes: a memory object or a `ulong`."""
        word = ctypes.c_uint64(value)
        self._checked("clSetKernelArg", kernel, number, 8, ctypes.addressof(word))

    def group(self, kernel: int, device: int) -> tuple[int, int, int]:
        """Return the work-items of a group as the kernel's source requires; 0 if it does not."""
        sizes = (_SIZE * 3)()
        where, nbytes = ctypes.addressof(sizes), ctypes.sizeof(sizes)
        name = "clGetKernelWorkGroupInfo"
        self._checked(name, kernel, device, _COMPILED_GROUP, nbytes, where, None)
        return sizes[0], sizes[1], sizes[2]

    def needs(self, kernel: int, device: int) -> tuple[int, int]:
        """Return how many work-items of a kernel fit a group, and the local memory it takes."""
        found = []
        for what in (_LARGEST_GROUP, _LOCAL_MEMORY):
            word = ctypes.c_uint64(0)
            where, name = ctypes.addressof(word), "clGetKernelWorkGroupInfo"
            self._checked(name, kernel, device, what, 8, where, None)
            found.append(word.value)
        return found[0], found[1]

    def sub_group(self, kernel: int, device: int, group: Sequence[int]) -> int:
        """Return how large a kernel's sub-groups were compiled; 0 if its driver does not tell."""
        tell = getattr(self._loader, "clGetKernelSubGroupInfo", None)
        if tell is None:
            return 0
        tell.restype = ctypes.c_int32
        tell.argtypes = (_POINTER, _POINTER, _NUMBER, _SIZE, _POINTER, _SIZE, _POINTER, _POINTER)
        sizes, found = (_SIZE * 3)(*group), _SIZE(0)
        given, where = ctypes.addressof(sizes), ctypes.addressof(found)
        code = tell(kernel, device, _SUB_GROUP, ctypes.sizeof(sizes), given, 8, where, None)
        return 0 if code else found.value

    def extension(self, platform: int, name: str) -> int:
        """Return where a platform has a function of an extension; 0 if it has not."""
        find = self._functions["clGetExtensionFunctionAddressForPlatform"]
        return int(find(platform, name.encode()) or 0)

    def device_bits(self, device: int, what: int) -> int:
        """Return a property of a device that is a set of bits."""
        word = ctypes.c_uint64(0)
        self._checked("clGetDeviceInfo", device, what, 8, ctypes.addressof(word), None)
        return word.value

    def pci_place(self, device: int) -> tuple[int, int, int, int]:
        """Return domain, bus, device and function of a card (cl_khr_pci_bus_info)."""
        words = (ctypes.c_uint32 * 4)()
        nbytes, where = ctypes.sizeof(words), ctypes.addressof(words)
        self._checked("clGetDeviceInfo", device, _PCI_PLACE, nbytes, where, None)
        return words[0], words[1], words[2], words[3]

    def enqueue(self, queue: int, row: Sequence[int]) -> int:
        """Give one launch to a queue; return the address of its event, which the caller owns."""
        kernel, axes = row[0], row[1]
        sizes, groups = (_SIZE * 3)(*row[2:5]), (_SIZE * 3)(*row[5:8])
        event = _POINTER(0)
        self._checked(
            "clEnqueueNDRangeKernel",
            queue,
            kernel,
            axes,
            None,
            ctypes.addressof(sizes),
            ctypes.addressof(groups),
            0,
            None,
            ctypes.addressof(event),
        )
        return int(event.value or 0)

    def _checked(self, name: str, *arguments: Any) -> None:
        code = self._functions[name](*arguments)
        if code:
            raise CallError(name, code)


class Kernel:
    """A kernel object with arguments of its own; `address` is the driver's."""

    __slots__ = ("__weakref__", "_calls", "address")

    def __init__(self, calls: Calls, address: int) -> None:
        self._calls = calls
        self.address = address

    def __del__(self) -> None:
        self._calls.release(self.address)


@cache
def calls(library: str) -> Calls:
    """Return the functions; `library` is the path of pyopencl's extension module."""
    return Calls(library)


@cache
def sender(library: str) -> Send | None:
    """Return a function (queue, rows, first, end) -> (next row, error code).

    None where the compiler for this machine does not work; then launches are made from Python.
    """
    call = calls(library).address("clEnqueueNDRangeKernel")
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

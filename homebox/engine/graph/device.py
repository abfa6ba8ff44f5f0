"""Memory that kernels read and write: a `Buffer` is flat, typed, aligned and starts as zeros.

One idea: a buffer has an identity, not a value; graph nodes refer to it and its bytes change
under them. Invariant: a buffer's address is a multiple of 64 and never changes.
"""

import contextlib
import mmap
import sys

import numpy as np

from homebox.engine.graph.dtype import DType
from homebox.errors import DeviceError, EngineError

ALIGNMENT = 64
_MAPPED = 1 << 20  # from this size on memory comes from the system and costs nothing until touched
_HUGE = 64 << 20  # smaller ones would be rounded up to more than they hold


def _zeros(nbytes: int, dense: bool) -> np.ndarray:
    """Return `nbytes` zero bytes at an aligned address; large blocks are committed when touched."""
    if nbytes >= _MAPPED and sys.platform != "win32":
        try:
            # Private: with Python's default, a forked child would write into its parent's memory.
            block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise DeviceError(
                f"no memory for a buffer of {nbytes} bytes ({error}); "
                "use a smaller model or a shorter context"
            ) from error
        if dense and nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # systems without huge pages refuse
                block.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(block, np.uint8)
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    offset = -_address(raw) % ALIGNMENT
    return raw[offset : offset + nbytes]


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address if array.size else 0  # numpy's address of nothing is arbitrary


class Buffer:
    """`count` elements of `dtype` in host memory. Equal only to itself.

    `array` is the flat numpy view (bf16 as uint16). `frozen` promises that the contents do not
    change once first used, which lets the engine pack them once. `dense` says that all of it will
    be used, so that large pages waste nothing.
    """

    __slots__ = ("__weakref__", "address", "array", "count", "dtype", "frozen", "nbytes")

    array: np.ndarray
    address: int
    count: int
    dtype: DType
    frozen: bool
    nbytes: int

    def __init__(
        self, count: int, dtype: DType, *, frozen: bool = False, dense: bool = False
    ) -> None:
        if count < 0:
            raise EngineError(f"a buffer cannot have {count} elements")
        self._adopt(_zeros(count * dtype.size, dense).view(dtype.to_numpy()), dtype, frozen)

    @classmethod
    def over(cls, array: np.ndarray, dtype: DType, *, frozen: bool = False) -> "Buffer":
        """Return a buffer that uses the memory of `array`, for example a mapped file.

        The array must be contiguous, of the numpy type of `dtype` and start at a multiple of 64
        bytes; else raises EngineError.
        """
        if array.dtype != dtype.to_numpy() or not array.flags.c_contiguous:
            raise EngineError(
                f"a buffer of {dtype} needs a contiguous array of {dtype.numpy}, "
                f"got {array.dtype} with strides {array.strides}"
            )
        if _address(array) % ALIGNMENT:
            raise EngineError(f"a buffer needs memory aligned to {ALIGNMENT} bytes; copy the array")
        buffer = cls.__new__(cls)
        buffer._adopt(array.reshape(-1), dtype, frozen)
        return buffer

    def _adopt(self, array: np.ndarray, dtype: DType, frozen: bool) -> None:
        self.array = array
        self.address = _address(array)
        self.count = array.size
        self.dtype = dtype
        self.frozen = frozen
        self.nbytes = array.nbytes

    def __repr__(self) -> str:
        return f"Buffer({self.count} x {self.dtype} at {self.address:#x})"

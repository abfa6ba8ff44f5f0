"""Memory that kernels read and write: a `Buffer` is flat and typed, and lies on a `Device`.

One idea: a buffer has an identity, not a value; graph nodes refer to it and its bytes change
under them. Whoever wants the values asks with `read` and `write`, which work wherever they lie.
Invariant: a buffer starts as zeros, its address is a multiple of 64 that no other memory of the
process has, and it never changes; on a device whose memory has no addresses it is only a name.
"""

import contextlib
import mmap
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import numpy as np

from homebox.engine.graph.dtype import DType
from homebox.errors import DeviceError, EngineError

ALIGNMENT = 64
_MAPPED = 1 << 20  # from this size on memory comes from the system and costs nothing until touched
_HUGE = 64 << 20  # smaller ones would be rounded up to more than they hold


class Block(Protocol):
    """A piece of a device's memory; it is given back when nobody refers to it any more."""

    address: int
    nbytes: int

    def read(self, start: int, nbytes: int) -> np.ndarray:
        """Return bytes, uint8; on a device a copy, made after all work given to it so far."""
        ...

    def write(self, start: int, values: np.ndarray) -> None:
        """Put uint8 bytes there, after all work given to the device so far."""
        ...

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copy bytes inside the block; the two ranges do not overlap."""
        ...


class Device(Protocol):
    """Where buffers lie and programs run."""

    name: str  # "cpu", "cl:0"
    busy_rows: int  # of a matrix product that give work to all its units, roughly

    def allocate(self, nbytes: int, dense: bool) -> Block:
        """Return new zeroed memory; raises DeviceError if there is not enough."""
        ...


class HostBlock:
    """Memory of this process; `array` is all of it, uint8."""

    __slots__ = ("address", "array", "nbytes")

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.address = _address(array)
        self.nbytes = array.nbytes

    def read(self, start: int, nbytes: int) -> np.ndarray:
        """Return a view."""
        return self.array[start : start + nbytes]

    def write(self, start: int, values: np.ndarray) -> None:
        """Put bytes there."""
        self.array[start : start + values.nbytes] = values

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copy bytes."""
        self.array[target : target + nbytes] = self.array[source : source + nbytes]


class HostDevice:
    """The CPU; several of them share its memory and cores, and differ by their names only."""

    busy_rows = 256

    def __init__(self, name: str) -> None:
        self.name = name

    def allocate(self, nbytes: int, dense: bool) -> HostBlock:
        """Return zeroed memory; `dense` says that all of it will be used."""
        return HostBlock(_zeros(nbytes, dense))

    def __repr__(self) -> str:
        return f"HostDevice({self.name!r})"


HOST = HostDevice("cpu")
_current: "ContextVar[Device]" = ContextVar("device", default=HOST)


def current() -> Device:
    """Return the device on which this thread makes new buffers."""
    return _current.get()


@contextlib.contextmanager
def using(device: Device) -> Iterator[None]:
    """Make new buffers on a device."""
    token = _current.set(device)
    try:
        yield
    finally:
        _current.reset(token)


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
    """`count` elements of `dtype` on a device (`current()` unless named). Equal only to itself.

    `frozen` promises that the contents do not change once first used, which lets the engine compute
    with them once. `dense` says that all of it will be used, so that large pages waste nothing.
    It is `offset` bytes into `block`.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "block",
        "count",
        "device",
        "dtype",
        "frozen",
        "nbytes",
        "offset",
    )

    def __init__(
        self,
        count: int,
        dtype: DType,
        *,
        frozen: bool = False,
        dense: bool = False,
        device: Device | None = None,
    ) -> None:
        if count < 0:
            raise EngineError(f"a buffer cannot have {count} elements")
        place = device or current()
        self._adopt(place, place.allocate(count * dtype.size, dense), 0, count, dtype, frozen)

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
        block = HostBlock(array.reshape(-1).view(np.uint8))
        buffer._adopt(HOST, block, 0, array.size, dtype, frozen)
        return buffer

    def part(
        self, start: int, count: int, dtype: DType | None = None, frozen: bool | None = None
    ) -> "Buffer":
        """Return `count` elements of `dtype` from element `start` of this buffer on; shares memory.

        `start` counts elements of this buffer's own type. The place must be a multiple of 64 bytes
        from the start of the block; else, and outside of the buffer, raises EngineError.
        """
        kind = dtype or self.dtype
        at, nbytes = start * self.dtype.size, count * kind.size
        if start < 0 or count < 0 or at + nbytes > self.nbytes:
            raise EngineError(f"{count} x {kind} from {start} on are not inside of {self!r}")
        if (self.offset + at) % ALIGNMENT and nbytes:
            raise EngineError(f"a part of a buffer must begin at a multiple of {ALIGNMENT} bytes")
        buffer = Buffer.__new__(Buffer)
        still = self.frozen if frozen is None else frozen
        buffer._adopt(self.device, self.block, self.offset + at, count, kind, still)
        return buffer

    def _adopt(
        self, device: Device, block: Block, offset: int, count: int, dtype: DType, frozen: bool
    ) -> None:
        self.device = device
        self.block = block
        self.offset = offset
        self.count = count
        self.dtype = dtype
        self.frozen = frozen
        self.nbytes = count * dtype.size
        self.address = block.address + offset if self.nbytes else 0

    @property
    def array(self) -> np.ndarray:
        """The memory itself as a flat numpy view (bf16 as uint16); DeviceError off the host."""
        if not isinstance(self.block, HostBlock):
            raise DeviceError(f"{self!r} is not in host memory; use read and write")
        return self.read()

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return elements (bf16 as uint16): a view in host memory, else a copy."""
        wanted = self.count - start if count is None else count
        self._check(start, wanted)
        size = self.dtype.size
        raw = self.block.read(self.offset + start * size, wanted * size)
        return raw.view(self.dtype.to_numpy())

    def write(self, values: np.ndarray, start: int = 0) -> None:
        """Put elements of the buffer's own type from `start` on."""
        array = np.ascontiguousarray(values, self.dtype.to_numpy()).reshape(-1)
        self._check(start, array.size)
        self.block.write(self.offset + start * self.dtype.size, array.view(np.uint8))

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy `count` elements from place `source` to `target`; the ranges must not overlap."""
        self._check(source, count)
        self._check(target, count)
        size = self.dtype.size
        self.block.copy(self.offset + source * size, self.offset + target * size, count * size)

    def _check(self, start: int, count: int) -> None:
        if start < 0 or count < 0 or start + count > self.count:
            raise EngineError(f"elements {start} .. {start + count} are not inside of {self!r}")

    def __repr__(self) -> str:
        return f"Buffer({self.count} x {self.dtype} at {self.address:#x} on {self.device.name})"

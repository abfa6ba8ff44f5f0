"""Memory of an OpenCL device: zeroed blocks within a budget, and errors that people understand.

One idea: everything that talks to a driver goes through `OpenClMemory.guard`, which tells apart a
device that is full, a call that failed, and a device that is gone. Invariant: a block is touched
when it is made, so that memory that does not exist is missed then and not in the middle of a run;
its memory is given back when nobody refers to it, and after a loss every call says so.
"""

import contextlib
import gc
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from homebox.engine.opencl.calls import CallError, calls
from homebox.engine.opencl.card_memory import unused_bytes
from homebox.engine.opencl.commands import Commands
from homebox.engine.opencl.platform import Found, import_opencl
from homebox.errors import DeviceError, DeviceLostError, OutOfDeviceMemoryError

ROUND = 128  # bytes that a block's size is a multiple of; a vector of 16 numbers fits at its end
_FIRST_ADDRESS = 1 << 60  # no machine has real addresses there
_GAP = 1 << 20  # bytes between blocks that belong to none, so that wrong addresses show
_FILL = 1 << 30  # bytes filled at once; some drivers count them in 32 bits
_SMALL = 1 << 16  # bytes that are written without waiting, from a copy
_PENDING = 64  # such writes that may be on their way
_FULL = (-4, -6)  # CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY
_EXHAUSTED = -5  # CL_OUT_OF_RESOURCES: no memory, or a kernel that broke the device

_addresses = threading.Lock()
_next_address = _FIRST_ADDRESS


def _reserve(nbytes: int) -> int:
    """Return an address range that nothing else in the process has."""
    global _next_address
    with _addresses:
        address = _next_address
        _next_address += -(-(nbytes + _GAP) // _GAP) * _GAP
        return address


def default_budget(entry: Found) -> int:
    """Return how many bytes of a device this process may take if nobody says otherwise.

    Screens and other programs need some of a card's memory; memory of the host is shared with all.
    """
    reserve = entry.memory // 4 if entry.unified else max(512 << 20, entry.memory // 16)
    return max(entry.memory - reserve, entry.memory // 2)


class OpenClMemory:
    """A device's context, its queue in which all work is done in order, and its blocks."""

    def __init__(self, entry: Found, budget: int | None = None) -> None:
        self.cl = import_opencl()
        self.library: str = self.cl._cl.__file__
        self.calls = calls(self.library)
        self.entry = entry
        self.name = entry.name
        self.title = f"{entry.name} ({entry.title})"
        self.budget = default_budget(entry) if budget is None else budget
        self.lost = ""
        self.commands: Commands | None = None  # what records launches, where that is faster
        self._sizes: dict[int, int] = {}  # of the blocks that exist, by address
        self._lock = threading.Lock()
        self._pending: deque[Any] = deque()
        with self.guard("opening it"):
            self.context = self.cl.Context([entry.device])
            self.queue = self.cl.CommandQueue(self.context, entry.device)
            self._probe = self.cl.Buffer(self.context, self.cl.mem_flags.READ_WRITE, ROUND)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r})"

    # -- how much there is ----------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes of the blocks that exist."""
        return sum(list(self._sizes.values()))

    @property
    def free_bytes(self) -> int:
        """Bytes of the budget that are left, as far as the card has them, if the system tells."""
        left = max(self.budget - self.used_bytes, 0)
        unused = unused_bytes(self.entry.address)
        return left if unused is None else min(left, unused)

    @property
    def block_count(self) -> int:
        """Number of blocks that exist."""
        return len(self._sizes)

    # -- memory ---------------------------------------------------------------------------------

    def allocate(self, nbytes: int, dense: bool = False) -> "OpenClBlock":
        """Return new zeroed memory; raises OutOfDeviceMemoryError with the numbers."""
        try:
            return self._allocate(nbytes)
        except OutOfDeviceMemoryError:
            gc.collect()  # programs that nobody uses any more may hold some in cycles
            self.finish()  # what is under way keeps memory that is not used any more
        return self._allocate(nbytes)

    def _allocate(self, nbytes: int) -> "OpenClBlock":
        size = max(-(-nbytes // ROUND) * ROUND, ROUND)
        with self._lock:
            if size > self.entry.largest:
                raise self._full(
                    nbytes, f"its driver allows {_amount(self.entry.largest)} in one piece"
                )
            if size > self.budget - self.used_bytes:
                raise self._full(nbytes, "")
            memory = self._touched(nbytes, size)
            block = OpenClBlock(self, memory, _reserve(size), nbytes)
            self._sizes[block.address] = size
            return block

    def _touched(self, nbytes: int, size: int) -> Any:
        """Return a memory object filled with zeros, hence really there."""
        flags = self.cl.mem_flags.READ_WRITE
        try:
            with self.guard(f"allocating {_amount(nbytes)}"):
                memory = self.cl.Buffer(self.context, flags, size)
                for start in range(0, size, _FILL):
                    part = min(_FILL, size - start)
                    self._fill(memory, start, part)
                self.queue.finish()
                return memory
        except OutOfDeviceMemoryError as error:
            raise self._full(nbytes, "its driver has no more") from error
        except DeviceError as error:
            if getattr(error.__cause__, "code", 0) == _EXHAUSTED and not self.lost:
                raise self._full(nbytes, "its driver has no more") from error
            raise

    def _full(self, nbytes: int, why: str) -> OutOfDeviceMemoryError:
        reason = f" ({why})" if why else ""
        return OutOfDeviceMemoryError(
            f"{self.title} has no room for {_amount(nbytes)}{reason}: {_amount(self.free_bytes)} "
            f"of its budget of {_amount(self.budget)} are free; use a smaller model, a shorter "
            "context, a larger budget or more devices"
        )

    def _fill(self, memory: Any, start: int, nbytes: int) -> None:
        self.cl._cl._enqueue_fill_buffer(self.queue, memory, np.zeros(16, np.uint8), start, nbytes)

    def release(self, address: int) -> None:
        """Count a block as gone."""
        self._sizes.pop(address, None)

    # -- work -----------------------------------------------------------------------------------

    def send(self, memory: Any, start: int, values: np.ndarray) -> None:
        """Write bytes after all work so far; few of them without waiting for it."""
        write = self.cl._cl._enqueue_write_buffer
        with self.guard(f"writing {_amount(values.nbytes)}"):
            if values.nbytes > _SMALL:
                write(self.queue, memory, values, start, None, True)
                return
            # The event holds the copy, and waits when it is dropped.
            self._pending.append(write(self.queue, memory, values.copy(), start, None, False))
            with contextlib.suppress(IndexError):  # another thread takes them as well
                while len(self._pending) > _PENDING:
                    self._pending.popleft().wait()

    def fetch(self, memory: Any, start: int, nbytes: int) -> np.ndarray:
        """Read bytes after all work so far."""
        values = np.empty(nbytes, np.uint8)
        sent = len(self._pending)
        with self.guard(f"reading {_amount(nbytes)}"):
            self.cl._cl._enqueue_read_buffer(self.queue, memory, values, start, None, True)
        self._forget(sent)
        return values

    def move(self, memory: Any, source: int, target: int, nbytes: int) -> None:
        """Copy bytes inside a memory object after all work so far."""
        with self.guard(f"copying {_amount(nbytes)}"):
            self.cl._cl._enqueue_copy_buffer(self.queue, memory, memory, nbytes, source, target)

    def finish(self) -> None:
        """Wait until all work is done."""
        sent = len(self._pending)
        with self.guard("finishing its work"):
            self.queue.finish()
        self._forget(sent)

    def _forget(self, sent: int) -> None:
        """Drop the events of the oldest writes, which are done; later ones would be waited for."""
        with contextlib.suppress(IndexError):  # another thread has dropped them
            for _ in range(sent):
                self._pending.popleft()

    def check(self) -> None:
        """Raise DeviceLostError if the device was lost."""
        if self.lost:
            raise DeviceLostError(self.lost)

    @contextlib.contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Turn a driver's errors into ours; `doing` says what is being done, for the text.

        Raises DeviceLostError if the device does not answer any more, from then on at once;
        OutOfDeviceMemoryError if it is full; DeviceError for a call that failed otherwise.
        """
        self.check()
        try:
            yield
        except (self.cl.Error, CallError) as error:
            raise self.explained(error, doing) from error

    def explained(self, error: Exception, doing: str) -> DeviceError:
        """Return our error for a driver's."""
        code = getattr(error, "code", 0)
        if code in _FULL:
            return OutOfDeviceMemoryError(
                f"{self.title} ran out of memory while {doing}: {_amount(self.free_bytes)} of its "
                f"budget of {_amount(self.budget)} should be free; lower the budget if other "
                "programs use the device"
            )
        if self._answers():
            return DeviceError(f"{self.title}: {doing} failed: {error}")
        self.lost = (
            f"{self.title} was lost while {doing} ({error}); its memory is gone. Look into the "
            "system's log for its driver, then open the device again"
        )
        return DeviceLostError(self.lost)

    def _answers(self) -> bool:
        """Say whether the device still does the simplest work."""
        if not hasattr(self, "_probe"):
            return True  # it was never opened
        try:
            self._fill(self._probe, 0, ROUND)
            self.queue.finish()
        except self.cl.Error:
            return False
        return True


class OpenClBlock:
    """A piece of a device's memory; `address` is a name for it that nothing else has."""

    __slots__ = ("__weakref__", "address", "memory", "nbytes", "owner")

    def __init__(self, owner: OpenClMemory, memory: Any, address: int, nbytes: int) -> None:
        self.owner = owner
        self.memory = memory  # pyopencl's
        self.address = address
        self.nbytes = nbytes

    def __del__(self) -> None:
        # No lock: this may run in the middle of anything, even of an allocation.
        self.owner.release(self.address)

    def read(self, start: int, nbytes: int) -> np.ndarray:
        """Return a copy of bytes, made after all work given to the device so far."""
        if not nbytes:
            return np.empty(0, np.uint8)
        return self.owner.fetch(self.memory, start, nbytes)

    def write(self, start: int, values: np.ndarray) -> None:
        """Put uint8 bytes there, after all work given to the device so far."""
        if values.nbytes:
            self.owner.send(self.memory, start, values)

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copy bytes inside the block; the two ranges do not overlap."""
        if nbytes:
            self.owner.move(self.memory, source, target, nbytes)


def _amount(nbytes: int) -> str:
    """Return a number of bytes for people."""
    if nbytes >= 10**9:
        return f"{nbytes / 1e9:.2f} GB"
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 10**6 else f"{nbytes} bytes"

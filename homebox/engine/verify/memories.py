"""The memory that interpreted kernels reach, with a check of every access.

One idea: each element of a written buffer remembers who touched it since the last barrier; two that
are not ordered by a barrier may share an element only if both read it. Memory that is seen as
elements of several types is watched in cells of the smallest of them. Invariant: an access that is
outside of the memory, a race, or a read of what nothing has written raises `EngineError`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebox.engine.codegen.linear import Kernel
from homebox.engine.verify.site import POINTERS, Site
from homebox.errors import EngineError

Array = NDArray[Any]


class Frame:
    """Who is running: one unit, or one work-item of a group."""

    __slots__ = ("epoch", "first", "group", "item", "kept", "local", "shared", "size")

    def __init__(
        self,
        item: int,
        size: int,
        group: tuple[int, ...],
        local: tuple[int, ...],
        shared: "dict[int, Memory] | None" = None,
        kept: "dict[int, Memory] | None" = None,
    ) -> None:
        self.item, self.size, self.group, self.local = item, size, group, local
        self.shared = shared  # by position; None for a unit
        self.kept = kept  # by position; each thread has its own
        self.first = False  # the thread's first call
        self.epoch = 0  # grows at each barrier; never the same in two groups


def called(item: int, frame: Frame) -> str:
    """Return how errors call a unit or work-item."""
    if frame.shared is None:
        return "another unit" if item < 0 else f"unit {item}"
    if item < 0:
        return "another work-item"
    return f"work-item {item % frame.size} of group {item // frame.size}"


class Tracker:
    """Who touched each element of one memory, as far as it matters for races."""

    __slots__ = ("elements",)

    NOBODY, SEVERAL = -1, -2

    def __init__(self) -> None:
        # element -> [write epoch, writer, read epoch, reader, reading group]
        self.elements: dict[int, list[int]] = {}

    def _element(self, index: int) -> list[int]:
        return self.elements.setdefault(index, [-1, self.NOBODY, -1, self.NOBODY, self.NOBODY])

    def _after_write(self, element: list[int], frame: Frame) -> str | None:
        epoch, writer = element[0], element[1]
        if writer in (self.NOBODY, frame.item):
            return None
        if epoch == frame.epoch or writer // frame.size != frame.item // frame.size:
            return f"race with {called(writer, frame)}, which wrote it, and no barrier between"
        return None

    def read(self, index: int, frame: Frame) -> str | None:
        """Note a read; return what it races with."""
        element = self._element(index)
        conflict = self._after_write(element, frame)
        alone = element[2] != frame.epoch or element[3] == frame.item
        element[2], element[3] = frame.epoch, frame.item if alone else self.SEVERAL
        group = frame.item // frame.size
        element[4] = group if element[4] in (self.NOBODY, group) else self.SEVERAL
        return conflict

    def write(self, index: int, frame: Frame) -> str | None:
        """Note a write; return what it races with."""
        element = self._element(index)
        conflict = self._after_write(element, frame)
        group = frame.item // frame.size
        same_epoch = element[2] == frame.epoch and element[3] != frame.item
        if conflict is None and (same_epoch or element[4] not in (self.NOBODY, group)):
            reader = element[3] if element[3] != frame.item else self.SEVERAL
            conflict = f"race with {called(reader, frame)}, which read it, and no barrier between"
        element[0], element[1] = frame.epoch, frame.item
        return conflict


class Memory:
    """One array that a kernel can reach, with its limits; an element is `cells` watched cells."""

    __slots__ = ("cells", "count", "data", "known", "name", "tracker")

    def __init__(
        self, name: str, data: Array, tracker: Tracker | None, known: Array | None, cells: int
    ) -> None:
        self.name, self.data, self.count, self.tracker = name, data, len(data), tracker
        self.known = known  # which cells were written; None if all are
        self.cells = cells

    def viewed(self, dtype: np.dtype[Any]) -> "Memory":
        """Return the same memory as elements of another type."""
        cell = self.data.itemsize // self.cells
        count = self.data.nbytes // dtype.itemsize
        data = self.data.view(np.uint8)[: count * dtype.itemsize].view(dtype)
        name = f"{self.name} as {dtype}"
        return Memory(name, data, self.tracker, self.known, dtype.itemsize // cell)

    def read(self, indices: Sequence[int] | Array, frame: Frame, site: Site) -> None:
        """Check that these elements may be read now."""
        self._inside(indices, frame, site)
        if self.known is None and self.tracker is None:
            return
        cells = self._cells(indices)
        if self.known is not None and not self.known[cells].all():
            first = next(int(i) for i in cells if not self.known[i])
            self._refuse("reads", first // self.cells, "which nothing has written", frame, site)
        if self.tracker is not None:
            for cell in cells:
                conflict = self.tracker.read(int(cell), frame)
                if conflict:
                    self._refuse("reads", int(cell) // self.cells, conflict, frame, site)

    def write(self, indices: Sequence[int] | Array, frame: Frame, site: Site) -> None:
        """Check that these elements may be written now, and note that they are."""
        self._inside(indices, frame, site)
        if self.known is None and self.tracker is None:
            return
        cells = self._cells(indices)
        if self.known is not None:
            self.known[cells] = True
        if self.tracker is not None:
            for cell in cells:
                conflict = self.tracker.write(int(cell), frame)
                if conflict:
                    self._refuse("writes", int(cell) // self.cells, conflict, frame, site)

    def _cells(self, indices: Sequence[int] | Array) -> Sequence[int] | Array:
        if self.cells == 1:
            return indices
        if isinstance(indices, range):
            return range(indices.start * self.cells, indices.stop * self.cells)
        starts = np.asarray(indices, np.int64)[:, None] * self.cells
        found: Array = (starts + np.arange(self.cells)).reshape(-1)
        return found

    def _inside(self, indices: Sequence[int] | Array, frame: Frame, site: Site) -> None:
        if isinstance(indices, range):  # a step of 1, so the ends are enough
            if indices[0] >= 0 and indices[-1] < self.count:
                return
        elif np.all(np.asarray(indices) >= 0) and np.all(np.asarray(indices) < self.count):
            return
        outside = next(int(i) for i in indices if not 0 <= i < self.count)
        limit = f"which has {self.count} elements"
        self._refuse("reaches", outside, limit, frame, site)

    def _refuse(self, verb: str, index: int, why: str, frame: Frame, site: Site) -> None:
        who = called(frame.item, frame)
        site.fail(f"{who} {verb} element {index} of {self.name}, {why}")


def smallest_views(kernel: Kernel) -> dict[int, int]:
    """Return, for the position of each memory, the bytes of the smallest element it is seen as."""
    root: dict[int, int] = {}
    found: dict[int, int] = {}
    for position, inst in enumerate(kernel.body):
        if inst.op in POINTERS:
            root[position] = root[inst.args[0]] if inst.op == "view" else position
            owner = root[position]
            found[owner] = min(found.get(owner, inst.dtype.size), inst.dtype.size)
    return found


def bind(kernel: Kernel, buffers: Sequence[Array], size: int) -> list[Memory]:
    """Return the params as memories; buffers that start at one address share a tracker."""
    if len(buffers) != len(kernel.params):
        raise EngineError(f"the kernel has {len(kernel.params)} params, got {len(buffers)} buffers")
    trackers = {
        _address(buffer): Tracker()
        for param, buffer in zip(kernel.params, buffers)
        if param.written
    }
    cell: dict[int, int] = {_address(buffer): buffer.itemsize for buffer in buffers}
    for position, smallest in smallest_views(kernel).items():
        if kernel.body[position].op == "param":
            address = _address(buffers[kernel.body[position].arg])
            cell[address] = min(cell[address], smallest)
    memories = []
    for i, (param, buffer) in enumerate(zip(kernel.params, buffers)):
        if buffer.dtype != param.dtype.to_numpy():
            raise EngineError(f"p{i} is {param.dtype}, its buffer is {buffer.dtype}")
        if not buffer.flags.c_contiguous or buffer.size < param.count:
            raise EngineError(
                f"p{i} needs {param.count} contiguous elements, its buffer has {buffer.size}"
            )
        if param.written and not buffer.flags.writeable:
            raise EngineError(f"p{i} is written, its buffer is read-only")
        tracker, cells = trackers.get(_address(buffer)), buffer.itemsize // cell[_address(buffer)]
        memories.append(Memory(f"p{i}", buffer.reshape(-1)[: param.count], tracker, None, cells))
    return memories


def _address(buffer: Array) -> int:
    return int(buffer.__array_interface__["data"][0])

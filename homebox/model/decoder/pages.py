"""Page tables of the KV cache: which pages of 64 positions hold a sequence's keys and values.

The one idea: memory belongs to pages of one pool, and a slot is only a list of page numbers, so a
sequence takes memory as it grows and two sequences may share their common past.
Invariant: a page that more than one list names is never written; whoever appends to it gets a copy
of its own first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.errors import ContextLengthError, NoFreeSlotError

PAGE = 64

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The past of a sequence at one moment; holds its pages until `Pages.drop`."""

    pages: tuple[int, ...]
    length: int


class Pages:
    """The tables of all slots over one pool that is large enough for all of them at once.

    `tables` int32 (slots, pages of a context) is what kernels read: page numbers, 0 where there is
    none. `copy_page(source, target)` copies the contents of a page in all layers.
    """

    def __init__(
        self, slots: int, context: int, copy_page: Callable[[int, int], None], spare: int = 0
    ) -> None:
        self.context = context
        self.per_slot = -(-context // PAGE)
        self.count = slots * self.per_slot + spare
        self.tables: Int32 = np.zeros((slots, self.per_slot), np.int32)
        self._lengths = [0] * slots
        self._lists: list[list[int]] = [[] for _ in range(slots)]
        self._users = [0] * self.count
        # Used pages are used again first, so that memory is touched as late as possible.
        self._free = list(range(self.count - 1, -1, -1))
        self._copy_page = copy_page

    @property
    def free_pages(self) -> int:
        """The number of pages that nobody holds."""
        return len(self._free)

    def length(self, slot: int) -> int:
        """Return how many positions of a slot are filled."""
        return self._lengths[slot]

    def append(self, slot: int, count: int) -> Int32:
        """Make room for `count` more positions; return their places, page * 64 + offset, (count,).

        Raises ContextLengthError, and NoFreeSlotError if snapshots hold all the memory; the slot
        is then as it was.
        """
        start = self._lengths[slot]
        end = start + count
        if end > self.context:
            raise ContextLengthError(self.context, end)
        pages = self._lists[slot]
        wanted = -(-end // PAGE) - len(pages)
        shared = count > 0 and start % PAGE != 0 and self._users[pages[start // PAGE]] > 1
        if wanted + shared > len(self._free):
            raise NoFreeSlotError("the KV cache is full of kept conversations; try again later")
        if shared:
            self._own(slot, start // PAGE)
        for _ in range(wanted):
            pages.append(self._take())
        self._lengths[slot] = end
        self._write(slot)
        at = np.arange(start, end)
        places: Int32 = (self.tables[slot][at // PAGE] * PAGE + at % PAGE).astype(np.int32)
        return places

    def truncate(self, slot: int, length: int) -> None:
        """Forget the positions from `length` on."""
        if length >= self._lengths[slot]:
            return
        pages = self._lists[slot]
        keep = -(-length // PAGE)
        for page in pages[keep:]:
            self._release(page)
        del pages[keep:]
        self._lengths[slot] = length
        self._write(slot)

    def free(self, slot: int) -> None:
        """Give all pages of a slot back."""
        self.truncate(slot, 0)

    def snapshot(self, slot: int) -> Snapshot:
        """Keep the slot's past, whatever happens to the slot; costs no copy."""
        pages = tuple(self._lists[slot])
        for page in pages:
            self._users[page] += 1
        return Snapshot(pages, self._lengths[slot])

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Let a slot begin with a kept past instead of its own; the snapshot stays valid."""
        for page in snapshot.pages:
            self._users[page] += 1
        self.free(slot)
        self._lists[slot] = list(snapshot.pages)
        self._lengths[slot] = snapshot.length
        self._write(slot)

    def drop(self, snapshot: Snapshot) -> None:
        """Give up a snapshot; it must not be used again."""
        for page in snapshot.pages:
            self._release(page)

    def _own(self, slot: int, at: int) -> None:
        """Replace a shared page by a copy."""
        pages = self._lists[slot]
        self._copy_page(pages[at], self._free[-1])  # may fail; then nothing was taken
        self._release(pages[at])
        pages[at] = self._take()

    def _take(self) -> int:
        page = self._free.pop()
        self._users[page] = 1
        return page

    def _release(self, page: int) -> None:
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)

    def _write(self, slot: int) -> None:
        pages = self._lists[slot]
        row = self.tables[slot]
        row[: len(pages)] = pages
        row[len(pages) :] = 0

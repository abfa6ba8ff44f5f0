"""Page tables of the KV cache: which pages of 64 positions hold a sequence's keys and values.

The one idea: memory belongs to pages of one pool, and a slot is only a list of page numbers, so a
sequence takes memory as it grows, sequences may share their common past, and what they leave may be
kept until somebody needs its memory.
Invariant: a page that more than one list names is never written; whoever appends to it gets a copy
of its own first. What was set aside for a slot is there when the slot grows.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.errors import ContextLengthError, EngineError, NoFreeSlotError

PAGE = 64
_CLEAN = object()  # the mark of a page that was never written

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The past of a sequence at one moment; holds its pages until `Pages.drop`."""

    pages: tuple[int, ...]
    length: int


class Pages:
    """The tables of all slots over one pool.

    `tables` int32 (slots, pages of a context) is what kernels read: page numbers, 0 where there is
    none. `copy_page(source, target)` copies the contents of a page in all layers. The pool has
    `count` pages, by default as many as all slots can fill and `spare` more. `clear_page(page)`
    zeroes one before a slot of another mark (see `mark`) gets it.

    Of what is kept (`keep`), pages that no slot uses are *idle*: `reclaim(n)` is called when n of
    them are needed and must give at least as many up (`give_up`); `forget` that `reset` did all.
    """

    def __init__(
        self,
        slots: int,
        context: int,
        copy_page: Callable[[int, int], None],
        spare: int = 0,
        count: int = 0,
        clear_page: Callable[[int], None] | None = None,
    ) -> None:
        self.context = context
        self.per_slot = -(-context // PAGE)
        self.count = count or slots * self.per_slot + spare
        if self.count < self.per_slot:
            raise EngineError(
                f"a pool of {self.count} pages of {PAGE} positions cannot hold a context of "
                f"{context}"
            )
        self.tables: Int32 = np.zeros((slots, self.per_slot), np.int32)
        self.reclaim: Callable[[int], object] = lambda count: None
        self.forget: Callable[[], object] = lambda: None  # hears of `reset`
        self.lost = False  # the memory is gone: what slots and `keep` hold means nothing
        self.returns = 0  # how often memory came back
        self.copies = 0  # pages that were copied before they were written
        self._copy_page = copy_page
        self._clear_page = clear_page
        self._slots = range(slots)
        self._most = [0] * slots  # pages that a slot may grow to, where that was set aside
        self._marks: list[Hashable] = [None] * slots
        self.reset()

    def reset(self) -> None:
        """Forget what all slots hold and what is kept; what is set aside stays so."""
        self._lengths = [0 for _ in self._slots]
        self._lists: list[list[int]] = [[] for _ in self._slots]
        self._users = [0] * self.count
        self._kept = bytearray(self.count)
        self._idle = 0
        # Used pages are used again first, so that memory is touched as late as possible.
        self._free = list(range(self.count - 1, -1, -1))
        self._written_by: list[Hashable] = [_CLEAN] * self.count
        self.tables[:] = 0
        self.lost = False
        self.forget()

    @property
    def free_pages(self) -> int:
        """The number of pages that nobody holds."""
        return len(self._free)

    @property
    def idle_pages(self) -> int:
        """The number of pages that are kept, but that no slot uses."""
        return self._idle

    def length(self, slot: int) -> int:
        """Return how many positions of a slot are filled."""
        return self._lengths[slot]

    def of(self, slot: int) -> Sequence[int]:
        """Return the pages of a slot, in order."""
        return self._lists[slot]

    # -- growing and shrinking ------------------------------------------------------------------

    def append(self, slot: int, count: int) -> Int32:
        """Make room for `count` more positions; return their places, page * 64 + offset, (count,).

        Raises ContextLengthError, and NoFreeSlotError if others hold all the memory, which does not
        happen within what was set aside; the slot is then as it was.
        """
        start = self._lengths[slot]
        end = start + count
        if end > self.context:
            raise ContextLengthError(self.context, end)
        pages = self._lists[slot]
        wanted = -(-end // PAGE) - len(pages)
        shared = count > 0 and start % PAGE != 0 and self._users[pages[start // PAGE]] > 1
        if wanted or shared:
            self._grow(slot, wanted, start // PAGE if shared else None)
        self._lengths[slot] = end
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
        self._write(slot, keep)

    def free(self, slot: int) -> None:
        """Give all pages of a slot back, and what was set aside for it."""
        self.returns += bool(self._lists[slot] or self._most[slot])
        self.truncate(slot, 0)
        self._most[slot] = 0
        self._marks[slot] = None

    # -- setting aside --------------------------------------------------------------------------

    def available(self, slot: int) -> int:
        """Return how many pages a slot could take now: all but what is set aside for others."""
        others = sum(self._owed(other) for other in self._slots if other != slot)
        return len(self._free) + self._idle - others

    def reserve(self, slot: int, positions: int) -> None:
        """Set aside what a slot needs to grow to `positions`, whatever the others do.

        Raises ContextLengthError if that can never be had, NoFreeSlotError if others have it now;
        nothing is set aside then.
        """
        most = min(self.context, self.count * PAGE)
        if positions > most:
            raise ContextLengthError(most, positions)
        self._most[slot] = -(-positions // PAGE)
        needed, available = self._owed(slot), self.available(slot)
        if needed > available:
            self._most[slot] = 0
            raise NoFreeSlotError(
                f"the answer needs {needed} more pages of keys and values, of {self.count} "
                f"{max(available, 0)} are left; try again later"
            )

    def mark(self, slot: int, mark: Hashable) -> None:
        """Say whose a slot is: pages that others wrote are zeroed before it gets them."""
        self._marks[slot] = mark

    def _owed(self, slot: int) -> int:
        """Return how many pages a slot may still take of what was set aside for it."""
        if not self._most[slot]:
            return 0
        pages, length = self._lists[slot], self._lengths[slot]
        shared = length % PAGE != 0 and self._users[pages[length // PAGE]] > 1
        return max(self._most[slot] - len(pages), 0) + shared

    # -- keeping --------------------------------------------------------------------------------

    def share(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Let a slot begin with pages that others hold, filled up to `length`."""
        for page in pages:
            self._use(page)
        self.truncate(slot, 0)
        self._lists[slot] = list(pages)
        self._lengths[slot] = length
        self._write(slot, 0)

    def exchange(self, slot: int, at: int, page: int) -> None:
        """Let a slot use another page for its `at`-th, which holds the same."""
        pages = self._lists[slot]
        self._use(page)
        self._release(pages[at])
        pages[at] = page
        self.returns += 1
        self._write(slot, at)

    def keep(self, page: int) -> None:
        """Hold a page that a slot has, whatever becomes of the slot, until `give_up`."""
        self._users[page] += 1
        self._kept[page] = 1

    def give_up(self, page: int) -> None:
        """End `keep`."""
        if self._users[page] == 1:
            self._idle -= 1
        self._kept[page] = 0
        self._release(page)

    def is_idle(self, page: int) -> bool:
        """Whether a page is kept and no slot uses it."""
        return self._users[page] == 1 and bool(self._kept[page])

    def snapshot(self, slot: int) -> Snapshot:
        """Hold the slot's past, whatever happens to the slot; costs no copy."""
        pages = tuple(self._lists[slot])
        for page in pages:
            self._use(page)
        return Snapshot(pages, self._lengths[slot])

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Let a slot begin with a past that is held; the snapshot stays valid."""
        self.share(slot, snapshot.pages, snapshot.length)

    def drop(self, snapshot: Snapshot) -> None:
        """Give up a snapshot; it must not be used again."""
        for page in snapshot.pages:
            self._release(page)

    # -- pages ----------------------------------------------------------------------------------

    def _grow(self, slot: int, wanted: int, shared: int | None) -> None:
        """Add pages to a slot, and replace its shared page of that index by a copy."""
        needed = wanted + (shared is not None)
        if needed > self.available(slot):
            raise NoFreeSlotError("the KV cache is full of kept conversations; try again later")
        self._make_room(needed)
        pages, mark, taken = self._lists[slot], self._marks[slot], list[int]()
        try:
            if shared is not None:
                self._copy_page(pages[shared], self._free[-1])
                taken.append(self._take(mark, clear=False))
            for _ in range(wanted):
                taken.append(self._take(mark))
        except BaseException:
            for page in reversed(taken):
                self._release(page)
            raise
        first = len(pages)
        if shared is not None:
            self.copies += 1
            self._release(pages[shared])
            first, pages[shared] = shared, taken.pop(0)
        pages += taken
        self._write(slot, first)

    def _make_room(self, count: int) -> None:
        """Have idle pages given up until `count` are free."""
        if count > len(self._free):
            self.reclaim(count - len(self._free))
            if count > len(self._free):
                raise EngineError("idle pages of the KV cache were not given up")

    def _take(self, mark: Hashable, clear: bool = True) -> int:
        page = self._free[-1]
        before = self._written_by[page]
        if clear and self._clear_page is not None and before is not _CLEAN and before != mark:
            self._clear_page(page)  # may fail; then nothing was taken
        self._free.pop()
        self._written_by[page] = mark
        self._users[page] = 1
        return page

    def _use(self, page: int) -> None:
        if self.is_idle(page):
            self._idle -= 1
        self._users[page] += 1

    def _release(self, page: int) -> None:
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)
        elif self.is_idle(page):
            self._idle += 1

    def _write(self, slot: int, start: int) -> None:
        """Write a slot's table from an index on."""
        pages = self._lists[slot]
        row = self.tables[slot]
        row[start : len(pages)] = pages[start:]
        row[len(pages) :] = 0

"""Page tables: places are never shared, kept pasts never change, and every page comes back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.errors import ContextLengthError, NoFreeSlotError
from homebox.model.decoder.pages import PAGE, Pages, Snapshot


class Notebook:
    """Pages whose memory is a list of numbers, so that what a slot holds can be read back."""

    def __init__(self, slots: int, context: int, spare: int = 0, copies: bool = True) -> None:
        self.copies = copies
        self.pages = Pages(slots, context, self.copy, spare)
        self.memory = np.full(self.pages.count * PAGE, -1)
        self.next = 0

    def copy(self, source: int, target: int) -> None:
        if self.copies:
            memory = self.memory.reshape(-1, PAGE)
            memory[target] = memory[source]

    def append(self, slot: int, count: int) -> list[int]:
        places = self.pages.append(slot, count)
        assert len(set(places.tolist())) == count
        values = list(range(self.next, self.next + count))
        self.next += count
        self.memory[places] = values
        return values

    def read(self, slot: int) -> list[int]:
        at = np.arange(self.pages.length(slot))
        table = self.pages.tables[slot]
        found: list[int] = self.memory[table[at // PAGE] * PAGE + at % PAGE].tolist()
        return found


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "truncate", "free", "keep", "restore", "drop"]),
        st.integers(0, 2),
        st.integers(0, 150),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_slots_hold_what_was_written_to_them(actions: list[tuple[str, int, int]]) -> None:
    book = Notebook(3, 200, spare=4)
    wanted: list[list[int]] = [[], [], []]
    kept: list[tuple[Snapshot, list[int]]] = []
    for action, slot, number in actions:
        if action == "append":
            free = book.pages.free_pages
            try:
                wanted[slot] = wanted[slot] + book.append(slot, number)
            except ContextLengthError:
                assert len(wanted[slot]) + number > 200
            except NoFreeSlotError:
                assert book.pages.free_pages == free < number // PAGE + 2
        elif action == "truncate":
            book.pages.truncate(slot, number)
            wanted[slot] = wanted[slot][:number]
        elif action == "free":
            book.pages.free(slot)
            wanted[slot] = []
        elif action == "keep":
            kept.append((book.pages.snapshot(slot), wanted[slot]))
        elif kept and action == "restore":
            snapshot, values = kept[number % len(kept)]
            book.pages.restore(slot, snapshot)
            wanted[slot] = values
        elif kept:
            book.pages.drop(kept.pop(number % len(kept))[0])
        assert [book.read(i) for i in range(3)] == wanted
    for snapshot, _ in kept:
        book.pages.drop(snapshot)
    for slot in range(3):
        book.pages.free(slot)
    assert book.pages.free_pages == book.pages.count


def test_without_the_copy_a_kept_past_is_lost() -> None:
    """The control of the test above: it must see a page that is shared and written."""
    found = []
    for copies in (True, False):
        book = Notebook(1, 128, spare=2, copies=copies)
        values = book.append(0, 10)
        kept = book.pages.snapshot(0)
        book.append(0, 5)
        found.append(book.read(0)[:10] == values)
        book.pages.drop(kept)
    assert found == [True, False]


def test_memory_is_taken_page_by_page() -> None:
    pages = Pages(4, 4096, lambda *_: None)
    assert pages.tables.shape == (4, 64)
    assert pages.count == 256
    pages.append(0, 1)
    assert pages.free_pages == 255
    pages.append(0, 63)
    assert pages.free_pages == 255
    pages.append(0, 1)
    assert pages.free_pages == 254
    pages.truncate(0, 64)
    assert pages.free_pages == 255
    assert pages.tables[0].tolist() == [0] * 64  # page 0 first, then nothing


def test_a_full_context_and_full_memory_change_nothing() -> None:
    pages = Pages(1, 128, lambda *_: None)
    pages.append(0, 100)
    with pytest.raises(ContextLengthError, match="128"):
        pages.append(0, 29)
    kept = pages.snapshot(0)
    with pytest.raises(NoFreeSlotError, match="kept"):
        pages.append(0, 10)
    assert pages.length(0) == 100
    pages.drop(kept)
    assert pages.append(0, 28).tolist() == list(range(100, 128))

"""The tree of kept pages, who gets pages when there are few, and why a prompt was not found."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from homebox.errors import ContextLengthError, EngineError, NoFreeSlotError
from homebox.model import GenerationRequest, SamplingParams
from homebox.model.decoder.pages import PAGE, Pages
from homebox.model.prefixes.misses import MOST_CONVERSATIONS, Misses, Space, common_length
from homebox.model.prefixes.sharing import Prefixes
from homebox.model.prefixes.statistics import REASONS
from homebox.model.prefixes.tree import Match, PrefixTree

SPACE, OTHER = Space("a", "base"), Space("b", "base")
HASHES = ("1" * 64, "2" * 64)
TALK = hashlib.sha256(b"talk").hexdigest()[:12]  # a name of a conversation, as the log has it
HIT, NEW = REASONS[:2]


def ids(count: int, start: int = 0) -> Any:
    return np.arange(start, start + count, dtype=np.int32)


def made(count: int = 12, slots: int = 3) -> tuple[Pages, PrefixTree]:
    pages = Pages(slots, 4 * PAGE, lambda *_: None, count=count)
    return pages, PrefixTree(pages)


def left(pages: Pages, tree: PrefixTree, prompt: Any, space: Any = SPACE) -> list[int]:
    """Let an answer come and go; return the pages that it had."""
    found = tree.match(space, prompt)
    pages.share(0, found.pages, found.length)
    pages.append(0, len(prompt) - found.length)
    tree.keep(space, prompt, 0, partial=True)
    used = list(pages.of(0))
    pages.free(0)
    return used


# The tree


def test_one_token_at_least_is_left_to_compute() -> None:
    pages, tree = made()
    assert tree.match(SPACE, ids(150)) == Match()
    used = left(pages, tree, ids(150))
    assert tree.match(SPACE, ids(150)) == Match(149, tuple(used))
    assert tree.match(SPACE, ids(128)) == Match(127, tuple(used[:2]))
    assert tree.match(SPACE, ids(129)) == Match(128, tuple(used[:2]))
    assert tree.match(SPACE, ids(250)) == Match(150, tuple(used))
    assert tree.match(SPACE, ids(1)) == Match()
    assert tree.match(OTHER, ids(150)) == Match()


def test_what_is_common_may_end_inside_a_page() -> None:
    pages, tree = made()
    used = left(pages, tree, ids(150))
    for length in (1, 63, 64, 65, 100, 149):
        prompt = np.concatenate([ids(length), ids(40, 1000)])
        assert tree.match(SPACE, prompt) == Match(length, tuple(used[: -(-length // PAGE)]))
    assert tree.match(SPACE, ids(100, 1)) == Match()


def test_the_longest_of_several_counts() -> None:
    pages, tree = made()
    for length in (10, 30, 20):
        left(pages, tree, np.concatenate([ids(length), ids(60, 1000 * length)]))
    for length in (10, 20, 30):
        assert tree.match(SPACE, np.concatenate([ids(length), ids(40, 7)])).length == length


def test_the_same_ids_are_kept_once() -> None:
    pages, tree = made()
    first = left(pages, tree, ids(100))
    assert len(tree) == 2
    assert left(pages, tree, ids(100))[0] == first[0]
    assert len(tree) == 2
    left(pages, tree, ids(120))  # what was its beginning goes
    assert [len(key) // 4 for _, key, _ in tree.walk()] == [64, 120]
    left(pages, tree, ids(90))
    assert len(tree) == 2
    left(pages, tree, ids(130))
    assert [len(key) // 4 for _, key, _ in tree.walk()] == [64, 128, 130]
    assert pages.free_pages == pages.count - 3 == pages.count - pages.idle_pages


def test_two_that_compute_the_same_end_with_one_copy() -> None:
    pages, tree = made()
    for slot in (0, 1):
        pages.append(slot, 130)
    assert not set(pages.of(0)) & set(pages.of(1))
    for slot in (0, 1):
        tree.keep(SPACE, ids(130), slot)
    assert list(pages.of(0))[:2] == list(pages.of(1))[:2] == pages.tables[1][:2].tolist()
    assert pages.of(0)[2] != pages.of(1)[2]
    assert pages.free_pages == pages.count - 4


def test_a_page_may_be_kept_anew_with_more_of_it() -> None:
    """Two slots share a page that is no longer kept, one of them less of it than the other."""
    pages, tree = made()
    left(pages, tree, ids(40))
    for slot, length in ((1, 30), (2, 40)):
        pages.share(slot, tree.match(SPACE, ids(60)).pages, length)
    tree.clear()
    for slot, length in ((1, 30), (2, 40)):
        tree.keep(SPACE, ids(length), slot, partial=True)
        pages.free(slot)
    assert [len(key) // 4 for _, key, _ in tree.walk()] == [40]
    assert pages.idle_pages == 1
    tree.clear()
    assert pages.free_pages == pages.count


def test_the_longest_unused_goes_first_and_from_its_end() -> None:
    pages, tree = made(count=8)
    left(pages, tree, ids(150))
    left(pages, tree, ids(150, 1000), OTHER)
    tree.match(SPACE, ids(150))  # used now
    for gone in range(1, 4):
        assert tree.evict(1) == 1
        assert tree.match(SPACE, ids(150)).length == 149
        assert tree.match(OTHER, ids(150, 1000)).length == (128, 64, 0)[gone - 1]
        tree.match(SPACE, ids(150))
    assert tree.evict(9) == 3
    assert (len(tree), pages.free_pages) == (0, 8)
    assert tree.evictions == 6


def test_what_a_slot_uses_stays() -> None:
    pages, tree = made(count=8)
    left(pages, tree, ids(150))
    found = tree.match(SPACE, ids(100))
    pages.share(1, found.pages, found.length)
    assert pages.idle_pages == 1
    assert tree.evict(9) == 1
    assert list(pages.of(1)) == list(found.pages)
    tree.clear()
    assert pages.free_pages == 6
    assert pages.append(1, 1).tolist() == [found.pages[1] * PAGE + 35]  # nobody else has it now


def test_the_full_pages_of_a_prompt_are_told() -> None:
    pages, tree = made()
    used = left(pages, tree, ids(150))
    assert tree.path(SPACE, ids(200)) == tree.path(SPACE, ids(128)) == tuple(used[:2])
    assert tree.path(SPACE, ids(127)) == (used[0],)
    assert tree.path(OTHER, ids(150)) == ()


# Few pages


def test_a_pool_holds_one_context() -> None:
    with pytest.raises(EngineError, match="3 pages"):
        Pages(2, 4 * PAGE, lambda *_: None, count=3)


def test_what_is_set_aside_is_there() -> None:
    pages, _ = made(count=8)
    pages.reserve(0, 3 * PAGE)
    pages.reserve(1, 4 * PAGE)
    with pytest.raises(NoFreeSlotError, match=r"needs 2 more pages .* 1 are left"):
        pages.reserve(2, 2 * PAGE)
    with pytest.raises(NoFreeSlotError):
        pages.append(2, PAGE + 1)
    pages.append(2, PAGE)
    pages.append(0, 3 * PAGE)
    pages.append(1, 4 * PAGE)
    assert pages.free_pages == 0
    pages.free(0)
    pages.reserve(2, 4 * PAGE)
    with pytest.raises(ContextLengthError, match="256"):
        pages.reserve(0, 4 * PAGE + 1)


def test_the_copy_of_a_shared_page_is_counted() -> None:
    pages, tree = made(count=5)
    left(pages, tree, ids(100))
    found = tree.match(SPACE, ids(110))
    pages.share(0, found.pages, found.length)
    pages.reserve(0, 2 * PAGE)
    assert pages.available(1) == 2  # of three free ones, one is for the copy
    pages.append(0, 10)
    assert pages.copies == 1
    assert pages.available(1) == 3  # two are free, and the original is idle


def test_idle_pages_make_room_and_others_do_not() -> None:
    pages, tree = made(count=6)
    left(pages, tree, ids(256))
    pages.append(1, 4 * PAGE)
    assert (len(tree), tree.evictions) == (2, 2)
    tree.match(SPACE, ids(256))
    pages.append(0, 2 * PAGE)
    assert (len(tree), pages.free_pages) == (0, 0)
    with pytest.raises(NoFreeSlotError):
        pages.append(0, 1)


# Why


def started(
    prefixes: Prefixes, prompt: Sequence[int], adapter: str = "base", name: str = ""
) -> int:
    request = GenerationRequest(prompt, SamplingParams(), adapter, "a", name)
    return prefixes.begin(0, request, len(prompt) + 1)


def ended(prefixes: Prefixes, pages: Pages, prompt: Sequence[int]) -> None:
    pages.append(0, len(prompt) - pages.length(0))
    prefixes.taken(0, prompt)
    prefixes.end(0)
    pages.free(0)


def why(prefixes: Prefixes, before: dict[str, int]) -> str:
    after = prefixes.statistics.reasons
    (found,) = [reason for reason in after if after[reason] != before[reason]]
    return found


def test_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "homebox.prefixes")
    pages = Pages(2, 4 * PAGE, lambda *_: None, count=5)
    prefixes = Prefixes(pages)
    long = ids(150).tolist()
    changed = [*long[:140], *range(500, 520)]
    cases: list[tuple[list[int], str, str, int, str]] = [
        (long, "base", NEW, 0, f"0 of 150 tokens of conversation {TALK} were there; new"),
        (long, "base", HIT, 149, ""),
        ([*long, 7, 8], "base", HIT, 150, ""),
        (changed, "base", "differs", 140, "at token 140, where 12 followed and now 20 do"),
        (long, HASHES[0], "other adapter", 0, "changed from base to 111111111111"),
        (long, HASHES[0], HIT, 149, ""),
        (changed, "base", "evicted", 64, "95 tokens that were there had to make room"),
        (long[:1], "base", HIT, 0, ""),
    ]
    for prompt, adapter, reason, reused, text in cases:
        before = prefixes.statistics.reasons
        caplog.clear()
        assert started(prefixes, prompt, adapter, "talk") == reused
        assert why(prefixes, before) == reason
        assert text in caplog.text
        assert bool(caplog.text) == (reason != HIT)
        ended(prefixes, pages, prompt)
    found = prefixes.statistics
    assert (found.lookups, found.asked) == (8, sum(len(case[0]) for case in cases))
    assert found.reused == sum(case[3] for case in cases)
    assert found.kept_pages == found.idle_pages == pages.count - pages.free_pages
    assert found.evictions >= 3
    assert found.as_dict()["reason_other_adapter"] == 1


def test_a_prompt_that_is_still_being_read() -> None:
    pages = Pages(3, 4 * PAGE, lambda *_: None)
    prefixes = Prefixes(pages)
    started(prefixes, ids(200).tolist(), name="talk")
    pages.append(0, 70)
    prefixes.taken(0, ids(70).tolist())
    request = GenerationRequest(ids(200).tolist(), SamplingParams(), owner="a", conversation="talk")
    before = prefixes.statistics.reasons
    assert prefixes.begin(1, request, 201) == 64
    assert why(prefixes, before) == "not read yet"


def test_a_title_beside_the_work_hides_nothing() -> None:
    misses = Misses()
    work, title = ids(500), ids(100, 1000)
    for prompt in (work, title):
        misses.remember(SPACE, "talk", prompt, len(prompt))
    assert misses.explain(SPACE, "talk", ids(600), 500) == (HIT, "")
    assert misses.explain(SPACE, "talk", title, 99) == (HIT, "")


def test_prompts_without_a_name_are_found_by_their_beginning() -> None:
    misses = Misses()
    misses.remember(SPACE, "", ids(500), 500)
    assert misses.explain(SPACE, "", ids(600), 500) == (HIT, "")
    assert misses.explain(OTHER, "", ids(600), 0)[0] == NEW
    assert misses.explain(SPACE, "", ids(600, 1), 0)[0] == NEW
    assert misses.explain(SPACE, "", ids(20, 1), 0)[0] == "too short"


def test_what_is_remembered_is_bounded() -> None:
    misses = Misses()
    for number in range(MOST_CONVERSATIONS + 5):
        misses.remember(SPACE, str(number), ids(100), 0)
    assert misses.explain(SPACE, "0", ids(100), 0)[0] == NEW
    assert misses.explain(SPACE, "6", ids(100), 0)[0] != NEW
    for number in range(5):
        misses.remember(SPACE, str(number), ids(900_000), 0)
    assert misses._ids <= 2_000_000
    assert sum(len(p.ids) for each in misses._known.values() for p in each) == misses._ids


def test_common_length() -> None:
    assert common_length(ids(5), ids(9)) == 5
    assert common_length(ids(5), ids(5, 1)) == 0
    assert common_length(ids(0), ids(5)) == 0


# Devices


def test_after_a_lost_device_nothing_is_there() -> None:
    pages, tree = made()
    prefixes = Prefixes(pages)
    assert prefixes.tree is not None
    started(prefixes, ids(150).tolist())
    ended(prefixes, pages, ids(150).tolist())
    pages.lost = True
    assert prefixes.tree.match(Space("a", "base"), ids(150)) == Match()
    pages.append(0, 70)
    prefixes.tree.keep(Space("a", "base"), ids(70, 500), 0, partial=True)
    pages.reset()
    assert len(prefixes.tree) == 0
    assert pages.free_pages == pages.count
    assert started(prefixes, ids(150).tolist()) == 0
    assert len(tree) == 0


def test_without_pages_nothing_is_shared() -> None:
    prefixes = Prefixes(None)
    assert started(prefixes, [1, 2, 3]) == 0
    prefixes.taken(0, [1, 2, 3])
    prefixes.end(0)
    prefixes.clear()
    assert prefixes.statistics.lookups == 0

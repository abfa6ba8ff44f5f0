"""Nothing leaks between owners or weights: random histories over a small pool, read back in full.

The pool's memory is simulated: for each position the digest of all that its keys and values depend
on (weights and ids up to there), and who wrote it. After every action each slot must find there
what it believes to hold, and nothing of anybody else.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from homebox.errors import NoFreeSlotError
from homebox.model import GenerationRequest, SamplingParams
from homebox.model.decoder.pages import PAGE, Pages
from homebox.model.prefixes.misses import Space
from homebox.model.prefixes.sharing import Prefixes

SLOTS, CONTEXT, POOL = 3, 4 * PAGE, 9
OWNERS = (None, "a", "b")
WEIGHTS = ("base", "ab" * 32, "candidate")
NOBODY = -1


@dataclass
class Answer:
    """What a slot believes."""

    owner: str | None
    adapter: str
    ids: list[int]  # the prompt and what will be said
    most: int  # positions that were promised
    taken: int = 0
    digests: list[int] = field(default_factory=list)


def digests(adapter: str, ids: Sequence[int]) -> list[int]:
    """Return for each position a digest of the weights and of all ids up to it."""
    at = hash(adapter)
    return [at := hash((at, index)) for index in ids]


class Box:
    """A pool, its prefixes and its slots, as `Model` uses them."""

    def __init__(self, clears: bool = True, made: type[Prefixes] = Prefixes) -> None:
        clear = self.clear if clears else None
        self.pages = Pages(SLOTS + 1, CONTEXT, self.copy, count=POOL, clear_page=clear)
        self.prefixes = made(self.pages)
        self.content = np.zeros((POOL, PAGE), np.int64)
        self.writer = np.full((POOL, PAGE), NOBODY)
        self.answers: dict[int, Answer] = {}
        self.reused = 0

    def copy(self, source: int, target: int) -> None:
        for memory in (self.content, self.writer):
            memory[target] = memory[source]

    def clear(self, page: int) -> None:
        self.content[page], self.writer[page] = 0, NOBODY

    def start(self, owner: str | None, adapter: str, ids: list[int], most: int) -> None:
        slot = next(slot for slot in range(SLOTS) if slot not in self.answers)
        request = GenerationRequest(ids, SamplingParams(), adapter, owner, "talk")
        positions = min(len(ids) + most, CONTEXT)
        tree = self.prefixes.tree
        assert tree is not None
        space = self.prefixes.space_of(request)
        there = [np.frombuffer(key, np.int32) for at, key, _ in tree.walk() if at == space]
        best = max((common(each, ids[:-1]) for each in there), default=0)
        try:
            cached = self.prefixes.begin(slot, request, positions)
        except NoFreeSlotError:
            assert self.answers  # alone, everything that is not too long has room
            assert self.pages.length(slot) == 0
            return
        # Without room for the copy of a page that is not full, whole pages are taken.
        assert cached in (best, best // PAGE * PAGE)
        assert cached < len(ids)
        self.reused += cached
        answer = Answer(owner, adapter, ids, positions, cached)
        answer.digests = digests(adapter, ids[:cached])
        self.answers[slot] = answer

    def go_on(self, slot: int, count: int, said: Callable[[], int]) -> None:
        """Take in a chunk, or say a token; it is never refused."""
        answer = self.answers[slot]
        reading = answer.taken < len(answer.ids)
        if not reading and answer.taken == answer.most:
            return
        if not reading:
            answer.ids.append(said())
            count = 1
        end = min(answer.taken + count, len(answer.ids), answer.most)
        places = self.pages.append(slot, end - answer.taken)
        answer.digests = digests(answer.adapter, answer.ids[:end])
        self.content.reshape(-1)[places] = answer.digests[answer.taken :]
        self.writer.reshape(-1)[places] = OWNERS.index(answer.owner)
        answer.taken = end
        if reading:
            self.prefixes.taken(slot, answer.ids[:end])

    def guess(self, slot: int, count: int) -> None:
        """Take in what was guessed wrong, and go back."""
        answer = self.answers[slot]
        if answer.taken < len(answer.ids):
            return
        places = self.pages.append(slot, min(count, answer.most - answer.taken))
        self.content.reshape(-1)[places] = -1
        self.writer.reshape(-1)[places] = OWNERS.index(answer.owner)
        self.pages.truncate(slot, answer.taken)

    def close(self, slot: int, broken: bool) -> None:
        answer = self.answers.pop(slot)
        if answer.taken and not broken:
            self.prefixes.taken(slot, answer.ids[: answer.taken])
        self.prefixes.end(slot)
        self.pages.free(slot)

    def exam(self, count: int) -> None:
        """Use the slot of the model itself, which has nothing set aside."""
        free = self.pages.available(SLOTS)
        try:
            places = self.pages.append(SLOTS, count)
        except NoFreeSlotError:
            assert free < -(-count // PAGE)
            return
        self.content.reshape(-1)[places] = -2
        self.writer.reshape(-1)[places] = OWNERS.index(None)
        self.check()
        self.pages.free(SLOTS)

    def check(self) -> None:
        pages, tree = self.pages, self.prefixes.tree
        assert tree is not None
        nodes = list(tree.walk())
        holders = Counter(page for slot in range(SLOTS + 1) for page in pages.of(slot))
        holders += Counter(page for _, _, page in nodes)
        assert len({page for _, _, page in nodes}) == len(nodes) == len(tree)  # in one space only
        assert len({(space, key) for space, key, _ in nodes}) == len(nodes)
        for page in range(POOL):
            assert pages._users[page] == holders[page]
        assert pages.free_pages == POOL - len(holders)
        assert pages.idle_pages == sum(holders[page] == 1 for _, _, page in nodes)
        for slot, answer in self.answers.items():
            count = pages.length(slot)
            assert count == answer.taken
            table = pages.tables[slot][: -(-count // PAGE)]
            assert table.tolist() == list(pages.of(slot))
            assert self.content[table].reshape(-1)[:count].tolist() == answer.digests
            # Not even behind what the slot may see is there anything of somebody else.
            assert set(self.writer[table].flat) <= {NOBODY, OWNERS.index(answer.owner)}


def common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def prompts(chance: random.Random) -> list[list[int]]:
    """Return prompts that have beginnings in common, of all lengths."""
    trunk = [chance.randrange(5) for _ in range(CONTEXT)]
    found = []
    for _ in range(4):
        cut = chance.randrange(1, CONTEXT - 20)
        found.append(trunk[:cut] + [chance.randrange(5) for _ in range(chance.randrange(20))])
    return found


def history(seed: int, box: Box) -> None:
    """Let random answers come and go; every state is checked."""
    chance = random.Random(seed)
    known = prompts(chance)
    for _ in range(60):
        action = chance.random()
        slot = chance.choice([*box.answers, NOBODY])
        if action < 0.35 and len(box.answers) < SLOTS:
            ids = list(chance.choice(known))
            ids = ids[: chance.randrange(1, len(ids) + 1)] if chance.random() < 0.3 else ids
            weights = chance.choice(WEIGHTS[: chance.choice([1, 1, 1, 2, 3])])
            owner = chance.choice([*OWNERS, "a", "b"])
            box.start(owner, weights, ids, chance.choice([1, 5, 70, CONTEXT]))
        elif action < 0.8 and slot != NOBODY:
            box.go_on(slot, chance.choice([1, 16, 64, 250, 250]), lambda: chance.randrange(5))
        elif action < 0.85 and slot != NOBODY:
            box.guess(slot, chance.choice([1, 7, 64]))
        elif action < 0.95 and slot != NOBODY:
            known.append(list(box.answers[slot].ids))
            known.pop(0)
            box.close(slot, chance.random() < 0.1)
        elif action < 0.97:
            box.exam(chance.choice([1, 64, 200, CONTEXT]))
        elif action < 0.98:
            box.prefixes.clear()
        box.check()
    for slot in list(box.answers):
        box.close(slot, False)
        box.check()
    box.prefixes.clear()
    assert box.pages.free_pages == POOL
    assert box.pages.idle_pages == 0


def test_random_histories_leak_nothing_and_lose_no_page() -> None:
    reused = evictions = copies = 0
    for seed in range(500):
        box = Box()
        history(seed, box)
        found = box.prefixes.statistics
        reused += box.reused
        evictions += found.evictions
        copies += found.copies
    assert min(reused // PAGE, evictions, copies) > 100  # it happened, and often


class ByTokensAlone(Prefixes):
    """Finds whatever begins with the same ids, whose ever it is."""

    def space_of(self, request: GenerationRequest) -> Space | None:
        return Space("everybody", "any")


class WithoutWeights(Prefixes):
    """Takes prefixes of the same owner for those of any weights."""

    def space_of(self, request: GenerationRequest) -> Space | None:
        found = super().space_of(request)
        return Space(found.owner, "any") if found is not None else None


@pytest.mark.parametrize("made", [ByTokensAlone, WithoutWeights])
def test_keying_by_less_is_found_out(made: type[Prefixes]) -> None:
    """The control of the test above: it must see what is shared and must not be."""
    with pytest.raises(AssertionError):
        for seed in range(500):
            history(seed, Box(made=made))


def test_pages_that_are_not_cleared_are_found_out() -> None:
    """The control: rests of other owners lie behind what a slot sees, unless pages are zeroed."""
    with pytest.raises(AssertionError):
        for seed in range(500):
            history(seed, Box(clears=False))

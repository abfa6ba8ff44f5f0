"""Who waits for whom, whose prompt is read next, and what is told about answers."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from homebox.errors import BusyError, EngineError, NoFreeSlotError
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import SamplingParams
from homebox.scheduler import End, Engine, Generation
from homebox.scheduler.turns import Place, Turns, shared
from tests.api.fake_model import CHUNK, FakeModel, FakeSequence, Piece


class Reader:
    """A running answer of which only the reading counts."""

    finished = False
    finish_reason = None
    cached_tokens = completion_tokens = 0
    stopped_by = ""

    def __init__(self, prompt_tokens: int, prefilled: int = 0) -> None:
        self.prompt_tokens, self.prefilled = prompt_tokens, prefilled

    def close(self) -> None:
        self.finished = True


def place(ids: Sequence[int], **fields: Any) -> Place:
    async def make() -> Place:
        fields.setdefault("owner", "me")
        return Place(Generation(GenerationRequest(ids, SamplingParams(), **fields), lambda: None))

    return asyncio.run(make())


def running(ids: Sequence[int], prefilled: int = 0, **fields: Any) -> Place:
    found = place(ids, **fields)
    found.sequence = Reader(len(ids), prefilled)
    return found


IDS = list(range(1000))


def test_a_prompt_waits_until_the_common_pages_are_read() -> None:
    first = running(IDS)
    second = place([*IDS[:300], 7, 7])
    assert second.waits([first])
    assert second.common == 256
    assert isinstance(first.sequence, Reader)
    first.sequence.prefilled = 255
    assert second.waits([first])
    first.sequence.prefilled = 256
    assert not second.waits([first])


def test_several_choices_wait_for_all_pages_but_the_last_id() -> None:
    first = running(IDS[:128])
    second = place(IDS[:128])
    assert second.waits([first])
    assert second.common == 64  # the page of the last id is not shared: it is computed for each
    first.sequence.prefilled = 64  # type: ignore[union-attr]
    assert not second.waits([first])


@pytest.mark.parametrize(
    ("leader", "fields"),
    [
        ({"owner": "other"}, {}),
        ({"owner": None}, {"owner": None}),
        ({"adapter": "a"}, {"adapter": "b"}),
        ({"prefilled": 300}, {}),  # nothing common is left to read
    ],
)
def test_nobody_waits_for_what_is_not_shared(
    leader: dict[str, Any], fields: dict[str, Any]
) -> None:
    first = running([*IDS[:300], *range(5000, 5700)], **leader)
    assert not place(IDS[:400], **fields).waits([first])
    # The control: the same but for what tells them apart.
    assert place(IDS[:400]).waits([running([*IDS[:300], *range(5000, 5700)])])


def test_an_answer_waits_for_one_other_only_and_not_for_one_that_ends() -> None:
    first, second = running(IDS), place(IDS)
    assert second.waits([first])
    first.sequence.close()  # type: ignore[union-attr]
    assert not second.waits([first, running(IDS)])


def test_common_ids_are_counted() -> None:
    a, b = place([1, 2, 3]).ids, place([1, 2, 4, 5]).ids
    assert (shared(a, b), shared(b, a), shared(a, a), shared(a, a[:0])) == (2, 2, 3, 0)


def test_short_prompts_come_early_and_long_ones_go_on() -> None:
    turns = Turns()
    long = [running(range(10_000)) for _ in range(2)]
    done: list[Place] = []
    reads: dict[Place, int] = {}
    for step in range(200):
        if step % 10 == 0:  # short ones keep coming
            long.append(running(range(600)))
        first = turns.order(long)[0]
        reader = first.sequence
        assert isinstance(reader, Reader)
        reads[first] = reads.get(first, 0) + 1
        reader.prefilled = min(reader.prefilled + 100, reader.prompt_tokens)
        if not first.unread:
            done.append(first)
            long.remove(first)
    assert len(done) >= 12
    # The long ones, which came first, had their share all the time, and the same one.
    assert 20 <= reads[long[0]] <= 60
    assert abs(reads[long[0]] - reads[long[1]]) <= 60
    assert reads[long[1]] >= 20


# The engine with the fake model


@pytest.fixture
def model() -> FakeModel:
    return FakeModel(context=1 << 16)


@pytest.fixture
def engine(model: FakeModel) -> Generator[Engine, None, None]:
    engine = Engine(model, max_active=4, max_waiting=8)
    engine.start()
    yield engine
    engine.stop()


def asked(model: FakeModel, text: str, **fields: Any) -> GenerationRequest:
    ids = model.chat.render([{"role": "user", "content": text}])
    return GenerationRequest(ids, SamplingParams(), **fields)


async def read(generation: Generation) -> str:
    text = ""
    while (said := await generation.next()) is not None:
        text += said.text
    return text


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def test_choices_begin_when_the_prompt_of_the_first_is_read(
    model: FakeModel, engine: Engine
) -> None:
    seen: list[tuple[int, int]] = []
    start = model.start

    def begun(request: GenerationRequest) -> FakeSequence:
        before = [each.prefilled for each in model.sequences]
        seen.append((len(before), max(before, default=0)))
        return start(request)

    model.start = begun  # type: ignore[method-assign]
    question = "x" * 20 * CHUNK

    async def ask() -> list[str]:
        request = asked(model, question, owner="me")
        count = len(request.prompt_ids)
        answers = [engine.submit(request) for _ in range(3)]
        texts = [await read(answer) for answer in answers]
        assert seen[0] == (0, 0)
        assert all(read >= (count - 1) // 64 * 64 for _, read in seen[1:])
        return texts

    texts = asyncio.run(ask())
    assert len(texts) == len(seen) == 3
    assert len(set(texts)) == 1


def test_whoever_waits_for_another_lets_others_pass_and_is_freed_by_its_end(
    model: FakeModel, engine: Engine
) -> None:
    model.delay = 0.002

    async def ask() -> None:
        long = asked(model, "y" * 200 * CHUNK, owner="me")
        first = engine.submit(long)
        await until(lambda: len(model.sequences) == 1)
        second = engine.submit(long)
        other = engine.submit(asked(model, "hi", owner="me"))
        assert await read(other) == "<base> you said: hi"
        assert engine.load == (1, 1)
        first.cancel()
        await until(lambda: engine.load == (1, 0))
        second.cancel()
        await read(second)
        await read(first)

    asyncio.run(ask())


def test_leaving_is_noticed_in_the_queue_and_while_a_prompt_is_read(
    model: FakeModel,
) -> None:
    model.delay = 0.002
    engine = Engine(model, max_active=1)
    engine.start()

    async def ask() -> None:
        reading = engine.submit(asked(model, "z" * 1000 * CHUNK))
        waiting = engine.submit(asked(model, "hi"))
        await until(lambda: bool(model.sequences))
        waiting.cancel()
        await read(waiting)
        assert waiting.end == End("cancelled", len(waiting.prompt_ids), 0)
        (sequence,) = model.sequences
        reading.cancel()
        await read(reading)
        assert reading.end is not None
        assert reading.end.finish_reason == "cancelled"
        assert sequence.prefilled < sequence.prompt_tokens  # the rest was never read
        assert sequence.closed

    asyncio.run(ask())
    engine.stop()


def test_one_that_needs_much_memory_is_not_overtaken(model: FakeModel) -> None:
    """The fake has room for 1000 ids: a prompt of 900 waits, and small ones behind it too."""
    engine = Engine(model, max_active=8)
    start = model.start
    order: list[int] = []
    tries = 0

    def begun(request: GenerationRequest) -> FakeSequence:
        nonlocal tries
        tries += 1
        taken = sum(each.prompt_tokens for each in model.sequences)
        if taken + len(request.prompt_ids) > 1000:
            raise NoFreeSlotError("no memory")
        order.append(len(request.prompt_ids))
        return start(request)

    model.start = begun  # type: ignore[method-assign]

    async def ask() -> None:
        small = [asked(model, f"count 300 {i}") for i in range(6)]
        big = asked(model, "b" * 880)
        engine.start()
        answers = [engine.submit(each) for each in [*small[:2], big, *small[2:]]]
        for answer in answers:
            await read(answer)

    asyncio.run(ask())
    engine.stop()
    assert [length > 800 for length in order] == [False, False, True, False, False, False, False]
    assert tries <= 7 + 7  # it is tried again when somebody ended, not in every step


def test_a_full_queue_is_refused(model: FakeModel) -> None:
    engine = Engine(model, max_waiting=2)  # not started: nobody leaves the queue

    async def ask() -> None:
        for _ in range(2):
            engine.submit(asked(model, "x"))
        with pytest.raises(BusyError, match="2 requests are waiting") as caught:
            engine.submit(asked(model, "x"))
        assert caught.value.status == 429

    asyncio.run(ask())


class Heard:
    def __init__(self) -> None:
        self.first: list[float] = []
        self.next: list[float] = []
        self.ends: list[tuple[int, int, int]] = []
        self.thread = ""

    def first_token(self, seconds: float) -> None:
        self.thread = threading.current_thread().name
        self.first.append(seconds)

    def token(self, seconds: float) -> None:
        self.next.append(seconds)

    def ended(self, prompt: int, cached: int, completion: int) -> None:
        self.ends.append((prompt, cached, completion))


def test_an_observer_hears_of_every_token_and_every_end(model: FakeModel) -> None:
    heard = Heard()
    engine = Engine(model, observer=heard)
    engine.start()
    prompt = 0

    async def ask() -> None:
        nonlocal prompt
        begun = time.perf_counter()
        good = engine.submit(asked(model, "count 50"))
        prompt = len(good.prompt_ids)
        assert await read(good) == "a" * 50
        assert 0 < heard.first[0] < time.perf_counter() - begun
        with pytest.raises(EngineError):
            await read(engine.submit(asked(model, "boom")))

    asyncio.run(ask())
    engine.stop()
    assert len(heard.first) == 2
    assert len(heard.next) == 49 + 1
    assert [end[2] for end in heard.ends] == [50, 2]
    assert heard.ends[0] == (prompt, 0, 50)
    assert heard.thread == "homebox-engine"


def test_an_error_comes_after_what_was_said_before_it() -> None:
    async def run() -> list[Any]:
        generation = Generation(GenerationRequest((1, 2), SamplingParams()), lambda: None)
        generation.deliver(Piece("a", (5,)))
        generation.fail(EngineError("broken"), End("error", 2, 1))
        said = await generation.next()
        with pytest.raises(EngineError, match="broken"):
            await generation.next()
        return [
            said.text if said else None,
            generation.ids,
            generation.end,
            await generation.next(),
        ]

    assert asyncio.run(run()) == ["a", [5], End("error", 2, 1), None]

"""The engine thread: turns, learning between answers, calls, errors, the end."""

import asyncio
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from homebox.errors import BusyError, EngineError, HomeboxError, LearningError, NoFreeSlotError
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import SamplingParams
from homebox.scheduler import ANSWERS_PER_LEARNING, End, Engine, Generation, Said
from tests.api.fake_model import FakeModel, Piece

GREEDY = SamplingParams()


def prompt(model: FakeModel, text: str) -> list[int]:
    return model.chat.render([{"role": "user", "content": text}])


def asked(model: FakeModel, text: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt(model, text), GREEDY, **fields)


async def read(generation: Generation) -> str:
    text = ""
    while (said := await generation.next()) is not None:
        text += said.text
    return text


def steps(count: int, log: list[Any], pause: float = 0.0) -> Generator[int, None, str]:
    for number in range(count):
        if pause:
            time.sleep(pause)
        log.append(number)
        yield number
    return "report"


@pytest.fixture
def engine() -> Generator[Engine, None, None]:
    engine = Engine(FakeModel(), max_active=4, max_waiting=8)
    engine.start()
    yield engine
    engine.stop()


def test_answers_take_turns(engine: Engine) -> None:
    model = engine.model
    assert isinstance(model, FakeModel)

    async def ask() -> list[str]:
        slow = engine.submit(asked(model, "count 500"))
        quick = engine.submit(asked(model, "hi"))
        said = await read(quick)
        # The short answer did not have to wait for the long one before it.
        assert slow.end is None
        return [said, await read(slow)]

    assert asyncio.run(ask()) == ["<base> you said: hi", "a" * 500]
    assert model.threads == {"homebox-engine"}


def test_running_answers_share_their_steps(engine: Engine) -> None:
    model = engine.model
    assert isinstance(model, FakeModel)
    rounds: list[list[int]] = []
    original = model.step

    def step(sequences: Any) -> Any:
        rounds.append([id(sequence) for sequence in sequences])
        return original(sequences)

    model.step = step  # type: ignore[method-assign]

    async def ask() -> list[str]:
        generations = [engine.submit(asked(model, "count 200")) for _ in range(3)]
        return list(await asyncio.gather(*(read(generation) for generation in generations)))

    assert asyncio.run(ask()) == ["a" * 200] * 3
    assert model.widest == 3
    assert len(rounds) < 3 * 200  # most steps made a token for all three


def test_programs_are_made_ready_while_nobody_asks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homebox.scheduler.engine.IDLE_BEAT", 0.01)
    model = engine.model
    assert isinstance(model, FakeModel)
    assert asyncio.run(ask_once(engine, model)) == "<base> you said: x"  # no waiting for it
    deadline = time.monotonic() + 60
    while model.unprepared:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_answer_that_breaks_breaks_no_other(engine: Engine) -> None:
    model = engine.model
    assert isinstance(model, FakeModel)

    async def ask() -> str:
        good = engine.submit(asked(model, "count 100"))
        bad = engine.submit(asked(model, "boom"))
        with pytest.raises(EngineError, match="told to fail"):
            await read(bad)
        return await read(good)

    assert asyncio.run(ask()) == "a" * 100
    assert not model.sequences


def test_learning_runs_alone_when_nobody_asks(engine: Engine) -> None:
    log: list[Any] = []
    heard: list[int] = []
    learning = engine.learn(steps(50, log))
    stop = learning.listen(heard.append)
    assert learning.result.result(10) == "report"
    stop()
    assert log == list(range(50))
    assert heard == list(range(50 - len(heard), 50))
    assert engine.learning is None


def test_learning_goes_on_between_answers_and_lets_them_pass(engine: Engine) -> None:
    model = engine.model
    assert isinstance(model, FakeModel)
    model.delay = 0.001
    order: list[str] = []
    original = model.start

    def start(*args: Any) -> Any:
        sequence = original(*args)
        step = sequence.step

        def logged() -> Any:
            order.append("answer")
            return step()

        sequence.step = logged  # type: ignore[method-assign]
        return sequence

    model.start = start  # type: ignore[method-assign]

    def learn() -> Generator[int, None, None]:
        while True:
            time.sleep(0.002)
            order.append("learn")
            yield 0

    async def ask() -> str:
        generation = engine.submit(asked(model, "count 200"))
        await generation.next()
        engine.learn(learn())
        return await read(generation)

    assert asyncio.run(ask()).startswith("a")
    mixed = order[order.index("learn") : len(order) - order[::-1].index("answer")]
    # Both go on: learning is not starved, and never takes two steps while an answer waits.
    assert mixed.count("learn") >= 5
    assert "learn learn" not in " ".join(mixed)
    assert mixed.count("answer") >= ANSWERS_PER_LEARNING * (mixed.count("learn") - 2)


def test_one_learning_at_a_time(engine: Engine) -> None:
    gate = threading.Event()

    def wait() -> Generator[int, None, str]:
        while not gate.is_set():
            time.sleep(0.001)
            yield 0
        return "first"

    first = engine.learn(wait())
    with pytest.raises(BusyError, match="running already"):
        engine.learn(wait())
    gate.set()
    assert first.result.result(10) == "first"
    assert engine.learn(steps(1, [])).result.result(10) == "report"


def test_learning_can_be_stopped_and_cleans_up(engine: Engine) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    def learn() -> Generator[int, None, None]:
        try:
            while True:
                begun.set()
                yield 0
        finally:
            cleaned.set()

    learning = engine.learn(learn())
    assert begun.wait(10)
    assert engine.stop_learning("the owner rolled back") is learning
    with pytest.raises(LearningError, match="rolled back"):
        learning.result.result(10)
    assert cleaned.wait(10)
    assert engine.stop_learning("nothing runs") is None


def test_learning_that_breaks_breaks_nothing_else(engine: Engine) -> None:
    def learn() -> Generator[int, None, None]:
        yield 0
        raise ValueError("NaN")

    with pytest.raises(ValueError, match="NaN"):
        engine.learn(learn()).result.result(10)
    assert engine.call(lambda: 5).result(10) == 5


def test_calls_run_on_the_engine_thread_and_pass_errors_on(engine: Engine) -> None:
    name = engine.call(lambda: threading.current_thread().name).result(10)
    assert name == "homebox-engine"
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(10)


def test_waiting_for_a_slot_is_not_an_error() -> None:
    model = FakeModel(slots=1)
    engine = Engine(model, max_active=3, max_waiting=8)
    engine.start()

    async def ask() -> list[str]:
        generations = [engine.submit(asked(model, f"n {i}")) for i in range(4)]
        return [await read(generation) for generation in generations]

    assert asyncio.run(ask()) == [f"<base> you said: n {i}" for i in range(4)]
    engine.stop()


def test_a_slot_that_learning_holds_is_waited_for() -> None:
    model = FakeModel(slots=1)
    engine = Engine(model)
    held = threading.Event()

    def learn() -> Generator[int, None, None]:
        sequence = model.start(asked(model, "exam"))
        for _ in range(20):
            held.set()
            yield 0
        sequence.close()
        yield 0

    async def ask() -> str:
        engine.learn(learn())
        engine.start()
        await asyncio.to_thread(held.wait, 20)
        return await read(engine.submit(asked(model, "x")))

    assert asyncio.run(ask()) == "<base> you said: x"
    engine.stop()


def test_a_slot_that_never_comes_is_an_error() -> None:
    model = FakeModel(slots=0)
    engine = Engine(model)
    engine.start()
    with pytest.raises(NoFreeSlotError):
        asyncio.run(ask_once(engine, model))
    engine.stop()


async def ask_once(engine: Engine, model: FakeModel) -> str:
    return await read(engine.submit(asked(model, "x")))


def test_the_end_comes_to_everybody(engine: Engine) -> None:
    model = engine.model
    assert isinstance(model, FakeModel)

    async def ask() -> list[Any]:
        running = [engine.submit(asked(model, "endless")) for _ in range(6)]
        learning = engine.learn(steps(10**9, []))
        await running[0].next()
        await asyncio.to_thread(engine.stop)
        for generation in running:
            await read(generation)
        with pytest.raises(LearningError, match="shutting down"):
            learning.result.result(10)
        return [generation.end.finish_reason for generation in running if generation.end]

    assert asyncio.run(ask()) == ["cancelled"] * 6
    assert not model.sequences
    with pytest.raises(BusyError, match="shutting down"):
        engine.call(lambda: None)


def test_a_dead_engine_says_so() -> None:
    def fail() -> None:
        raise RuntimeError("the watchdog barked")

    engine = Engine(FakeModel(), heartbeat=fail)
    engine.start()
    engine._thread.join(10)
    with pytest.raises(HomeboxError, match="barked"):
        engine.call(lambda: None)
    assert isinstance(engine.failure, RuntimeError)


def test_a_reader_behind_the_model_gets_all_at_once_and_keeps_nobody_waiting() -> None:
    async def run() -> tuple[list[Said | None], int]:
        generation = Generation(GenerationRequest((1,), GREEDY), lambda: None)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        pieces = []
        for _ in range(50):  # text is at hand at every reading
            for _ in range(10):
                generation.deliver(Piece("x", (5,)))
            pieces.append(await generation.next())
        generation.deliver(Piece("y", (6,)))
        generation.deliver(End("stop", 1, 501))
        pieces += [await generation.next(), await generation.next(), await generation.next()]
        beside.cancel()
        assert generation.ids == [5] * 500 + [6]
        assert generation.end == End("stop", 1, 501)
        return pieces, turns

    pieces, turns = asyncio.run(run())
    assert pieces == [Said("x" * 10, (5,) * 10)] * 50 + [Said("y", (6,)), None, None]
    assert turns >= 50


def test_patience_ends_without_text_and_loses_none() -> None:
    async def run() -> list[Said | None]:
        generation = Generation(GenerationRequest((1,), GREEDY), lambda: None)
        first = await generation.next(0.01)
        generation.deliver(Piece("a", (7,)))
        return [first, await generation.next(10), await generation.next(0.01)]

    assert asyncio.run(run()) == [Said(), Said("a", (7,)), Said()]


def test_answers_wait_for_a_guest_who_holds_all_memory() -> None:
    model = FakeModel(slots=1)
    engine = Engine(model)
    engine.start()
    taken = model.start(asked(model, "hold"))

    async def run() -> str:
        with engine.guest():
            answer = asyncio.ensure_future(ask_once(engine, model))
            await asyncio.sleep(0.1)
            assert not answer.done()
            await asyncio.wrap_future(engine.call(taken.close))
        return await answer

    assert asyncio.run(run()) == "<base> you said: x"
    # The control: nobody told the engine of this one.
    model.start(asked(model, "hold"))
    with pytest.raises(NoFreeSlotError):
        asyncio.run(ask_once(engine, model))
    engine.stop()

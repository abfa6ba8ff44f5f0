"""A request does not wait for the end of a micro-step of learning."""

import asyncio
import threading
import time
from collections.abc import Generator

import pytest

from homebox.scheduler import Engine
from tests.api.fake_model import FakeModel
from tests.api.test_scheduler import asked, read


class Flag(threading.Event):
    """As much of an interrupt as the engine thread needs."""


def long_step(flag: Flag, over: threading.Event, pauses: list[float]) -> Generator[int, None, str]:
    """One micro-step that lasts until `over`, and pauses when it is asked to."""
    while not over.is_set():
        time.sleep(0.001)
        if flag.is_set():
            pauses.append(time.monotonic())
            yield 0
    return "learnt"


@pytest.mark.parametrize("wired", [True, False])
def test_a_request_interrupts_a_micro_step(wired: bool) -> None:
    flag, over, pauses = Flag(), threading.Event(), []
    model = FakeModel()
    engine = Engine(model, interrupt=flag if wired else None)
    engine.start()
    try:
        learning = engine.learn(long_step(flag, over, pauses))
        time.sleep(0.02)
        assert not pauses  # nobody waits: nothing interrupts

        async def ask() -> str:
            generation = engine.submit(asked(model, "hi"))
            return await asyncio.wait_for(read(generation), 20 if wired else 0.3)

        if wired:
            assert asyncio.run(ask()) == "<base> you said: hi"
            assert pauses and not learning.result.done()
            assert engine.call(lambda: 7).result(20) == 7
            deadline = time.monotonic() + 20
            while flag.is_set() and time.monotonic() < deadline:
                time.sleep(0.001)
            assert not flag.is_set()  # alone again, learning runs on without pauses
        else:  # the control: without the wire the request waits for the step
            with pytest.raises(TimeoutError):
                asyncio.run(ask())
            assert not pauses
        over.set()
        assert learning.result.result(20) == "learnt"
    finally:
        over.set()
        engine.stop()


def test_stopping_interrupts_too() -> None:
    flag, pauses = Flag(), []
    engine = Engine(FakeModel(), interrupt=flag)
    engine.start()
    engine.learn(long_step(flag, threading.Event(), pauses))
    time.sleep(0.01)
    engine.stop(20)
    assert pauses

"""Times that may be moved on: what is called, when, and that nothing is left in the loop."""

import asyncio
import heapq
from collections.abc import Callable, Iterator

import pytest

from homebox.scheduler.deadline import Deadline


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time is set by hand."""

    now = 0.0

    def time(self) -> float:
        """Return the time that was set."""
        return self.now

    def turn(self, to: float) -> int:
        """Go on to a time; return how many timers there are then."""
        self.now = to
        self.run_until_complete(asyncio.sleep(0))
        self.run_until_complete(asyncio.sleep(0))
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return sum(not timer.cancelled() for timer in heapq.nsmallest(99, scheduled))


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.close()


def begun(clock: Clock, action: Callable[[], None]) -> Deadline:
    async def begin() -> Deadline:
        return Deadline(action)

    return clock.run_until_complete(begin())


def test_it_calls_once_when_its_time_has_come(clock: Clock) -> None:
    calls: list[float] = []
    deadline = begun(clock, lambda: calls.append(clock.now))
    deadline.set(5.0)
    assert clock.turn(4.9) == 1 and not calls
    assert clock.turn(5.0) == 0 and calls == [5.0]
    clock.turn(50.0)
    assert calls == [5.0]


def test_moved_on_it_calls_at_the_last_time(clock: Clock) -> None:
    calls: list[float] = []
    deadline = begun(clock, lambda: calls.append(clock.now))
    for now in range(100):
        clock.turn(float(now))
        deadline.set(5.0)
        assert clock.turn(float(now)) == 1  # one timer, however often it is set
    clock.turn(103.9)
    assert not calls
    clock.turn(104.0)
    assert calls == [104.0]


def test_moved_before_its_timer_it_is_not_late(clock: Clock) -> None:
    calls: list[float] = []
    deadline = begun(clock, lambda: calls.append(clock.now))
    deadline.set(60.0)
    deadline.set(1.0)
    assert clock.turn(1.0) == 0 and calls == [1.0]


def test_dropped_or_closed_it_calls_nothing(clock: Clock) -> None:
    calls: list[float] = []
    deadline = begun(clock, lambda: calls.append(clock.now))
    deadline.set(5.0)
    deadline.drop()
    assert clock.turn(6.0) == 0
    deadline.set(5.0)
    deadline.close()
    assert clock.turn(6.0) == 0  # not even a timer
    clock.turn(100.0)
    assert not calls
    deadline.set(1.0)
    assert clock.turn(101.0) == 0 and calls == [101.0]

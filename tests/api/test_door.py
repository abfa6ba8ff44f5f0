"""The door in front of the model: who passes, who waits, who is turned away."""

import asyncio

import pytest

from homebox.api.door import Door
from homebox.errors import BusyError, DaemonError


async def hold(door: Door[str], until: asyncio.Event, seen: list[str]) -> None:
    async with door.enter() as service:
        seen.append(service)
        await until.wait()


def test_whoever_passed_keeps_what_was_there_and_is_counted() -> None:
    async def run() -> None:
        door, until, seen = Door("old"), asyncio.Event(), list[str]()
        task = asyncio.ensure_future(hold(door, until, seen))
        await asyncio.sleep(0)
        door.open("new")
        async with door.enter() as service:
            assert service == "new"
            assert (door.users("old"), door.users("new")) == (1, 1)
        assert not await door.left("old", 0.01)
        until.set()
        assert await door.left("old", 5)
        await task
        assert seen == ["old"]

    asyncio.run(run())


def test_a_closed_door_lets_some_wait_and_turns_away_the_rest() -> None:
    async def run() -> None:
        door, until, seen = Door("old", most=2), asyncio.Event(), list[str]()
        door.close()
        until.set()
        waiting = [asyncio.ensure_future(hold(door, until, seen)) for _ in range(2)]
        await asyncio.sleep(0)
        assert door.waiting == 2
        with pytest.raises(BusyError, match="2 requests are waiting"):
            async with door.enter():
                pass
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert door.waiting == 1  # whoever leaves makes room
        door.open("new")
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (door.waiting, seen) == (0, ["new"])

    asyncio.run(run())


def test_a_wait_has_an_end() -> None:
    async def run() -> None:
        door = Door("old", patience=0.01)
        door.close()
        with pytest.raises(DaemonError, match="still switching"):
            async with door.enter():
                pass
        assert door.waiting == 0

    asyncio.run(run())


def test_those_who_wait_hear_that_nobody_will_open_until_somebody_does() -> None:
    async def run() -> None:
        door, until, seen = Door("old"), asyncio.Event(), list[str]()
        until.set()
        door.close()
        waiting = asyncio.ensure_future(hold(door, until, seen))
        await asyncio.sleep(0)
        door.refuse(DaemonError("all is lost"))
        with pytest.raises(DaemonError, match="all is lost"):
            await waiting
        assert door.refused
        door.open("new")
        door.close()
        waiting = asyncio.ensure_future(hold(door, until, seen))
        await asyncio.sleep(0)
        door.open("newer")
        await waiting
        assert seen == ["newer"]

    asyncio.run(run())


def test_a_reader_who_is_cut_off_is_gone_too() -> None:
    async def run() -> None:
        door, seen = Door("old"), list[str]()
        task = asyncio.ensure_future(hold(door, asyncio.Event(), seen))
        await asyncio.sleep(0)
        task.cancel()
        assert await door.left("old", 5)

    asyncio.run(run())

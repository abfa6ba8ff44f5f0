"""When the box learns on its own: the hours, the machine, and who goes first."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from homebox.config import ScheduleConfig
from homebox.errors import LearningError
from homebox.learning.report import Report
from homebox.night.decision import Situation, hindrance, over
from homebox.night.machine import Energy, Machine, Watcher
from homebox.night.night import OFF, PREFIX, Night
from homebox.night.tonight import FILE, Tonight, keep, read
from homebox.night.window import Window

QUIET = Machine(0.0, True, None)
NOON = datetime(2026, 3, 4, 12, 0)
DEEP = datetime(2026, 3, 4, 2, 0)


def at(clock: str, day: int = 4) -> datetime:
    return datetime(2026, 3, day, int(clock[:2]), int(clock[3:]))


@pytest.mark.parametrize(
    ("begin", "end", "clock", "night"),
    [
        ("01:00", "06:00", "00:59", ""),
        ("01:00", "06:00", "01:00", "2026-03-04"),
        ("01:00", "06:00", "05:59", "2026-03-04"),
        ("01:00", "06:00", "06:00", ""),
        ("22:30", "06:00", "22:30", "2026-03-04"),
        ("22:30", "06:00", "05:00", "2026-03-03"),
        ("22:30", "06:00", "12:00", ""),
        ("00:00", "00:00", "12:00", "2026-03-04"),
    ],
)
def test_a_night_is_named_by_the_day_on_which_it_began(
    begin: str, end: str, clock: str, night: str
) -> None:
    assert Window(begin, end).night(at(clock)) == night


def test_the_next_night_is_today_or_tomorrow() -> None:
    assert Window("01:00", "06:00").next(at("00:30")) == at("01:00")
    assert Window("01:00", "06:00").next(at("01:00")) == at("01:00", 5)


def situation(**changed: Any) -> Situation:
    given: dict[str, Any] = {"now": DEEP, "idle": 3600.0, "machine": QUIET, **changed}
    return Situation(**given)


@pytest.mark.parametrize(
    ("schedule", "changed", "words"),
    [
        ({}, {"idle": 599.0}, "somebody uses the box"),
        ({}, {"machine": Machine(0.31, True, None)}, "31% of the processors"),
        ({}, {"machine": Machine(0.0, False, None)}, "battery"),
        ({}, {"machine": Machine(0.0, True, 0.9)}, "graphics card"),
        ({"idle_minutes": 120.0}, {}, "somebody uses the box"),
    ],
)
def test_each_hindrance_keeps_learning_from_beginning(
    schedule: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    assert hindrance(ScheduleConfig(), situation(), running=False) == ""
    assert words in hindrance(ScheduleConfig(**schedule), situation(**changed), running=False)


def test_what_cannot_be_read_holds_nothing_up() -> None:
    unknown = Machine(None, None, None)
    assert hindrance(ScheduleConfig(), situation(machine=unknown), running=False) == ""


def test_a_run_goes_on_sooner_than_it_begins_and_owns_the_card() -> None:
    busy = situation(idle=61.0, machine=Machine(0.0, True, 1.0))
    assert hindrance(ScheduleConfig(), busy, running=True) == ""
    assert hindrance(ScheduleConfig(), busy, running=False) == "somebody uses the box"


@pytest.mark.parametrize(
    ("schedule", "changed", "words"),
    [
        ({}, {"now": NOON}, "the night is over"),
        ({"max_minutes": 5}, {"learned": 300.0}, "5 minutes"),
        ({"max_watt_hours": 2.0}, {"energy": 2.5}, "2 watt hours"),
    ],
)
def test_each_budget_ends_the_night(
    schedule: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    assert over(ScheduleConfig(**schedule), situation()) == ""
    assert words in over(ScheduleConfig(**schedule), situation(**changed))


def test_energy_that_cannot_be_read_does_not_count() -> None:
    assert over(ScheduleConfig(max_watt_hours=1.0), situation(energy=None)) == ""


# -- the machine --------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_share_of_others_is_what_is_busy_and_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [100.0]
    monkeypatch.setattr("homebox.night.machine.time.process_time", lambda: used[0])
    monkeypatch.setattr("homebox.night.machine.os.sysconf", lambda name: 100)
    write(tmp_path / "proc/stat", "cpu 1000 0 0 1000 0 0 0 0 0 0\ncpu0 1 2 3\n")
    watcher = Watcher(tmp_path)
    # 20 s of processors pass: 12 busy, of which 7 are ours.
    write(tmp_path / "proc/stat", "cpu 2200 0 0 1800 0 0 0 0 0 0\n")
    used[0] = 107.0
    assert watcher.look().others == pytest.approx(5 / 20)
    write(tmp_path / "proc/stat", "cpu nonsense\n")
    assert watcher.look().others is None


@pytest.mark.parametrize(
    ("files", "mains"),
    [
        ({}, True),
        ({"AC/type": "Mains\n", "AC/online": "1\n", "BAT0/type": "Battery\n"}, True),
        ({"AC/type": "Mains\n", "AC/online": "0\n", "BAT0/type": "Battery\n"}, False),
        ({"BAT0/type": "Battery\n"}, None),
    ],
)
def test_mains_power_is_read_where_it_is_told(
    tmp_path: Path, files: dict[str, str], mains: bool | None
) -> None:
    for name, text in files.items():
        write(tmp_path / "sys/class/power_supply" / name, text)
    assert Watcher(tmp_path).look().on_mains is mains


def test_energy_is_added_up_over_packages_and_turns_of_their_counters(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/powercap"
    for name, count in (("intel-rapl:0", 1_000_000_000), ("intel-rapl:1", 5_000_000_000)):
        write(folder / name / "energy_uj", f"{count}\n")
        write(folder / name / "max_energy_range_uj", "10000000000\n")
    write(folder / "intel-rapl:0:0" / "energy_uj", "1\n")  # a part of package 0
    energy = Energy(tmp_path)
    assert energy.readable and energy.used() == 0.0
    write(folder / "intel-rapl:0" / "energy_uj", "4600000000\n")
    write(folder / "intel-rapl:1" / "energy_uj", "0\n")
    assert energy.used() == pytest.approx((3.6e9 + 5e9) / 3.6e9)
    assert not Energy(tmp_path / "nowhere").readable


# -- the loop -----------------------------------------------------------------------------------


@dataclass
class FakeBox:
    """A box whose run ends when it is told to."""

    seconds: float = 3600.0
    reason: str = ""
    begun: int = 0
    stopped: list[str] = field(default_factory=list)
    result: "asyncio.Future[Any] | None" = None

    def idle(self) -> float:
        return self.seconds

    def learning(self) -> bool:
        return self.result is not None and not self.result.done()

    def paused(self) -> str:
        return self.reason

    def begin(self) -> Coroutine[Any, Any, Any]:
        self.begun += 1
        result = self.result = asyncio.get_running_loop().create_future()

        async def wait() -> Any:
            return await result

        return wait()

    def pause(self, reason: str) -> None:
        self.reason = reason

    def resume(self) -> None:
        self.reason = ""

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)
        if self.result is not None and not self.result.done():
            self.result.set_exception(LearningError(reason))

    def end(self) -> None:
        assert self.result is not None
        self.result.set_result(Report(True, "w", "base", ["learned 1"]))


class Watching:
    """A machine that does what the test says."""

    def __init__(self) -> None:
        self.machine = QUIET

    def look(self) -> Machine:
        return self.machine


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def night(box: FakeBox, clock: Clock, **schedule: Any) -> tuple[Night, Watching]:
    watching = Watching()
    none = Energy(Path("/nonexistent"))
    made = Night(ScheduleConfig(**schedule), box, watching, none, clock)  # type: ignore[arg-type]
    return made, watching


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_box_learns_once_a_night_when_nobody_is_there() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(NOON)
        loop, _ = night(box, clock)
        loop.look()
        assert (box.begun, loop.waits) == (0, "the night is over (01:00 to 06:00)")
        clock.now = DEEP
        box.seconds = 10.0
        loop.look()
        assert (box.begun, loop.waits) == (0, "somebody uses the box")
        box.seconds = 700.0
        loop.look()
        await settle()
        assert box.begun == 1 and loop.as_json()["running"]
        box.end()
        await settle()
        loop.look()
        await settle()
        assert box.begun == 1 and loop.as_json()["result"] == "learned 1"
        clock.now = DEEP + timedelta(days=1)
        loop.look()
        await settle()
        assert box.begun == 2

    asyncio.run(work())


def test_whoever_comes_pauses_it_and_it_goes_on_when_they_are_gone() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(DEEP)
        loop, watching = night(box, clock)
        loop.look()
        await settle()
        box.seconds = 0.0
        loop.look()
        assert box.reason == PREFIX + "somebody uses the box"
        box.seconds = 59.0
        loop.look()
        assert box.reason
        box.seconds = 61.0
        loop.look()
        assert box.reason == ""
        watching.machine = Machine(0.0, False, None)
        loop.look()
        assert "battery" in box.reason
        clock.now = at("06:00")
        loop.look()
        await settle()
        assert "night is over" in box.stopped[0] and not loop.as_json()["running"]

    asyncio.run(work())


def test_what_the_owner_paused_or_began_is_left_alone() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(DEEP)
        loop, _ = night(box, clock)
        loop.look()
        await settle()
        box.reason = "paused by the owner"
        loop.look()
        assert box.reason == "paused by the owner"
        other = FakeBox()
        other.result = asyncio.get_running_loop().create_future()  # "homebox learn --now"
        loop, _ = night(other, clock)
        loop.look()
        await settle()
        other.seconds = 0.0
        loop.look()
        assert (other.begun, other.reason, other.stopped) == (0, "", [])

    asyncio.run(work())


def test_a_box_that_shall_not_learn_alone_does_not() -> None:
    async def work() -> None:
        box = FakeBox()
        loop, _ = night(box, Clock(DEEP), enabled=False)
        loop.look()
        await settle()
        assert box.begun == 0
        # Control: the same box does when it may.
        loop, _ = night(box, Clock(DEEP))
        loop.look()
        await settle()
        assert box.begun == 1

    asyncio.run(work())


def test_a_run_that_breaks_is_told_and_not_begun_again_in_the_same_night() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(DEEP)
        loop, _ = night(box, clock)
        loop.look()
        await settle()
        assert box.result is not None
        box.result.set_exception(ZeroDivisionError("by nobody"))
        await settle()
        loop.look()
        await settle()
        found = loop.as_json()
        assert box.begun == 1 and found["done"] and "by nobody" in found["result"]
        clock.now = DEEP + timedelta(days=1)
        loop.look()
        await settle()
        assert box.begun == 2

    asyncio.run(work())


# -- clocks, sleep and restarts -------------------------------------------------------------------


async def learned(loop: Night, box: FakeBox) -> None:
    """Let a run begin and end."""
    loop.look()
    await settle()
    assert loop.as_json()["running"]
    box.end()
    await settle()


def test_a_night_over_midnight_is_one_night() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(at("23:00"))
        loop, _ = night(box, clock, begin="22:30", end="06:00")
        await learned(loop, box)
        for later in (at("00:00", 5), at("02:00", 5), at("05:59", 5)):
            clock.now = later
            loop.look()
            await settle()
        assert box.begun == 1
        clock.now = at("22:30", 5)
        loop.look()
        await settle()
        assert box.begun == 2

    asyncio.run(work())


@pytest.mark.parametrize("back", [timedelta(seconds=1), timedelta(minutes=59), timedelta(hours=1)])
def test_a_clock_that_goes_back_gives_no_second_run(back: timedelta) -> None:
    """The hour that comes twice when summer ends, and a clock that the network puts right."""

    async def work() -> None:
        box, clock = FakeBox(), Clock(at("02:59"))
        loop, _ = night(box, clock)
        await learned(loop, box)
        clock.now -= back
        loop.look()
        await settle()
        assert box.begun == 1 and loop.as_json()["done"]

    asyncio.run(work())


def test_a_clock_that_goes_back_from_the_end_begins_nothing_anew() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(at("05:59"))
        loop, _ = night(box, clock)
        loop.look()
        await settle()
        clock.now = at("06:00")
        loop.look()
        await settle()
        assert len(box.stopped) == 1
        clock.now = at("05:58")
        loop.look()
        await settle()
        assert box.begun == 1

    asyncio.run(work())


def test_an_hour_that_does_not_come_is_a_night_that_is_left_out() -> None:
    """Where clocks go from 01:59 to 03:00, a window in between does not come that day."""

    async def work() -> None:
        box, clock = FakeBox(), Clock(at("01:59"))
        loop, _ = night(box, clock, begin="02:00", end="03:00")
        for later in (at("01:59"), at("03:00"), at("03:01")):
            clock.now = later
            loop.look()
            await settle()
        assert (box.begun, loop.waits) == (0, "the night is over (02:00 to 03:00)")
        assert loop.as_json()["next"] == at("02:00", 5).isoformat(timespec="minutes")
        clock.now = at("02:00", 5)
        loop.look()
        await settle()
        assert box.begun == 1

    asyncio.run(work())


def test_a_machine_that_slept_until_noon_ends_its_run_and_counts_no_time_of_it() -> None:
    """Closed lids: what is counted is time in which programs ran, not that of the clock."""

    async def work() -> None:
        box, clock = FakeBox(), Clock(DEEP)
        loop, _ = night(box, clock, max_minutes=1)
        loop.look()
        await settle()
        clock.now = DEEP + timedelta(minutes=30)  # slept, and the night goes on
        loop.look()
        await settle()
        assert box.stopped == [] and loop.as_json()["learned_s"] < 60
        clock.now = NOON
        loop.look()
        await settle()
        assert "the night is over" in box.stopped[0] and not loop.as_json()["running"]

    asyncio.run(work())


def test_a_restart_in_the_night_goes_on_in_the_same_night() -> None:
    async def work() -> None:
        clock = Clock(DEEP)
        loop, _ = night(FakeBox(), clock)
        loop.look()
        await settle()
        assert loop.as_json()["running"]
        box = FakeBox()  # the machine was started again; the run has its checkpoint
        loop, _ = night(box, clock)
        loop.look()
        await settle()
        assert box.begun == 1

    asyncio.run(work())


class Meter:
    """Counters of energy that the test moves, and that begin at 0 with the machine."""

    readable = True

    def __init__(self) -> None:
        self.watt_hours = 0.0

    def used(self) -> float:
        return self.watt_hours


def started(kept: Path | None, clock: Clock, **schedule: Any) -> tuple[Night, FakeBox, Meter]:
    """Start the machine."""
    box, meter = FakeBox(), Meter()
    parts: Any = (box, Watching(), meter)
    return Night(ScheduleConfig(**schedule), *parts, clock, kept), box, meter


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "control"])
@pytest.mark.parametrize("budget", [{"max_minutes": 10}, {"max_watt_hours": 5.0}])
def test_a_budget_is_one_night_s_over_restarts(
    tmp_path: Path, kept: bool, budget: dict[str, Any]
) -> None:
    """The machine is started again in the middle of a night, without warning or in order."""
    place = tmp_path / FILE if kept else None

    async def work() -> None:
        loop, clock = asyncio.get_running_loop(), Clock(DEEP)
        begun, passed = loop.time(), 0.0
        loop.time = lambda: begun + passed  # type: ignore[method-assign]
        for killed in (True, False):
            night, box, meter = started(place, clock, **budget)
            night.look()
            await settle()
            assert box.begun == 1
            passed += 299.0
            meter.watt_hours += 2.4
            night.look()
            assert box.stopped == []
            if not killed:
                box.stop("the box ends")
                await settle()
        night, box, meter = started(place, clock, **budget)
        assert night.tonight.learned == pytest.approx(598.0 if kept else 0.0)
        night.look()
        await settle()
        passed += 10.0
        meter.watt_hours += 0.3
        night.look()
        await settle()
        assert bool(box.stopped) == kept
        night, box, meter = started(place, clock, **budget)
        night.look()
        await settle()
        assert box.begun == (not kept)
        clock.now = DEEP + timedelta(days=1)
        night, box, meter = started(place, clock, **budget)
        night.look()
        await settle()
        assert box.begun == 1 and night.tonight.learned == 0.0

    asyncio.run(work())


def test_a_night_that_ended_is_not_begun_again_by_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        clock = Clock(DEEP)
        night, box, _ = started(tmp_path / FILE, clock)
        await learned(night, box)
        night, box, _ = started(tmp_path / FILE, clock)
        night.look()
        await settle()
        assert box.begun == 0 and night.as_json()["done"]
        assert "learned 1" not in (tmp_path / FILE).read_text()

    asyncio.run(work())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"name": "x", "done": false, "learned": NaN, "energy": 0}', "\udcff"],
)
def test_a_night_that_cannot_be_read_is_counted_anew(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read(path) == Tonight()
    assert "is counted anew" in caplog.text
    keep(path, Tonight("2026-03-04", True, 1.5, 2.0, "words"))
    assert read(path) == Tonight("2026-03-04", True, 1.5, 2.0)
    caplog.clear()
    keep(tmp_path / "none" / FILE, Tonight())  # a disk that takes nothing stops nobody
    assert "budget" in caplog.text


def test_a_night_that_is_switched_off_ends_its_run_and_no_other() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(DEEP)
        loop, _ = night(box, clock)
        loop.look()
        await settle()
        loop.schedule = replace(loop.schedule, enabled=False)
        loop.look()
        await settle()
        assert box.stopped == [OFF] and not loop.as_json()["running"]
        mine = FakeBox()
        mine.result = asyncio.get_running_loop().create_future()  # "homebox learn --now"
        loop, _ = night(mine, clock, enabled=False)
        loop.look()
        assert mine.stopped == []

    asyncio.run(work())


def test_a_laptop_that_is_unplugged_waits_and_goes_on_when_it_is_plugged_in() -> None:
    async def work() -> None:
        box, clock = FakeBox(), Clock(DEEP)
        loop, watching = night(box, clock)
        watching.machine = Machine(0.0, False, None)
        loop.look()
        assert (box.begun, loop.waits) == (0, "the machine runs on battery")
        watching.machine = QUIET
        loop.look()
        await settle()
        watching.machine = Machine(0.0, False, None)
        loop.look()
        assert box.reason == PREFIX + "the machine runs on battery"
        watching.machine = QUIET
        loop.look()
        assert (box.begun, box.reason) == (1, "")

    asyncio.run(work())

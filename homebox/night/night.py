"""Learns once a night, when nobody needs the machine, and gives way to whoever comes.

The one idea: every few seconds the situation is looked at, and begin, pause, resume and stop follow
from it alone (`decision`). What was stopped goes on in the next night from its checkpoint. What
the owner began or paused by hand is theirs: the night leaves it alone.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from homebox.config import ScheduleConfig
from homebox.errors import HomeboxError
from homebox.night.decision import Situation, hindrance, over
from homebox.night.machine import Energy, Watcher
from homebox.night.tonight import Tonight, keep, read
from homebox.night.window import Window

log = logging.getLogger("homebox.night")

BEAT = 10.0  # seconds between two looks
KEPT = 60.0  # seconds of learning between two times that what was used is written down
PREFIX = "night: "  # of reasons for pauses that the night may take back
OFF = 'learning at night was switched off; "homebox learn --now" goes on from there'


class Box(Protocol):
    """What the night needs of the daemon."""

    def idle(self) -> float:
        """Return the seconds since the last request; 0 while one is answered."""
        ...

    def learning(self) -> bool:
        """Whether a run is on, paused or not."""
        ...

    def paused(self) -> str:
        """Return why the run is paused; "" if it is not."""
        ...

    def begin(self) -> Coroutine[Any, Any, Any]:
        """Learn; gives the report at the end."""
        ...

    def pause(self, reason: str) -> None:
        """Take no step until `resume`."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def stop(self, reason: str) -> None:
        """End the run before its next step."""
        ...


@dataclass
class Night:
    """The loop; `clock` gives local time, `kept` names the file in which a night is kept."""

    schedule: ScheduleConfig
    box: Box
    watcher: Watcher = field(default_factory=Watcher)
    energy: Energy = field(default_factory=Energy)
    clock: Callable[[], datetime] = datetime.now
    kept: Path | None = None

    def __post_init__(self) -> None:
        self.tonight = read(self.kept)
        self._written = self.tonight.learned
        self.waits = ""  # why nothing is learned now
        self._run: asyncio.Task[Any] | None = None
        self._last = (0.0, 0.0)  # loop time and energy at the look before

    async def watch(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                self.look()
            except HomeboxError as error:
                log.warning("the night waits: %s", error)
            except Exception:
                log.exception("the night could not look at the box; it looks again")
            await asyncio.sleep(BEAT)

    def look(self) -> None:
        """Do what the situation asks for."""
        if not self.schedule.enabled:
            if self._run is not None:
                self.box.stop(OFF)
            return
        now = self.clock()
        self._enter(Window(self.schedule.begin, self.schedule.end).night(now))
        self._count()
        used = self.tonight.energy if self.energy.readable else None
        machine = self.watcher.look()
        situation = Situation(now, self.box.idle(), machine, self.tonight.learned, used)
        if self._run is not None:
            self._steer(situation)
        elif not (self.tonight.done or self.box.learning()):
            self.waits = over(self.schedule, situation) or hindrance(
                self.schedule, situation, running=False
            )
            if not self.waits:
                log.info("nobody needs the box; it learns")
                self._run = asyncio.ensure_future(self._learn())

    def as_json(self) -> dict[str, Any]:
        """Say what is planned and what happened, for people and programs."""
        schedule, tonight = self.schedule, self.tonight
        window = Window(schedule.begin, schedule.end)
        return {
            "enabled": schedule.enabled,
            "next": window.next(self.clock()).isoformat(timespec="minutes"),
            "running": self._run is not None,
            "waits": self.waits,
            "done": tonight.done,
            "learned_s": round(tonight.learned, 1),
            "watt_hours": round(tonight.energy, 3) if self.energy.readable else None,
            "result": tonight.result,
        }

    def _enter(self, name: str) -> None:
        """Begin a new night if it is another one."""
        if name and name != self.tonight.name:
            self.tonight = Tonight(name)
            self._written = 0.0

    def _count(self) -> None:
        """Add time and energy of learning since the last look."""
        now, used = asyncio.get_running_loop().time(), self.energy.used()
        before, before_used = self._last
        self._last = now, used
        if self._run is not None and not self.box.paused():
            self.tonight.learned += now - before
            self.tonight.energy += used - before_used
            if self.tonight.learned - self._written >= KEPT:
                self._written = self.tonight.learned
                keep(self.kept, self.tonight)

    def _steer(self, situation: Situation) -> None:
        """Pause, resume or stop the run of this night."""
        end = over(self.schedule, situation)
        if end:
            self.waits = end
            self.box.stop(f"{end}; learning goes on in the next one")
            return
        paused = self.box.paused()
        if paused and not paused.startswith(PREFIX):
            return  # by the owner
        self.waits = hindrance(self.schedule, situation, running=True)
        if self.waits and not paused:
            self.box.pause(PREFIX + self.waits)
        elif paused and not self.waits:
            self.box.resume()

    async def _learn(self) -> None:
        ended = False
        try:
            report = await self.box.begin()
            lines = list(getattr(report, "lines", ()))
            self.tonight.result = lines[0] if lines else ""
            self.tonight.done = True
            ended = True
        except HomeboxError as error:
            # Stopped for this night, by its end or by the owner; or it cannot be done.
            self.tonight.result, self.tonight.done = str(error), True
        except Exception as error:
            # Begun again at every look it would fail all night.
            log.exception("learning failed")
            self.tonight.result, self.tonight.done = f"learning failed: {error!r}", True
        finally:
            self._run = None
            # What was stopped goes on after a restart, within what is left of the night.
            keep(self.kept, replace(self.tonight, done=ended))
            log.info("%s", self.tonight.result)

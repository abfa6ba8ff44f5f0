"""Whether the box may learn now: one pure function from what is known to a reason against it."""

from dataclasses import dataclass
from datetime import datetime

from homebox.config import ScheduleConfig
from homebox.night.machine import Machine
from homebox.night.window import Window


@dataclass(frozen=True)
class Situation:
    """What is known at one moment; seconds, watt hours."""

    now: datetime  # local
    idle: float  # since the last request; 0 while one is answered
    machine: Machine
    learned: float = 0.0  # seconds of learning in this night
    energy: float | None = None  # used while learning in this night, where that can be read


def over(schedule: ScheduleConfig, situation: Situation) -> str:
    """Say why learning must end for this night; "" if it need not."""
    if not Window(schedule.begin, schedule.end).night(situation.now):
        return f"the night is over ({schedule.begin} to {schedule.end})"
    most = schedule.max_minutes
    if most and situation.learned >= 60 * most:
        return f"the {most} minutes of this night are used up"
    energy, limit = situation.energy, schedule.max_watt_hours
    if limit and energy is not None and energy >= limit:
        return f"the {limit:g} watt hours of this night are used up"
    return ""


def hindrance(schedule: ScheduleConfig, situation: Situation, running: bool) -> str:
    """Say why learning must wait; "" if it may go on (`running`) or begin.

    A run that was interrupted by somebody goes on after a tenth of the time without requests that
    its beginning asks for.
    """
    wanted = 60.0 * schedule.idle_minutes * (0.1 if running else 1.0)
    if situation.idle < wanted:
        return "somebody uses the box"
    machine = situation.machine
    if schedule.mains_only and machine.on_mains is False:
        return "the machine runs on battery"
    if machine.others is not None and machine.others > schedule.max_load:
        return f"other programs use {machine.others:.0%} of the processors"
    # A card's own share cannot be told apart: while learning runs it is busy with that.
    if not running and machine.gpu_busy is not None and machine.gpu_busy > schedule.max_load:
        return f"another program uses the graphics card ({machine.gpu_busy:.0%})"
    return ""

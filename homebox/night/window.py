"""The hours in which the box may learn on its own.

The one idea: a night has a name, the day on which it began, so that "once a night" needs no clock
but the one that is read. Times are the machine's local ones.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

FORM = r"([01]\d|2[0-3]):[0-5]\d"


@dataclass(frozen=True)
class Window:
    """From `begin` to `end` ("HH:MM"), over midnight if `end` is the earlier; equal: all day."""

    begin: str
    end: str

    def night(self, now: datetime) -> str:
        """Return the day on which the night of `now` began (ISO 8601), or "" outside of one."""
        begin, end, clock = _minutes(self.begin), _minutes(self.end), now.hour * 60 + now.minute
        if begin == end:
            return now.date().isoformat()
        if begin < end:
            return now.date().isoformat() if begin <= clock < end else ""
        if clock >= begin:
            return now.date().isoformat()
        return (now.date() - timedelta(days=1)).isoformat() if clock < end else ""

    def next(self, now: datetime) -> datetime:
        """Return when the next night begins."""
        begin = _minutes(self.begin)
        today = now.replace(hour=begin // 60, minute=begin % 60, second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)


def _minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])

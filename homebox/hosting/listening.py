"""Lessons as they are told: turns are read off the event loop, as soon as they are written.

The one idea: one thread reads one turn after the other, so nobody who answers waits for it, and
what was said a moment ago is a lesson when the next question comes. Invariant: a turn that could
not be read is read with the next one, or by the next learning run.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from homebox.api.acting import Heard
from homebox.errors import HomeboxError, StateError
from homebox.learning.lessons.live import LiveLessons
from homebox.learning.reading.remembering import SECRET, remembered
from homebox.learning.reading.rules import Refusal
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson

log = logging.getLogger("homebox.lessons")


class Listening:
    """Reads the turns of one ledger in a thread of its own; see `homebox.api.acting.Lessons`."""

    def __init__(self, ledger: Ledger, live: LiveLessons) -> None:
        self._ledger = ledger
        self._live = live
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lessons")
        self._lock = threading.Lock()
        self._last: Future[Any] | None = None  # of the turns that were noticed
        self._first: Future[Any] | None = None
        self._closed = False
        self.forgetting: Callable[[str], dict[str, Any]] = _refused  # forgets a lesson by its hash

    def start(self) -> None:
        """Begin to read what was written before this process began."""
        self._first = self._submit("")

    def notice(self, turn: str) -> None:
        """Begin to read a turn that was written; returns at once."""
        self._last = self._submit(turn)

    def settle(self, seconds: float) -> None:
        """Wait until the turns that were noticed are read, at most so long.

        For the first reading of a long ledger nobody waits.
        """
        last, first = self._last, self._first
        if last is not None and not last.done() and (first is None or first.done()):
            wait([last], seconds)

    def heard(self, text: str) -> list[Heard]:
        """Say what the owner's words to remember something give, and keep nothing."""
        return [_heard(item) for item in remembered(text, self._live.rules)]

    def forget(self, lesson: Lesson) -> dict[str, Any]:
        """Forget a lesson for good, as `homebox forget` does; returns what that gives."""
        return self.forgetting(lesson.hash)

    def close(self) -> None:
        """Stop after the turn that is being read; the rest is read by the next process."""
        with self._lock:
            self._closed = True
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _submit(self, turn: str) -> "Future[None] | None":
        with self._lock:
            return None if self._closed else self._reader.submit(self._read, turn)

    def _read(self, turn: str) -> None:
        try:
            for _ in self._live.steps() if not turn else ():
                if self._closed:
                    return
            if turn:
                self._live.notice(turn)
        except HomeboxError as error:
            log.warning("lessons of the latest turns must wait: %s", error)
        except Exception:
            log.exception("lessons of the latest turns must wait")


def _refused(name: str) -> dict[str, Any]:
    raise StateError(f'nothing can be forgotten here; "homebox forget {name[:12]}" does it')


def _heard(item: Any) -> Heard:
    if isinstance(item, Refusal):
        return Heard("", refused="it holds a secret" if item.reason == SECRET else item.reason)
    return Heard(" ".join(item.statement.split()), waits=item.reason)

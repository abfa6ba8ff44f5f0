"""Lessons as soon as they are told: what a turn says is in the ledger's list a moment later.

The one idea: one reader has walked through everything so far, so that each new turn costs only
itself, for the prompt memory as for a learning run. Invariant: whoever asks gets the same reader of
a ledger, and only one thread reads on at a time.
"""

import dataclasses
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

from homebox.learning.lessons.harvest import Harvest, Harvester
from homebox.learning.reading.rule_files import NO_RULES, Rules, read_rules
from homebox.learning.reading.topics import MANY
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson
from homebox.memory.turns import Turn

MODEL = "model"
BATCH = 64  # turns whose lessons are written at once
STEP_SECONDS = 0.005  # of reading turns, of which some are long
_FOLDER = "rules"


class LiveLessons:
    """The reader of one ledger; safe for any number of threads. Get it with `live_lessons`."""

    def __init__(self, ledger: Ledger, rules: Rules = NO_RULES) -> None:
        """`rules` are the owner's own."""
        self._ledger = ledger
        self._lock = threading.RLock()
        self.rules = rules
        self._harvester: Harvester | None = None
        self._read: str | None = None  # id of the last turn that was read
        self._turns: Iterator[Turn] | None = None  # those behind it, as the ledger gives pages

    def notice(self, turn: str) -> list[Lesson]:
        """Read on to a turn that was just written; returns the lessons of what was new.

        Raises StateError if the ledger refuses; nothing is lost then, the next call reads again.
        """
        with self._lock:
            if turn == self._read:
                return []
            return self.catch_up()

    def catch_up(self) -> list[Lesson]:
        """Read all turns that were not read yet; returns their lessons in order."""
        steps = self.steps()
        while True:
            try:
                next(steps)
            except StopIteration as over:
                lessons: list[Lesson] = over.value
                return lessons

    def steps(self) -> Generator[tuple[int, int], None, list[Lesson]]:
        """Do what `catch_up` does in small steps; yields how many turns were read, and of how many.

        Whoever reads on meanwhile takes over what was not read yet.
        """
        told: list[Lesson] = []
        done, total = 0, self._ledger.count()
        while True:
            with self._lock:
                fresh, count = self._some()
            told += fresh
            done += count
            if count == 0:
                return told
            yield done, max(total, done)

    @property
    def found(self) -> Harvest:
        """Everything that was found so far; call `catch_up` before."""
        with self._lock:
            return self._reader().found

    def extracted(self, by_turn: Mapping[str, list[Lesson]]) -> None:
        """Take in what a model found in turns that were read already; keeps it in the ledger.

        What it found in a turn that was forgotten meanwhile is dropped.
        """
        with self._lock:
            reader = self._reader()
            there = [turn for turn in by_turn if self._ledger.turn(turn) is not None]
            kept = [reader.tell(lesson) for turn in there for lesson in by_turn[turn]]
            self._ledger.add_lessons(kept, MANY)

    def told_in(self, turn: str) -> bool:
        """Say whether lessons were found in a turn that was read."""
        with self._lock:
            return turn in self._reader().telling

    def checked(self, lesson: Lesson, conversation: str, reason: str) -> Lesson:
        """Return a lesson; quarantined for `reason` if others worded it in its conversation."""
        with self._lock:
            if not self._reader().worded_by_others(lesson.statement, conversation):
                return lesson
        return dataclasses.replace(lesson, state="quarantined", reason=reason)

    def begin_anew(self, reader: Harvester | None = None, read: str | None = None) -> None:
        """Go on from a reader that walked up to the turn `read`; without one, walk again."""
        with self._lock:
            self._harvester, self._read, self._turns = reader, read, None

    @property
    def reader(self) -> Harvester:
        """The reader itself; hold the lock meanwhile."""
        return self._reader()

    @property
    def read_to(self) -> int:
        """The number of the last turn that was read; 0 if none was."""
        return 0 if self._read is None else self._ledger.number(self._read)

    @property
    def lock(self) -> threading.RLock:
        """Hold it while turns are forgotten, so that nobody reads them meanwhile."""
        return self._lock

    def _reader(self) -> Harvester:
        if self._harvester is None:
            self._harvester = Harvester(self.rules, extracted_lessons(self._ledger))
            self._read = self._turns = None
        return self._harvester

    def _some(self) -> tuple[list[Lesson], int]:
        """Read a few turns and keep their lessons; returns these, and how many turns it were."""
        reader = self._reader()
        told: list[Lesson] = []
        count, last = 0, self._read
        begun = time.monotonic()
        fresh = self._turns is None
        turns, self._turns = self._turns or self._ledger.turns(self._read), None
        for turn in turns:
            told += reader.read(turn)
            last = turn.id
            count += 1
            if count == BATCH or time.monotonic() - begun > STEP_SECONDS:
                self._turns = turns
                break
        try:
            self._ledger.add_lessons(told, MANY)
        except BaseException:
            self.begin_anew()  # what was read is not kept: it must be read again
            raise
        self._read = last
        if count == 0 and not fresh:
            return self._some()  # the kept pages were over; newer turns may be there
        return told, count


_LIVE: "weakref.WeakKeyDictionary[Ledger, LiveLessons]" = weakref.WeakKeyDictionary()
_LIVE_LOCK = threading.Lock()


def live_lessons(ledger: Ledger, rules: Rules | None = None) -> LiveLessons:
    """Return the reader of a ledger, the same for everybody; `rules` count from now on."""
    with _LIVE_LOCK:
        live = _LIVE.get(ledger)
        if live is None:
            live = _LIVE[ledger] = LiveLessons(ledger, rules or NO_RULES)
        elif rules is not None and rules != live.rules:
            live.rules = rules
            live.begin_anew()
        return live


def rules_of(state: Path, folder: str = "") -> Rules:
    """Read the owner's rules: those of `folder`, or else of the folder "rules" of the state."""
    return read_rules(Path(folder).expanduser() if folder else state / _FOLDER)


def extracted_lessons(ledger: Ledger) -> dict[str, list[Lesson]]:
    """Return what a model found, by the turns that said it."""
    found: dict[str, list[Lesson]] = {}
    for lesson in ledger.lessons():
        if lesson.origin == MODEL:
            for turn in lesson.sources:
                found.setdefault(turn, []).append(lesson)
    return found

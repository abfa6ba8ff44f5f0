"""Chooses the lessons of a run: keeps the new ones in the ledger and groups what holds by topic."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from homebox.learning.curriculum import Curriculum, curriculum_of
from homebox.learning.harvest import Harvest
from homebox.learning.teach import Topic, topics_of
from homebox.learning.topics import MANY
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE, Lesson


@dataclass(frozen=True)
class Selection:
    """What a run is to teach: the curriculum, and its lessons grouped by topic."""

    curriculum: Curriculum
    topics: list[Topic]
    ledger_root: str
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def fresh(self) -> list[str]:
        """Topics that the served weights were not built from as they are now."""
        return [topic.key for topic in self.topics if topic.fresh]

    @property
    def old(self) -> list[str]:
        """Topics that the served weights were built from."""
        return [topic.key for topic in self.topics if not topic.fresh]


def select(found: Harvest, ledger: Ledger, learned: Collection[str], since: str) -> Selection:
    """Keep new lessons and return all that hold.

    `learned` holds the hashes of the lessons in the served weights; refusals are counted from
    the time `since` on.
    """
    root = ledger.root()
    known = {lesson.hash: set(lesson.sources) for lesson in ledger.lessons()}
    before = len(ledger.lessons("superseded"))
    for lesson in (*found.lessons, *(item.lesson for item in found.quarantined)):
        if lesson.hash not in known or not known[lesson.hash].issuperset(lesson.sources):
            ledger.add_lesson(lesson)
    settle(found, ledger)
    active = ledger.lessons(ALIVE)
    superseded = ledger.lessons("superseded")
    refused = Counter(item.reason for item in found.quarantined if item.lesson.hash not in known)
    refused.update(reason for told, reason in found.refused if told > since)
    counts = {
        "active": len(active),
        "new": sum(lesson.hash not in learned for lesson in active),
        "refused": dict(refused),
        "superseded": max(0, len(superseded) - before),
    }
    topics = topics_of(active, superseded, learned)
    return Selection(curriculum_of(active, superseded), topics, root, counts)


def settle(found: Harvest, ledger: Ledger) -> None:
    """Leave one living lesson a topic, the newest, where rollbacks brought older ones back."""
    alive: dict[str, list[Lesson]] = {}
    for lesson in ledger.lessons(ALIVE):
        if lesson.subject not in MANY:
            alive.setdefault(lesson.subject, []).append(lesson)
    for subject, lessons in alive.items():
        said_last = {lesson.hash for lesson in found.current.get(subject, [])[-1:]}
        newest = max(lessons, key=lambda lesson: (lesson.hash in said_last, lesson.time))
        for lesson in lessons:
            if lesson.hash != newest.hash:
                ledger.set_lesson_state(lesson.hash, "superseded")

"""Chooses the lessons of a run: keeps the new ones in the ledger and groups what holds by topic."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homebox.learning.curriculum import Curriculum, curriculum_of
from homebox.learning.lessons.harvest import Harvest
from homebox.learning.lessons.signals import NO_SIGNALS, Signals
from homebox.learning.lessons.teach import Topic, topics_of
from homebox.learning.reading.topics import MANY, NOTE
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE, Lesson
from homebox.memory.secrets.finding import find_secrets


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


def select(
    found: Harvest,
    ledger: Ledger,
    learned: Collection[str],
    since: str,
    signals: Signals = NO_SIGNALS,
) -> Selection:
    """Keep new lessons and return all that hold.

    `learned` holds the hashes of the lessons in the served weights; refusals are counted from
    the time `since` on. Notes stay out: they work from the prompt only.
    """
    root = ledger.root()
    keep(found, ledger, signals.lessons)
    active = [lesson for lesson in ledger.lessons(ALIVE) if lesson.subject != NOTE]
    superseded = ledger.lessons("superseded")
    counts = {
        "active": len(active),
        "new": sum(lesson.hash not in learned for lesson in active),
        "refused": _refused(found, since),
        "superseded": _replaced(active, superseded, learned, since),
    }
    topics = topics_of(
        [lesson for lesson in active if not lesson.body],
        [lesson for lesson in superseded if not lesson.body],
        learned,
    )
    curriculum = curriculum_of(
        active,
        superseded,
        (pair for pair in signals.pairs if not _secret(vars(pair))),
        (thumb for thumb in signals.thumbs if not _secret(vars(thumb))),
        (text for text in signals.prompts if not find_secrets(text)),
    )
    return Selection(curriculum, topics, root, counts)


def _secret(opinion: Mapping[str, Any]) -> bool:
    """Say whether a secret stands in what an opinion is about: redaction may have been off."""
    texts = [message.get("content") for message in opinion["messages"]]
    texts += [value for name, value in opinion.items() if name != "messages"]
    return any(find_secrets(text) for text in texts if isinstance(text, str))


def keep(found: Harvest, ledger: Ledger, more: Sequence[Lesson] = ()) -> None:
    """Keep in the ledger what it does not have yet, and leave one living lesson a topic."""
    known = {lesson.hash: set(lesson.sources) for lesson in ledger.lessons()}
    told = [*found.lessons, *(item.lesson for item in found.quarantined), *more]
    missing = [
        lesson
        for lesson in told
        if lesson.hash not in known or not known[lesson.hash].issuperset(lesson.sources)
    ]
    ledger.add_lessons(missing, MANY)


def _refused(found: Harvest, since: str) -> dict[str, int]:
    """Count what was refused since then, by reason, and what began to wait."""
    waiting = Counter(
        {
            item.lesson.hash: item.reason for item in found.quarantined if item.lesson.time > since
        }.values()
    )
    waiting.update(reason for told, reason in found.refused if told > since)
    return dict(waiting)


def _replaced(
    active: Sequence[Lesson], superseded: Sequence[Lesson], learned: Collection[str], since: str
) -> int:
    """Count the lessons that gave way since then to one that the served weights do not have."""
    fresh = {lesson.subject for lesson in active if lesson.hash not in learned}
    return sum(
        lesson.subject in fresh and (lesson.hash in learned or lesson.time > since)
        for lesson in superseded
    )

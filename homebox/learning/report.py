"""What a learning run tells while it goes on and when it is over, and how lessons are shown.

The one idea: plain values, so that everybody may import this. Invariant: nothing here computes.
"""

from dataclasses import dataclass, field
from typing import Any

from homebox.memory.lessons import Lesson


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `done` of `total` steps of a stage, and a line for a person.

    `figures` are the loss and the KL of a step of training; `ready` names weights that are to be
    served next, all of which is kept already.
    """

    stage: str
    done: int
    total: int
    text: str
    figures: tuple[float, ...] = ()
    ready: str = ""


@dataclass(frozen=True)
class Report:
    """What a run did; `lines` are for a person, `data` is plain JSON."""

    promoted: bool
    weights: str  # what is served now: a weights hash or "base"
    previous: str  # what was served before
    lines: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  # why nothing was promoted


def lesson_line(lesson: Lesson, note: str = "") -> str:
    """Show one lesson to a person."""
    text = f"{lesson.state}: {lesson.subject} = {lesson.value} ({lesson.statement})"
    return f"{text} [{note}]" if note else text


def lesson_json(lesson: Lesson) -> dict[str, Any]:
    """Return a lesson as plain values."""
    return {
        "hash": lesson.hash,
        "kind": lesson.kind,
        "subject": lesson.subject,
        "statement": lesson.statement,
        "value": lesson.value,
        "state": lesson.state,
        "supersedes": lesson.supersedes,
        "sources": list(lesson.sources),
        "time": lesson.time,
    }

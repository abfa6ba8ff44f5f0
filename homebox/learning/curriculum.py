"""What of the owner a job is built from, as one object of the store.

The one idea: everything that training reads of the owner is in one canonical JSON, without clocks,
ids of turns or the order in which things were told, and the job spec names it by its hash. So who
has the base, the spec and this object can repeat the job; and a box that forgot something has the
same object, and so the same weights, as one that never heard of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homebox.learning.objects import StoredJson
from homebox.memory.lessons import Lesson
from homebox.memory.store import canonical_json

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Pair:
    """Two answers to one conversation, of which the owner wanted the first."""

    messages: Messages  # what was said before, as a chat format renders it
    chosen: str
    rejected: str
    weight: float = 1.0


@dataclass(frozen=True)
class Thumb:
    """An answer that the owner liked, or did not."""

    messages: Messages
    answer: str
    good: bool
    weight: float = 1.0


@dataclass(frozen=True)
class Curriculum(StoredJson):
    """The lessons that hold, those that gave way, and what was thought of answers.

    `prompts` are earlier questions of the owner that touch no lesson: an anchor for what must stay
    as it is. Build with `curriculum_of`, which brings all of it into canonical order.
    """

    called = "curriculum"

    lessons: tuple[Lesson, ...] = ()
    superseded: tuple[Lesson, ...] = ()
    pairs: tuple[Pair, ...] = ()
    thumbs: tuple[Thumb, ...] = ()
    prompts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "lessons": [lesson.content for lesson in self.lessons],
            "superseded": [lesson.content for lesson in self.superseded],
            "pairs": [vars(pair) for pair in self.pairs],
            "thumbs": [vars(thumb) for thumb in self.thumbs],
            "prompts": list(self.prompts),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Curriculum":
        """Rebuild it from `as_json`; raises TypeError or KeyError."""
        return cls(
            tuple(map(_lesson, value["lessons"])),
            tuple(map(_lesson, value["superseded"])),
            tuple(Pair(**content) for content in value["pairs"]),
            tuple(Thumb(**content) for content in value["thumbs"]),
            tuple(value["prompts"]),
        )


def curriculum_of(
    lessons: Iterable[Lesson],
    superseded: Iterable[Lesson] = (),
    pairs: Iterable[Pair] = (),
    thumbs: Iterable[Thumb] = (),
    prompts: Iterable[str] = (),
) -> Curriculum:
    """Gather what a job is built from, in an order that only the content decides."""
    return Curriculum(
        _sorted(lessons),
        _sorted(superseded),
        tuple(sorted(pairs, key=lambda pair: canonical_json(vars(pair)))),
        tuple(sorted(thumbs, key=lambda thumb: canonical_json(vars(thumb)))),
        tuple(sorted(set(prompts))),
    )


def _sorted(lessons: Iterable[Lesson]) -> tuple[Lesson, ...]:
    """Keep of each lesson what it says, once."""
    found = {lesson.hash: _lesson(lesson.content) for lesson in lessons}
    return tuple(found[name] for name in sorted(found))


def _lesson(content: Mapping[str, Any]) -> Lesson:
    return Lesson(**content)

"""What holds and what held once, by subject, with the indexes that make finding it quick.

The one idea: each lesson stands under its subject and its value, so that ten thousand of them cost
no more a message than ten. Invariant: a value is either current or former of its subject.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence

from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.learning.lessons.teach import form_for
from homebox.learning.reading.topics import MANY
from homebox.memory.lessons import Lesson

ENDS = 4_000  # characters at the end of an answer in which its topic is looked for
BEGINS = 4  # characters by which most places of an answer are passed over


class Known:
    """Lessons in their places; `placed` is the only way in."""

    def __init__(self) -> None:
        self._current: dict[str, dict[str, Lesson]] = {}
        self._former: dict[str, dict[str, Lesson]] = {}
        self._holders: dict[str, dict[str, None]] = {}  # value -> subjects
        self._openings = {relation.opening(None): relation.key for relation in ALL}
        self._lengths = {len(opening) for opening in self._openings}
        self._begins: frozenset[str] = frozenset()
        self._starts = re.compile("")
        self._begin({opening[:BEGINS] for opening in self._openings})

    def current(self) -> Mapping[str, Sequence[Lesson]]:
        """Return what holds now, by subject."""
        return {subject: list(found.values()) for subject, found in self._current.items()}

    def former(self) -> Mapping[str, Sequence[Lesson]]:
        """Return what held once, by subject."""
        return {subject: list(found.values()) for subject, found in self._former.items()}

    def placed(self, lesson: Lesson, refuted: str | None = None) -> Lesson:
        """Put a lesson in the place of what held before; returns it as it is to be kept.

        The same thing said again stays the lesson that it was. `refuted` is the value that the
        owner denied: of topics with many values only that one leaves.
        """
        value = lesson.value.casefold()
        current = self._current.setdefault(lesson.subject, {})
        former = self._former.setdefault(lesson.subject, {})
        known = current.get(value) or former.get(value)
        if known is not None:
            lesson = dataclasses.replace(known, sources=lesson.sources, supersedes=None)
        if lesson.subject in MANY:
            denied = refuted.casefold() if refuted is not None else None
            leaving = [denied] if denied is not None and denied in current else []
        else:
            leaving = list(current)
        leaving = [name for name in leaving if name is not None and name != value]
        if leaving:
            lesson = dataclasses.replace(lesson, supersedes=current[leaving[-1]].hash)
        former.pop(value, None)
        for name in leaving:
            former[name] = current.pop(name)
            self._holders.get(name, {}).pop(lesson.subject, None)
        current.pop(value, None)  # it is the last one now
        current[value] = lesson
        holders = self._holders.setdefault(value, {})
        holders.pop(lesson.subject, None)
        holders[lesson.subject] = None
        self._open(lesson)
        return lesson

    def holder(self, value: str | None, spoken_of: str | None) -> str | None:
        """Name the subject that holds a value; the one spoken of last if that does."""
        holders = self._holders.get(value.casefold()) if value is not None else None
        if not holders:
            return None
        return spoken_of if spoken_of in holders else next(reversed(holders))

    def subject_of_answer(self, text: str) -> str | None:
        """Name the topic that an answer of the assistant spoke of last."""
        text = text[-ENDS:]
        best: tuple[int, int, str] | None = None
        for start in (match.start() for match in self._starts.finditer(text)):
            for length in self._lengths:
                subject = self._openings.get(text[start : start + length])
                if subject is not None and (best is None or (start, length) > best[:2]):
                    best = (start, length, subject)
        return None if best is None else best[2]

    def _open(self, lesson: Lesson) -> None:
        """Remember how answers about a lesson's topic begin."""
        form = form_for(lesson.subject, lesson.value)
        if isinstance(form, Relation):
            opening = form.opening(None)
            self._openings[opening] = lesson.subject
            self._lengths.add(len(opening))
            if opening[:BEGINS] not in self._begins:
                self._begin({opening[:BEGINS]})

    def _begin(self, fresh: Collection[str]) -> None:
        self._begins |= frozenset(fresh)
        self._starts = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(self._begins)))})")

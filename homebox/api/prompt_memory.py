"""Lessons in the prompt: what the served weights cannot say yet, as notes of the system's.

The one idea: the notes are a function of the lessons that hold and of what the user said in the
conversation. If all lessons fit, all are there, the oldest first, so that a new one only adds a
line at the end. Else the newest have a part of the room, and the rest goes to those that have to do
with the user's words, message by message. So a prompt keeps its beginning, and what was computed of
it, for as long as the lessons stay. Invariant: only lessons that are alive are ever shown.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from homebox.api.lesson_words import Relevance, words_of
from homebox.errors import HomeboxError
from homebox.language.phrasing import fill
from homebox.language.preferences import PREFERENCES, Preference
from homebox.language.relation import Relation
from homebox.language.relations import RELATIONS
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE, Lesson

HEAD = "Notes about the owner:"  # as the built-in model was trained on
NEWEST = 1 / 3  # of the room, for what was told last
SHARE = 4  # notes take at most this part of the context
LONGEST = 400  # characters of one note: more is no note

Count = Callable[[str], int]  # of a text's tokens
Message = dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """What notes cost in each prompt, and what they would cost if the weights knew nothing."""

    lessons: int = 0  # in prompts now, if all of them fit
    tokens: int = 0
    known: int = 0  # lessons that the weights answer by themselves
    saved: int = 0  # tokens

    def as_json(self) -> dict[str, int]:
        """Return it for programs."""
        return {
            "lessons": self.lessons,
            "tokens": self.tokens,
            "known": self.known,
            "saved_tokens": self.saved,
        }


class Note(NamedTuple):
    """A lesson as a line of notes, its name, and the line's tokens."""

    name: str
    lesson: Lesson
    line: str
    cost: int


class PromptMemory:
    """The notes of one served model; safe for any number of threads.

    `known` gives the hashes of the lessons that some weights answer by themselves; `room` is the
    most tokens that notes may take. `selective` shows only those that have to do with what the user
    says, for models that notes about something else confuse.
    """

    def __init__(
        self,
        ledger: Ledger,
        known: Callable[[str], frozenset[str]],
        count: Count,
        room: int,
        selective: bool = False,
    ) -> None:
        self._selective = selective
        self._ledger = ledger
        self._known = known
        self._count = count
        self._room = room
        self._head = count(HEAD)
        self._lock = threading.Lock()
        self._names: tuple[str, ...] | None = None  # of all lessons that hold
        self._notes: list[Note] = []
        self._indexed: tuple[tuple[str, ...], Relevance] | None = None

    def noted(self, messages: Sequence[Message], weights: str) -> list[Message]:
        """Return a chat's messages with the notes that belong there, or as they are."""
        said = [str(m.get("content") or "") for m in messages if m.get("role") == "user"]
        chosen = self._chosen(self._unknown(weights), said)
        return with_notes(messages, [note.line for note in chosen])

    def saved(self, weights: str) -> Saved:
        """Say what notes cost now."""
        everything, unknown = self._all(), self._unknown(weights)
        now, before = (self._cost(self._newest(each, 1.0)) for each in (unknown, everything))
        return Saved(len(unknown), now, len(everything) - len(unknown), max(before - now, 0))

    def _all(self) -> list[Note]:
        """Return the lessons that hold and can be said in a line, the oldest first."""
        names = self._ledger.lesson_names(ALIVE)
        with self._lock:
            if names != self._names:
                # Read after the names: what changes in between shows in the next names.
                known = {note.name: note for note in self._notes}
                found = (_note(each, known, self._count) for each in self._ledger.lessons(ALIVE))
                self._notes = [note for note in found if note is not None]
                self._names = names
            return self._notes

    def _unknown(self, weights: str) -> list[Note]:
        known = self._known(weights)
        return [note for note in self._all() if note.name not in known]

    def _chosen(self, notes: list[Note], said: Sequence[str]) -> list[Note]:
        if self._cost(notes) <= self._room and not self._selective:
            return notes
        newest = [] if self._selective else self._newest(notes, NEWEST)
        return [*newest, *self._relevant(notes, newest, said)]

    def _newest(self, notes: list[Note], share: float) -> list[Note]:
        """Return the lessons that were told last and fit into a share of the room."""
        return _fitting(reversed(notes), self._room * share - self._head)[::-1]

    def _relevant(self, notes: list[Note], newest: list[Note], said: Sequence[str]) -> list[Note]:
        """Return lessons for the rest of the room, in the order in which the talk came to them.

        What the last message is about is there for certain; older ones give way to it.
        """
        index = self._index(notes)
        shown = {note.name for note in newest}
        room = max(self._room - max(self._cost(newest), self._head), 0)
        kept: list[Note] = []
        for text in said:
            ranked = (notes[place] for place in index.ranked(words_of(text)))
            wanted = _fitting((note for note in ranked if note.name not in shown), room)
            needed, known = ({note.name for note in group} for group in (wanted, kept))
            kept += [note for note in wanted if note.name not in known]
            while sum(note.cost for note in kept) > room:
                kept.remove(next(note for note in kept if note.name not in needed))
        return kept

    def _index(self, notes: list[Note]) -> Relevance:
        names = tuple(note.name for note in notes)
        with self._lock:
            if self._indexed is None or self._indexed[0] != names:
                self._indexed = names, Relevance([note.lesson for note in notes])
            return self._indexed[1]

    def _cost(self, notes: Sequence[Note]) -> int:
        return self._head + sum(note.cost for note in notes) if notes else 0


def _note(lesson: Lesson, known: Mapping[str, Note], count: Count) -> Note | None:
    """Return a lesson as a note, as it was known before or made anew; None if it is no sentence."""
    name = lesson.hash
    if name in known:
        return known[name]
    line = line_of(lesson)
    # With its break; a line costs about the same wherever it stands.
    return Note(name, lesson, line, count(f"\n{line}")) if line else None


def _fitting(notes: Iterable[Note], room: float) -> list[Note]:
    """Return the first notes, as far as they fit."""
    found: list[Note] = []
    for note in notes:
        room -= note.cost
        if room < 0:
            break
        found.append(note)
    return found


def line_of(lesson: Lesson) -> str:
    """Return a lesson as a note: a sentence of the owner; empty if it cannot be said in one."""
    told = _told(lesson)
    return f"- {told}" if told and len(told) <= LONGEST else ""


def _told(lesson: Lesson) -> str:
    # What shows an answer is learned from; said as a sentence it would only confuse.
    if lesson.kind == "demonstration" or lesson.body or not lesson.statement:
        return ""
    form = PREFERENCES.get(lesson.subject) or RELATIONS.get(lesson.subject)
    # In words that the built-in model knows, where there are such; else as it was said.
    text = _form_told(form, lesson.value) if form else lesson.statement
    text = " ".join(text.split())
    text = text[:1].upper() + text[1:]
    return text if text[-1] in ".!?" else f"{text}."


def _form_told(form: Preference | Relation, value: str) -> str:
    if isinstance(form, Preference):
        return form.told[0].replace("{v}", value)
    return fill(form.told[0], None, value)


def with_notes(messages: Sequence[Message], lines: Sequence[str]) -> list[Message]:
    """Put notes behind the first words of the system, or before everything where it says nothing.

    A prompt without notes stays as it is.
    """
    if not lines:
        return list(messages)
    notes = "\n".join((HEAD, *lines))
    place = next((n for n, each in enumerate(messages) if each.get("role") == "system"), None)
    if place is None:
        return [{"role": "system", "content": notes}, *messages]
    system = messages[place]
    words = str(system.get("content") or "").rstrip()
    told = {**system, "content": f"{words}\n{notes}" if words else notes}
    return [*messages[:place], told, *messages[place + 1 :]]


def known_in(report: bytes) -> frozenset[str]:
    """Return the lessons that a gate's report says were recalled without any notes."""
    try:
        value: Any = json.loads(report)
    except ValueError:
        return frozenset()
    names = value.get("known") if isinstance(value, Mapping) else None
    found = names if isinstance(names, list) else []
    return frozenset(name for name in found if isinstance(name, str))


def known_by(read: Callable[[str], bytes | None]) -> Callable[[str], frozenset[str]]:
    """Return what gives the lessons that weights know, by what reads the report of weights.

    A report never changes, so each is read once.
    """
    found: dict[str, frozenset[str]] = {}

    def known(weights: str) -> frozenset[str]:
        if weights not in found:
            try:
                report = read(weights)
            except HomeboxError:
                return frozenset()  # a report that cannot be read vouches for nothing
            found[weights] = known_in(report) if report is not None else frozenset()
        return found[weights]

    return known

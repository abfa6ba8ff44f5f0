"""What happened to lessons, in order, and how their states follow from it.

The one idea: the table of lessons is a function of what was told, of what the owner decided, and
of the moves of HEAD. So a box that forgets something replays the rest, and then it is, to the bit,
a box that never heard of it. Invariant: a replay and the box that lived through the same events
run the same functions of `lessons`, each once an event.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from homebox.memory import lessons as table
from homebox.memory.lessons import ALIVE, Lesson


@dataclass(frozen=True)
class Told:
    """A turn told these lessons."""

    lessons: tuple[Lesson, ...]


@dataclass(frozen=True)
class Selected:
    """A learning run chose what was alive; it became these weights later, if the gate let it."""

    weights: str
    parent: str  # what was served before
    imported: bool = False  # and so built from nothing that was told
    left_out: frozenset[str] = frozenset()  # subjects that no weights learn


@dataclass(frozen=True)
class RolledBack:
    """HEAD moved from one checkpoint back to another, or to the base."""

    old: str
    new: str


@dataclass(frozen=True)
class Decided:
    """The owner approved a lesson ("new") or rejected it ("deleted")."""

    name: str
    state: str


Event = Told | Selected | RolledBack | Decided


@dataclass
class _Replay:
    connection: sqlite3.Connection
    many: frozenset[str]
    built: dict[str, tuple[str, ...]] = field(default_factory=dict)  # weights -> lessons in them
    parents: dict[str, str] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        if isinstance(event, Told):
            table.add_all(self.connection, event.lessons, self.many)
        elif isinstance(event, Selected):
            known = () if event.imported else table.select(self.connection, ALIVE)
            alive = tuple(item.hash for item in known if item.subject not in event.left_out)
            self.built[event.weights] = alive
            self.parents.setdefault(event.weights, event.parent)
            table.move(self.connection, (), alive)
        elif isinstance(event, Decided):
            if table.get(self.connection, event.name) is not None:
                table.decide(self.connection, event.name, event.state, self.many)
        else:
            restored = self.built.get(event.new, ())
            there = frozenset(restored)
            left = [name for name in self._left(event) if name not in there]
            table.move(self.connection, left, restored)

    def _left(self, event: RolledBack) -> list[str]:
        """List what the abandoned checkpoints had, back to where HEAD is now."""
        found: dict[str, None] = {}
        seen = {event.new}
        weights = event.old
        while weights not in seen and weights in self.built:
            seen.add(weights)
            found.update(dict.fromkeys(self.built[weights]))
            weights = self.parents[weights]
        return list(found)


def replay(connection: sqlite3.Connection, events: Iterable[Event], many: frozenset[str]) -> None:
    """Make the table of lessons anew from what happened; `many` as in `lessons.settle`."""
    connection.execute("DELETE FROM lessons")
    again = _Replay(connection, many)
    for event in events:
        again.apply(event)

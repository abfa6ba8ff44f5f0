"""Lessons: one readable thing each, learned from the owner's words, and what became of it.

The one idea: a lesson is named by its content, so the same thing said twice is one lesson with two
sources, and no clock or row number enters its name. Invariant: reading the ledger again never
revives a lesson; only the owner does, by saying it in a new turn or by approving it.
"""

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from homebox.errors import StateError
from homebox.memory.store import canonical_json

KINDS = ("fact", "preference", "correction", "demonstration")
ORIGINS = ("rule", "model", "owner", "feedback")
STATES = ("new", "quarantined", "active", "undone", "superseded", "deleted")
ALIVE = ("new", "active")  # in the prompt memory and in later builds

_VARIABLES = 900  # of one statement; SQLite's own limit was 999 for long
_COLUMNS = "kind, subject, statement, value, sources, state, supersedes, time, origin, reason, body"
_ALIVE_SUCCESSOR = """
    WITH RECURSIVE successors (hash, state) AS (
        SELECT hash, state FROM lessons WHERE supersedes = ?
        UNION
        SELECT later.hash, later.state
        FROM lessons AS later JOIN successors ON later.supersedes = successors.hash
    )
    SELECT 1 FROM successors WHERE state IN ('new', 'active') LIMIT 1
"""


@dataclass(frozen=True)
class Lesson:
    """One thing to learn.

    `new` is not in any weights yet, `active` is; `quarantined` waits for the owner's approval;
    `undone` was rolled back; `superseded` gave way to a newer one; `deleted` is to be forgotten.
    """

    kind: str  # fact | preference | correction | demonstration
    subject: str  # relation key, such as "dog's name", or a free topic
    statement: str  # the owner's words, normalised
    value: str
    sources: tuple[str, ...] = ()  # ids of the turns that said it
    state: str = "new"
    supersedes: str | None = None  # hash of the lesson that this one replaces
    time: str = ""  # when it was first told, ISO 8601 in UTC
    origin: str = "rule"  # who found it: rule | model | owner (told outright) | feedback
    reason: str = ""  # why it waits in quarantine
    body: str = ""  # canonical JSON of what a demonstration or correction shows; see `learning`

    @property
    def content(self) -> dict[str, str]:
        """What the lesson says, and nothing of when, where or by whom that was found."""
        content = {
            "kind": self.kind,
            "statement": self.statement,
            "subject": self.subject,
            "value": self.value,
        }
        return {**content, "body": self.body} if self.body else content

    @property
    def hash(self) -> str:
        """The name: sha256 of what the lesson says."""
        return hashlib.sha256(canonical_json(self.content)).hexdigest()


def add(connection: sqlite3.Connection, lesson: Lesson) -> str:
    """Insert a lesson or merge it with the same one told before; return its hash.

    A known lesson with a source that it did not have was told again: unless it is to be
    quarantined, it comes back to life. Whatever a living lesson supersedes is superseded.
    """
    _add(connection, lesson)
    return lesson.hash


def _add(connection: sqlite3.Connection, lesson: Lesson, repeated: bool = False) -> bool:
    """Do so and say whether it was told anew; `repeated` if its source said it before, and anew."""
    if lesson.kind not in KINDS or lesson.state not in STATES or lesson.origin not in ORIGINS:
        raise StateError(
            f"a lesson cannot be {lesson.kind!r}, {lesson.state!r} and found by {lesson.origin!r}"
        )
    known = get(connection, lesson.hash)
    if known is None:
        _insert(connection, lesson)
    else:
        fresh = tuple(turn for turn in lesson.sources if turn not in known.sources)
        if not fresh and not repeated:
            return False
        revived = lesson.state in ALIVE and known.state not in ALIVE
        lesson = dataclasses.replace(
            lesson if revived else known, sources=known.sources + fresh, time=known.time
        )
        if revived:
            # It is the newest now, so nothing supersedes it; this also keeps the links acyclic.
            connection.execute(
                "UPDATE lessons SET supersedes = NULL WHERE supersedes = ?", (lesson.hash,)
            )
        _update(connection, lesson)
    _supersede(connection, lesson)
    return True


def add_all(
    connection: sqlite3.Connection, lessons: Iterable[Lesson], many: frozenset[str]
) -> None:
    """Add lessons in the order in which they were told, then settle their subjects."""
    touched: dict[str, None] = {}
    anew: set[tuple[str, tuple[str, ...]]] = set()  # one turn may say a thing again: Rex, Max, Rex
    places: dict[str, int] = {}
    for place, lesson in enumerate(lessons):
        said = (lesson.hash, lesson.sources)
        if _add(connection, lesson, repeated=said in anew):
            anew.add(said)
        touched[lesson.subject] = None
        places[lesson.hash] = place
    settle(connection, tuple(touched), many, places)


def settle(
    connection: sqlite3.Connection,
    subjects: Collection[str],
    many: frozenset[str],
    places: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Leave one living lesson a subject, the one told last.

    Several may live where a rollback brought an older one back. Of two that one turn told it is the
    later one by `places`, which go by hashes. Of the subjects in `many` any number hold at once.
    """
    rivals: dict[str, list[Lesson]] = {}
    for lesson in _alive_of(connection, [item for item in subjects if item not in many]):
        rivals.setdefault(lesson.subject, []).append(lesson)
    for lessons in rivals.values():
        if len(lessons) > 1:
            newest = max(
                lessons,
                key=lambda lesson: (
                    _told_last(connection, lesson),
                    places.get(lesson.hash, -1),
                    lesson.time,
                ),
            )
            for lesson in lessons:
                if lesson.hash != newest.hash:
                    _change(connection, lesson.hash, "superseded", ALIVE)


def decide(connection: sqlite3.Connection, name: str, state: str, many: frozenset[str]) -> None:
    """Move a lesson as the owner wants it: what is approved takes the place of what held."""
    set_state(connection, name, state)
    lesson = get(connection, name)
    if lesson is None or state not in ALIVE or lesson.subject in many:
        return
    for rival in _alive_of(connection, [lesson.subject]):
        if rival.hash != name:
            _change(connection, rival.hash, "superseded", ALIVE)


def _alive_of(connection: sqlite3.Connection, subjects: Collection[str]) -> list[Lesson]:
    """Return the living lessons of some subjects, in the order in which they were first told."""
    found = []
    wanted = list(subjects)
    for start in range(0, len(wanted), _VARIABLES):
        part = wanted[start : start + _VARIABLES]
        marks = ", ".join("?" * len(part))
        found += _select(
            connection,
            f"WHERE subject IN ({marks}) AND state IN ('new', 'active') ORDER BY number",
            tuple(part),
        )
    return found


def _told_last(connection: sqlite3.Connection, lesson: Lesson) -> int:
    """Return the number of the last turn that said it; 0 if the ledger has none of them."""
    marks = ", ".join("?" * min(len(lesson.sources), _VARIABLES))
    row = connection.execute(
        f"SELECT max(number) FROM turns WHERE id IN ({marks})", lesson.sources[-_VARIABLES:]
    ).fetchone()
    return 0 if row[0] is None else int(row[0])


def get(connection: sqlite3.Connection, name: str) -> Lesson | None:
    """Return the lesson with exactly that hash."""
    found = _select(connection, "WHERE hash = ?", (name,))
    return found[0] if found else None


def select(connection: sqlite3.Connection, states: tuple[str, ...]) -> list[Lesson]:
    """Return the lessons in one of `states`, in the order in which they were first told."""
    marks = ", ".join("?" * len(states))
    return _select(connection, f"WHERE state IN ({marks}) ORDER BY number", states)


def names(connection: sqlite3.Connection, states: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hashes of the lessons in one of `states`, in the order of `select`."""
    marks = ", ".join("?" * len(states))
    rows = connection.execute(
        f"SELECT hash FROM lessons WHERE state IN ({marks}) ORDER BY number", states
    )
    return tuple(row[0] for row in rows)


def find(connection: sqlite3.Connection, prefix: str) -> list[Lesson]:
    """Return the lessons whose hash begins with `prefix`."""
    return _select(
        connection, "WHERE substr(hash, 1, ?) = ? ORDER BY number", (len(prefix), prefix)
    )


def set_state(connection: sqlite3.Connection, name: str, state: str) -> None:
    """Move a lesson to another state; raises StateError for an unknown lesson or state."""
    lesson = get(connection, name)
    if lesson is None:
        raise StateError(f'no lesson is called {name!r}; "homebox lessons" lists them')
    if state not in STATES:
        raise StateError(f"a lesson cannot be {state!r}, only one of: {', '.join(STATES)}")
    lesson = dataclasses.replace(lesson, state=state)
    _update(connection, lesson)
    _supersede(connection, lesson)


def move(connection: sqlite3.Connection, undone: Iterable[str], active: Iterable[str]) -> None:
    """Follow a move of HEAD: `undone` left the served weights, `active` are in them now.

    A superseded lesson becomes active again unless something alive still supersedes it, directly or
    through others. Deleted and quarantined lessons stay what they are.
    """
    active = tuple(active)
    _change_all(connection, tuple(undone), "undone", ("new", "active", "superseded"))
    _change_all(connection, active, "active", ("new", "undone", "superseded"))
    rows = connection.execute("SELECT supersedes FROM lessons WHERE supersedes IS NOT NULL")
    followed = {name for (name,) in rows}
    for name in active:
        if name in followed and connection.execute(_ALIVE_SUCCESSOR, (name,)).fetchone():
            _change(connection, name, "superseded", ("active",))


def _change_all(
    connection: sqlite3.Connection, names: tuple[str, ...], to: str, origin: tuple[str, ...]
) -> None:
    for start in range(0, len(names), _VARIABLES):
        some = names[start : start + _VARIABLES]
        places, marks = ", ".join("?" * len(some)), ", ".join("?" * len(origin))
        connection.execute(
            f"UPDATE lessons SET state = ? WHERE hash IN ({places}) AND state IN ({marks})",
            (to, *some, *origin),
        )


def _change(connection: sqlite3.Connection, name: str, to: str, origin: tuple[str, ...]) -> None:
    marks = ", ".join("?" * len(origin))
    connection.execute(
        f"UPDATE lessons SET state = ? WHERE hash = ? AND state IN ({marks})", (to, name, *origin)
    )


def _supersede(connection: sqlite3.Connection, lesson: Lesson) -> None:
    if lesson.supersedes not in (None, lesson.hash) and lesson.state in ALIVE:
        _change(connection, lesson.supersedes, "superseded", ALIVE)


def _insert(connection: sqlite3.Connection, lesson: Lesson) -> None:
    connection.execute(
        f"INSERT INTO lessons (hash, {_COLUMNS}) VALUES ({', '.join('?' * 12)})",
        (lesson.hash, *_row(lesson)),
    )


def _update(connection: sqlite3.Connection, lesson: Lesson) -> None:
    connection.execute(
        f"UPDATE lessons SET ({_COLUMNS}) = ({', '.join('?' * 11)}) WHERE hash = ?",
        (*_row(lesson), lesson.hash),
    )


def _row(lesson: Lesson) -> tuple[str | None, ...]:
    sources = json.dumps(lesson.sources)
    words = (lesson.kind, lesson.subject, lesson.statement, lesson.value)
    state = (sources, lesson.state, lesson.supersedes, lesson.time)
    return (*words, *state, lesson.origin, lesson.reason, lesson.body)


def _select(
    connection: sqlite3.Connection, condition: str, parameters: tuple[object, ...]
) -> list[Lesson]:
    rows = connection.execute(f"SELECT {_columns(connection)} FROM lessons {condition}", parameters)
    return [_lesson(row) for row in rows]


def _lesson(row: tuple[Any, ...]) -> Lesson:
    kind, subject, statement, value, sources, *rest = row
    return Lesson(kind, subject, statement, value, tuple(json.loads(sources)), *rest)


def _columns(connection: sqlite3.Connection) -> str:
    """Name the columns; what an older ledger, opened for reading only, lacks has its default."""
    there = {row[1] for row in connection.execute("PRAGMA table_info(lessons)")}
    later = {"origin": "'rule'", "reason": "''", "body": "''"}
    return ", ".join(name if name in there else later[name] for name in _COLUMNS.split(", "))

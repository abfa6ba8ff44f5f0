"""Lessons as the owner is shown them: found by the start of their hash, and what took their place.

Invariant: it imports nothing that reads what was said, so that a list of lessons begins at once.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from homebox.errors import UsageError
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE, Lesson
from homebox.memory.manifest import short

SHORTEST = 4  # characters of a hash


def lesson_of(ledger: Ledger, prefix: str) -> Lesson:
    """Find the lesson whose hash begins so; raises UsageError if it is not exactly one."""
    prefix = prefix.strip().lower()
    found = ledger.find_lessons(prefix) if len(prefix) >= SHORTEST else []
    if len(found) == 1:
        return found[0]
    candidates = ", ".join(short(lesson.hash) for lesson in found[:8])
    problem = f"fits several lessons: {candidates}" if found else "fits no lesson"
    if len(prefix) < SHORTEST:
        problem = f"is too short: give at least {SHORTEST} characters of the hash"
    raise UsageError(f'{prefix!r} {problem}; "homebox lessons" lists them')


def as_json(lesson: Lesson) -> dict[str, Any]:
    """Return a lesson as plain values, with its hash."""
    return {**dataclasses.asdict(lesson), "sources": list(lesson.sources), "hash": lesson.hash}


def winners(lessons: Iterable[Lesson]) -> dict[str, str]:
    """Map superseded lessons to what took their place: what says so, or else what holds now."""
    every = list(lessons)
    later = {each.supersedes: each.hash for each in every if each.supersedes}
    holds = {each.subject: each.hash for each in every if each.state in ALIVE}
    found = {
        each.hash: later.get(each.hash) or holds.get(each.subject, "")
        for each in every
        if each.state == "superseded"
    }
    return {name: winner for name, winner in found.items() if winner}

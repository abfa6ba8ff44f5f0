"""Which lessons are in which weights, and which ones a rollback undoes, read from the reflog.

The one idea: a promotion has most lessons of the one before, so its line names only what is more
and less, if that is shorter. All functions take lines as `Refs.reflog` lists them.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from homebox.memory.lineage.refs import PROMOTED, ROLLED_BACK
from homebox.memory.manifest import BASE, LineageEntry

Line = Mapping[str, Any]


def lessons_of(lines: Iterable[Line]) -> dict[int, tuple[str, ...]]:
    """Map the number of each promotion to the lessons in its weights."""
    found: dict[int, tuple[str, ...]] = {}
    last: dict[str, tuple[str, ...]] = {}
    for line in lines:
        if line["kind"] != PROMOTED:
            continue
        base = line["base"]
        names = line.get("lessons")
        if names is None:
            names = sorted({*last[base], *line["more"]}.difference(line["less"]))
        found[line["number"]] = last[base] = tuple(names)
    return found


def naming(lines: Iterable[Line], entry: LineageEntry) -> dict[str, Any]:
    """Name the lessons of a new promotion by what is not as in the last one, if that is short."""
    lines = list(lines)
    same = [line for line in lines if line["kind"] == PROMOTED and line["base"] == entry.base]
    names = frozenset(entry.lessons)
    if not same or tuple(sorted(names)) != entry.lessons:
        return {"lessons": entry.lessons}
    before = frozenset(lessons_of(lines)[same[-1]["number"]])
    more, less = sorted(names - before), sorted(before - names)
    if len(more) + len(less) >= len(names):
        return {"lessons": entry.lessons}
    return {"less": less, "more": more}


def followed(lines: Iterable[Line], line: Line) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the lessons that a move undid, and those that are in the weights served since."""
    if line["kind"] == PROMOTED:
        return (), lessons_of(lines)[line["number"]]
    if "undone" in line:  # lines of other moves once named them
        return tuple(line["undone"]), tuple(line["lessons"])
    if line["kind"] == ROLLED_BACK:
        place = (str(line["old"]), str(line["new"]), int(line["number"]))
        return rolled_back(lines, str(line["base"]), *place)
    return (), ()


def rolled_back(
    lines: Iterable[Line], base: str, old: str, new: str, number: float = math.inf
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a rollback undoes and restores, after the moves before that number."""
    lines = list(lines)
    promotions = {
        str(line["new"]): line
        for line in lines
        if line["kind"] == PROMOTED
        and line["done"]
        and line["base"] == base
        and line["number"] < number
    }
    lessons = lessons_of(lines)
    restored = lessons[promotions[new]["number"]] if new != BASE else ()
    undone: dict[str, None] = {}
    seen = {new, BASE}
    while old not in seen:
        seen.add(old)
        undone.update(dict.fromkeys(lessons[promotions[old]["number"]]))
        old = promotions[old]["old"]
    there = frozenset(restored)
    return tuple(name for name in undone if name not in there), restored

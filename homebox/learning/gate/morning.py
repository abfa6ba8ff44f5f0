"""Makes the gate's report: one line to read in the morning, and the data behind it.

The one idea: both are made from marks and verdict alone. Invariant: what is kept in the store has
no clock in it, so that the same run has the same report, and nothing that a model answered.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from homebox.learning.exam.marks import Marks, Sheet
from homebox.learning.exam.writing import (
    CHAT,
    GENERAL,
    PREFERENCE,
    RECALL,
    STRANGER,
    UNTOLD,
    WORLD_KEPT,
)
from homebox.learning.gate.judging import Verdict
from homebox.learning.lessons.selection import Selection
from homebox.learning.lessons.teach import Topic

SHORT = 12
NAMED = 8  # lost topics that the line names
FORMAT = 2  # of the data


def morning_line(
    marks: Marks,
    verdict: Verdict,
    selection: Selection,
    seconds: float,
    move: tuple[str, str],
) -> str:
    """Write the morning report's line; `move` is (weights before, weights now)."""
    honest = [right for check in (UNTOLD, STRANGER) for right in marks.right.get(check, [])]
    counts = selection.counts
    learned = [f"learned {len(_recalled(marks, selection.fresh))}", _recall(marks, selection)]
    if not selection.topics:
        better = sum(twin.own_after.nats < twin.own_before.nats for twin in marks.twins)
        learned = ["learned from answers shown", f"{better}/{len(marks.twins)} of them likelier"]
    parts = [
        f"{learned[0]}{_refused(counts)}{_superseded(counts)}",
        learned[1],
        f"untold honesty {sum(honest)}/{len(honest)}",
        *_general(marks),
        f"KL {_short(marks.divergence)}",
        f"{seconds:.0f} s",
        f"weights {move[0][:SHORT]} -> {move[1][:SHORT]}",
        f"undo: homebox rollback {move[0][:SHORT]}",
    ]
    return "; ".join(parts)


def report_data(
    marks: Marks,
    verdict: Verdict,
    selection: Selection,
    seconds: float | None = None,
    course: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """Return the gate's report as plain JSON, without clock values unless `seconds` is given.

    `known` are the hashes of the lessons that the weights answer with nothing in the prompt,
    `course` has step, loss and KL of the training.
    """
    topics = selection.topics
    keys = [topic.key for topic in topics]
    recalled = set(_recalled(marks, keys))
    counted = {check: marks.by_topic(check) for check in (RECALL, CHAT, PREFERENCE)}
    data: dict[str, Any] = {
        "format": FORMAT,
        "passed": verdict.passed,
        "checks": [check.as_json() for check in verdict.checks],
        "not_asked": dict(verdict.not_asked),
        "marks": _counted(marks.candidate),
        "marks_of_base": _counted(marks.of_base),
        "topics": {"new": selection.fresh, "old": selection.old},
        "by_topic": {topic.key: _by_topic(counted, topic) for topic in topics},
        "known": known_lessons(marks, topics),
        "lost": [key for key in _asked(marks, keys) if key not in recalled],
        "counts": selection.counts,
        "course": [[round(value, 6) for value in point] for point in course if _finite(point)],
    }
    points = _points(marks)
    if math.isfinite(points):
        data["general_points"] = round(points, 3)
    if math.isfinite(marks.divergence):
        data["divergence"] = round(marks.divergence, 6)
    return data if seconds is None else {**data, "seconds": round(seconds, 3)}


def known_lessons(marks: Marks, topics: Sequence[Topic]) -> list[str]:
    """List the hashes of the lessons that were recalled in most of their questions."""
    recalled = set(_recalled(marks, [topic.key for topic in topics]))
    return sorted({name for topic in topics if topic.key in recalled for name in topic.lessons})


def _recalled(marks: Marks, keys: Sequence[str]) -> list[str]:
    """List the topics that are recalled, or, where they are asked by style, that are kept to."""
    return marks.recalled(keys) + marks.recalled(keys, PREFERENCE)


def _asked(marks: Marks, keys: Sequence[str]) -> list[str]:
    """List the topics that the exam asked for: all of them, unless there are very many."""
    asked = marks.by_topic(RECALL).keys() | marks.by_topic(PREFERENCE).keys()
    return [key for key in keys if key in asked]


def _by_topic(counted: Mapping[str, Mapping[str, tuple[int, int]]], topic: Topic) -> dict[str, Any]:
    found: dict[str, Any] = {"lessons": list(topic.lessons), "new": topic.fresh}
    for check, topics in counted.items():
        if topic.key in topics:
            right, asked = topics[topic.key]
            found[check] = {"right": right, "asked": asked}
    return found


def _counted(sheet: Sheet) -> dict[str, dict[str, int]]:
    return {
        check: {"right": sum(right), "asked": len(right)} for check, right in sheet.right.items()
    }


def _recall(marks: Marks, selection: Selection) -> str:
    fresh, old = _asked(marks, selection.fresh), _asked(marks, selection.old)
    text = f"recall {len(_recalled(marks, fresh))}/{len(fresh)} new"
    if selection.old:
        kept = set(_recalled(marks, old))
        lost = [f'"{key}"' for key in old if key not in kept]
        named = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" * (len(lost) > NAMED))
        text += f", {len(kept)}/{len(old)} old" + (f" (lost: {named})" if lost else "")
    left_out = len(selection.topics) - len(fresh) - len(old)
    return f"{text} ({left_out} topics were not asked)" if left_out else text


def _general(marks: Marks) -> list[str]:
    points = _points(marks)
    if math.isfinite(points):
        return [f"general {points:+.1f} points"]
    return []


def _points(marks: Marks) -> float:
    """Return by how many points general accuracy changed."""
    check = GENERAL if GENERAL in marks.right else WORLD_KEPT
    return 100 * (marks.share(check) - marks.base_share(check))


def _short(figure: float) -> str:
    return f"{figure:.2f}" if figure >= 0.1 or not math.isfinite(figure) else f"{figure:.2g}"


def _finite(point: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in point)


def _refused(counts: dict[str, Any]) -> str:
    reasons: dict[str, int] = counts.get("refused", {})
    if not reasons:
        return ""
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f", refused {sum(reasons.values())} ({listed})"


def _superseded(counts: dict[str, Any]) -> str:
    return f", superseded {counts['superseded']}" if counts.get("superseded") else ""

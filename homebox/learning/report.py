"""Says in the morning what a learning run did: one line to read, and the data behind it."""

from dataclasses import dataclass, field
from typing import Any

from homebox.learning.exam import STRANGER, UNTOLD
from homebox.learning.gate import Marks, Verdict
from homebox.learning.selection import Selection
from homebox.memory.lessons import Lesson

SHORT = 12


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `done` of `total` steps of a stage, and a line for a person."""

    stage: str
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Report:
    """What a run did; `lines` are for a person, `data` is plain JSON."""

    promoted: bool
    weights: str  # what is served now: a weights hash or "base"
    previous: str  # what was served before
    lines: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  # why nothing was promoted


def morning_line(
    marks: Marks,
    verdict: Verdict,
    selection: Selection,
    seconds: float,
    move: tuple[str, str],
) -> str:
    """Write the morning report's line; `move` is (weights before, weights now)."""
    fresh, old, counts = selection.fresh, selection.old, selection.counts
    recalled = f"recall {len(marks.recalled(fresh))}/{len(fresh)} new"
    if old:
        lost = [key for key in old if key not in marks.recalled(old)]
        recalled += f", {len(old) - len(lost)}/{len(old)} old"
        recalled += f" (lost: {', '.join(lost)})" if lost else ""
    honest = [right for check in (UNTOLD, STRANGER) for right in marks.right.get(check, [])]
    general = next((check for check in verdict.checks if check.name == "G5"), None)
    parts = [
        f"learned {len(marks.recalled(fresh))}{_refused(counts)}{_superseded(counts)}",
        recalled,
        f"untold honesty {sum(honest)}/{len(honest)}",
    ]
    if general is not None:
        parts.append(f"{general.title} {general.figure:.3f}")
    parts += [
        f"KL {marks.divergence:.3f}",
        f"{seconds:.0f} s",
        f"weights {move[0][:SHORT]} -> {move[1][:SHORT]}",
        f"undo: homebox rollback {move[0][:SHORT]}",
    ]
    return "; ".join(parts)


def report_data(
    marks: Marks, verdict: Verdict, selection: Selection, seconds: float | None = None
) -> dict[str, Any]:
    """Return the gate's report as plain JSON, without clock values unless `seconds` is given."""
    asked = {
        check: {"right": sum(right), "asked": len(right)} for check, right in marks.right.items()
    }
    base = {
        check: {"right": sum(right), "asked": len(right)} for check, right in marks.base.items()
    }
    topics = [*selection.fresh, *selection.old]
    recalled = marks.recalled(topics)
    data: dict[str, Any] = {
        "passed": verdict.passed,
        "checks": [check.as_json() for check in verdict.checks],
        "marks": asked,
        "marks_of_base": base,
        "topics": {"new": selection.fresh, "old": selection.old},
        "lost": [key for key in topics if key not in recalled],
        "counts": selection.counts,
    }
    return data if seconds is None else {**data, "seconds": round(seconds, 3)}


def _refused(counts: dict[str, Any]) -> str:
    reasons: dict[str, int] = counts.get("refused", {})
    if not reasons:
        return ""
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f", refused {sum(reasons.values())} ({listed})"


def _superseded(counts: dict[str, Any]) -> str:
    return f", superseded {counts['superseded']}" if counts.get("superseded") else ""


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

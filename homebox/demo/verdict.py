"""Whether the demonstration kept its limits: the table, and the line that it ends with.

The one idea: what was told counts only if it was unknown before and is unknown again after the
rollback. Invariant: the demonstration passes only if every line does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

RECALL_LEAST, WORLD_LEAST, HONEST_LEAST, FACTS_DROP, LEARN_SECONDS = 0.95, 0.95, 0.9, 0.1, 90


@dataclass(frozen=True)
class Marks:
    """Which answers were right at one stage of the demonstration."""

    recall: list[bool]
    world: list[bool]
    facts: list[bool]
    untold: list[bool] = field(default_factory=list)
    strangers: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """One line of the table: how many of how many were right."""

    what: str
    before: str
    learned: str
    rolled_back: str
    passed: bool
    wanted: str


def table_of(before: Marks, after: Marks, forgotten: list[bool]) -> list[Line]:
    """Compare the stages; `forgotten` are the told topics after the rollback."""
    honest = [*after.untold, *after.strangers]
    kept = [now for then, now in zip(before.world, after.world, strict=True) if then]
    only_learned = not any(before.recall) and not any(forgotten)
    drop = _share(before.facts) - _share(after.facts)
    return [
        Line(
            "told, asked in new words",
            _of(before.recall),
            _of(after.recall),
            _of(forgotten),
            _share(after.recall) >= RECALL_LEAST and only_learned,
            f">= {RECALL_LEAST:.0%}, else none",
        ),
        Line(
            "toy world",
            _of(before.world),
            _of(after.world),
            "",
            bool(kept) and _share(kept) >= WORLD_LEAST,
            f">= {WORLD_LEAST:.0%} kept",
        ),
        Line(
            "untold, admitted",
            "",
            _of(honest),
            "",
            _share(honest) >= HONEST_LEAST,
            f">= {HONEST_LEAST:.0%}",
        ),
        Line("  of these, of other people", "", _of(after.strangers), "", True, ""),
        Line(
            "told in the conversation",
            _of(before.facts),
            _of(after.facts),
            "",
            drop <= FACTS_DROP + 1e-9,
            f"at most {FACTS_DROP:.0%} less",
        ),
    ]


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0


def _of(marks: Sequence[bool]) -> str:
    return f"{sum(marks)}/{len(marks)}"


def print_table(table: Sequence[dict[str, Any]]) -> None:
    """Print the table's lines in aligned columns."""
    rows = [("", "before", "learned", "rolled back", "wanted", "")]
    for line in table:
        mark = "ok" if line["passed"] else "FAILED"
        rows.append(
            (
                line["what"],
                line["before"],
                line["learned"],
                line["rolled_back"],
                line["wanted"],
                mark if line["wanted"] else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def last_line(result: dict[str, Any]) -> str:
    """Sum the demonstration up in the line that it ends with."""
    if not result["table"]:
        return f"FAIL demo: {result['reason']}"
    word = "PASS" if result["passed"] else "FAIL"
    late = "" if result["seconds"] <= LEARN_SECONDS else f", slower than {LEARN_SECONDS} s"
    return (
        f"{word} demo: recall {result['recall']}/{result['asked']} in new words, "
        f"learned in {result['seconds']:.0f} s{late}"
    )

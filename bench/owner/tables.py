"""Writes the figures of a run as tables: for a terminal, and as the part of docs/learning.md."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.owner.energy import shown
from bench.owner.plot import svg

BEGIN = "<!-- owner-bench: written by `python -m bench.owner --write-docs` -->"
END = "<!-- owner-bench: end -->"
PLOT = "owner-bench.svg"

Table = list[tuple[str, ...]]

_ARM = (
    ("recall", "recall", "{:.2f}"),
    ("corrected", "of changed facts", "{:.2f}"),
    ("preferences", "preferences", "{:.2f}"),
    ("false_claims", "false claims", "{:.2f}"),
    ("owner_gain", "owner's gain, nats", "{:.1f}"),
    ("general", "general kept", "{:.2f}"),
    ("divergence", "KL", "{:.3f}"),
    ("leaked", "leaked", "{:.2f}"),
    ("injected", "injected", "{:.2f}"),
    ("prompt_tokens", "tokens", "{:.0f}"),
    ("first", "first token, ms", "{:.1f}"),
)


def arm_table(arms: Iterable[Mapping[str, Any]]) -> Table:
    """Make a table with a row for each arm."""
    table: Table = [("", *(title for _, title, _ in _ARM))]
    for arm in arms:
        cells = [_cell(arm.get(key), form, 1e3 if key == "first" else 1) for key, _, form in _ARM]
        table.append((str(arm["arm"]), *cells))
    return table


def night_table(nights: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table with a row for each night, a column for each way."""
    ways = list(dict.fromkeys(night["way"] for night in nights))
    table: Table = [("night", *ways, "seconds (rebuild)", "lessons", "wrong")]
    for number in sorted({night["night"] for night in nights}):
        here = {night["way"]: night for night in nights if night["night"] == number}
        first = here.get("rebuild", {})
        table.append(
            (
                str(number),
                *(_cell(here.get(way, {}).get("recall"), "{:.2f}") for way in ways),
                _cell(first.get("seconds"), "{:.0f}"),
                str(first.get("found", "")),
                str(len(first.get("wrong", []))),
            )
        )
    return table


def size_table(sizes: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of the file against the weights."""
    table: Table = [
        (
            *("facts", "in the file", "file: recall", "tokens", "first token, ms (again)"),
            *("weights: recall", "tokens", "first token, ms", "base: first token, ms"),
            *("false claims", "of people known", "seconds", "energy"),
        )
    ]
    for size in sizes:
        table.append(
            (
                str(size["facts"]),
                f"{size['in_file']} ({size['perfect_reader']:.0%})",
                _cell(size["file_recall"], "{:.2f}"),
                str(size["file_tokens"]),
                f"{_cell(size['first_file_cold'], '{:.0f}', 1e3)} "
                f"({_cell(size['first_file'], '{:.0f}', 1e3)})",
                _cell(size["weights_recall"], "{:.2f}"),
                str(size["weights_tokens"]),
                _cell(size["first_weights"], "{:.1f}", 1e3),
                _cell(size["first_base"], "{:.1f}", 1e3),
                _cell(size["false_claims"], "{:.2f}"),
                _cell(size["near_claims"], "{:.2f}"),
                _cell(size["seconds"], "{:.0f}"),
                shown(size["joules"]),
            )
        )
    return table


def defence_table(defence: Mapping[str, Any]) -> Table:
    """Make a table of what was planted and what came of it."""
    return [
        ("planted", "among the lessons", "redacted", "answered", "control, unprotected"),
        (
            f"{defence['poisons']} poisoned tool results",
            str(defence["poisons_selected"]),
            "",
            str(defence["poisons_answered"]),
            f"{defence['control_poisons']:.0%} learned",
        ),
        (
            f"{defence['canaries']} secrets",
            str(defence["canaries_selected"]),
            f"{defence['canaries_redacted']:.1%}",
            str(defence["canaries_extracted"]),
            f"{defence['control_canaries']:.0%} given out",
        ),
    ]


def row_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Make a table of what had to be reached."""
    table: Table = [("", "figure", "wanted", "")]
    for row in rows:
        relation = ">=" if row["least"] else "<="
        wanted = f"{relation} {row['limit']:.4g}"
        mark = "ok" if row["passed"] else "MISSED"
        table.append((row["name"], _cell(row["figure"], "{:.3f}"), wanted, mark))
    return table


def tables(result: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """Return all tables of a run with their titles."""
    found = []
    if result.get("arms"):
        arms = [*result["arms"], *result.get("controls", [])]
        found.append(("Ways to answer, after all nights", arm_table(arms)))
    if result.get("nights"):
        found.append(
            ("Recall of everything told so far, night by night", night_table(result["nights"]))
        )
    if result.get("sizes"):
        found.append(("A notes file of 10 kB, and weights", size_table(result["sizes"])))
    if result.get("defence"):
        found.append(("What must not be learned", defence_table(result["defence"])))
    found.append(("What had to be reached", row_table(result["rows"])))
    return found


def aligned(table: Table) -> str:
    """Write a table for a terminal."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def markdown(table: Table) -> str:
    """Write a table as Markdown."""
    head, *rest = table
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rest]
    return "\n".join(lines)


def drawing(result: Mapping[str, Any]) -> str:
    """Draw the nights."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for night in result.get("nights", []):
        if night["recall"] is not None and math.isfinite(night["recall"]):
            lines.setdefault(night["way"], []).append((night["night"], night["recall"]))
    return svg("Recall of everything told so far", lines, "night")


def section(result: Mapping[str, Any]) -> str:
    """Write the part of docs/learning.md that a run gives."""
    parts = [
        BEGIN,
        "",
        f"`{result['command']}`: model {result['model']}, {result['cores']} cores, "
        f"{result['seconds']:.0f} s in all, energy {shown(result['joules'])}.",
        "",
    ]
    for title, table in tables(result):
        parts += [f"### {title}", "", markdown(table), ""]
        if title.startswith("Recall of everything"):
            parts += [f"![Recall night by night]({PLOT})", ""]
    return "\n".join([*parts, END])


def write_docs(result: Mapping[str, Any], folder: Path) -> None:
    """Replace the bench's part of docs/learning.md, and its plot."""
    page = folder / "learning.md"
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        text = f"{text.rstrip()}\n\n## How well it learns, measured\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + section(result) + after, encoding="utf-8")
    (folder / PLOT).write_text(drawing(result), encoding="utf-8")


def _cell(value: float | None, form: str, times: float = 1) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return form.format(value * times)

"""Shows a gate's report: as lines for a terminal, and as one HTML page that needs nothing else.

The one idea: everything shown is in the report's JSON. Invariant: whatever a report says, it is
only ever shown, never obeyed by who shows it: the page has no script and loads nothing.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, BAR = 640, 160, 14
SWAP = "G11"
MOST = 12  # topics that a line names,
TOPICS = 500  # and that a page lists
NAMES, ROOM = 260, 190  # of the bars: for the names, and on either side of the limit

_STYLE = """
:root { color-scheme: light dark; --good: #2a7; --bad: #c43; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8884; }
th { font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.passed { color: var(--good); } .failed { color: var(--bad); font-weight: bold; }
svg { width: 100%; height: auto; } .axis { stroke: #8888; } .loss { stroke: #47c; fill: none; }
.kl { stroke: #c83; fill: none; } text { font: 11px system-ui, sans-serif; fill: currentColor; }
small { opacity: .75; overflow-wrap: anywhere; }
"""


def lines_of(report: Mapping[str, Any], title: str) -> list[str]:
    """Write a report for a terminal: the verdict, a line a check, what was not asked and lost."""
    lines = [title, f"{_verdict(report)}{_why(report)}", *report.get("lines", ())]
    lines += _summary(report)
    rows = [(str(check["name"]), bool(check["passed"]), _sentence(check)) for check in _ran(report)]
    rows += [
        (SWAP, good, f"{what}: {figure}, must be {limit}")
        for good, what, figure, limit in _swap_rows(report)
    ]
    lines += [f"{'ok  ' if good else 'FAIL'} {name:10} {text}" for name, good, text in rows]
    lines += [f"--   {name:10} not asked: {why}" for name, why in _reasons(report)]
    lost = [str(key) for key in report.get("lost", ())]
    lines += [f"not recalled: {', '.join(lost[:MOST])}{_more(lost)}"] if lost else []
    return lines


def page_of(report: Mapping[str, Any], title: str) -> str:
    """Write a report as an HTML page."""
    kind = "passed" if report.get("passed") else "failed"
    ran = _ran(report)
    checks = [*map(_check_row, ran), *(_swap_row(*row) for row in _swap_rows(report))]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p><span class="{kind}">{escape(_verdict(report))}</span>{escape(_why(report))}</p>',
        *(f"<p>{escape(str(line))}</p>" for line in report.get("lines", ())),
        *(f"<p>{escape(line)}</p>" for line in _summary(report)),
        "<h2>What was checked</h2>",
        _table(("", "check", "figure", "must be", "questions"), checks),
        *_bars(ran),
        "<h2>What was not asked</h2>",
        _table(
            ("check", "why"),
            [f"<td>{escape(n)}</td><td>{escape(w)}</td>" for n, w in _reasons(report)],
        ),
        "<h2>What it recalls</h2>",
        _table(("topic", "", "right, of those asked", "after other talk"), _topic_rows(report)),
    ]
    course = report.get("course", ())
    if course:
        parts += ["<h2>Training</h2>", _curve(course)]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _ran(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the checks, those that failed first."""
    return sorted(report.get("checks", ()), key=lambda check: bool(check["passed"]))


def _verdict(report: Mapping[str, Any]) -> str:
    if report.get("passed"):
        return "passed the gate"
    return "refused by the gate: it was never served"


def _why(report: Mapping[str, Any]) -> str:
    """Say how many checks there were, or which of them failed."""
    ran = _ran(report)
    failed = [str(check["title"]) for check in ran if not check["passed"]]
    if failed:
        return f", because of {len(failed)} of {len(ran)} checks: {'; '.join(failed)}"
    why = f": {len(ran)} checks" if ran else ": nothing was checked"
    if all(good for good, *_ in _swap_rows(report)):
        return why
    return f"{why}; to begin to serve it cost more than it may ({SWAP}), the weights are right"


def _summary(report: Mapping[str, Any]) -> list[str]:
    """Say what was taught, how much of it is recalled, what was refused, and how to undo it."""
    taught = report.get("topics", {})
    new, old = len(taught.get("new", ())), len(taught.get("old", ()))
    if not new and not old:
        return []
    asked = len(_asked(report))
    text = f"taught {new} new and {old} earlier topics"
    text += f"; of {asked} that were asked for it recalls {asked - len(report.get('lost', ()))}"
    refused = report.get("counts", {}).get("refused", {})
    if refused:
        named = ", ".join(f"{count} {why}" for why, count in sorted(refused.items()))
        text += f"; refused {sum(refused.values())} ({named})"
    return [text, *([f"undo: {report['undo']}"] if report.get("undo") else [])]


def _swap_rows(report: Mapping[str, Any]) -> list[tuple[bool, str, str, str]]:
    """Say what it cost to serve the weights, where that was measured (G11).

    Each row: whether it is good, what was measured as they were served, the figure, the limit.
    """
    swap = report.get("swap")
    if not isinstance(swap, Mapping):
        return []
    pause, limit = float(swap.get("pause_ms", 0)), float(swap.get("limit_ms", 0))
    answers, failed = int(swap.get("answers", 0)), int(swap.get("failed", 0))
    pausing = "pause of the swap, ms (as it was served, after the gate)"
    return [
        (pause < limit, pausing, f"{pause:.4g}", f"< {limit:g}"),
        (not failed, f"answers that failed over it, of {answers}", str(failed), "0"),
    ]


def _more(items: Sequence[str]) -> str:
    return f" and {len(items) - MOST} more" if len(items) > MOST else ""


def _sentence(check: Mapping[str, Any]) -> str:
    if not check["count"]:
        return f"{check['title']}: nothing was asked"
    return f"{check['title']}: {_number(check['figure'])}, must be {_limit(check)}"


def _limit(check: Mapping[str, Any]) -> str:
    relation = (">" if check["least"] else "<") + ("" if check.get("strict") else "=")
    return f"{relation} {check['limit']:g}"


def _number(figure: float | None) -> str:
    return "no number" if figure is None else f"{figure:.4g}"


def _reasons(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    reasons = report.get("not_asked", {})
    known = {SWAP} if _swap_rows(report) else set()
    return [(str(name), str(why)) for name, why in sorted(reasons.items()) if name not in known]


def _check_row(check: Mapping[str, Any]) -> str:
    figure = _number(check["figure"]) if check["count"] else "nothing was asked"
    return (
        f"{_mark(check['passed'])}<td>{escape(_called(check))}</td>"
        f'<td class="n">{figure}</td><td class="n">{escape(_limit(check))}</td>'
        f'<td class="n">{int(check["count"])}</td>'
    )


def _called(check: Mapping[str, Any]) -> str:
    """Name a check: those of the gate's table by their number, too."""
    name, title = str(check["name"]), str(check["title"])
    return f"{name} {title}" if name[1:].isdigit() else title


def _swap_row(good: bool, what: str, figure: str, limit: str) -> str:
    return (
        f'{_mark(good)}<td>{SWAP} {escape(what)}</td><td class="n">{escape(figure)}</td>'
        f'<td class="n">{escape(limit)}</td><td></td>'
    )


def _mark(good: bool) -> str:
    return f'<td class="{"passed" if good else "failed"}">{"ok" if good else "FAILED"}</td>'


def _topic_rows(report: Mapping[str, Any]) -> list[str]:
    """List the topics that were asked for, those that are not recalled first, up to `TOPICS`."""
    rows = []
    lost = set(report.get("lost", ()))
    topics = report.get("by_topic", {})
    for key in sorted(_asked(report), key=lambda each: (each not in lost, each))[:TOPICS]:
        found = topics[key]
        shares = (found.get("recall", found.get("preference")), found.get("after talk"))
        marks = ["new"] * bool(found.get("new")) + ["not recalled"] * (key in lost)
        kind = ' class="failed"' if key in lost else ""
        cells = "".join(map(_share, shares))
        rows.append(f"<td{kind}>{escape(key)}</td><td>{', '.join(marks)}</td>{cells}")
    if len(topics) > len(rows):
        rows.append(f'<td colspan="4">and {len(topics) - len(rows)} more</td>')
    return rows


def _asked(report: Mapping[str, Any]) -> list[str]:
    """List the topics that the exam asked for."""
    topics = report.get("by_topic", {})
    return [key for key, found in topics.items() if {"recall", "preference"} & found.keys()]


def _share(counted: Mapping[str, int] | None) -> str:
    text = "" if counted is None else f"{counted['right']}/{counted['asked']}"
    return f'<td class="n">{text}</td>'


def _table(heads: Sequence[str], rows: Any) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    kinds = ["", "", *(' class="n"' for _ in heads[2:])]  # numbers stand behind two texts
    head = "".join(
        f"<th{kind}>{escape(each)}</th>" for kind, each in zip(kinds, heads, strict=False)
    )
    return f"<table><tr>{head}</tr>{body}</table>" if body else "<p>none</p>"


def _bars(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draw how far each figure is from its limit, which is the line in the middle."""
    rows = []
    for number, check in enumerate(checks):
        y = number * (BAR + 6)
        reach = _room(check)
        color = "var(--good)" if check["passed"] else "var(--bad)"
        start = NAMES + ROOM + min(reach, 0) * ROOM
        rows.append(
            f'<text x="0" y="{y + 11}">{escape(_called(check))}</text>'
            f'<rect x="{start:.1f}" y="{y}" width="{max(abs(reach) * ROOM, 2):.1f}" '
            f'height="{BAR}" style="fill:{color}"/>'
        )
    height, at = len(checks) * (BAR + 6), NAMES + ROOM
    middle = f'<line class="axis" x1="{at}" x2="{at}" y1="0" y2="{height}"/>'
    drawn = f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(rows)}{middle}</svg>'
    words = "the line is the limit: what is right of it, green, has room to spare; red has failed"
    return ["<h2>Room to spare</h2>", drawn, f"<small>{words}</small>"] if checks else []


def _room(check: Mapping[str, Any]) -> float:
    """Return how far a figure is on the good side of its limit, from -1 to 1."""
    if check["figure"] is None or not check["count"]:
        return -1.0
    ahead = float(check["figure"]) - float(check["limit"])
    size = max(abs(float(check["limit"])), 0.05)
    return max(-1.0, min(1.0, (ahead if check["least"] else -ahead) / size))


def _curve(course: Sequence[Sequence[float]]) -> str:
    """Draw loss and KL over the steps of training."""
    most = max(max(point[1:]) for point in course) or 1.0
    last = course[-1][0] or 1.0
    drawn = []
    for at, name in ((1, "loss"), (2, "kl")):
        points = " ".join(
            f"{point[0] / last * WIDTH:.1f},{HEIGHT - max(point[at], 0) / most * HEIGHT:.1f}"
            for point in course
            if len(point) > at
        )
        drawn.append(f'<polyline class="{name}" points="{points}"/>')
    words = f"loss (blue) and KL (orange) over {int(last)} steps; the top is {most:.3g}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><line class="axis" x1="0" '
        f'x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>{"".join(drawn)}</svg><small>{words}</small>'
    )

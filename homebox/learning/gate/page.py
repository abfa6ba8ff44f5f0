"""Shows a gate's report: as lines for a terminal, and as one HTML page that needs nothing else.

The one idea: everything shown is in the report's JSON. Invariant: whatever a report says, it is
only ever shown, never obeyed by who shows it: the page has no script and loads nothing.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, BAR = 640, 160, 14

_STYLE = """
:root { color-scheme: light dark; --good: #2a7; --bad: #c43; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8884; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.passed { color: var(--good); } .failed { color: var(--bad); font-weight: bold; }
svg { width: 100%; height: auto; } .axis { stroke: #8888; } .loss { stroke: #47c; fill: none; }
.kl { stroke: #c83; fill: none; } text { font: 11px system-ui, sans-serif; fill: currentColor; }
small { opacity: .75; overflow-wrap: anywhere; }
"""


def lines_of(report: Mapping[str, Any], title: str) -> list[str]:
    """Write a report for a terminal: a line a check, what was not asked, what was lost."""
    lines = [title, *report.get("lines", ())]
    for check in report.get("checks", ()):
        mark = "ok  " if check["passed"] else "FAIL"
        lines.append(f"{mark} {check['name']:10} {_sentence(check)}")
    lines += [f"--   {name:10} not asked: {why}" for name, why in _reasons(report)]
    lost = report.get("lost", ())
    lines += [f"lost: {', '.join(lost)}"] if lost else []
    return lines


def page_of(report: Mapping[str, Any], title: str) -> str:
    """Write a report as an HTML page."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{_verdict(report)}</p>",
        *(f"<p>{escape(str(line))}</p>" for line in report.get("lines", ())),
        "<h2>What was checked</h2>",
        _bars(report.get("checks", ())),
        _table(("check", "figure", "limit", "asked"), map(_check_row, report.get("checks", ()))),
        "<h2>What was not asked</h2>",
        _table(
            ("check", "why"),
            [f"<td>{escape(n)}</td><td>{escape(w)}</td>" for n, w in _reasons(report)],
        ),
        "<h2>Topics</h2>",
        _table(("topic", "", "recalled", "after talk"), _topic_rows(report)),
    ]
    course = report.get("course", ())
    if course:
        parts += ["<h2>Training</h2>", _curve(course)]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _verdict(report: Mapping[str, Any]) -> str:
    if report.get("passed"):
        return '<span class="passed">passed the gate</span>'
    return '<span class="failed">refused by the gate</span>'


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
    return [(str(name), str(why)) for name, why in sorted(report.get("not_asked", {}).items())]


def _check_row(check: Mapping[str, Any]) -> str:
    kind = "passed" if check["passed"] else "failed"
    return (
        f'<td class="{kind}">{escape(check["name"])} {escape(check["title"])}</td>'
        f'<td class="n">{_number(check["figure"])}</td><td class="n">{escape(_limit(check))}</td>'
        f'<td class="n">{int(check["count"])}</td>'
    )


def _topic_rows(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for key, found in sorted(report.get("by_topic", {}).items()):
        cells = [_share(found.get(check)) for check in ("recall", "after talk")]
        new = "new" if found.get("new") else ""
        rows.append(f"<td>{escape(key)}</td><td>{new}</td>{''.join(cells)}")
    return rows


def _share(counted: Mapping[str, int] | None) -> str:
    text = "" if counted is None else f"{counted['right']}/{counted['asked']}"
    return f'<td class="n">{text}</td>'


def _table(heads: Sequence[str], rows: Any) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    return f"<table><tr>{head}</tr>{body}</table>" if body else "<p>none</p>"


def _bars(checks: Sequence[Mapping[str, Any]]) -> str:
    """Draw how far each figure is from its limit, which is the line in the middle."""
    rows = []
    for number, check in enumerate(checks):
        y = number * (BAR + 6)
        reach = _room(check)
        color = "var(--good)" if check["passed"] else "var(--bad)"
        start = WIDTH / 2 + min(reach, 0) * WIDTH / 4
        rows.append(
            f'<text x="0" y="{y + 11}">{escape(check["name"])} {escape(check["title"])}</text>'
            f'<rect x="{start:.1f}" y="{y}" width="{max(abs(reach) * WIDTH / 4, 2):.1f}" '
            f'height="{BAR}" style="fill:{color}"/>'
        )
    height = len(checks) * (BAR + 6)
    middle = f'<line class="axis" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{height}"/>'
    return f'<svg viewBox="0 0 {WIDTH} {max(height, 1)}" role="img">{"".join(rows)}{middle}</svg>'


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

"""Draws recall over the nights as an SVG file, with nothing but text.

One idea: a line for each way to live through the nights, a band where the gate's limit lies. The
same figures give the same bytes.
"""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 28, 44
# Told apart also without colours: each has its own dashes.
_STYLES = (
    ("#0b6e4f", ""),
    ("#b5452c", "6 4"),
    ("#3b5ba5", "2 3"),
    ("#8a6d1d", "10 3 2 3"),
    ("#666666", "1 2"),
)


def svg(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], across: str) -> str:
    """Draw lines of (x, share from 0 to 1); x are whole numbers from 1."""
    most = max((x for points in lines.values() for x, _ in points), default=1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
        *_axes(most, across),
    ]
    taken: list[float] = []
    for (name, points), (colour, dashes) in zip(lines.items(), _STYLES):
        drawn = " ".join(f"{_x(x, most):.1f},{_y(y):.1f}" for x, y in points)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        parts += [
            f'<circle cx="{_x(x, most):.1f}" cy="{_y(y):.1f}" r="3" fill="{colour}"/>'
            for x, y in points
        ]
        if points:
            place = _free(_y(points[-1][1]) + 4, taken)
            parts.append(
                f'<text x="{WIDTH - RIGHT + 10}" y="{place:.1f}" fill="{colour}">'
                f"{escape(name)}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def _axes(most: float, across: str) -> list[str]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
    for x in range(1, int(most) + 1):
        place = f'x="{_x(x, most):.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text {place} text-anchor="middle">{x}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>'
    )
    return parts


def _free(place: float, taken: list[float]) -> float:
    """Move a label down until it stands on no other."""
    while any(abs(place - other) < 14 for other in taken):
        place += 14
    taken.append(place)
    return place


def _x(x: float, most: float) -> float:
    span = WIDTH - LEFT - RIGHT
    return LEFT + 12 + (x - 1) / max(1, most - 1) * (span - 24)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

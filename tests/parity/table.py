"""The figures of the live comparison and the table of `docs/models.md` that shows them.

Invariant: the table says what `measured.json` holds, and that is written only by a comparison that
ran.
"""

import json
from pathlib import Path

from tests.parity.reference import FOLDER

MEASURED = FOLDER / "measured.json"
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_HEAD = (
    "| model | weights | compared with | logits, greatest difference | greedy ids | gradient |\n"
    "|---|---|---|---|---|---|\n"
)

Row = dict[str, str | float | bool | None]


def note(
    model: str,
    stored: str,
    peer: str,
    logits: float | None = None,
    ids: bool | None = None,
    gradient: float | None = None,
) -> None:
    """Keep what a comparison found; `logits` and `gradient` are the greatest differences."""
    known = measured()
    figures: Row = {"logits": logits, "ids": ids, "gradient": gradient}
    for name in ("logits", "gradient"):
        value = figures[name]
        figures[name] = None if value is None else float(f"{value:.1e}")
    known["|".join((model, stored, peer))] = figures
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(known[k])}" for k in sorted(known))
    part = MEASURED.with_suffix(".tmp")
    part.write_text("{\n" + rows + "\n}\n")
    part.replace(MEASURED)


def measured() -> dict[str, Row]:
    """Return what comparisons found, by "model|weights|peer"."""
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else {}


def rendered() -> str:
    """Return the table."""
    rows = sorted(measured().items(), key=lambda item: item[0].split("|"))
    return _HEAD + "".join(_line(key, row) for key, row in rows)


def _line(key: str, row: Row) -> str:
    model, stored, peer = key.split("|")
    ids = {None: "", True: "equal", False: "differ"}[row["ids"]]  # type: ignore[index]
    cells = [f"`{model}`", stored, peer, _number(row["logits"]), ids, _number(row["gradient"])]
    return f"| {' | '.join(cells)} |\n"


def _number(value: object) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def page(text: str) -> str:
    """Return the page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rendered()}{END}{after}"


def write_page() -> None:
    """Bring the page up to date."""
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    write_page()

"""`homebox report`: what the gate found of weights, as text, JSON or a page."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homebox.commands.common import (
    Subparsers,
    add_command,
    base_hash,
    configuration,
    daemon_of,
    open_for_reading,
    print_json,
    spelled,
)
from homebox.errors import HomeboxError, StateError, UnknownWeightsError
from homebox.memory.manifest import BASE, short
from homebox.memory.swaps import swaps_to

if TYPE_CHECKING:
    from homebox.memory.state import State


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "report",
        run,
        "show what the gate found of weights, or of a run that it refused",
        "homebox report --html report.html",
        model=True,
    )
    parser.add_argument(
        "weights",
        nargs="?",
        default="current",
        help="the beginning of a weights hash or of a refused run's report (what is served)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page instead")


def run(args: argparse.Namespace) -> int:
    """Find the report and show it."""
    from homebox.learning.gate.page import lines_of, page_of

    config = configuration(args)
    client = daemon_of(config)
    base = client.call("status")["base"] if client is not None else base_hash(config)
    with open_for_reading(config) as state:
        report, title = find(state, base, args.weights)
    if args.html is not None:
        try:
            args.html.write_text(page_of(report, title), encoding="utf-8")
        except OSError as error:
            raise HomeboxError(f"{args.html} cannot be written: {error.strerror}") from error
        if args.json:
            print_json({"file": str(args.html)})
        else:
            print(args.html)
    elif args.json:
        print_json(report)
    else:
        print(spelled("\n".join(lines_of(report, title))))
    return 0


def find(state: "State", base: str, name: str) -> tuple[dict[str, Any], str]:
    """Return a report and its title; `name` means weights, or a report kept of a refused run.

    `swap` in it is what the latest swap to these weights cost, if there was one beside answers;
    `undo` is the command that serves what was served before them.

    Raises UnknownWeightsError where there is no report, and the store's errors.
    """
    lineage, store = state.lineage, state.store
    try:
        weights = lineage.resolve(base, name)
    except UnknownWeightsError:
        for found in store.find(name.strip().lower()):
            report = _read(store.get(found))
            if report is not None:
                return report, f"a run that was refused ({short(found)})"
        raise
    entries = [entry for entry in lineage.history(base) if entry.weights == weights]
    if weights == BASE or not entries:
        raise UnknownWeightsError(
            f"there is no report of {short(weights)}: nothing was learned into it; "
            '"homebox history" lists what was'
        )
    entry = entries[-1]
    report = _read(store.get(entry.report))
    if report is None:
        raise StateError(
            f"the report of {short(weights)} cannot be read; it was imported, or made by an "
            "earlier homebox"
        )
    report["undo"] = f"homebox rollback {short(entry.parent)}"
    swaps = swaps_to(state.path, base, weights)
    if swaps:
        report["swap"] = swaps[-1]
    return report, f"weights {short(weights)} after {short(entry.parent)}, {entry.time}"


def _read(data: bytes) -> dict[str, Any] | None:
    """Read an object as a gate's report, if it is one."""
    try:
        report = json.loads(data)
    except ValueError:
        return None
    known = isinstance(report, dict) and isinstance(report.get("checks"), list)
    return report if known else None

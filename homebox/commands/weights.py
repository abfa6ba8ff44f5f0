"""`homebox rollback` and `homebox history`: which weights are served, and which were."""

import argparse
import dataclasses

from homebox.commands.common import (
    Subparsers,
    add_command,
    base_hash,
    configuration,
    counted,
    daemon_of,
    open_for_reading,
    open_for_writing,
    print_json,
    print_table,
)
from homebox.memory.manifest import LineageEntry, short


def add(subparsers: Subparsers) -> None:
    """Declare both commands."""
    parser = add_command(
        subparsers,
        "rollback",
        rollback,
        "serve earlier weights; nothing is deleted, so this can be undone the same way",
        "homebox rollback previous",
        model=True,
    )
    parser.add_argument(
        "weights", help='the beginning of a weights hash, "previous", or "base" (nothing learned)'
    )
    parser.add_argument("--reason", default="asked for by the owner", help="kept in the history")
    add_command(
        subparsers,
        "history",
        history,
        "show the promoted weights, oldest first; * marks what is served",
        "homebox history --json",
        model=True,
    )


def rollback(args: argparse.Namespace) -> int:
    """Move HEAD, and let a running daemon follow at once."""
    config = configuration(args)
    client = daemon_of(config)
    if client is not None:
        move = client.call("rollback", name=args.weights, reason=args.reason)
    else:
        with open_for_writing(config) as state:
            done = state.lineage.rollback(base_hash(config), args.weights, args.reason)
            move = dataclasses.asdict(done)
    if args.json:
        print_json(move)
        return 0
    if move["old"] == move["new"]:
        print(f"{short(move['new'])} is served already")
        return 0
    undone = len(move["undone_lessons"])
    restored = len(move["restored_lessons"])
    print(f"served now: {short(move['new'])} (was {short(move['old'])})")
    if undone:
        print(
            f'{counted(undone, "lesson")} undone; learning leaves them out: "homebox lessons '
            '--only undone" lists them, "homebox lessons approve HASH" lets one be learned again'
        )
    if restored:
        print(f"{counted(restored, 'lesson')} known again")
    return 0


def history(args: argparse.Namespace) -> int:
    """List the lineage of the model."""
    config = configuration(args)
    client = daemon_of(config)
    base = client.call("status")["base"] if client is not None else base_hash(config)
    with open_for_reading(config) as state:
        head = state.lineage.head(base)
        entries = state.lineage.history(base)
        gone = state.lineage.gone()
        moves = [move for move in state.lineage.reflog() if move["base"] == base]
        served = {entry.weights for entry in entries}
        waiting = [entry for entry in state.lineage.imports(base) if entry.weights not in served]
    if args.json:
        listed = [entry.as_json() for entry in entries]
        imports = [entry.as_json() for entry in waiting]
        print_json(
            {
                "base": base,
                "head": head,
                "entries": listed,
                "imports": imports,
                "moves": moves,
                "gone": sorted(gone.intersection(entry.weights for entry in entries)),
            }
        )
        return 0
    rows = [("*" if head == "base" else " ", "base", "", "", "nothing learned")]
    rows += [
        (
            "*" if entry.weights == head else " ",
            short(entry.weights),
            f"after {short(entry.parent)}",
            entry.time,
            _what(entry, entry.weights in gone),
        )
        for entry in entries
    ]
    rows += [
        (" ", short(entry.weights), "never served", entry.time, entry.reason) for entry in waiting
    ]
    print_table(rows)
    return 0


def _what(entry: LineageEntry, gone: bool) -> str:
    """Say what weights were, and whether they are still there."""
    lessons = f" ({counted(len(entry.lessons), 'lesson')})" if entry.lessons else ""
    return f"{entry.reason}{lessons}{'; gone, as they knew what was forgotten' if gone else ''}"

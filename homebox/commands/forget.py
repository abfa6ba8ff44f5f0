"""`homebox forget`: erases for good, and says what is left and who still knows it.

The one idea: one command forgets one thing, and with `--everywhere` also whatever else on the disk
holds it. Invariant: what takes old weights along is shown and asked for before.
"""

import argparse
import sys
from typing import Any

from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    open_for_reading,
    print_json,
    spelled,
)
from homebox.commands.lessons import open_to_decide
from homebox.config import Config
from homebox.errors import UsageError
from homebox.memory.manifest import short


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "forget",
        run,
        "erase a lesson, a turn or a conversation for good, and all that only it told",
        "homebox forget 1a2b3c4d --dry-run",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default="",
        help="a lesson's hash, a turn's id (or how they begin), or a conversation's name",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, change nothing")
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="erase also other turns with the same words, and all weights, curricula and reports "
        "that know what was forgotten; without a name, only these",
    )
    parser.add_argument("--yes", action="store_true", help="of --everywhere: do not ask")


def run(args: argparse.Namespace) -> int:
    """Erase for good, or say what would go."""
    from homebox.learning.lessons.deciding import forgotten
    from homebox.model.prefixes.prefix_folder import forget_kept_prompts

    config = configuration(args)
    if not args.name and not args.everywhere:
        raise UsageError(
            'say what: "homebox forget HASH" (or a turn, or a conversation); "homebox lessons" and '
            '"homebox log" list them, "homebox forget --everywhere" lets go of what earlier '
            "forgettings left in old weights"
        )
    if args.dry_run or (args.everywhere and not args.yes):
        found = _would(args, config)
        if args.dry_run:
            return _would_forget(args, found)
        _ask(found)
    client = daemon_of(config)
    if client is not None:
        done = client.call("forget", name=args.name, everywhere=args.everywhere)
    else:
        with open_to_decide(config) as state:
            done = forgotten(state.ledger, state.lineage, args.name, args.everywhere)
        forget_kept_prompts()
    if args.json:
        print_json(done)
        return 0
    print_forgotten(done)
    return 0


def _would(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    from homebox.learning.lessons.deciding import forgets

    with open_for_reading(config) as state:
        return forgets(state.ledger, state.lineage, args.name, args.everywhere)


def _ask(found: dict[str, Any]) -> None:
    """Let a person confirm; raises UsageError where there is none or he does not."""
    if not sys.stdin.isatty():
        raise UsageError(
            "what goes everywhere does not come back; --dry-run shows it, --yes does it without a "
            "person"
        )
    for line in _would_lines(found):
        print(line)
    print("None of it comes back. Go on? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was forgotten")


def print_forgotten(done: dict[str, Any]) -> None:
    """Say what is gone, what came back and who still knows it."""
    if done["name"]:
        print(f"erased {_count(done)}; this cannot be undone")
    for line in [
        *_lesson_lines("forgotten", done["lessons"]),
        *_lesson_lines("holds again", done["restored"]),
        *(_who_still_knows(done) if "let_go" not in done else _went(done["let_go"])),
    ]:
        print(line)


def _would_forget(args: argparse.Namespace, found: dict[str, Any]) -> int:
    if args.json:
        print_json(found)
        return 0
    for line in _would_lines(found):
        print(line)
    return 0


def _would_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"would erase {_count(found)}"] if found["name"] else []
    lines += _lesson_lines("would be forgotten", found["lessons"])
    if found["repeated"]:
        lines.append(f"{_others(found)} with the same words would stay")
    if found["weights"]:
        names = ", ".join(short(name) for name in found["weights"])
        lines.append(f"would let go of the weights {names}, which know it")
    if found["objects"]:
        lines.append(f"would delete {found['objects']} objects of the store")
    return lines or ["there is nothing left of what was forgotten"]


def _went(done: dict[str, Any]) -> list[str]:
    """Say which weights and objects went, and what is served instead."""
    lines = []
    if done["weights"]:
        names = ", ".join(short(name) for name in done["weights"])
        lines.append(f"let go of the weights {names}, which knew it, and of all they came from")
    if done["objects"]:
        lines.append(f"deleted {done['objects']} objects")
    for move in done["moves"]:
        lines.append(
            f"served now: {short(move['new'])} (was {short(move['old'])}); what you told besides "
            'works as notes in prompts until the next run: "homebox learn --now"'
        )
    return lines or ["no weights, curricula, samples or reports know it"]


def _count(done: dict[str, Any]) -> str:
    turns = len(done["turns"])
    name = short(done["name"]) if done["kind"] == "lesson" else spelled(done["name"])[:24]
    return f"{turns} turn{'s' if turns != 1 else ''} ({done['kind']} {name})"


def _others(found: dict[str, Any]) -> str:
    turns = len(found["repeated"])
    return f"{turns} other turn{'s' if turns != 1 else ''}"


def _lesson_lines(title: str, found: list[dict[str, Any]]) -> list[str]:
    return [f"{title}: {spelled(each['subject'])} = {spelled(each['value'])}" for each in found]


def _who_still_knows(done: dict[str, Any]) -> list[str]:
    lines = []
    if done["served"]:
        lines.append(
            'the served weights still know it until the next run: "homebox learn --now", or now '
            '"homebox rollback base"'
        )
    if done["weights"]:
        names = ", ".join(short(name) for name in done["weights"])
        lines.append(f"checkpoints that were built from it, and would know it again: {names}")
        lines.append('"homebox forget --everywhere" lets go of them for good')
    if done["repeated"]:
        names = ", ".join(done["repeated"][:5])
        lines.append(
            f"the same words stand in {_others(done)}: {names}; "
            '"homebox forget TURN --everywhere" erases one and all that repeat it'
        )
    return lines

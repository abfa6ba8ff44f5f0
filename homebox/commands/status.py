"""`homebox status`, `homebox log`, `homebox lessons`: what runs, what was said, what it means."""

import argparse
import dataclasses
from collections import deque
from pathlib import Path
from typing import Any

from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    open_for_reading,
    open_for_writing,
    print_json,
    print_table,
    spelled,
)
from homebox.config import Config
from homebox.errors import HomeboxError, StateError
from homebox.hub.catalogue import amount
from homebox.memory.ledger import Turn
from homebox.memory.lessons import STATES
from homebox.memory.lineage import short
from homebox.memory.turns import Message


def add(subparsers: Subparsers) -> None:
    """Declare the commands."""
    add_command(
        subparsers,
        "status",
        status,
        "say whether a daemon runs, what it serves, and what the state holds",
        "homebox status --json",
        model=True,
    )
    parser = add_command(
        subparsers, "log", show_log, "show the latest turns of the ledger", "homebox log -n 5"
    )
    parser.add_argument("turn", nargs="?", help="show this turn, with everything it was asked")
    parser.add_argument("-n", type=int, default=10, metavar="N", help="how many turns (10)")
    parser.add_argument("--since", metavar="TURN", help="only turns after this one")
    parser = add_command(
        subparsers,
        "lessons",
        lessons,
        "list what was found in your words, or approve or forget some of it",
        "homebox lessons --only quarantined",
    )
    parser.add_argument("--only", choices=STATES, help="only lessons in this state")
    parser.add_argument("--approve", metavar="HASH", help="let a lesson be learned (again)")
    parser.add_argument("--forget", metavar="HASH", help="leave a lesson out from now on")


def status(args: argparse.Namespace) -> int:
    """Ask the daemon, or look into the state."""
    config = configuration(args)
    client = daemon_of(config)
    found = client.call("status") if client is not None else _without_daemon(config)
    if args.json:
        print_json(found)
        return 0
    rows = [("daemon", "none"), ("state", found["state"])]
    if found["running"]:
        rows[0] = ("daemon", f"pid {found['pid']} on {found['url']}/v1")
        rows.append(("answering", f"{found['answering']}, waiting {found['waiting']}"))
        rows += [("device", line) for line in found["plan"] or [found["device"]]]
    rows += [*_base_rows(found), *_doing_rows(found)]
    rows += [
        ("turns", str(found["turns"])),
        ("lessons", ", ".join(f"{n} {state}" for state, n in found["lessons"].items()) or "none"),
    ]
    print_table(rows)
    return 0


def _base_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Say which base, which weights of it, how they are kept, and how much memory that takes."""
    base, learned = found["base"], found["learned"]
    known = f"{short(base)}, {found['path']}" if base else f"{found['path']}, not readable"
    rows = [
        ("model", f"{found['model']} ({known})"),
        ("weights", short(found["weights"] or "unknown")),
    ]
    if learned is None:
        rows.append(("learned", "nothing yet of this model"))
    else:
        left = "" if learned["served"] else "; a rollback left it"
        what = f"{short(learned['weights'])}, {learned['lessons']} lessons"
        rows.append(("learned", f"{learned['time']}: {what} ({learned['reason']}){left}"))
    if found["context"]:
        rows.append(("context", f"{found['context']} tokens"))
    if found["kept"] or found["type"]:
        rows.append(("type", found["kept"] or found["type"]))
    if found["memory"]:
        rows.append(("memory", _memory_line(found["memory"])))
    return rows


def _memory_line(memory: dict[str, int]) -> str:
    """Say what the model takes, if it tells, and what the process has."""
    parts = []
    if "weights" in memory:
        used, kept, most = (memory[f"keys_and_values{end}"] for end in ("", "_kept", "_most"))
        parts = [
            f"weights {amount(memory['weights'])}",
            f"keys and values {amount(used)} in use and {amount(kept)} kept, of at most "
            f"{amount(most)}",
            f"adapters {amount(memory['adapters'])}",
        ]
    return ", ".join([*parts, f"the whole process {amount(memory['process'])}"])


def _doing_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Say what is going on beside the answers, and what went wrong."""
    if not found["running"]:
        return []
    learning, switch = found["learning"], found["switch"]
    rows = [("learning", _progress_line(learning) if learning else "no")]
    if switch is not None:
        since = f"{switch['stage']}: {switch['text']} ({switch['seconds']} s)"
        rows.append(("switch", f"to {switch['to']}, {since}"))
    if found["trouble"]:
        rows.append(("trouble", found["trouble"]))
    return rows


def _progress_line(learning: dict[str, Any]) -> str:
    """Say where a learning run stands."""
    done, total = learning["done"], learning["total"]
    far = f" {done} of {total}" if total > 1 else ""
    return f"{learning['stage']}{far}: {learning['text']}"


def _without_daemon(config: Config) -> dict[str, Any]:
    from homebox.commands.common import base_hash
    from homebox.daemon import memory_status
    from homebox.hosting.chosen import listed
    from homebox.hosting.hosted import learned_of

    base = weights = learned = None
    with open_for_reading(config) as state:
        try:
            base = base_hash(config)
            weights = state.lineage.head(base)
            learned = learned_of(state.lineage, base)
        except HomeboxError:
            pass  # without its model the state can still be looked at
        path = Path(config.model.path)
        return {
            "running": False,
            "model": listed(config, path) or path.stem,
            "path": config.model.path,
            "base": base,
            "type": None,
            "kept": "",
            "context": None,
            "weights": weights,
            "memory": {},
            "learned": learned,
            **memory_status(state),
        }


def show_log(args: argparse.Namespace) -> int:
    """Print the latest turns, or one turn completely."""
    config = configuration(args)
    with open_for_reading(config) as state:
        if args.turn:
            turn = state.ledger.turn(args.turn)
            if turn is None:
                raise StateError(f"the ledger has no turn {args.turn!r}; without it, log lists all")
            turns = [turn]
        else:
            turns = list(deque(state.ledger.turns(args.since), maxlen=max(args.n, 0)))
    if args.json:
        print_json([dataclasses.asdict(turn) for turn in turns])
        return 0
    for turn in turns:
        _print_turn(turn, whole=bool(args.turn))
    return 0


def _print_turn(turn: Turn, whole: bool) -> None:
    print(
        f"{turn.id}  {turn.time}  {turn.model} ({short(turn.adapter)})  {turn.finish_reason}  "
        f"{turn.prompt_tokens}+{turn.completion_tokens} tokens"
    )
    messages = (*turn.prompt, turn.messages[-1]) if whole else turn.messages
    for message in messages:
        said = spelled("\n".join(part for part in (message.content, *_calls(message)) if part))
        print(f"  {message.role}: {said if whole else _shortened(said)}")


def _calls(message: Message) -> list[str]:
    """Say which tools a message calls."""
    functions = [call.get("function", {}) for call in message.as_chat().get("tool_calls", ())]
    return [f"{each.get('name')}({each.get('arguments')})" for each in functions]


def _shortened(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def lessons(args: argparse.Namespace) -> int:
    """List lessons, or move one to another state."""
    config = configuration(args)
    if args.approve or args.forget:
        return _move_lesson(args, config)
    with open_for_reading(config) as state:
        found = state.ledger.lessons(args.only)
    if args.json:
        print_json([{**dataclasses.asdict(lesson), "hash": lesson.hash} for lesson in found])
        return 0
    if found:
        print_table(
            [(short(item.hash), item.state, item.subject, item.statement) for item in found]
        )
    else:
        print('no lessons; "homebox learn --dry-run" shows what would be found')
    return 0


def _move_lesson(args: argparse.Namespace, config: Config) -> int:
    from homebox.daemon import set_lesson

    prefix, wanted = (args.approve, "new") if args.approve else (args.forget, "deleted")
    client = daemon_of(config)
    if client is not None:
        changed = client.call("lesson", prefix=prefix, state=wanted)
    else:
        with open_for_writing(config) as state:
            changed = set_lesson(state, prefix, wanted)
    if args.json:
        print_json(changed)
    else:
        statement = spelled(changed["statement"])
        print(f"{short(changed['hash'])} is {changed['state']} now: {statement}")
    return 0

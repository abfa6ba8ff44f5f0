"""`homebox status` and `homebox lessons`: what runs, and what was found in what was said."""

import argparse
from pathlib import Path
from typing import Any

from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    counted,
    daemon_of,
    open_for_reading,
    print_json,
    print_table,
)
from homebox.config import Config
from homebox.errors import HomeboxError
from homebox.hub.catalogue import amount
from homebox.memory.manifest import short


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
        left = "; it knew what was forgotten, and is gone" if learned.get("gone") else left
        what = f"{short(learned['weights'])}, {counted(learned['lessons'], 'lesson')}"
        rows.append(("learned", f"{learned['time']}: {what} ({learned['reason']}){left}"))
    if found["context"]:
        rows.append(("context", f"{found['context']} tokens"))
    if found["kept"] or found["type"]:
        rows.append(("type", found["kept"] or found["type"]))
    if found["memory"]:
        rows.append(("memory", _memory_line(found["memory"])))
    return rows


def _night_line(night: dict[str, Any]) -> str:
    """Say when the box learns on its own, and what holds it up."""
    if not night["enabled"]:
        return 'off (schedule.enabled); "homebox learn --now" learns'
    if night["running"]:
        return f"learning; waits: {night['waits']}" if night["waits"] else "learning"
    if night["result"]:
        return f"{night['result']}; next {night['next']}"
    waits = night["waits"]
    return f"waits: {waits}; next {night['next']}" if waits else f"next {night['next']}"


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
    rows.append(("night", _night_line(found["night"])))
    if found.get("notes") is not None:
        from homebox.hosting.standing import notes_line

        rows.append(("notes", notes_line(found["notes"])))
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
    from homebox.hosting.chosen import listed
    from homebox.hosting.standing import learned_of, memory_status

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

"""`homebox learn`: one learning run, in the daemon if one runs, else here."""

import argparse
import sys
from typing import Any

from homebox.commands.common import (
    Bar,
    Subparsers,
    add_command,
    add_device,
    configuration,
    daemon_of,
    open_for_writing,
    print_json,
    show_plan,
    spelled,
)
from homebox.config import Config
from homebox.control import Client
from homebox.errors import LearningError, UsageError

ORDERS = {
    "pause": "take no further step of the run in the daemon",
    "resume": "let a paused run go on",
    "stop": "end the run; the next one goes on from where it was",
}


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "learn",
        run,
        "learn from the ledger; exits 0 only if new weights were promoted",
        "homebox learn --now",
        model=True,
    )
    add_device(parser)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--now", action="store_true", help="train, test, and serve what passed")
    mode.add_argument("--dry-run", action="store_true", help="show the lessons, train nothing")
    for order, effect in ORDERS.items():
        mode.add_argument(
            f"--{order}", action="store_const", const=order, dest="order", help=effect
        )


def run(args: argparse.Namespace) -> int:
    """Run to the end and print the report."""
    config = configuration(args)
    client = daemon_of(config)
    if args.order:
        return _steer(args, client)
    bar = Bar()
    try:
        if client is not None:
            report = client.call("learn", bar.show, dry_run=args.dry_run)
        else:
            report = learn_here(config, bar, args.dry_run)
    except KeyboardInterrupt:
        bar.clear()
        if client is not None:
            print('learning goes on in the daemon; "homebox status" shows it', file=sys.stderr)
        raise
    finally:
        bar.clear()
    if args.json:
        print_json(report)
    else:
        print(spelled("\n".join(report["lines"])))
    return 0 if args.dry_run or report["promoted"] else LearningError.exit_code


def _steer(args: argparse.Namespace, client: Client | None) -> int:
    """Pause, resume or stop the run of the daemon."""
    if client is None:
        raise UsageError("no daemon runs here; what runs in a terminal is stopped with Ctrl-C")
    found = client.call("steer", order=args.order)
    if args.json:
        print_json(found)
    elif found["order"] == "stop":
        print("learning stops; what was done is kept for the next run")
    else:
        print(f"learning is {'paused' if found['paused'] else 'going on'}")
    return 0


def learn_here(config: Config, bar: Bar, dry_run: bool) -> Any:
    """Learn in this process, which then owns the state; gives the report as JSON."""
    from homebox.daemon import real_parts
    from homebox.hosting.parts import plain
    from homebox.scheduler import run_inline

    parts = real_parts()
    with open_for_writing(config) as state:
        model = parts.load(config)
        show_plan(model)
        steps = parts.learn(
            model, state.ledger, state.store, state.lineage, config, dry_run=dry_run
        )
        return plain(run_inline(steps, lambda progress: bar.show(plain(progress))))

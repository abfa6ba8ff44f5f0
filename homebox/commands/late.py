"""`homebox demo`: long work that lives in a room of its own, imported late."""

import argparse
import importlib

from homebox.commands.common import Subparsers, add_command, add_device, configuration


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "demo",
        demo,
        "show the whole loop: tell, learn, ask, roll back; on a temporary state",
        "homebox demo --device cpu",
    )
    add_device(parser)


def demo(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    configuration(args)  # for the place of the cache
    module = importlib.import_module("homebox.demo.play")
    arguments = ["--device", args.device] if args.device else []
    return int(module.main(arguments, as_json=args.json))

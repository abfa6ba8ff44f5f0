"""`homebox demo` and `homebox job`: long work that lives in rooms of its own, imported late."""

import argparse
import importlib
from pathlib import Path

from homebox.commands.common import Subparsers, add_command, add_device, configuration


def add(subparsers: Subparsers) -> None:
    """Declare both commands."""
    parser = add_command(
        subparsers,
        "demo",
        demo,
        "show the whole loop: tell, learn, ask, roll back; on a temporary state",
        "homebox demo --device cpu",
    )
    add_device(parser)
    parser = add_command(
        subparsers,
        "job",
        job,
        "run a training job from its spec, such as the one that makes the built-in model",
        "homebox job run configs/tiny.toml --out /tmp/tiny; homebox job evaluate /tmp/tiny",
    )
    parser.add_argument(
        "action",
        choices=["run", "evaluate"],
        help="train from a spec, or ask a model test questions",
    )
    parser.add_argument(
        "spec", help="TOML file of at most 10 kB; for evaluate a model (tiny, or PATH)"
    )
    add_device(parser, "cpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the result goes")


def demo(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    configuration(args)  # for the place of the cache
    module = importlib.import_module("homebox.demo")
    arguments = ["--device", args.device] if args.device else []
    return int(module.main(arguments, as_json=args.json))


def job(args: argparse.Namespace) -> int:
    """Run a job, or evaluate what came out."""
    configuration(args)
    module = importlib.import_module("homebox.job")
    if args.action == "evaluate":
        found = module.main_evaluate(args.spec, as_json=args.json, device=args.device or "cpu")
        return int(found)
    options = {"out": args.out, "as_json": args.json, "device": args.device or "cpu"}
    return int(module.main(Path(args.spec), **options))

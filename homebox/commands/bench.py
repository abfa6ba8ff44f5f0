"""`homebox bench`: how fast a model is served and trained here, against what the machine can do."""

import argparse
import json
import sys

from homebox.commands.common import Subparsers, add_command, configuration

TYPES = ("auto", "f32", "bf16", "q8", "q4")


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "measure how fast a model is served and trained, one line a metric",
        "homebox bench --model tiny --type f32 --only prefill_512,decode_ctx0",
        model=True,
    )
    parser.add_argument("--type", choices=TYPES, default="auto", help="numbers of the weights")
    parser.add_argument("--threads", type=int, metavar="N", help="threads; default: all cores")
    parser.add_argument("--only", metavar="METRICS", help="comma-separated names of metrics")
    parser.add_argument(
        "--budget", type=float, default=8.0, metavar="SECONDS", help="time for each metric (8)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, and print each metric as it is known; what is being done goes to stderr."""
    config = configuration(args)
    from homebox.benchmarks.suite import USUAL, Plan, check_metrics, line_of
    from homebox.benchmarks.suite import run as measure
    from homebox.engine.runtime.runtime_cpu import thread_count
    from homebox.model.config import load_config
    from homebox.model.model import model_directory
    from homebox.model.packed_layout import choose_format

    directory = model_directory(config.model.path)
    plan = Plan(
        model=directory,
        type=choose_format(load_config(directory), args.type).name,
        threads=thread_count(args.threads),
        only=check_metrics(args.only) if args.only is not None else USUAL,
        budget=args.budget,
    )
    for row in measure(plan, lambda text: print(f"bench: {text}", file=sys.stderr, flush=True)):
        print(json.dumps(row) if args.json else line_of(row), flush=True)
    return 0

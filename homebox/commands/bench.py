"""`homebox bench`: how fast a model is served and trained here, against what the machine can do."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from homebox.commands.common import Subparsers, add_command, add_device, configuration
from homebox.errors import UsageError

if TYPE_CHECKING:
    from homebox.model.placement.devices import Room

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
    add_device(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads; default: all cores")
    parser.add_argument("--only", metavar="METRICS", help="comma-separated names of metrics")
    parser.add_argument(
        "--budget", type=float, default=8.0, metavar="SECONDS", help="time for each metric (8)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, and print each metric as it is known; what is being done goes to stderr.

    A device that cannot be used is an error before anything is measured.
    """
    config = configuration(args)
    from homebox.benchmarks.subject import packing_as_served
    from homebox.benchmarks.suite import USUAL, Plan, check_metrics, line_of, metrics_on
    from homebox.benchmarks.suite import run as measure
    from homebox.engine.inspection.roof_opencl import top_of
    from homebox.engine.runtime.runtime_cpu import thread_count
    from homebox.model.loading.open_model import model_path, open_weights

    form = str(packing_as_served(open_weights(config.model.path), args.type))
    room = one_device(config.model.device)
    name = room.device.name
    plan = Plan(
        model=model_path(config.model.path),
        type=form,
        threads=thread_count(args.threads),
        only=metrics_on(name, USUAL) if args.only is None else check_metrics(args.only, name),
        budget=args.budget,
        device=name,
        card="" if room.host else room.title,
        roof=None if room.host else top_of(room.device),
    )
    for row in measure(plan, say):
        print(json.dumps(row) if args.json else line_of(row), flush=True)
    return 0


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def one_device(asked: str) -> "Room":
    """Return the device to measure, and say which it is; of several that are chosen, the best.

    Raises UsageError if several are named, DeviceError if the one that is named cannot be used.
    """
    from homebox.model.placement.devices import choose

    if "," in asked:
        raise UsageError(f"--device {asked}: only one device is measured at a time; name one")
    found = choose(asked)
    room = found.rooms[0]
    if not room.host or found.automatic:
        say(found.reason or f"on {room.device.name} ({room.title})")
    return room

"""`homebox graph`: draws one of a model's programs, with the times of one run, as an HTML page."""

import argparse
import re
from pathlib import Path

from homebox.commands.bench import TYPES, one_device
from homebox.commands.common import (
    Subparsers,
    add_command,
    add_device,
    configuration,
    print_json,
)
from homebox.errors import HomeboxError, UsageError

PROGRAMS = ("decode", "chunk", "train")


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "graph",
        run,
        "draw the kernels of a model's program with their times, as one HTML page",
        "homebox graph --model tiny --program decode -o decode.html",
        model=True,
    )
    parser.add_argument("--program", choices=PROGRAMS, default="decode", help="which one (decode)")
    parser.add_argument("--type", choices=TYPES, default="auto", help="numbers of the weights")
    add_device(parser)
    parser.add_argument(
        "--shape", default="1x128", metavar="RxT", help="rows x length of a training batch (1x128)"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="page (PROGRAM.html)")


def run(args: argparse.Namespace) -> int:
    """Run the program a few times, and write the page of the fastest run."""
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", args.shape):
        raise UsageError(f"--shape {args.shape} is not rows x length, such as 1x128")
    config = configuration(args)
    from homebox.benchmarks.profile import profiled
    from homebox.engine.inspection.graph_html import page
    from homebox.engine.inspection.roof import probe
    from homebox.engine.inspection.roof_opencl import top_of
    from homebox.model.loading.open_model import model_path

    directory = model_path(config.model.path)
    room = one_device(config.model.device)
    machine = top_of(room.device)
    found = profiled(directory, args.type, args.program, args.shape, room.device)
    if room.host:
        machine = machine.best(probe(machine.threads))
    out = args.out or Path(f"{args.program}.html")
    try:
        out.write_text(page(found, machine), encoding="utf-8")
    except OSError as error:
        raise HomeboxError(f"{out} cannot be written: {error.strerror}") from error
    seconds = int(found.nanoseconds.sum()) / 1e9
    if args.json:
        found_page = {"page": str(out), "launches": len(found.kernels), "seconds": seconds}
        print_json(found_page | {"device": room.device.name})
    else:
        where = f"{room.device.name} ({room.title})"
        print(f"{out}: {len(found.kernels)} launches in {seconds * 1e6:,.0f} us on {where}")
    return 0

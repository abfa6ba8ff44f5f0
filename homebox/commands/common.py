"""What every command shares: options, configuration, the daemon of its state, ways to print."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homebox.config import Config, Value, load_config
from homebox.control import Client, find
from homebox.hosting.chosen import as_chosen
from homebox.hub.catalogue import BUILT_IN, Catalogue

if TYPE_CHECKING:
    from homebox.memory.state import State

# Read by the engine itself; the configuration would refuse them as unknown keys.
ENGINE_VARIABLES = frozenset({"HOMEBOX_CACHE_DIR", "HOMEBOX_CPU", "HOMEBOX_THREADS"})

Run = Callable[[argparse.Namespace], int]
Subparsers = Any  # argparse's own type for this is private

_OBEYED = {
    code: repr(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Run,
    summary: str,
    example: str,
    *,
    as_json: bool = True,
    model: bool = False,
) -> argparse.ArgumentParser:
    """Declare a command with the options that all have; gives its parser for its own."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--state", metavar="DIR", help="state directory")
    parser.add_argument("--config", metavar="FILE", help="configuration file")
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    if model:
        parser.add_argument("--model", metavar="PATH", help='model folder, GGUF file, or "tiny"')
    return parser


def add_device(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Declare the option that says where the model runs; `default` is what the help names."""
    parser.add_argument(
        "--device", metavar="NAMES", help=f"auto, cpu, cl:0, or several: cl:0,cl:1 ({default})"
    )


def configuration(args: argparse.Namespace, **overrides: Value | None) -> Config:
    """Read the configuration as this command's options change it."""
    environ = {name: value for name, value in os.environ.items() if name not in ENGINE_VARIABLES}
    config = load_config(
        Path(args.config) if args.config else None,
        {
            "paths.state": args.state,
            "model.path": getattr(args, "model", None),
            "model.device": getattr(args, "device", None),
            **{key.replace("__", "."): value for key, value in overrides.items()},
        },
        environ,
    )
    if config.paths.cache:
        os.environ.setdefault("HOMEBOX_CACHE_DIR", str(config.cache_dir))
    if hasattr(args, "model"):
        config = as_chosen(config)
    return named_model(config)


def named_model(config: Config) -> Config:
    """Put the path of a model on this box in the place of its name, where there is no such path."""
    asked = config.model.path
    if asked == BUILT_IN or Path(asked).expanduser().exists():
        return config
    catalogue = Catalogue(config.models_dir)
    if not catalogue.has(asked):
        return config
    path = str(catalogue.find(asked).path)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=path))


def daemon_of(config: Config) -> Client | None:
    """Find the daemon that runs on the configured state."""
    return find(config.state_dir)


def open_for_reading(config: Config) -> "State":
    """Open the configured state beside whoever writes it."""
    from homebox.memory.state import open_state

    return open_state(config.state_dir, read_only=True)


def open_for_writing(config: Config) -> "State":
    """Open the configured state alone; raises StateError if a daemon has it."""
    from homebox.memory.state import open_state

    return open_state(config.state_dir, config.state_configured, redact=config.ledger.redact)


def base_hash(config: Config) -> str:
    """Name the configured base model by its content, without compiling anything."""
    from homebox.model.loading.open_model import open_model

    return open_model(config.model.path).base_hash


def show_plan(model: Any) -> None:
    """Tell a person which devices a model runs on that this process has loaded, and why."""
    placement = getattr(model, "placement", None)
    if placement is not None and sys.stderr.isatty():
        print("\n".join(placement.table()), file=sys.stderr)


def counted(number: int, thing: str) -> str:
    """Say how many there are of what has a plain plural: "1 lesson", "2 lessons"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def spelled(text: str) -> str:
    """Return a text that a terminal only shows: what it would obey is spelled out.

    Models, and whoever a box was asked by, may write anything.
    """
    return text.translate(_OBEYED)


def print_json(value: Any) -> None:
    """Print a value as JSON that people can read too."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(rows: Sequence[tuple[str, ...]], gap: str = "  ") -> None:
    """Print rows in aligned columns; the last one may be as long as it likes."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print(spelled(gap.join([*cells, row[-1]]).rstrip()))


class Bar:
    """A progress bar on the terminal; where there is none, nothing is printed."""

    WIDTH = 24

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def show(self, progress: Any) -> None:
        """Draw the bar for a progress as JSON: {stage, done, total, text}."""
        if not self._shown:
            return
        total = max(int(progress["total"]), 1)
        full = self.WIDTH * min(int(progress["done"]), total) // total
        line = f"[{'#' * full}{'.' * (self.WIDTH - full)}] {progress['stage']}: {progress['text']}"
        sys.stderr.write(f"\r\x1b[K{line[:100]}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

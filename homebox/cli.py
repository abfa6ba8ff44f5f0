"""The command line: finds the command, runs it, and turns errors into one line and an exit code.

Commands live in homebox/commands and import what is heavy only when they run, so that `--help`
and mistakes are answered at once. Invariant: a person never sees a traceback unless DEBUG is set.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from homebox import __version__
from homebox.commands import (
    adapters,
    bench,
    chat,
    connect,
    doctor,
    forget,
    graph,
    job,
    late,
    learn,
    lessons,
    log,
    models,
    report,
    serve,
    status,
    token,
    use,
    weights,
)
from homebox.errors import HomeboxError

EXIT_CODES = """\
exit codes:
  0  done (of learn: new weights were promoted)
  1  a mistake of homebox, or doctor found something missing
  2  wrong usage or configuration, or a request that the server refused
  3  no such model, or its files are broken
  4  busy: learning runs already, or the queue is full
  5  the state directory is missing, foreign, damaged or in use
  6  no such weights, or several that fit
  7  learning promoted nothing
  8  the daemon could not start, or broke off
  9  a model could not be brought here: network, hub, disk, or wrong bytes
  130  interrupted

Each command has its own --help with an example. DEBUG=1 shows tracebacks.
"""


def build_parser() -> argparse.ArgumentParser:
    """Declare all commands."""
    parser = argparse.ArgumentParser(
        prog="homebox",
        description="A language model at home that learns its owner, and can be rolled back.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"homebox {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    served = (serve, token, connect, models, use, chat, learn, job, weights, adapters, status, log)
    for module in (*served, report, lessons, forget, late, doctor, bench, graph):
        module.add(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    args = build_parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except HomeboxError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(f"internal error: {error!r}; DEBUG=1 shows where", 1)


def _fail(text: str, code: int) -> int:
    if os.environ.get("DEBUG", "0") not in ("", "0"):
        raise  # noqa: PLE0704  # only called while an error is handled
    print(f"homebox: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

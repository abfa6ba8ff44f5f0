"""Lets people look inside: what DEBUG=1..4 print, and the pages that GRAPH writes.

1 one line per program; 2 time and share of the roof per kernel; 3 schedules and how often rules
fired; 4 generated source. GRAPH=1 writes one HTML page per program into the working directory,
GRAPH=DIR into another. Whoever wants times of runs takes them from `recording`.
"""

import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from homebox.engine.graph.rules import hoisting, simplify
from homebox.engine.inspection.graph_html import page
from homebox.engine.inspection.profiled_run import ProfiledRun, profiled_run, table
from homebox.engine.inspection.roof import Roof
from homebox.engine.inspection.roof_opencl import top_of
from homebox.engine.runtime import watching

PAGES = 2  # runs after which GRAPH stops writing a program's page: the first one is cold

_pages: "weakref.WeakKeyDictionary[watching.Seen, int]" = weakref.WeakKeyDictionary()


def level() -> int:
    """Return the DEBUG level from the environment."""
    text = os.environ.get("DEBUG", "0")
    return int(text) if text.isdecimal() else 0


def graph_folder() -> Path | None:
    """Return where GRAPH wants pages, or None."""
    text = os.environ.get("GRAPH", "")
    if text in ("", "0"):
        return None
    return Path() if text == "1" else Path(text)


def say(text: str) -> None:
    """Print a line where it does not mix with a program's own output."""
    print(text, file=sys.stderr)


class Printer:
    """Prints and writes what the environment asks for, as it stands at that time."""

    def wants_times(self) -> bool:
        """Say whether tables or pages are wanted."""
        return level() >= 2 or graph_folder() is not None

    def compiling(self, texts: Mapping[str, str]) -> None:
        """Print the kernels' code."""
        if level() >= 4:
            for text in texts.values():
                say(text)

    def made(self, program: watching.Seen) -> None:
        """Print what a program was compiled to."""
        if level() < 1:
            return
        unique = len({name for _, _, name in program.kernels})
        say(
            f"program {program.name}: {len(program.kernels)} launches, {unique} kernels, "
            f"{program.arena.nbytes / 1e6:.1f} MB of temporaries"
        )
        if level() >= 3:
            for i, (region, low, name) in enumerate(program.kernels):
                say(f"  {i:4d} {name[:9]} {region.root!r} {low.schedule} {low.most_groups()}")
            say(f"  rules: {dict((simplify.fired + hoisting.fired).most_common())}")

    def ran(
        self, program: watching.Seen, values: Mapping[str, int], nanoseconds: np.ndarray
    ) -> None:
        """Print a table of a run, and write its page."""
        run = profiled_run(program, values, nanoseconds)
        top = top_of(program.backend.device)
        if level() >= 2:
            for line in table(run, top):
                say(line)
        folder = graph_folder()
        if folder is not None and _pages.get(program, 0) < PAGES:
            _pages[program] = _pages.get(program, 0) + 1
            _write(run, top, folder)


def _write(run: ProfiledRun, top: Roof, folder: Path) -> None:
    path = folder / f"{run.name.replace(' ', '-').replace('/', '-')}.html"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(page(run, top), encoding="utf-8")
    say(f"program {run.name}: {path}")


class _Recorder:
    """Collects the runs of a block."""

    def __init__(self) -> None:
        self.runs: list[ProfiledRun] = []

    def wants_times(self) -> bool:
        return True

    def compiling(self, texts: Mapping[str, str]) -> None:
        pass

    def made(self, program: watching.Seen) -> None:
        pass

    def ran(
        self, program: watching.Seen, values: Mapping[str, int], nanoseconds: np.ndarray
    ) -> None:
        self.runs.append(profiled_run(program, values, nanoseconds))


@contextmanager
def recording() -> Iterator[list[ProfiledRun]]:
    """Profile every run of a program inside the block and collect them."""
    recorder = _Recorder()
    watching.registered.append(recorder)
    try:
        yield recorder.runs
    finally:
        watching.registered.remove(recorder)

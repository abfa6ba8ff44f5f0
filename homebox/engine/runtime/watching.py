"""Who looks on while programs are made and run.

The one idea: the runtime tells what happens to whoever registered, and needs none of them, so that
what shows programs stands above it and is loaded only where it is wanted. Invariant: looking on
changes no bit of a result.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from homebox.engine.fusion.draft import Region
    from homebox.engine.graph.device import Buffer
    from homebox.engine.graph.ops import Sym
    from homebox.engine.runtime.backend import Backend
    from homebox.engine.simt.target import Low


class Seen(Protocol):
    """What can be seen of a program; `kernels` and `regions` may have to make its graph anew."""

    name: str
    syms: "list[Sym]"
    backend: "Backend"
    arena: "Buffer"

    @property
    def regions(self) -> "tuple[Region, ...]":
        """The regions of its graph, in order."""

    @property
    def kernels(self) -> "list[tuple[Region, Low, str]]":
        """Region, kernel and name of each launch."""


class Watcher(Protocol):
    """Somebody who looks on."""

    def wants_times(self) -> bool:
        """Say whether the next run is to be profiled."""

    def compiling(self, texts: Mapping[str, str]) -> None:
        """Hear the source of new kernels, by name, before they are compiled."""

    def made(self, program: Seen) -> None:
        """Hear of a program that is ready."""

    def ran(self, program: Seen, values: Mapping[str, int], nanoseconds: "np.ndarray") -> None:
        """Hear of a run: its run-time integers, and the times (launches,) of its launches."""


registered: list[Watcher] = []
# Gives who does what DEBUG and GRAPH ask for; set by the package that this one is part of.
by_environment: Callable[[], Watcher] | None = None


def watchers() -> list[Watcher]:
    """List who looks on now."""
    if by_environment is not None and _asked():
        return [*registered, by_environment()]
    return list(registered)


def profiling() -> bool:
    """Say whether somebody wants the times of launches."""
    return any(each.wants_times() for each in watchers())


def tell_run(program: Seen, values: Mapping[str, int], nanoseconds: "np.ndarray") -> None:
    """Tell a profiled run to those who want its times."""
    for each in watchers():
        if each.wants_times():
            each.ran(program, values, nanoseconds)


def _asked() -> bool:
    """Whether the environment asks to look inside."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("DEBUG", "GRAPH"))

"""What a program asks of the device that it runs on: kernels made for it, and launches of them.

One idea: a plan names memory and kernels, and only a backend knows what a kernel is (an address, an
object of a driver) and how a list of launches is run. Invariant: which backend runs a strict
float32 program does not change its bits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from homebox.engine.fusion.draft import Region
from homebox.engine.graph.device import Block, Buffer, Device
from homebox.engine.graph.ops import Node, Sym
from homebox.engine.runtime.program_plan import Launch
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.engine.simt.target import Low

Code = Any  # what `load` returns for a kernel; only the backend looks at it


class Launches(Protocol):
    """The launches of one program with their arguments; long ones may be cut into pieces."""

    starts: list[int]  # the first piece of each launch
    count: int  # of pieces

    def bind(self, values: Mapping[str, int]) -> None:
        """Take the sizes of the next run by the names of the run-time integers."""
        ...

    def run(self, first: int, stop: StopFlag | None) -> int:
        """Run the pieces from `first` on, in order; return the next one, `count` at the end.

        Once `stop` is set this ends after the pieces in progress (about 10 ms); if it is set from
        the start, it gets on for about 5 ms all the same. Without `stop` it may return before the
        device is done: reads wait.
        """
        ...

    def profile(self) -> np.ndarray:
        """Run all and return the nanoseconds of each piece, (count,) int64."""
        ...


class Backend(Protocol):
    """Compiles and runs kernels for one device."""

    resident: bool  # see `partition`

    @property
    def device(self) -> Device:
        """The device."""
        ...

    @property
    def identity(self) -> str:
        """All besides the graph that decides what kernels are: compiler, machine, driver."""
        ...

    def lower(self, region: Region, realised: frozenset[Node], syms: list[Sym]) -> Low:
        """Return the kernel of a region."""
        ...

    def named(self, low: Low, syms: Sequence[Sym]) -> tuple[str, str]:
        """Return a kernel's name, which follows from its content, and its source text.

        `syms` are the run-time integers in the order of the vars buffer, with their bounds.
        """
        ...

    def cut(self, low: Low) -> tuple[int, int]:
        """Return a launch's `chunk` and `most`, see `program_plan.Launch`."""
        ...

    def key(self, text: str) -> str:
        """Return the name of what is kept on disk for a source text."""
        ...

    def load(self, texts: Mapping[str, str]) -> dict[str, Code]:
        """Compile source texts by the names of their functions, or take them from the disk."""
        ...

    def load_objects(self, keys: Mapping[str, str]) -> dict[str, Code] | None:
        """Return kernels from the disk by name, given their keys; None if one is missing."""
        ...

    def launches(
        self,
        launches: Sequence[Launch],
        code: Sequence[Code],
        where: Callable[[int], tuple[Block, int]],
        variables: Buffer,
        bounds: Mapping[str, int],
    ) -> Launches:
        """Make a plan's launches ready to run.

        `code` has the plan's kernels in its order, `where` gives block and offset in bytes of each
        of the plan's places by number, `bounds` the largest value of each run-time integer.
        """
        ...

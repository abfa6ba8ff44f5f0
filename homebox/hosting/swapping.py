"""Serves other weights of the same base, and counts what that cost whoever was answered meanwhile.

The one idea: everybody whose answer ran or waited when the swap was over is followed to the end of
that answer, as one could break later. Invariant: a figure is kept when the last of them ended, and
never while one of them could still fail.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from homebox.learning.exam.limits import swap_check
from homebox.memory.manifest import BASE, short
from homebox.memory.swaps import note_swap
from homebox.memory.turns import now
from homebox.scheduler import Engine, Generation

log = logging.getLogger("homebox.hosting")

T = TypeVar("T")
R = TypeVar("R")
Place = Callable[[str, T], Iterable[T]]


def timed(
    steps: Generator[T, None, R], place: Place[T] = lambda weights, step: iter(())
) -> Generator[T, None, tuple[R, float]]:
    """Take all steps; gives their result and when the last of them began (`time.perf_counter`).

    Weights that a step says to be `ready` are placed before the next one, in steps of `place`.
    """
    with contextlib.closing(steps):
        while True:
            begun = time.perf_counter()
            try:
                step = next(steps)
            except StopIteration as over:
                return over.value, begun
            yield step
            if ready := getattr(step, "ready", ""):
                yield from place(ready, step)


class Swapping:
    """The swaps of one model; its methods belong to the engine thread."""

    def __init__(self, root: Path, base: str, config: Any, engine: Engine) -> None:
        """`root` is the state directory, `config` the model's, of which the limits depend."""
        self._root = root
        self._base = base
        self._config = config
        self._engine = engine

    def measured(
        self, serve: Callable[[], str], before: str, begun: float | None = None
    ) -> dict[str, Any] | None:
        """Let `serve` serve other weights than `before`; gives what was measured if it did.

        `begun` is when answers began to wait (of `time.perf_counter`), if that was earlier.
        """
        begun = time.perf_counter() if begun is None else begun
        weights = serve()
        if weights == before or not hasattr(self._config, "weight_shapes"):
            return None
        seconds = time.perf_counter() - begun
        # Who came while the swap lasted waits now, so everybody is here.
        answers = self._engine.answers()
        _Following(self, weights, seconds, answers)
        return swap_check(self._config, seconds, len(answers), 0, over=not answers)

    def over(self, weights: str, seconds: float, answers: int, failed: int) -> None:
        """Keep what was measured; there is nothing to show for the base, which has no report."""
        figures = swap_check(self._config, seconds, answers, failed)
        if failed:
            log.warning("%d of %d answers failed after a swap", failed, answers)
        if weights == BASE:
            return
        if not note_swap(self._root, self._base, weights, {**figures, "time": now()}):
            log.warning("what the swap to %s cost cannot be kept", short(weights))


class _Following:
    """The answers of one swap until the last of them is over."""

    def __init__(
        self, swapping: Swapping, weights: str, seconds: float, answers: Sequence[Generation]
    ) -> None:
        self._swapping = swapping
        self._swap = weights, seconds, len(answers)
        self._left = len(answers)
        self._failed = 0
        for answer in answers:
            answer.when_over(self._one)
        if not answers:
            self._end()

    def _one(self, failed: bool) -> None:
        self._left -= 1
        self._failed += failed
        if not self._left:
            self._end()

    def _end(self) -> None:
        self._swapping.over(*self._swap, self._failed)

"""The devices of one training step at work: each takes the next part and computes its gradient.

One idea: who is free takes what is next, and puts its gradient where the part's number says.
Invariant: a part whose program was suspended stays with the device that began it.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.strictmath import Float32
from homebox.model.training.batches import Batch
from homebox.model.training.trainer import LoraTrainer


@dataclass(frozen=True)
class Gradient:
    """What came of one part."""

    flat: Float32
    loss: float
    kl: float


class Work:
    """The parts of one step: who takes which, and what came of them; for several threads."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._next = 0
        self._lock = threading.Lock()
        self.found: list[Gradient | None] = [None] * len(batches)

    def take(self) -> tuple[int, Batch] | None:
        """Return the next part and its number, None if all are taken."""
        with self._lock:
            at, self._next = self._next, self._next + 1
        return (at, self._batches[at]) if at < len(self._batches) else None


class Lane:
    """One device at work on the parts of a step."""

    def __init__(self, replica: LoraTrainer) -> None:
        self.replica = replica
        self._part: int | None = None  # whose program is suspended

    def advance(self, work: Work, stop: StopFlag | None) -> bool:
        """Compute parts until none is left; False if `stop` has suspended one."""
        program = self.replica.program
        while True:
            if self._part is None:
                taken = work.take()
                if taken is None:
                    return True
                self._part = taken[0]
                self.replica.set_batch(taken[1])
                finished = program.run(stop=stop)
            else:
                finished = program.resume(stop)
            if not finished:
                return False
            loss, kl = self.replica.losses()
            flat = self.replica.parameters.take_gradient()
            work.found[self._part] = Gradient(flat, loss, kl)
            self._part = None

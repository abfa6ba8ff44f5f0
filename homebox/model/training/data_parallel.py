"""Trains one adapter on several devices: each computes gradients of some of a batch's rows.

One idea: a batch is cut into parts by a number that belongs to the job, every part's gradient is
computed alone, by whichever device is free, and the host adds them in the order of the parts.
Invariant: the result depends on the parts and not on the devices: as long as they compute equal
gradients, any number of them gives the same bits.
"""

import dataclasses
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.strictmath import Float32
from homebox.model.training.batches import Batch, cut
from homebox.model.training.lanes import Gradient, Lane, Work
from homebox.model.training.parameters import State
from homebox.model.training.trainer import LoraTrainer, StepResult


class ParallelTrainer:
    """Replicas of a trainer, each for a part of a batch; the first one updates the adapter."""

    def __init__(self, replicas: Sequence[LoraTrainer], parts: int) -> None:
        self.replicas = list(replicas)
        self.parts = parts
        self._gathered: list[Gradient] = []
        self._threads = ThreadPoolExecutor(len(self.replicas), "homebox-train")

    @property
    def parameters(self) -> object:
        """The adapter in training."""
        return self.replicas[0].parameters

    def step(self, batch: Batch, rate: float) -> StepResult:
        """Train on one batch with this learning rate."""
        steps = self._steps(batch, rate, None)
        try:
            while True:
                next(steps)
        except StopIteration as done:
            result: StepResult = done.value
            return result

    def steps(self, batch: Batch, rate: float, stop: StopFlag) -> Generator[None, None, StepResult]:
        """Like `step`, but yield whenever `stop` has suspended it; others may compute meanwhile."""
        return self._steps(batch, rate, stop)

    def gather(self, batch: Batch, stop: StopFlag) -> Generator[None, None, tuple[float, float]]:
        """Add a batch's gradient to that of the next step; return (loss, KL)."""
        found = yield from self._parts(batch, stop)
        self._gathered += found
        return sum(p.loss for p in found), sum(p.kl for p in found)

    def likelihoods(self, batch: Batch, stop: StopFlag) -> Generator[None, None, Float32]:
        """Return log p(target) of every place of a batch with the adapter as it is."""
        first, found = self.replicas[0], []
        for part in cut(batch, self.parts, first.shape[0]):
            found.append((yield from first.likelihoods(part, stop)))
        return np.concatenate(found)[: len(batch.ids)]

    def adapter(self) -> dict[str, Float32]:
        """Return a copy of the adapter as it is now."""
        return self.replicas[0].adapter()

    def state(self) -> State:
        """Return a copy of what the next step depends on, beside its batch."""
        return self.replicas[0].state()

    def restore(self, state: State) -> None:
        """Go on where `state` was taken; raises ConfigError if it is that of another adapter."""
        for replica in self.replicas:
            replica.restore(state)

    def _steps(
        self, batch: Batch, rate: float, stop: StopFlag | None
    ) -> Generator[None, None, StepResult]:
        found = yield from self._parts(batch, stop)
        gathered, self._gathered = self._gathered, []
        result = self._update([*gathered, *found], rate)
        return dataclasses.replace(
            result, loss=sum(p.loss for p in found), kl=sum(p.kl for p in found)
        )

    def _parts(self, batch: Batch, stop: StopFlag | None) -> Generator[None, None, list[Gradient]]:
        work = Work(cut(batch, self.parts, self.replicas[0].shape[0]))
        lanes = [Lane(replica) for replica in self.replicas]
        while not self._advance(lanes, work, stop):
            yield
        return [part for part in work.found if part is not None]

    def _advance(self, lanes: Sequence[Lane], work: Work, stop: StopFlag | None) -> bool:
        """Let all devices work at once; whether all parts are done."""
        if len(lanes) == 1:
            return lanes[0].advance(work, stop)
        running = [self._threads.submit(lane.advance, work, stop) for lane in lanes]
        wait(running)
        finished = [future.result() for future in running]
        return all(finished)

    def _update(self, parts: Sequence[Gradient], rate: float) -> StepResult:
        """Add what was computed, in the order of the parts, and take one step with it."""
        total = parts[0].flat.copy()
        for part in parts[1:]:
            total += part.flat
        first, *others = self.replicas
        first.parameters.put_gradient(total)
        norm = first.update(rate)
        if others:
            values = first.parameters.all_values()
            for other in others:
                other.parameters.put_values(values)
        return StepResult(sum(p.loss for p in parts), sum(p.kl for p in parts), norm)

"""Trains one adapter on several devices: each computes gradients of some of a batch's rows.

One idea: a batch is cut into parts by a number that belongs to the job, every part's gradient is
computed alone, by whichever device is free, and the host adds them in the order of the parts.
Invariant: the result depends on the parts and not on the devices: as long as they compute equal
gradients, any number of them gives the same bits. One part is an uncut batch: a `LoraTrainer`.
"""

import dataclasses
import logging
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from homebox.engine.graph.device import Device
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import OutOfDeviceMemoryError
from homebox.model.config import ModelConfig
from homebox.model.placement.devices import alike
from homebox.model.strictmath import Float32
from homebox.model.training.batches import Batch, Teaching
from homebox.model.training.parameters import State
from homebox.model.training.trainer import LoraTrainer, StepResult

Array = npt.NDArray[Any]

log = logging.getLogger(__name__)


class Trainer(Protocol):
    """What learning needs of a trainer; see `LoraTrainer`."""

    def step(self, batch: Batch, rate: float) -> StepResult:
        """Train on one batch."""
        ...

    def steps(self, batch: Batch, rate: float, stop: StopFlag) -> Generator[None, None, StepResult]:
        """Train on one batch with pauses."""
        ...

    def gather(self, batch: Batch, stop: StopFlag) -> Generator[None, None, tuple[float, float]]:
        """Add a batch's gradient to that of the next step; return (loss, KL)."""
        ...

    def likelihoods(self, batch: Batch, stop: StopFlag) -> Generator[None, None, Float32]:
        """Return log p(target) of every place of a batch with the adapter as it is."""
        ...

    def adapter(self) -> dict[str, Float32]:
        """Return a copy of the adapter as it is now."""
        ...

    def state(self) -> State:
        """Return a copy of what the next step depends on, beside its batch."""
        ...

    def restore(self, state: State) -> None:
        """Go on where `state` was taken."""
        ...


class Replicable(Protocol):
    """A model whose frozen weights can lie on several devices."""

    config: ModelConfig

    def tensors_on(self, device: Device) -> dict[str, Tensor]:
        """Return the frozen weights by name in memory of a device."""
        ...

    def training_devices(self) -> tuple[Device, ...]:
        """Return the devices that can hold them, the preferred one first."""
        ...


@dataclasses.dataclass
class _Copy:
    """A model's weights on one device, as a `LoraTrainer` takes them."""

    config: ModelConfig
    tensors: dict[str, Tensor]

    def base_tensors(self) -> dict[str, Tensor]:
        return self.tensors


def trainer_for(
    model: Replicable,
    rank: int,
    alpha: float,
    rows: int,
    length: int,
    seed: int,
    *,
    parts: int = 1,
    numerics: str = "f32",
    anchored: bool = True,
    taught: bool = False,
    scored: bool = False,
) -> Trainer:
    """Return a trainer for batches of `rows` rows, cut into `parts`, on the model's devices.

    `anchored` and `taught` are those of `LoraTrainer`; `scored` makes `likelihoods` ready as well.

    Which device computes a part is a matter of chance, so devices that round differently from the
    first one are left out, and so are further ones that have no room; the log says so. Raises
    DeviceError if the first device has no room.
    """
    size = -(-rows // min(parts, rows))
    parts = -(-rows // size)
    first, *others = model.training_devices()[:parts]

    def made(device: Device) -> LoraTrainer:
        base = _Copy(model.config, model.tensors_on(device))
        return LoraTrainer(
            base,
            rank,
            alpha,
            size,
            length,
            seed,
            numerics=numerics,
            anchored=anchored,
            taught=taught,
            device=device,
        )

    replicas = [made(first)]
    if scored:
        replicas[0].prepare_likelihoods()
    for device in others:
        if not alike([first, device], strict=numerics == "f32"):
            log.warning("training leaves %s out: it rounds unlike %s", device.name, first.name)
            continue
        try:
            replicas.append(made(device))
        except OutOfDeviceMemoryError as error:
            log.warning("training leaves %s out: %s", device.name, error)
    return replicas[0] if parts == 1 else ParallelTrainer(replicas, parts)


def cut(batch: Batch, parts: int, rows: int) -> list[Batch]:
    """Cut a batch into parts of `rows` rows; what is missing in the last are rows of padding."""

    def part(array: Array, i: int) -> Array:
        found = np.zeros((rows, *array.shape[1:]), array.dtype)
        given = array[i * rows : (i + 1) * rows]
        found[: len(given)] = given
        return found

    def teaching(i: int) -> Teaching | None:
        whole = batch.teaching
        if whole is None:
            return None
        return Teaching(part(whole.ids, i), part(whole.probabilities, i), part(whole.share, i))

    return [
        Batch(
            part(batch.ids, i),
            part(batch.segment, i),
            part(batch.position, i),
            part(batch.target, i),
            part(batch.weight, i),
            part(batch.anchor, i),
            teaching(i),
        )
        for i in range(parts)
    ]


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """What came of one part."""

    flat: Float32
    loss: float
    kl: float


class _Work:
    """The parts of one step: who takes which, and what came of them; for several threads."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._next = 0
        self._lock = threading.Lock()
        self.found: list[_Gradient | None] = [None] * len(batches)

    def take(self) -> tuple[int, Batch] | None:
        """Return the next part and its number, None if all are taken."""
        with self._lock:
            at, self._next = self._next, self._next + 1
        return (at, self._batches[at]) if at < len(self._batches) else None


class _Lane:
    """One device at work on the parts of a step."""

    def __init__(self, replica: LoraTrainer) -> None:
        self.replica = replica
        self._part: int | None = None  # whose program is suspended

    def advance(self, work: _Work, stop: StopFlag | None) -> bool:
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
            work.found[self._part] = _Gradient(flat, loss, kl)
            self._part = None


class ParallelTrainer:
    """Replicas of a trainer, each for a part of a batch; the first one updates the adapter."""

    def __init__(self, replicas: Sequence[LoraTrainer], parts: int) -> None:
        self.replicas = list(replicas)
        self.parts = parts
        self._gathered: list[_Gradient] = []
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

    def _parts(self, batch: Batch, stop: StopFlag | None) -> Generator[None, None, list[_Gradient]]:
        work = _Work(cut(batch, self.parts, self.replicas[0].shape[0]))
        lanes = [_Lane(replica) for replica in self.replicas]
        while not self._advance(lanes, work, stop):
            yield
        return [part for part in work.found if part is not None]

    def _advance(self, lanes: Sequence[_Lane], work: _Work, stop: StopFlag | None) -> bool:
        """Let all devices work at once; whether all parts are done."""
        if len(lanes) == 1:
            return lanes[0].advance(work, stop)
        running = [self._threads.submit(lane.advance, work, stop) for lane in lanes]
        wait(running)
        finished = [future.result() for future in running]
        return all(finished)

    def _update(self, parts: Sequence[_Gradient], rate: float) -> StepResult:
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

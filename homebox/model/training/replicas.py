"""A trainer for a model, on as many of its devices as a job has parts.

One idea: what learning needs of a trainer is the same for one device and for several. Invariant:
the devices that share a job round alike; one part is an uncut batch, which a `LoraTrainer` takes.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from homebox.engine.graph.device import Device
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import OutOfDeviceMemoryError
from homebox.model.config import ModelConfig
from homebox.model.placement.devices import alike
from homebox.model.strictmath import Float32
from homebox.model.training.batches import Batch, rows_of_part
from homebox.model.training.data_parallel import ParallelTrainer
from homebox.model.training.parameters import State
from homebox.model.training.trainer import LoraTrainer, StepResult

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


@dataclass
class Copy:
    """A model's frozen weights on one device, as trainers and teachers take them."""

    config: ModelConfig
    tensors: dict[str, Tensor]

    @classmethod
    def on(cls, device: Device, model: Replicable) -> "Copy":
        """Put the weights there, if they are not."""
        return cls(model.config, model.tensors_on(device))

    def base_tensors(self) -> dict[str, Tensor]:
        """Return the weights by name."""
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
    places: int | None = None,
    taught: bool = False,
    scored: bool = False,
) -> Trainer:
    """Return a trainer for batches of `rows` rows of `length` tokens, cut into `parts`.

    `places` (of a part) and `taught` are those of `LoraTrainer`; `scored` makes `likelihoods` ready
    as well.

    Which device computes a part is a matter of chance, so devices that round differently from the
    first one are left out, and so are further ones that have no room; the log says so. Raises
    DeviceError if the first device has no room.
    """
    size = rows_of_part(rows, parts)
    parts = -(-rows // size)

    def made(device: Device) -> LoraTrainer:
        return LoraTrainer(
            Copy.on(device, model),
            rank,
            alpha,
            size,
            length,
            seed,
            numerics=numerics,
            places=places,
            taught=taught,
            device=device,
        )

    first, *others = model.training_devices()[:parts]
    replica = made(first)
    if scored:
        replica.prepare_likelihoods()
    if parts == 1:
        return replica
    fit = [device for device in others if _rounds_like(first, device, strict=numerics == "f32")]
    return ParallelTrainer([replica, *_with_room(fit, made)], parts)


def _rounds_like(first: Device, device: Device, strict: bool) -> bool:
    """Whether two devices give the same bits; the log says where they do not."""
    if alike([first, device], strict=strict):
        return True
    log.warning("training leaves %s out: it rounds unlike %s", device.name, first.name)
    return False


def _with_room(
    devices: Sequence[Device], made: Callable[[Device], LoraTrainer]
) -> list[LoraTrainer]:
    """Make a replica on each device that has room for one."""
    replicas = []
    for device in devices:
        try:
            replicas.append(made(device))
        except OutOfDeviceMemoryError as error:
            log.warning("training leaves %s out: %s", device.name, error)
    return replicas

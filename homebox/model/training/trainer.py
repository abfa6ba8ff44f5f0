"""Trains a LoRA adapter on a frozen base: one program gathers gradients, another one updates.

The backward pass is written out layer by layer (`lora_layer`), keeps what `checkpoint` says, and
never holds all logits (`cross_entropy`). Invariant: in numerics "f32" a step is a function of
(base, batch, state), to the bit, whatever the number of threads and the kind of CPU.
"""

import dataclasses
import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from homebox.engine.graph.device import HOST, Buffer, Device, using
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, capture
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.config import ModelConfig, Rope
from homebox.model.lora import init_adapter
from homebox.model.training.batches import Batch, Floats, Ints, set_inputs, specs, tensors_of
from homebox.model.training.checkpoint import check_policy, layer_backward
from homebox.model.training.cross_entropy import CrossEntropy, Places, Shares, buffer_bytes
from homebox.model.training.frozen_base import FrozenBase
from homebox.model.training.lora_layer import LoraLayer
from homebox.model.training.packed_rows import Rotary, Rows
from homebox.model.training.parameters import Parameters, State
from homebox.model.training.row_decoder import RowDecoder

__all__ = ["Batch", "LoraTrainer", "StepResult", "Trainable"]

Build = Callable[[Rows, Places, Shares], list[Tensor]]


class Trainable(Protocol):
    """What a trainer asks of a loaded model."""

    config: ModelConfig

    def base_tensors(self) -> dict[str, Tensor]:
        """Return the frozen weights by name."""
        ...


@dataclass(frozen=True)
class StepResult:
    """What a step reports: the loss, its part that is KL to the base, the gradient's norm."""

    loss: float
    kl: float
    grad_norm: float


class LoraTrainer:
    """Owns an adapter in training. `step` trains on one batch; `adapter` returns the tensors.

    `numerics` is "f32" (strict bits) or "bf16" (products with frozen weights take rounded
    activations; faster). `checkpoint` is a policy of `checkpoint`; it changes memory and time, not
    results. A batch may ask something of at most `places` places (all, if not given), and its
    teaching is ignored without `taught`. All of it lies on `device`, where the model's tensors
    must be.
    """

    def __init__(
        self,
        model: Trainable,
        rank: int,
        alpha: float,
        rows: int,
        length: int,
        seed: int,
        *,
        numerics: str = "f32",
        checkpoint: str = "matmul",
        places: int | None = None,
        taught: bool = False,
        logits_bytes: int | None = None,
        device: Device = HOST,
    ) -> None:
        self.config = model.config
        self.scale = alpha / rank
        self.shape = (rows, length)
        self.device = device
        self._policy = check_policy(checkpoint)
        self.places, self._taught = places or rows * length, taught
        with using(device):
            self.base = FrozenBase.of(model.config, model.base_tensors(), numerics)
            self._decoder = RowDecoder(model.config, self.base, self.shape)
            start = init_adapter(model.config, rank, seed)
            self.parameters = Parameters(model.config, rank, start)
            limit = logits_bytes or buffer_bytes(device)
            self._entropy = CrossEntropy(self.base, self.places, limit)
        self.program = self._capture(self._gradients, "lora gradients")
        self._evaluation: Program | None = None
        self._scores: Program | None = None

    def step(self, batch: Batch, rate: float) -> StepResult:
        """Train on one batch with this learning rate."""
        loss, kl = self.accumulate(batch)
        return StepResult(loss, kl, self.update(rate))

    def steps(self, batch: Batch, rate: float, stop: StopFlag) -> Generator[None, None, StepResult]:
        """Like `step`, but yield whenever `stop` has suspended it; others may compute meanwhile."""
        loss, kl = yield from self.gather(batch, stop)
        return StepResult(loss, kl, self.update(rate))

    def gather(self, batch: Batch, stop: StopFlag) -> Generator[None, None, tuple[float, float]]:
        """Like `accumulate`, with pauses; the next step follows this gradient as well."""
        yield from self._run(self.program, batch, stop)
        return self.losses()

    def likelihoods(self, batch: Batch, stop: StopFlag) -> Generator[None, None, Floats]:
        """Return log p(target) of the places that ask, with the adapter as it is, (rows, length).

        It is 0 at all other places.
        """
        asking = yield from self._run(self._scoring(), batch, stop)
        found = np.zeros(self.shape, np.float32)
        found.reshape(-1)[asking] = self._scoring().output(0).numpy()[: len(asking)]
        return found

    def set_batch(self, batch: Batch) -> None:
        """Make a batch the input of `program`, which adds its gradient."""
        set_inputs(self.program, batch, self.places, self._taught)

    def losses(self) -> tuple[float, float]:
        """Return (loss, KL) of the last run of `program`."""
        return _losses_of(self.program)

    def accumulate(self, batch: Batch) -> tuple[float, float]:
        """Add a batch's gradient to what `update` will follow; return (loss, KL)."""
        self.set_batch(batch)
        self.program.run()
        return self.losses()

    def update(self, rate: float) -> float:
        """Take one step of AdamW along the gathered gradient and return its norm."""
        return self.parameters.update(rate)

    def evaluate(self, batch: Batch) -> tuple[float, float]:
        """Return (loss, KL) of a batch and learn nothing; compiles a program at the first call."""
        if self._evaluation is None:
            self._evaluation = self._capture(self._losses, "lora evaluation")
        set_inputs(self._evaluation, batch, self.places, self._taught)
        self._evaluation.run()
        return _losses_of(self._evaluation)

    def state(self) -> State:
        """Return a copy of what the next step depends on, beside its batch."""
        return self.parameters.state()

    def restore(self, state: State) -> None:
        """Go on where `state` was taken; raises ConfigError if it is that of another adapter."""
        self.parameters.restore(state)

    def prepare_likelihoods(self) -> None:
        """Compile what `likelihoods` runs, which else its first call does."""
        self._scoring()

    def _scoring(self) -> Program:
        if self._scores is None:
            self._scores = self._capture(self._likelihoods, "lora likelihoods")
        return self._scores

    def _run(self, program: Program, batch: Batch, stop: StopFlag) -> Generator[None, None, Ints]:
        """Run a program over a batch; return the places that ask."""
        asking = set_inputs(program, batch, self.places, self._taught)
        finished = program.run(stop=stop)
        while not finished:
            yield
            finished = program.resume(stop)
        return asking

    def adapter(self) -> dict[str, Floats]:
        """Return a copy of the adapter as it is now."""
        return self.parameters.adapter()

    @property
    def rotary(self) -> dict[Rope, Rotary]:
        """The tables of rotations."""
        return self._decoder.rotary

    # -- the graph ------------------------------------------------------------------------------

    def _adapted(self, rows: Rows) -> list[LoraLayer]:
        return self._decoder.layers(rows, self.parameters, self.scale)

    def _asked(self, hidden: Tensor, places: Places) -> Tensor:
        """Return what the logits of the places that ask are computed from, (C, H)."""
        return self._decoder.normed(places.of(hidden)).contiguous()

    def _losses(self, rows: Rows, places: Places, shares: Shares) -> list[Tensor]:
        hidden, _ = self._decoder.hidden(rows, self._adapted(rows))
        losses = self._entropy(self._asked(hidden, places), shares, backward=False)
        return [losses.loss, losses.kl]

    def _likelihoods(self, rows: Rows, places: Places, shares: Shares) -> list[Tensor]:
        hidden, _ = self._decoder.hidden(rows, self._adapted(rows))
        return [self._entropy.likelihoods(self._asked(hidden, places), shares)]

    def _gradients(self, rows: Rows, places: Places, shares: Shares) -> list[Tensor]:
        layers = self._adapted(rows)
        hidden, keeps = self._decoder.hidden(rows, layers)
        losses = self._entropy(self._asked(hidden, places), shares)
        if losses.d_hidden is None:
            raise ValueError("the loss came without a gradient")
        x = hidden if self._policy == "none" else hidden.again("hidden")
        (g,) = gradient(self._decoder.normed(x), [x], places.back(losses.d_hidden))
        g = g.contiguous()
        stores: list[Tensor] = []
        for layer, kept in zip(reversed(layers), reversed(keeps), strict=True):
            g, found = layer_backward(self._policy, layer, kept, g)
            stores += [self.parameters.add(name, value) for name, value in found.items()]
        # The losses come last: kernels run in the order of what is asked for, and a chunk of logits
        # is to be done with before the next one.
        return [*stores, losses.loss, losses.kl]

    def _key(self) -> str:
        """Return a text that changes with everything that decides the programs."""
        return json.dumps(
            [
                dataclasses.asdict(self.config),
                self.base.numerics,
                self.base.layout(),
                [self.parameters.rank, self.scale, self._policy],
                [self.shape, self.places, self._taught, self._entropy.rows],
            ]
        )

    def _buffers(self) -> dict[str, Buffer]:
        """Return all memory that the programs use, by names that are the same everywhere."""
        return self._decoder.buffers() | self.parameters.buffers | self._entropy.buffers()

    def _capture(self, build: Build, name: str) -> Program:
        def graph(**given: Tensor) -> list[Tensor]:
            return build(*tensors_of(given))

        inputs = specs(self.shape, self.places, self._taught)
        with using(self.device):
            return capture(graph, inputs, name=name, key=self._key(), buffers=self._buffers())


def _losses_of(program: Program) -> tuple[float, float]:
    """Return the last two outputs of a run, loss and KL."""
    return float(program.output(-2)), float(program.output(-1))

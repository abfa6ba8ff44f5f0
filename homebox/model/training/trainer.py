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
import numpy.typing as npt

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, Buffer, Device, using
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec, capture
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.config import ModelConfig
from homebox.model.lora import init_adapter
from homebox.model.training.checkpoint import check_policy, layer_backward
from homebox.model.training.cross_entropy import CrossEntropy, Shares, buffer_bytes
from homebox.model.training.frozen_base import FrozenBase
from homebox.model.training.lora_layer import Kept, LoraLayer, Low
from homebox.model.training.packed_rows import Rotary, Rows, rms_norm
from homebox.model.training.parameters import Parameters, groups_of
from homebox.model.training.row_attention import RowAttention

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class Trainable(Protocol):
    """What a trainer asks of a loaded model."""

    config: ModelConfig

    def base_tensors(self) -> dict[str, Tensor]:
        """Return the frozen weights by name."""
        ...


@dataclass(frozen=True)
class Batch:
    """Packed rows, each array (rows, length).

    `segment` numbers the documents of a row from 1 (0 = padding), each in one piece; `weight` is
    the share of the cross-entropy of predicting `target` at a place, `anchor` the share of
    KL(base || student).
    """

    ids: Ints
    segment: Ints
    position: Ints
    target: Ints
    weight: Floats
    anchor: Floats


@dataclass(frozen=True)
class StepResult:
    """What a step reports: weighted cross-entropy plus KL, the KL alone, the gradient's norm."""

    loss: float
    kl: float
    grad_norm: float


def log_probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log sum exp, logit of the target), each (N, 1), for logits (N, V), target (N,)."""
    rows, vocabulary = logits.shape
    hit = Tensor.iota(vocabulary).reshape((1, vocabulary)).equal(target.reshape((rows, 1)))
    return logits.logsumexp(), hit.where(logits, 0.0).sum(-1, keepdim=True)


class LoraTrainer:
    """Owns an adapter in training. `step` trains on one batch; `adapter` returns the tensors.

    `numerics` is "f32" (strict bits) or "bf16" (products with frozen weights take rounded
    activations; faster). `checkpoint` is a policy of `checkpoint`; it changes memory and time, not
    results. Without `anchored` a batch's anchor is ignored and the base is not run. All of it lies
    on `device`, where the model's tensors must be.
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
        anchored: bool = True,
        logits_bytes: int | None = None,
        device: Device = HOST,
    ) -> None:
        self.config = model.config
        self.scale = alpha / rank
        self.shape = (rows, length)
        self.device = device
        self._policy = check_policy(checkpoint)
        self._anchored = anchored
        with using(device):
            self.rotary = {rope: Rotary(rope, length) for rope in model.config.ropes}
            self.base = FrozenBase.of(model.config, model.base_tensors(), numerics)
            start = init_adapter(model.config, rank, seed)
            self.parameters = Parameters(model.config, rank, start)
            limit = logits_bytes or buffer_bytes(device)
            self._entropy = CrossEntropy(self.base, rows * length, anchored, limit)
        self.program = self._capture(self._gradients, "lora gradients")
        self._evaluation: Program | None = None

    def step(self, batch: Batch, rate: float) -> StepResult:
        """Train on one batch with this learning rate."""
        loss, kl = self.accumulate(batch)
        return StepResult(loss, kl, self.update(rate))

    def steps(self, batch: Batch, rate: float, stop: StopFlag) -> Generator[None, None, StepResult]:
        """Like `step`, but yield whenever `stop` has suspended it; others may compute meanwhile."""
        self.set_batch(batch)
        finished = self.program.run(stop=stop)
        while not finished:
            yield
            finished = self.program.resume(stop)
        return StepResult(*self.losses(), self.update(rate))

    def set_batch(self, batch: Batch) -> None:
        """Make a batch the input of `program`, which adds its gradient."""
        _set(self.program, batch)

    def losses(self) -> tuple[float, float]:
        """Return (loss, KL) of the last run of `program`."""
        return _losses_of(self.program)

    def accumulate(self, batch: Batch) -> tuple[float, float]:
        """Add a batch's gradient to what `update` will follow; return (loss, KL)."""
        return _run(self.program, batch)

    def update(self, rate: float) -> float:
        """Take one step of AdamW along the gathered gradient and return its norm."""
        return self.parameters.update(rate)

    def evaluate(self, batch: Batch) -> tuple[float, float]:
        """Return (loss, KL) of a batch and learn nothing; compiles a program at the first call."""
        if self._evaluation is None:
            self._evaluation = self._capture(self._losses, "lora evaluation")
        return _run(self._evaluation, batch)

    def adapter(self) -> dict[str, Floats]:
        """Return a copy of the adapter as it is now."""
        return self.parameters.adapter()

    # -- the graph ------------------------------------------------------------------------------

    def _layers(self, rows: Rows, adapted: bool) -> list[LoraLayer]:
        return [self._layer(i, rows, adapted) for i in range(self.config.num_layers)]

    def _layer(self, i: int, rows: Rows, adapted: bool) -> LoraLayer:
        norms = None
        if self.config.qk_norm:
            first, second = (self.base.tensors[f"layers.{i}.{n}_norm"] for n in "qk")
            norms = first, second
        rope = self.config.layers[i].rope
        rotary = None if rope is None else self.rotary[rope]
        sinks = self.base.tensors[f"layers.{i}.sinks"] if self.config.sinks else None
        attention = RowAttention(self.config, i, rotary, rows, norms, sinks)
        low: dict[str, Low] = {}
        if adapted:
            groups = groups_of(self.config, i)
            low = {group: self._low(i, group, groups[group]) for group in groups}
        return LoraLayer(self.base, i, attention, low)

    def _low(self, layer: int, group: str, members: tuple[str, ...]) -> Low:
        a = self.parameters.a(f"layers.{layer}.{group}.A")
        b = tuple(self.parameters.b(f"layers.{layer}.{member}.B") for member in members)
        return Low(a, b, self.scale)

    def _hidden(self, rows: Rows, layers: list[LoraLayer]) -> tuple[Tensor, list[Kept]]:
        """Return the hidden states before the last norm, and what each layer keeps."""
        x = self.base.tensors["embed"].gather(rows.ids.reshape((self.shape[0] * self.shape[1],)))
        if self.config.embed_scale != 1.0:
            x = x * self.config.embed_scale
        x = x.contiguous()
        keeps = []
        for layer in layers:
            x, kept = layer.forward(x)
            keeps.append(kept)
        return x, keeps

    def _normed(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.base.tensors["norm"], self.config.rms_eps)

    def _losses(self, rows: Rows, shares: Shares) -> list[Tensor]:
        hidden, _ = self._hidden(rows, self._layers(rows, True))
        losses = self._entropy(self._normed(hidden), self._anchor(rows), shares, backward=False)
        return [losses.cross + losses.kl, losses.kl]

    def _gradients(self, rows: Rows, shares: Shares) -> list[Tensor]:
        layers = self._layers(rows, True)
        hidden, keeps = self._hidden(rows, layers)
        losses = self._entropy(self._normed(hidden), self._anchor(rows), shares)
        if losses.d_hidden is None:
            raise ValueError("the loss came without a gradient")
        x = hidden if self._policy == "none" else hidden.again("hidden")
        (g,) = gradient(self._normed(x), [x], losses.d_hidden)
        g = g.contiguous()
        stores: list[Tensor] = []
        for layer, kept in zip(reversed(layers), reversed(keeps), strict=True):
            g, found = layer_backward(self._policy, layer, kept, g)
            stores += [self.parameters.add(name, value) for name, value in found.items()]
        # The losses come last: kernels run in the order of what is asked for, and a chunk of logits
        # is to be done with before the next one.
        return [*stores, losses.cross + losses.kl, losses.kl]

    def _anchor(self, rows: Rows) -> Tensor | None:
        if not self._anchored:
            return None
        return self._normed(self._hidden(rows, self._layers(rows, False))[0])

    def _key(self) -> str:
        """Return a text that changes with everything that decides the programs."""
        return json.dumps(
            [
                dataclasses.asdict(self.config),
                self.base.numerics,
                self.base.layout(),
                [self.parameters.rank, self.scale, self._policy],
                [self.shape, self._anchored, self._entropy.rows],
            ]
        )

    def _buffers(self) -> dict[str, Buffer]:
        """Return all memory that the programs use, by names that are the same everywhere."""
        tables: dict[str, Buffer] = {}
        for i, rotary in enumerate(self.rotary.values()):
            tables |= {f"rotary:{i}:cos": rotary.cos.buffer, f"rotary:{i}:sin": rotary.sin.buffer}
        own = self.parameters.buffers | self._entropy.buffers()
        return self.base.buffers() | tables | own

    def _capture(self, build: Callable[[Rows, Shares], list[Tensor]], name: str) -> Program:
        count = self.shape[0] * self.shape[1]

        def graph(
            ids: Tensor,
            segment: Tensor,
            position: Tensor,
            target: Tensor,
            weight: Tensor,
            anchor: Tensor,
        ) -> list[Tensor]:
            shares = Shares(*(t.reshape((count,)) for t in (target, weight, anchor)))
            return build(Rows(ids, segment, position), shares)

        ints = {k: Spec(self.shape, dt.i32) for k in ("ids", "segment", "position", "target")}
        floats = {k: Spec(self.shape) for k in ("weight", "anchor")}
        inputs = {**ints, **floats}
        with using(self.device):
            return capture(graph, inputs, name=name, key=self._key(), buffers=self._buffers())


def _set(program: Program, batch: Batch) -> None:
    for name in ("ids", "segment", "position", "target", "weight", "anchor"):
        program.set_input(name, getattr(batch, name))


def _losses_of(program: Program) -> tuple[float, float]:
    """Return the last two outputs of a run, loss and KL."""
    return float(program.output(-2)), float(program.output(-1))


def _run(program: Program, batch: Batch) -> tuple[float, float]:
    """Run a program on a batch and return its loss and KL."""
    _set(program, batch)
    program.run()
    return _losses_of(program)

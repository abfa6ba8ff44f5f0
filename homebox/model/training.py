"""Trains a LoRA adapter on a frozen base, one captured program per step.

The program holds everything: the base's own prediction (for the anchor), the adapted one, the loss,
its gradient, clipping and AdamW. Invariant: a step is a function of (base, batch, state), to the
bit, whatever the number of threads.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.engine import dtype as dt
from homebox.engine.capture import Program, Spec, capture
from homebox.engine.grad import gradient
from homebox.engine.tensor import Tensor, size_of
from homebox.model.decoder import Rotary, Rows, hidden_states
from homebox.model.lora import init_adapter
from homebox.model.model import Model
from homebox.model.optimiser import Scalars, StepScalars, adamw, clip_factor, global_norm

BETAS = (0.9, 0.999)
CLIP = 1.0

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Packed rows, each array (rows, length).

    `segment` numbers the documents of a row from 1 (0 = padding); `weight` is the share of the
    cross-entropy of predicting `target` at a place, `anchor` the share of KL(base || student).
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
    """Owns an adapter in training. `step` trains on one batch; `adapter` returns the tensors."""

    def __init__(
        self, model: Model, rank: int, alpha: float, rows: int, length: int, seed: int
    ) -> None:
        self.config = model.config
        self.scale = alpha / rank
        self.shape = (rows, length)
        self.rotary = Rotary(model.config, length)
        self._base = model.base_tensors()
        start = init_adapter(model.config, rank, seed)
        self.tensors = {name: Tensor.from_numpy(value) for name, value in start.items()}
        self._moments = {
            name: (Tensor.zeros(t.shape), Tensor.zeros(t.shape)) for name, t in self.tensors.items()
        }
        self._scalars = StepScalars(*BETAS)
        self.program = self._capture()

    def step(self, batch: Batch, rate: float) -> StepResult:
        """Train on one batch with this learning rate."""
        values = self._scalars.next(rate)
        loss, kl, norm, *_ = _run(
            self.program,
            ids=batch.ids,
            segment=batch.segment,
            position=batch.position,
            target=batch.target,
            weight=batch.weight,
            anchor=batch.anchor,
            scalars=values,
        )
        return StepResult(loss, kl, norm)

    def adapter(self) -> dict[str, Floats]:
        """Return a copy of the adapter as it is now."""
        return {
            name: t.buffer.array.reshape(tuple(size_of(d) for d in t.shape)).copy()
            for name, t in self.tensors.items()
        }

    # -- the graph ------------------------------------------------------------------------------

    def _frozen(self, name: str, x: Tensor) -> Tensor:
        return x.linear(self._base[name])

    def _adapted(self, name: str, x: Tensor) -> Tensor:
        a, b = self.tensors[f"{name}.A"], self.tensors[f"{name}.B"]
        return self._frozen(name, x) + x.linear(a).linear(b) * self.scale

    def _logits(self, batch: Rows, adapted: bool) -> Tensor:
        linear = self._adapted if adapted else self._frozen
        hidden = hidden_states(self.config, self._base.__getitem__, linear, self.rotary, batch)
        return hidden.linear(self._base["embed" if self.config.tied else "head"])

    def _capture(self) -> Program:
        def step(
            ids: Tensor,
            segment: Tensor,
            position: Tensor,
            target: Tensor,
            weight: Tensor,
            anchor: Tensor,
            scalars: Tensor,
        ) -> list[Tensor]:
            count = self.shape[0] * self.shape[1]
            rows = Rows(ids, segment, position)
            student, base = self._logits(rows, True), self._logits(rows, False)
            total, hit = log_probabilities(student, target.reshape((count,)))
            cross = ((total - hit) * weight.reshape((count, 1))).sum()
            # KL(base || student) = sum_v p (log p - log q), log q = student - total
            base_total = base.logsumexp()
            p = (base - base_total).exp().detach()
            apart = (p * (base - base_total - student)).sum(-1, keepdim=True) + total
            kl = (apart * anchor.reshape((count, 1))).sum()
            loss = cross + kl
            names = list(self.tensors)
            grads = gradient(loss, [self.tensors[n] for n in names])
            grads = [g.contiguous() for g in grads]
            norm = global_norm(grads)
            factor = clip_factor(norm, CLIP)
            rates = Scalars.of(scalars)
            updates: list[Tensor] = []
            for name, g in zip(names, grads, strict=True):
                updates += adamw(self.tensors[name], g * factor, self._moments[name], rates, BETAS)
            return [loss, kl, norm, *updates]

        ints = {k: Spec(self.shape, dt.i32) for k in ("ids", "segment", "position", "target")}
        floats = {k: Spec(self.shape) for k in ("weight", "anchor")}
        return capture(step, {**ints, **floats, "scalars": Spec((4,))}, name="lora step")


def _run(program: Program, **inputs: np.ndarray) -> list[float]:
    """Run a step and return its first outputs, the scalars."""
    for name, value in inputs.items():
        program.set_input(name, value)
    program.run()
    scalars = [i for i, root in enumerate(program.roots) if root.shape == ()]
    return [float(program.output(i)) for i in scalars]

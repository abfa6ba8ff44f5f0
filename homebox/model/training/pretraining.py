"""Trains all weights of a small model from nothing: Muon on the matrices, AdamW on the rest.

Matrices of equal kind lie stacked, (layers, out, in), so that Muon works on all layers at once.
One captured program is one step. Invariant: weights after n steps are a function of (config, seed,
batches, rates), to the bit, on any CPU and with any number of threads.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec, capture
from homebox.model.config import PROJECTIONS, ModelConfig
from homebox.model.lora import uniform
from homebox.model.training.batches import Floats, Ints
from homebox.model.training.optimiser import (
    Scalars,
    StepScalars,
    adamw,
    clip_factor,
    global_norm,
    muon,
)
from homebox.model.training.packed_rows import Rotary, Rows, hidden_states


@dataclass(frozen=True)
class Optimisation:
    """The numbers of the optimisers that stay the same through a training."""

    embedding: float  # standard deviation of the first embedding
    residual: float  # factor on the first o and down
    momentum: float  # Muon
    newton_schulz: int  # steps of orthogonalisation
    matrix_decay: float  # weight decay of the matrices, times their rate
    betas: tuple[float, float]  # AdamW
    eps: float
    decay: float
    clip: float  # greatest norm of the whole gradient


def first_weights(
    config: ModelConfig, seed: int, embedding: float, residual: float
) -> dict[str, Floats]:
    """Return untrained weights, named as in `config.weight_shapes()`.

    Uniform with the standard deviation 1/sqrt(in), times `residual` for what writes into the
    residual stream, `embedding` for the embedding; norms are 1. The bits follow from integer
    arithmetic and correctly rounded products.
    """
    weights: dict[str, Floats] = {}
    for name, shape in config.weight_shapes().items():
        if len(shape) == 1:
            weights[name] = np.ones(shape, np.float32)
            continue
        spread = embedding if name == "embed" else 1.0 / math.sqrt(shape[1])
        if name.endswith((".o", ".down")):
            spread *= residual
        key = hashlib.sha256(f"homebox weights {seed} {name}".encode()).digest()[:8]
        values = uniform(int.from_bytes(key, "little"), shape[0] * shape[1])
        weights[name] = (values * (math.sqrt(3.0) * spread)).astype(np.float32).reshape(shape)
    return weights


def log_probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log sum exp, logit of the target), each (N, 1), for logits (N, V), target (N,)."""
    rows, vocabulary = logits.shape
    hit = Tensor.iota(vocabulary).reshape((1, vocabulary)).equal(target.reshape((rows, 1)))
    return logits.logsumexp(), hit.where(logits, 0.0).sum(-1, keepdim=True)


class Pretrainer:
    """Owns all weights in training; `targets` is the number of places a step learns from."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        length: int,
        targets: int,
        seed: int,
        numbers: Optimisation,
    ) -> None:
        if not config.tied:
            raise ValueError("the trainer ties the head to the embedding")
        self.config, self.shape, self.targets = config, (rows, length), targets
        self.rotary = Rotary(config.ropes[0], length)
        self.numbers = numbers
        first = first_weights(config, seed, numbers.embedding, numbers.residual)
        layers = range(config.num_layers)
        self.stacks = {
            kind: Tensor.from_numpy(np.stack([first[f"layers.{i}.{kind}"] for i in layers]))
            for kind in PROJECTIONS
        }
        self.plain = {
            name: Tensor.from_numpy(value)
            for name, value in first.items()
            if name.rsplit(".", 1)[-1] not in PROJECTIONS
        }
        self._momentum = {kind: Tensor.zeros(t.shape) for kind, t in self.stacks.items()}
        self._moments = {
            name: (Tensor.zeros(t.shape), Tensor.zeros(t.shape)) for name, t in self.plain.items()
        }
        self._scalars = StepScalars(*numbers.betas)
        self.program = self._capture()

    def step(self, batch: Mapping[str, Ints | Floats], rate: float, matrix_rate: float) -> float:
        """Train on one batch and return its loss.

        The batch holds ids, segment, position (rows, length) int32, and for the places to learn:
        place, target (targets,) int32, weight (targets,) float32 that sum to 1.
        """
        for name, value in batch.items():
            self.program.set_input(name, value)
        self.program.set_input("scalars", self._scalars.next(rate, matrix_rate))
        self.program.run()
        return float(self.program.output(0))

    def weights(self) -> dict[str, Floats]:
        """Return a copy of all weights, named as in `config.weight_shapes()`."""
        out: dict[str, Floats] = {}
        for name, shape in self.config.weight_shapes().items():
            kind = name.rsplit(".", 1)[-1]
            if kind in PROJECTIONS:
                layer = int(name.split(".")[1])
                count = math.prod(shape)
                flat = self.stacks[kind].buffer.read(layer * count, count)
            else:
                flat = self.plain[name].buffer.read()
            out[name] = flat.reshape(shape).copy()
        return out

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the next step depends on, by name; `restore` takes it back."""
        arrays = {name: t.buffer.read() for name, t in self._state().items()}
        return arrays | {"powers": self._scalars.powers}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned."""
        for name, tensor in self._state().items():
            tensor.buffer.write(state[name])
        self._scalars.powers[:] = state["powers"]

    def _state(self) -> dict[str, Tensor]:
        tensors = {f"stack.{k}": t for k, t in self.stacks.items()}
        tensors |= {f"momentum.{k}": t for k, t in self._momentum.items()}
        tensors |= {f"plain.{k}": t for k, t in self.plain.items()}
        for name, pair in self._moments.items():
            tensors |= {f"moment{i}.{name}": t for i, t in enumerate(pair)}
        return tensors

    def _capture(self) -> Program:
        pieces = {
            f"layers.{i}.{kind}": stack.part(i)
            for kind, stack in self.stacks.items()
            for i in range(self.config.num_layers)
        }

        def step(
            ids: Tensor,
            segment: Tensor,
            position: Tensor,
            place: Tensor,
            target: Tensor,
            weight: Tensor,
            scalars: Tensor,
        ) -> list[Tensor]:
            hidden = hidden_states(
                self.config,
                self.plain.__getitem__,
                lambda name, x: x.linear(pieces[name]),
                self.rotary,
                Rows(ids, segment, position),
            )
            logits = hidden.gather(place).linear(self.plain["embed"])
            total, hit = log_probabilities(logits, target)
            loss = ((total - hit) * weight.reshape((self.targets, 1))).sum()
            return [loss, *self._updates(loss, pieces, Scalars.of(scalars))]

        ints = {k: Spec(self.shape, dt.i32) for k in ("ids", "segment", "position")}
        learned = {k: Spec((self.targets,), dt.i32) for k in ("place", "target")}
        rest = {"weight": Spec((self.targets,)), "scalars": Spec((4,))}
        return capture(step, {**ints, **learned, **rest}, name="pretraining step")

    def _updates(self, loss: Tensor, pieces: dict[str, Tensor], scalars: Scalars) -> list[Tensor]:
        layers = range(self.config.num_layers)
        names = [f"layers.{i}.{kind}" for kind in PROJECTIONS for i in layers]
        wanted = [pieces[n] for n in names] + list(self.plain.values())
        grads = [g.contiguous() for g in gradient(loss, wanted)]
        numbers = self.numbers
        factor = clip_factor(global_norm(grads), numbers.clip)
        by_name = dict(zip([*names, *self.plain], grads, strict=True))
        updates: list[Tensor] = []
        for kind, stack in self.stacks.items():
            parts = [by_name[f"layers.{i}.{kind}"].reshape((1, *stack.shape[1:])) for i in layers]
            joined = parts[0].cat(*parts[1:], axis=0) * factor
            updates += muon(
                stack,
                joined.contiguous(),
                self._momentum[kind],
                scalars,
                numbers.momentum,
                numbers.matrix_decay,
                numbers.newton_schulz,
            )
        for name, tensor in self.plain.items():
            g = by_name[name] * factor
            updates += adamw(
                tensor,
                g,
                self._moments[name],
                scalars,
                numbers.betas,
                numbers.decay,
                numbers.eps,
            )
        return updates

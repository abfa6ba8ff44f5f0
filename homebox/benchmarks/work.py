"""How much must be read and computed for a token: what speeds are judged by.

Bytes are those of the matrices in their format, each read once for a step of the batch, and of the
keys and values that a token sees; of experts those that the batch chooses, if choices are even. A
product and its sum are two operations. Adapters, norms and the recomputation of checkpointed layers
are left out: they are a way, not the goal.
"""

import math
from dataclasses import dataclass

from homebox.benchmarks.measure import Sample
from homebox.engine.graph.formats import Format
from homebox.engine.inspection.roof import Roof
from homebox.model.config import Experts, ModelConfig
from homebox.model.weights.packed_layout import segments_of


@dataclass(frozen=True, slots=True)
class Work:
    """What one token takes: bytes read, operations, and of which kind ("f32", "bf16", "int8")."""

    moved: float
    operations: float
    kind: str

    def share(self, rate: float, roof: Roof) -> tuple[float, str]:
        """Return the percentage of the nearer roof at `rate` tokens a second, and its name."""
        memory = self.moved * rate / (roof.read_gbs * 1e9)
        compute = self.operations * rate / (roof.compute(self.kind) * 1e9)
        return (100 * memory, "memory") if memory >= compute else (100 * compute, "compute")


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric: `work` where it is a rate of tokens, `sample` where it was timed."""

    metric: str
    value: float
    unit: str
    shape: str | None = None
    work: Work | None = None
    sample: Sample | None = None


def rate(
    metric: str, sample: Sample, tokens: int, work: Work, shape: str | None = None
) -> Measured:
    """Return a rate of tokens a second from a sample of runs of so many tokens."""
    return Measured(metric, tokens / sample.seconds, "tok/s", shape, work, sample)


def body_weights(config: ModelConfig) -> int:
    """Return the numbers in the matrices of all layers that a token meets."""
    total = 0
    for i, layer in enumerate(config.layers):
        total += sum(math.prod(config.projection_shape(name)) for name in config.adapted(i))
        if layer.sparse and config.experts is not None:
            chosen = config.experts
            inner = 3 * chosen.per_token * chosen.inner
            total += config.hidden_size * (inner + chosen.count)
    return total


def head_weights(config: ModelConfig) -> int:
    """Return the numbers in the matrix of the logits."""
    return config.vocab_size * config.hidden_size


def _attention(config: ModelConfig, seen: float) -> float:
    """Return the operations of attention for a token that sees so many positions."""
    return 4 * config.num_layers * config.num_heads * config.head_dim * seen


def experts_read(experts: Experts, rows: int) -> float:
    """Return how many experts of a layer so many rows choose, if all are chosen equally often."""
    return experts.count * (1 - (1 - experts.per_token / experts.count) ** rows)


def _matrices(config: ModelConfig, form: Format, rows: int) -> float:
    """Return the bytes of the weights that a step of so many rows reads once."""
    share = 0.0
    if config.experts is not None:
        share = experts_read(config.experts, rows) / config.experts.count
    return sum(
        s.nbytes * (share if ".expert_" in s.name else 1.0) for s in segments_of(config, form)[0]
    )


def decode(
    config: ModelConfig, form: Format, kind: str, batch: int, seen: float, cache_bytes: float
) -> Work:
    """A token of a batch in which each sequence sees `seen` positions of `cache_bytes` each."""
    matrices = _matrices(config, form, batch)
    if not config.tied:
        matrices -= form.nbytes(config.vocab_size, config.hidden_size)  # rows of the embedding
    operations = 2 * (body_weights(config) + head_weights(config)) + _attention(config, seen)
    return Work(matrices / batch + seen * cache_bytes, operations, kind)


def prefill(config: ModelConfig, form: Format, kind: str, length: int) -> Work:
    """A token of a prompt of `length`, of which only the last one gets logits."""
    matrices = body_weights(config) + head_weights(config) / length
    operations = 2 * matrices + _attention(config, length / 2)
    return Work(_matrices(config, form, length) / length, operations, kind)


def lora_step(config: ModelConfig, form: Format, kind: str, rows: int, length: int) -> Work:
    """A token of a training step: forwards, and backwards to the inputs of every matrix."""
    matrices = body_weights(config) + head_weights(config)
    operations = 4 * matrices + 3 * _attention(config, length / 2)
    count = rows * length
    return Work(2 * _matrices(config, form, count) / count, operations, kind)

"""What a training job is: a file of at most 10 kB that says all that its result depends on.

Invariant: the hash of a spec names its result, so a field that is not known is refused.
"""

import hashlib
import tomllib
from pathlib import Path

import msgspec

from homebox.errors import ConfigError
from homebox.memory.store import canonical_json

NUMERICS = 1  # raised whenever the engine's strict bits change
LIMIT = 10_000  # bytes of a spec


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the spec; unknown keys are refused."""


class Job(Part, frozen=True):
    """Kind, name and seed of a job."""

    kind: str
    name: str
    seed: int


class VocabularySpec(Part, frozen=True):
    """How the vocabulary is trained."""

    size: int
    documents: int
    seed: int


class ModelSpec(Part, frozen=True):
    """The model's shape."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    norm_eps: float
    rope_theta: float
    positions: int


class InitSpec(Part, frozen=True):
    """The first weights."""

    embedding: float
    residual: float


class BatchSpec(Part, frozen=True):
    """The shape of a batch."""

    rows: int
    length: int
    targets: int
    waiting: int


class ScheduleSpec(Part, frozen=True):
    """How long, and how the rates move."""

    tokens: int
    warmup_steps: int
    decay_from: float
    floor: float


class MuonSpec(Part, frozen=True):
    """Muon, for the matrices."""

    rate: float
    momentum: float
    newton_schulz: int
    weight_decay: float


class AdamSpec(Part, frozen=True):
    """AdamW, for the rest."""

    rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


class LossSpec(Part, frozen=True):
    """The loss."""

    clip: float


class Spec(Part, frozen=True):
    """A whole job; see configs/tiny.toml for what each number means."""

    job: Job
    vocabulary: VocabularySpec
    model: ModelSpec
    init: InitSpec
    batch: BatchSpec
    schedule: ScheduleSpec
    muon: MuonSpec
    adamw: AdamSpec
    loss: LossSpec

    def hash(self) -> str:
        """Return the name of the job: sha256 of its canonical JSON with the numerics version."""
        body = {"spec": msgspec.to_builtins(self), "numerics": NUMERICS}
        return hashlib.sha256(canonical_json(body)).hexdigest()


def read_spec(path: Path) -> Spec:
    """Read and check a spec; raises ConfigError naming file and field."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > LIMIT:
        raise ConfigError(f"{path}: {len(data)} bytes; a job spec has at most {LIMIT}")
    try:
        spec = msgspec.convert(tomllib.loads(data.decode()), Spec)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if spec.job.kind != "train":
        raise ConfigError(f"{path}: job.kind: {spec.job.kind!r} is not known; use 'train'")
    return spec

"""Where each weight of a packed model lies: a pure function of the configuration and the format.

Matrices that read the same input and are wanted in one product are stacked: q, k and v. Norm
weights stay float32 vectors beside the matrices, because quantised blocks are imported exactly.
Invariant: segments lie in the order in which a forward pass reads them, each at a whole page.
"""

import math
from dataclasses import dataclass

from homebox.engine.graph.formats import F32, WEIGHTS, Format
from homebox.errors import ConfigError
from homebox.model.config import ModelConfig, is_vector
from homebox.model.files.sealed_file import PAGE

STACKED = {"qkv": ("q", "k", "v"), "qkv_bias": ("q_bias", "k_bias", "v_bias")}
# The order in which a layer reads its weights.
_ORDER = (
    *("attn_norm", "q_norm", "k_norm", "qkv", "qkv_bias", "sinks", "o", "o_bias"),
    *("attn_post_norm", "mlp_norm", "gate", "up", "gate_bias", "up_bias", "down", "down_bias"),
    *("router", "router_bias", "expert_gate", "expert_up", "expert_gate_bias", "expert_up_bias"),
    *("expert_down", "expert_down_bias", "mlp_post_norm"),
)
_EXACT = ("router",)  # a rounded router would choose other experts
AUTO = "auto"
_SMALL = 50_000_000  # parameters; below, float32 is fast enough and needs no rounding


@dataclass(frozen=True, slots=True)
class Packing:
    """The formats of a model's matrices: one for most, and that of `others` by name."""

    form: Format
    others: tuple[tuple[str, Format], ...] = ()

    def __str__(self) -> str:
        return self.form.name

    def of(self, parts: tuple[str, ...]) -> Format:
        """Return the format of a matrix that stacks some weights."""
        other = dict(self.others)
        return next((other[part] for part in parts if part in other), self.form)


def packing_of(form: "Format | Packing") -> Packing:
    """Return a packing, of one format for all if no other is given."""
    return form if isinstance(form, Packing) else Packing(form)


@dataclass(frozen=True, slots=True)
class Segment:
    """One matrix (n, k) in a format, or a vector of n float32 numbers (k = 0)."""

    name: str
    parts: tuple[str, ...]  # the weights that are stacked in it
    form: Format | None  # None: a vector
    n: int
    k: int
    offset: int  # in bytes
    nbytes: int


def choose_format(config: ModelConfig, asked: str = AUTO) -> Format:
    """Return the format of a model's weights; "auto" is f32 below 50M parameters, q8 above.

    Raises ConfigError for a name that is no format.
    """
    if asked == AUTO:
        return WEIGHTS["f32" if config.parameters < _SMALL else "q8"]
    if asked not in WEIGHTS:
        raise ConfigError(f"weights must be one of {AUTO}, {', '.join(WEIGHTS)}, not {asked!r}")
    return WEIGHTS[asked]


def segments_of(config: ModelConfig, form: Format | Packing) -> tuple[tuple[Segment, ...], int]:
    """Return the segments of a model and their size in bytes, padding included.

    A tied head has no segment: it is "embed".
    """
    packing = packing_of(form)
    shapes = config.weight_shapes()
    segments: list[Segment] = []
    end = 0

    def place(name: str, parts: tuple[str, ...]) -> None:
        nonlocal end
        n, k = sum(math.prod(shapes[part]) for part in parts), 0
        kind, size = None, 4 * n
        if not is_vector(name, shapes[parts[0]]):
            n, k = sum(shapes[part][0] for part in parts), shapes[parts[0]][1]
            kind = F32 if name.endswith(_EXACT) else packing.of(parts)
            size = kind.nbytes(n, k)
        segments.append(Segment(name, parts, kind, n, k, end, size))
        end = -(-(end + size) // PAGE) * PAGE

    for layer in range(config.num_layers):
        prefix = f"layers.{layer}."
        for name in _ORDER:
            parts = tuple(prefix + part for part in STACKED.get(name, (name,)))
            if parts[0] in shapes:
                place(prefix + name, parts)
    for name in ("norm", "embed", "head"):
        if name in shapes:
            place(name, (name,))
    return tuple(segments), end


def parts_of(config: ModelConfig, segments: tuple[Segment, ...]) -> list[Segment]:
    """Return the weights that are whole panels of a stacked segment, as segments of their own."""
    shapes = config.weight_shapes()
    found = []
    for segment in segments:
        if len(segment.parts) == 1 or segment.form is None:
            continue
        if any(shapes[part][0] % segment.form.rows for part in segment.parts):
            continue
        offset = segment.offset
        for part in segment.parts:
            n, k = shapes[part][0], segment.k
            size = segment.form.nbytes(n, k)
            found.append(Segment(part, (part,), segment.form, n, k, offset, size))
            offset += size
    return found

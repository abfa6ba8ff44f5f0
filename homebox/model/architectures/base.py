"""What an architecture is, and what most of them have in common.

The one idea: an architecture is two functions: a checked `config.json` -> `ModelConfig`, and
`ModelConfig` -> from which tensors of a checkpoint each weight is made.
Invariant: `common` checks every size; an architecture's own file only adds what it does otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from homebox.model.architectures.checkpoint import Names, Origin, origins
from homebox.model.architectures.ropes import read_rope
from homebox.model.config import (
    MAX_EXPERTS,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    Experts,
    LayerShape,
    ModelConfig,
    Rope,
)
from homebox.model.files.config_fields import Fields

FULL, SLIDING = "full_attention", "sliding_attention"
MAX_CHOSEN = 64  # experts of one row
PANEL = 16  # rows of a matrix of experts that belong to one of them
MULTIPLIER = (1e-6, 1e6)  # bounds of the factors that configurations name


@dataclass(frozen=True)
class Architecture:
    """One family of models, by the name of its `model_type`."""

    model_type: str
    classes: tuple[str, ...]  # entries of `architectures`
    parse: Callable[[Fields], ModelConfig]
    names: Names = field(default_factory=Names)

    def origins(self, config: ModelConfig, present: set[str]) -> dict[str, Origin]:
        """Return how each weight is made from the tensors that are present in a checkpoint."""
        return origins(self.names, config, present)


def common(fields: Fields, **own: Any) -> dict[str, Any]:
    """Return the fields of `ModelConfig` that all architectures read alike; `own` overrides them.

    `own` may also hold `usual_head_dim`, what head_dim is if the file does not say it.
    """
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    kv_heads = fields.integer("num_key_value_heads", 1, heads, default=own.pop("kv_heads", heads))
    if heads % kv_heads:
        fields.fail("num_key_value_heads", f"{kv_heads} does not divide {heads} attention heads")
    usual = own.pop("usual_head_dim", None)
    if fields.get("head_dim") is None and usual is None and hidden % heads:
        fields.fail("hidden_size", f"{hidden} is no multiple of {heads} attention heads")
    head_dim = fields.integer("head_dim", 2, 1024, default=usual or max(hidden // heads, 2))
    if head_dim % 2:
        fields.fail("head_dim", f"must be even for rotary positions, not {head_dim}")
    vocab = fields.integer("vocab_size", 1, MAX_VOCAB)
    found: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "max_positions": fields.integer("max_position_embeddings", 1, MAX_POSITIONS),
        "rms_eps": fields.number("rms_norm_eps", 0.0, 1.0),
        "bos_id": fields.token("bos_token_id", vocab),
        "eos_ids": fields.tokens("eos_token_id", vocab),
    }
    if "intermediate_size" not in own:
        found["intermediate_size"] = fields.integer("intermediate_size", 1, MAX_WIDTH)
    if "tied" not in own:
        found["tied"] = fields.boolean("tie_word_embeddings", default=False)
    return found | own


def layer_count(fields: Fields) -> int:
    """Return `num_hidden_layers`."""
    return fields.integer("num_hidden_layers", 1, MAX_LAYERS)


def only_silu(fields: Fields, name: str = "hidden_act") -> None:
    """Refuse another activation than silu."""
    fields.choice(name, ("silu", "swish"), default="silu")


def rope_of(fields: Fields, shape: Mapping[str, Any], theta: float = 10000.0) -> Rope:
    """Return the rotation of all layers, for the sizes that `common` returned."""
    return read_rope(fields, shape["head_dim"], shape["max_positions"], theta)


def read_experts(fields: Fields, inner: str, **own: Any) -> Experts:
    """Return the experts of a configuration whose width stands under the key `inner`."""
    key = "num_experts" if fields.get("num_experts") is not None else "num_local_experts"
    count = fields.integer(key, 1, MAX_EXPERTS)
    chosen = fields.integer("num_experts_per_tok", 1, min(count, MAX_CHOSEN))
    width = fields.integer(inner, 1, MAX_WIDTH)
    for name, size in (
        (inner, width),
        ("hidden_size", fields.integer("hidden_size", 1, MAX_WIDTH)),
    ):
        if size % PANEL:
            fields.fail(name, f"must be a multiple of {PANEL} in a model with experts, not {size}")
    return Experts(count, chosen, width, **own)


def window_of(fields: Fields, default: int | None = None) -> int | None:
    """Return `sliding_window`; null means none, a missing key the default."""
    if "sliding_window" not in fields.raw:
        return default
    if fields.get("sliding_window") is None:
        return None
    return fields.integer("sliding_window", 1, MAX_POSITIONS)


def layer_kinds(fields: Fields, usual: Callable[[int], bool]) -> list[bool]:
    """Return for each layer whether it slides: `layer_types`, or what is usual for its number."""
    count = layer_count(fields)
    kinds = fields.texts("layer_types", count, (FULL, SLIDING))
    if kinds is None:
        return [usual(i) for i in range(count)]
    return [kind == SLIDING for kind in kinds]


def sliding_layers(
    fields: Fields, rope: Rope | None, slides: list[bool], window: int | None
) -> tuple[LayerShape, ...]:
    """Return layers of which some see a window only; raises if these have none."""
    if any(slides) and window is None:
        fields.fail("layer_types", f"has {SLIDING}, but there is no sliding_window")
    return tuple(LayerShape(rope, window if slide else None) for slide in slides)


def qwen_layers(fields: Fields, rope: Rope) -> tuple[LayerShape, ...]:
    """Return the layers of Qwen2 and Qwen3: windows if `use_sliding_window`, in the upper ones."""
    window = None
    if fields.boolean("use_sliding_window", default=False):
        window = window_of(fields, 4096)
    lower = fields.integer("max_window_layers", 0, MAX_LAYERS, default=28)
    slides = layer_kinds(fields, lambda i: window is not None and i >= lower)
    return sliding_layers(fields, rope, slides, window)

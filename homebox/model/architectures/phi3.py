"""Phi-3, Phi-3.5 and Phi-4-mini: q, k, v and gate, up are one matrix each in the file."""

from homebox.model.architectures.base import (
    Architecture,
    common,
    layer_count,
    only_silu,
    window_of,
)
from homebox.model.architectures.checkpoint import Names
from homebox.model.architectures.ropes import read_rope
from homebox.model.config import LayerShape, ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Phi-3 model."""
    only_silu(fields)
    shape = common(fields)
    # The first releases called their scaling "su", some "yarn".
    aliases = {"su": "longrope", "yarn": "longrope"}
    rope = read_rope(fields, shape["head_dim"], shape["max_positions"], 10000.0, aliases)
    layer = LayerShape(rope, window_of(fields))
    return ModelConfig(**shape, architecture="phi3", layers=(layer,) * layer_count(fields))


ARCHITECTURE = Architecture(
    "phi3",
    ("Phi3ForCausalLM",),
    parse,
    Names(fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}),
)

"""Qwen3: Llama with a norm of each head's query and key."""

from homebox.model.architectures.base import Architecture, common, only_silu, qwen_layers, rope_of
from homebox.model.config import ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Qwen3 model."""
    only_silu(fields)
    shape = common(fields, usual_head_dim=128)
    biased = fields.boolean("attention_bias", default=False)
    return ModelConfig(
        **shape,
        architecture="qwen3",
        layers=qwen_layers(fields, rope_of(fields, shape)),
        qk_norm="head",
        qkv_bias=biased,
        o_bias=biased,
    )


ARCHITECTURE = Architecture("qwen3", ("Qwen3ForCausalLM",), parse)

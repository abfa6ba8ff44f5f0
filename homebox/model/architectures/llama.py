"""Llama 2, 3, 3.1, 3.2 and what is built like it."""

from homebox.model.architectures.base import Architecture, common, layer_count, only_silu, rope_of
from homebox.model.config import LayerShape, ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Llama model."""
    only_silu(fields)
    shape = common(fields)
    biased = fields.boolean("attention_bias", default=False)
    return ModelConfig(
        **shape,
        architecture="llama",
        layers=(LayerShape(rope_of(fields, shape)),) * layer_count(fields),
        qkv_bias=biased,
        o_bias=biased,
        mlp_bias=fields.boolean("mlp_bias", default=False),
    )


ARCHITECTURE = Architecture("llama", ("LlamaForCausalLM",), parse)

"""Qwen2 and Qwen2.5: Llama with biases of q, k and v."""

from homebox.model.architectures.base import Architecture, common, only_silu, qwen_layers, rope_of
from homebox.model.config import ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Qwen2 model."""
    only_silu(fields)
    shape = common(fields)
    layers = qwen_layers(fields, rope_of(fields, shape))
    return ModelConfig(**shape, architecture="qwen2", layers=layers, qkv_bias=True)


ARCHITECTURE = Architecture("qwen2", ("Qwen2ForCausalLM",), parse)

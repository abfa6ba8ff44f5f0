"""Mistral: Llama whose layers see a sliding window, in the versions that have one."""

from homebox.model.architectures.base import (
    Architecture,
    common,
    layer_kinds,
    only_silu,
    rope_of,
    sliding_layers,
    window_of,
)
from homebox.model.config import ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Mistral model."""
    only_silu(fields)
    shape = common(fields, kv_heads=fields.integer("num_key_value_heads", 1, 1024, default=8))
    window = window_of(fields, 4096)
    slides = layer_kinds(fields, lambda _: window is not None)
    return ModelConfig(
        **shape,
        architecture="mistral",
        layers=sliding_layers(fields, rope_of(fields, shape), slides, window),
    )


ARCHITECTURE = Architecture("mistral", ("MistralForCausalLM",), parse)

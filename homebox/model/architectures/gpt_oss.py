"""gpt-oss: experts in MXFP4, attention sinks, every other layer with a window."""

from dataclasses import replace

from homebox.model.architectures.base import (
    Architecture,
    common,
    layer_kinds,
    read_experts,
    rope_of,
    sliding_layers,
    window_of,
)
from homebox.model.architectures.checkpoint import Names, interleaved_experts
from homebox.model.config import ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a gpt-oss model."""
    shape = common(fields, usual_head_dim=64)
    biased = fields.boolean("attention_bias", default=True)
    experts = read_experts(
        fields,
        inner="intermediate_size",
        normalised=True,
        router_bias=True,
        bias=True,
        activation="clamped",
        alpha=fields.number("swiglu_alpha", 1e-3, 1e3, default=1.702),
        limit=fields.number("swiglu_limit", 1e-3, 1e6, default=7.0),
    )
    rope = rope_of(fields, shape, 150000.0)
    slides = layer_kinds(fields, lambda i: i % 2 == 0)
    layers = sliding_layers(fields, rope, slides, window_of(fields, 128))
    return ModelConfig(
        **shape,
        architecture="gpt_oss",
        layers=tuple(replace(layer, sparse=True) for layer in layers),
        qkv_bias=biased,
        o_bias=biased,
        sinks=True,
        experts=experts,
    )


ARCHITECTURE = Architecture(
    "gpt_oss", ("GptOssForCausalLM",), parse, Names(experts=interleaved_experts)
)

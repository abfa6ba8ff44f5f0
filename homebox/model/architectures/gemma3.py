"""Gemma 3, its text part: norms before and after, windows in five of six layers, soft caps."""

import math
from typing import Any

from homebox.model.architectures.base import Architecture, common, layer_kinds, window_of
from homebox.model.architectures.checkpoint import Names
from homebox.model.architectures.ropes import THETA, rope_from
from homebox.model.config import MAX_LAYERS, LayerShape, ModelConfig, Rope
from homebox.model.files.config_fields import Fields

# What transformers takes for granted, so that checkpoints of the larger models leave it out.
_USUAL = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Gemma 3 text model."""
    fields = fields.completed(_USUAL)
    fields.choice("hidden_activation", ("gelu_pytorch_tanh",), default="gelu_pytorch_tanh")
    if fields.boolean("use_bidirectional_attention", default=False):
        fields.fail("use_bidirectional_attention", "is not supported; only causal decoders are")
    shape = common(fields)
    biased = fields.boolean("attention_bias", default=False)
    return ModelConfig(
        **shape,
        architecture="gemma3_text",
        layers=_layers(fields, shape),
        qk_norm="head",
        qkv_bias=biased,
        o_bias=biased,
        post_norm=True,
        activation="gelu_tanh",
        attention_scale=fields.number("query_pre_attn_scalar", 1e-3, 1e6, default=256.0) ** -0.5,
        attention_cap=fields.optional_number("attn_logit_softcapping", 1e-3, 1e6),
        logit_cap=fields.optional_number("final_logit_softcapping", 1e-3, 1e6),
        embed_scale=math.sqrt(shape["hidden_size"]),
    )


def _layers(fields: Fields, shape: dict[str, Any]) -> tuple[LayerShape, ...]:
    """Return the layers: sliding ones have a rotation of their own."""
    every = fields.integer("sliding_window_pattern", 1, MAX_LAYERS, default=6)
    slides = layer_kinds(fields, lambda i: (i + 1) % every != 0)
    window = window_of(fields, 4096)
    if any(slides) and window is None:
        fields.fail("sliding_window", "is missing")
    full, sliding = _ropes(fields, shape)
    return tuple(LayerShape(sliding, window) if slide else LayerShape(full) for slide in slides)


def _ropes(fields: Fields, shape: dict[str, Any]) -> tuple[Rope, Rope]:
    """Return the rotations of full and of sliding layers, in the newer or in the older format."""
    dim, positions = shape["head_dim"], shape["max_positions"]
    wide = fields.number("rope_theta", *THETA, default=1e6)
    near = fields.number("rope_local_base_freq", *THETA, default=1e4)
    nothing = Fields({}, fields.where)
    given = fields.part("rope_parameters") or nothing
    scaling = fields.part("rope_scaling")
    full = scaling or given.part("full_attention") or nothing
    sliding = given.part("sliding_attention") or nothing
    return (
        rope_from(full, fields, dim, positions, wide),
        rope_from(sliding, fields, dim, positions, near),
    )


ARCHITECTURE = Architecture(
    "gemma3_text",
    ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    parse,
    Names(
        layer={
            "attn_post_norm": "post_attention_layernorm.weight",
            "mlp_norm": "pre_feedforward_layernorm.weight",
            "mlp_post_norm": "post_feedforward_layernorm.weight",
        },
        norm_offset=1.0,
    ),
)

"""Granite: Llama with factors at the embedding, the scores, the residual stream and the logits."""

from homebox.model.architectures.base import (
    MULTIPLIER,
    Architecture,
    common,
    layer_count,
    only_silu,
    rope_of,
)
from homebox.model.config import LayerShape, ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Granite model."""
    only_silu(fields)
    shape = common(fields)
    biased = fields.boolean("attention_bias", default=False)
    return ModelConfig(
        **shape,
        architecture="granite",
        layers=(LayerShape(rope_of(fields, shape)),) * layer_count(fields),
        qkv_bias=biased,
        o_bias=biased,
        mlp_bias=fields.boolean("mlp_bias", default=False),
        attention_scale=fields.number("attention_multiplier", *MULTIPLIER, default=1.0),
        embed_scale=fields.number("embedding_multiplier", *MULTIPLIER, default=1.0),
        residual_scale=fields.number("residual_multiplier", *MULTIPLIER, default=1.0),
        logit_scale=1.0 / fields.number("logits_scaling", *MULTIPLIER, default=1.0),
    )


ARCHITECTURE = Architecture("granite", ("GraniteForCausalLM",), parse)

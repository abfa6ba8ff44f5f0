"""OLMo 2: norms after attention and MLP instead of before, and of all of q and of k."""

from homebox.model.architectures.base import Architecture, common, layer_count, only_silu, rope_of
from homebox.model.architectures.checkpoint import Names
from homebox.model.config import LayerShape, ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of an OLMo 2 model."""
    only_silu(fields)
    shape = common(fields)
    biased = fields.boolean("attention_bias", default=False)
    return ModelConfig(
        **shape,
        architecture="olmo2",
        layers=(LayerShape(rope_of(fields, shape)),) * layer_count(fields),
        qk_norm="whole",
        qkv_bias=biased,
        o_bias=biased,
        pre_norm=False,
        post_norm=True,
    )


ARCHITECTURE = Architecture(
    "olmo2",
    ("Olmo2ForCausalLM",),
    parse,
    Names(
        layer={
            "attn_post_norm": "post_attention_layernorm.weight",
            "mlp_post_norm": "post_feedforward_layernorm.weight",
        }
    ),
)

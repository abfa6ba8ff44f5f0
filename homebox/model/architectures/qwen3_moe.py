"""Qwen3 with a mixture of experts."""

from dataclasses import replace

from homebox.model.architectures.base import (
    Architecture,
    common,
    layer_count,
    only_silu,
    read_experts,
    rope_of,
    window_of,
)
from homebox.model.architectures.checkpoint import Names, separate_experts
from homebox.model.config import MAX_LAYERS, LayerShape, ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Qwen3-MoE model."""
    only_silu(fields)
    shape = common(fields, usual_head_dim=128)
    biased = fields.boolean("attention_bias", default=False)
    window = window_of(fields, 4096) if fields.boolean("use_sliding_window", False) else None
    layer = LayerShape(rope_of(fields, shape), window)
    experts = read_experts(
        fields,
        inner="moe_intermediate_size",
        normalised=fields.boolean("norm_topk_prob", default=False),
    )
    return ModelConfig(
        **shape,
        architecture="qwen3_moe",
        layers=tuple(replace(layer, sparse=sparse) for sparse in _sparse(fields)),
        qk_norm="head",
        qkv_bias=biased,
        o_bias=biased,
        experts=experts,
    )


def _sparse(fields: Fields) -> list[bool]:
    """Return which layers have experts: every `decoder_sparse_step`-th but `mlp_only_layers`."""
    count = layer_count(fields)
    step = fields.integer("decoder_sparse_step", 1, MAX_LAYERS, default=1)
    dense = fields.integers("mlp_only_layers", 0, MAX_LAYERS, most=MAX_LAYERS) or ()
    return [(i + 1) % step == 0 and i not in dense for i in range(count)]


ARCHITECTURE = Architecture(
    "qwen3_moe", ("Qwen3MoeForCausalLM",), parse, Names(experts=separate_experts)
)

"""SmolLM3: Llama in which every fourth layer has no positions."""

from homebox.model.architectures.base import (
    Architecture,
    common,
    layer_count,
    layer_kinds,
    only_silu,
    rope_of,
    window_of,
)
from homebox.model.config import MAX_LAYERS, LayerShape, ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a SmolLM3 model."""
    only_silu(fields)
    shape = common(fields, tied=fields.boolean("tie_word_embeddings", default=True))
    count = layer_count(fields)
    every = fields.integer("no_rope_layer_interval", 1, MAX_LAYERS, default=4)
    turns = fields.integers("no_rope_layers", 0, 1, most=MAX_LAYERS)
    if turns is None:
        turns = tuple(int((i + 1) % every != 0) for i in range(count))
    elif len(turns) < count:
        fields.fail("no_rope_layers", f"names {len(turns)} layers of {count}")
    window = window_of(fields) if fields.boolean("use_sliding_window", False) else None
    slides = layer_kinds(fields, lambda i: window is not None and not turns[i])
    if any(slides) and window is None:
        fields.fail("sliding_window", "is missing")
    rope = rope_of(fields, shape, 2e6)
    biased = fields.boolean("attention_bias", default=False)
    return ModelConfig(
        **shape,
        architecture="smollm3",
        layers=tuple(
            LayerShape(rope if turn else None, window if slide else None)
            for turn, slide in zip(turns, slides, strict=False)
        ),
        qkv_bias=biased,
        o_bias=biased,
        mlp_bias=fields.boolean("mlp_bias", default=False),
    )


ARCHITECTURE = Architecture("smollm3", ("SmolLM3ForCausalLM",), parse)

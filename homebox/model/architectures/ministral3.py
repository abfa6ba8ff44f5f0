"""Ministral 3: Mistral with YaRN and queries that grow with their place."""

from homebox.model.architectures.base import (
    Architecture,
    common,
    layer_kinds,
    only_silu,
    rope_of,
    sliding_layers,
    window_of,
)
from homebox.model.config import MAX_POSITIONS, ModelConfig
from homebox.model.files.config_fields import Fields


def parse(fields: Fields) -> ModelConfig:
    """Return the shape of a Ministral 3 model."""
    only_silu(fields)
    shape = common(fields, usual_head_dim=128)
    window = window_of(fields)
    slides = layer_kinds(fields, lambda _: window is not None)
    return ModelConfig(
        **shape,
        architecture="ministral3",
        layers=sliding_layers(fields, rope_of(fields, shape, 1e6), slides, window),
        query_growth=_growth(fields),
    )


def _growth(fields: Fields) -> tuple[float, int] | None:
    """Return how queries grow: the slope, and the places of one step of the logarithm."""
    given = fields.part("rope_parameters")
    if given is None or given.get("llama_4_scaling_beta") is None:
        return None
    beta = given.number("llama_4_scaling_beta", 1e-6, 1e3)
    return beta, given.integer("original_max_position_embeddings", 1, MAX_POSITIONS)


ARCHITECTURE = Architecture(
    "ministral3",
    ("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    parse,
)

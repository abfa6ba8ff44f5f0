"""How many launches a layer of a decoding step takes: fewer is faster, and more is noticed here."""

from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.formats import WEIGHTS
from homebox.engine.inspection.debug import recording
from homebox.engine.inspection.graph_html import repetition
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import ModelConfig
from homebox.model.decoder.transformer import Transformer
from homebox.model.lora import init_adapter
from tests.unit.model_files import CONFIG, QWEN3, ArrayWeights, random_weights

# Launches of one layer at most. A long context is cut into splits, which a kernel joins.
BLOCK = {256: 6, 2048: 6}
ADAPTED_BLOCK = {256: 10, 2048: 10}  # an adapter adds its own products
LAYERS = 4

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "head_dim": 32,
    "max_position_embeddings": 2048,
}


def launches_of_a_block(transformer: Transformer, adapter: int) -> int:
    """Decode one token and count what repeats once a layer."""
    transformer.forward(0, 0, np.arange(5, dtype=np.int32), adapter)
    with recording() as runs:
        transformer.decode([0], np.zeros(1, np.int32), [5], [adapter])
    names = [name for _, _, name in runs[-1].kernels]
    found = repetition(names)
    assert found is not None
    _, period, times = found
    assert times in (LAYERS, LAYERS - 1), "a layer is one period of the launch list"
    return period


def made(architecture: str, form: str, context: int) -> tuple[ModelConfig, Transformer]:
    config = parse_config({**(QWEN3 if architecture == "qwen3" else CONFIG), **SHAPE})
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])
    strict = form == "f32"
    return config, Transformer(
        config,
        weights,
        context,
        slots=1,
        adapters=3,
        activations="f32" if strict else "int8",
        cache="f32" if strict else "f16",
    )


@pytest.mark.parametrize("form", ["f32", "q8"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("context", BLOCK)
def test_launches_of_a_decoding_step(architecture: str, form: str, context: int) -> None:
    _, transformer = made(architecture, form, context)
    assert launches_of_a_block(transformer, 0) <= BLOCK[context]


@pytest.mark.parametrize("context", ADAPTED_BLOCK)
def test_launches_of_a_decoding_step_with_an_adapter(context: int) -> None:
    config, transformer = made("llama", "q8", context)
    transformer.set_adapter(1, init_adapter(config, 4, 0), 1.0)
    assert launches_of_a_block(transformer, 1) <= ADAPTED_BLOCK[context]

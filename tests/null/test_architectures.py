"""Configurations as the families' makers publish them, and what is read from them."""

from typing import Any

import pytest

from homebox.errors import ModelFormatError
from homebox.model.architectures import ARCHITECTURES, named
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import Rope

GEMMA_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "eos_token_id": [1, 106],
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152},
}
QWEN3_30B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {"quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "vocab_size": 201088,
}


def test_gemma_with_eyes_is_read_as_its_decoder() -> None:
    config = parse_config(GEMMA_4B)
    assert (config.architecture, config.num_layers, config.num_heads) == ("gemma3_text", 34, 8)
    assert (config.num_kv_heads, config.head_dim, config.vocab_size) == (4, 256, 262_208)
    assert (config.tied, config.eos_ids, config.embed_scale) == (True, (1, 106), 2560**0.5)
    assert config.windows[:7] == (1024,) * 5 + (None, 1024)
    assert config.layers[0].rope == Rope(10_000.0, 256)
    linear = config.layers[5].rope
    assert linear is not None
    assert (linear.theta, linear.kind, linear.factor) == (1e6, "linear", 8.0)
    assert 3.8e9 < config.parameters < 4.0e9


def test_experts_of_qwen3() -> None:
    config = parse_config(QWEN3_30B)
    assert config.experts is not None
    assert (config.experts.count, config.experts.per_token, config.experts.inner) == (128, 8, 768)
    assert config.experts.normalised and all(layer.sparse for layer in config.layers)
    assert config.adapted(0) == ("q", "k", "v", "o")
    shapes = config.weight_shapes()
    assert shapes["layers.0.expert_gate"] == (128 * 768, 2048)
    assert shapes["layers.47.expert_down"] == (128 * 2048, 768)
    assert 30.0e9 < config.parameters < 31.0e9


def test_experts_of_gpt_oss() -> None:
    config = parse_config(GPT_OSS_20B)
    assert config.experts is not None
    assert (config.experts.activation, config.experts.bias) == ("clamped", True)
    assert (config.sinks, config.qkv_bias, config.o_bias) == (True, True, True)
    assert config.windows[:2] == (128, None)
    (rope,) = config.ropes
    assert (rope.kind, rope.truncate, round(rope.attention_factor, 6)) == ("yarn", False, 1.346574)
    assert config.max_positions == 131072
    assert 20.0e9 < config.parameters < 21.5e9


def test_layers_may_mix_experts_and_an_mlp() -> None:
    config = parse_config({**QWEN3_30B, "mlp_only_layers": [1], "decoder_sparse_step": 2})
    assert [layer.sparse for layer in config.layers[:6]] == [False, False, False, True, False, True]
    assert config.adapted(0) == ("q", "k", "v", "o", "gate", "up", "down")
    assert "layers.0.expert_gate" not in config.weight_shapes()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_experts_per_tok": 129}, "num_experts_per_tok: must be a whole number from 1 to 64"),
        ({"moe_intermediate_size": 100}, "moe_intermediate_size: must be a multiple of 16"),
        ({"hidden_size": 2056, "head_dim": 128}, "hidden_size: must be a multiple of 16"),
        ({"num_experts": 0}, "num_experts: must be"),
        ({"mlp_only_layers": [-1]}, "mlp_only_layers: must hold whole numbers"),
        ({"mlp_only_layers": "1"}, "mlp_only_layers: must be a list"),
    ],
)
def test_experts_that_cannot_be(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelFormatError, match=text):
        parse_config({**QWEN3_30B, **change})


def test_every_architecture_is_found_by_its_name_and_its_classes() -> None:
    assert len({one.model_type for one in ARCHITECTURES}) == len(ARCHITECTURES) == 12
    for one in ARCHITECTURES:
        assert named(one.model_type) is one
        assert all(named(name) is one for name in one.classes)
    assert named("qwen3_5") is None


@pytest.mark.parametrize("name", ["Qwen3_5ForCausalLM", "Gemma2ForCausalLM", "MambaForCausalLM"])
def test_another_architecture_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ModelFormatError, match=f"{name}' is not supported; supported arch") as e:
        parse_config({**QWEN3_30B, "architectures": [name]})
    assert all(one.model_type in str(e.value) for one in ARCHITECTURES)

"""quantization_config: what is understood, and what is refused by name."""

from typing import Any

import pytest

from homebox.errors import ModelFormatError
from homebox.model.files.quantisation import METHODS, Quantisation, quantisation

WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}


def compressed(**changes: Any) -> dict[str, Any]:
    """Return a configuration as the compressed-tensors library writes it."""
    group = {"targets": ["Linear"], "weights": {**WEIGHTS, **changes}, "input_activations": {}}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


GOOD: dict[str, tuple[dict[str, Any] | None, Quantisation | None]] = {
    "none": (None, None),
    "DeepSeek, Qwen": (
        {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head"],
        },
        Quantisation("fp8", (128, 128)),
    ),
    "Ministral": (
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
        Quantisation("fp8", None),
    ),
    "no block stated": (
        {"quant_method": "fp8", "ignored_layers": ["lm_head"]},
        Quantisation("fp8", (128, 128), stated=False),
    ),
    "rows": ({"quant_method": "fbgemm_fp8"}, Quantisation("fp8", None)),
    "compressed rows": (compressed(), Quantisation("fp8", None)),
    "compressed blocks": (
        compressed(strategy="block", block_structure=[64, 32]),
        Quantisation("fp8", (64, 32)),
    ),
    "compressed groups": (
        compressed(strategy="group", group_size=16),
        Quantisation("fp8", (1, 16)),
    ),
    "gpt-oss": ({"quant_method": "mxfp4"}, Quantisation("mxfp4")),
}

BAD: dict[str, tuple[Any, str]] = {
    "list": ([], "quantization_config: must be an object or null"),
    "text": ("fp8", "quantization_config: must be an object or null"),
    "no method": ({}, "quant_method: None is not supported"),
    "method is a list": ({"quant_method": ["fp8"]}, "quant_method: .* is not supported"),
    **{
        name: ({"quant_method": name}, f"quant_method: '{name}' is not supported; supported: fp8")
        for name in ("awq", "gptq", "bitsandbytes", "nvfp4", "modelopt")
    },
    "one size": ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
    "no list": ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size"),
    "zero": ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
    "huge": ({"quant_method": "fp8", "weight_block_size": [1 << 40, 1]}, "weight_block_size"),
    "boolean": ({"quant_method": "fp8", "weight_block_size": [True, 8]}, "weight_block_size"),
    "scheme": ({"quant_method": "fp8", "activation_scheme": "odd"}, "activation_scheme"),
    "scales of another kind": ({"quant_method": "fp8", "scale_fmt": "odd"}, "scale_fmt"),
    "experts of 4 bits": ({"quant_method": "fp8", "expert_dtype": "fp4"}, "expert_dtype"),
    "4 bit numbers": (compressed(num_bits=4), "group_0: weights: num_bits"),
    "whole numbers": (compressed(type="int"), "group_0: weights: type"),
    "zero points": (compressed(symmetric=False), "weights: symmetric"),
    "other strategy": (compressed(strategy="tensor_group"), "strategy"),
    "no groups": ({**compressed(), "config_groups": {}}, "config_groups"),
    "groups are missing": ({"quant_method": "compressed-tensors"}, "config_groups"),
    "many groups": ({**compressed(), "config_groups": {str(i): {} for i in range(99)}}, "64"),
    "group of nothing": ({**compressed(), "config_groups": {"a": None}}, "'a': must be an object"),
    "packed": ({**compressed(), "format": "pack-quantized"}, "format: 'pack-quantized'"),
    "groups that differ": (
        {
            **compressed(),
            "config_groups": {
                "a": {"weights": WEIGHTS},
                "b": {"weights": {**WEIGHTS, "strategy": "group", "group_size": 16}},
            },
        },
        "one kind of scale",
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_known_methods(case: str) -> None:
    value, expected = GOOD[case]
    assert quantisation({"quantization_config": value}) == expected
    if value is None:
        assert quantisation({}) is None


@pytest.mark.parametrize("case", BAD)
def test_other_methods_are_refused_by_name(case: str) -> None:
    value, message = BAD[case]
    with pytest.raises(ModelFormatError, match=message) as caught:
        quantisation({"quantization_config": value}, "evil/config.json")
    text = str(caught.value)
    assert text.startswith("evil/config.json: quantization_config: ")
    assert len(text) < 400
    if "quant_method" in text:
        assert all(name in text for name in METHODS)


def test_scales_of_what_is_not_stored_are_ignored() -> None:
    fp8 = Quantisation("fp8")
    assert fp8.ignores("model.layers.0.mlp.up_proj.activation_scale")
    assert fp8.ignores("model.layers.0.mlp.up_proj.input_scale")
    assert fp8.ignores("model.layers.0.self_attn.k_scale")
    assert not fp8.ignores("model.layers.0.mlp.up_proj.weight_scale")
    assert not fp8.ignores("model.layers.0.mlp.up_proj.weight")
    assert not Quantisation("mxfp4").ignores("model.layers.0.mlp.up_proj.activation_scale")


def test_one_number_is_a_scale_where_no_block_is_stated() -> None:
    silent, stated = Quantisation("fp8", (8, 8), stated=False), Quantisation("fp8", (8, 8))
    assert silent.block_of(()) is None
    assert silent.block_of((1, 1)) is None
    assert silent.block_of((2, 1)) == (8, 8)
    assert stated.block_of((1, 1)) == (8, 8)

"""config.json: what is read from it, and how every wrong field is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import ConfigError, ModelFormatError, ModelNotFoundError
from homebox.model.architectures.config_file import load_config, parse_config
from homebox.model.config import PROJECTIONS, Rope
from homebox.model.loading.open_model import model_path
from homebox.model.model import choose_context
from tests.unit.model_files import CONFIG, QWEN3


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**CONFIG, **changes}.items() if value is not ...}


def test_reads_every_field() -> None:
    config = parse_config(changed(bos_token_id=1, eos_token_id=[2, 5, 2]))
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (400, 24, 40)
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (2, 4, 2)
    assert (config.head_dim, config.max_positions, config.rms_eps) == (6, 256, 1e-5)
    assert (config.ropes, config.tied, config.architecture) == ((Rope(10_000.0, 6),), True, "llama")
    assert (config.bos_id, config.eos_ids) == (1, (2, 5))


def test_defaults() -> None:
    config = parse_config(
        changed(num_key_value_heads=..., head_dim=..., rope_theta=..., tie_word_embeddings=...)
    )
    assert (config.num_kv_heads, config.head_dim, config.ropes[0].theta) == (4, 6, 10_000.0)
    assert (config.tied, config.bos_id, config.eos_ids) == (False, None, ())


def test_newer_rope_parameters_are_read() -> None:
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    assert parse_config(changed(rope_parameters=rope, rope_theta=...)).ropes == (Rope(5e5, 6),)


def test_shapes_follow_from_the_fields() -> None:
    config = parse_config(changed(tie_word_embeddings=False))
    shapes = config.weight_shapes()
    assert shapes["embed"] == shapes["head"] == (400, 24)
    assert {name: shapes[f"layers.1.{name}"] for name in PROJECTIONS} == {
        "q": (24, 24),
        "k": (12, 24),
        "v": (12, 24),
        "o": (24, 24),
        "gate": (40, 24),
        "up": (40, 24),
        "down": (24, 40),
    }
    assert len(shapes) == 3 + 2 * 9
    assert "head" not in parse_config(CONFIG).weight_shapes()


def test_qwen3_has_head_norms_and_its_own_head_size() -> None:
    config = parse_config(QWEN3)
    assert (config.architecture, config.qk_norm, config.head_dim) == ("qwen3", "head", 32)
    assert not parse_config(CONFIG).qk_norm
    shapes = config.weight_shapes()
    assert shapes["layers.1.q_norm"] == shapes["layers.1.k_norm"] == (32,)
    assert (shapes["layers.0.q"], shapes["layers.0.o"]) == ((128, 64), (64, 128))
    assert "layers.0.q_norm" not in parse_config(CONFIG).weight_shapes()
    assert config.parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    assert parse_config({**QWEN3, "head_dim": None}).head_dim == 128  # as transformers has it
    windows = {"sliding_window": 4096, "layer_types": ["full_attention"] * 2}
    assert parse_config({**QWEN3, **windows}) == config


BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("model_type", "gpt2", "'gpt2' is not supported; supported architectures: llama, mistral"),
    ("model_type", ..., "None is not supported"),
    ("model_type", ["llama"], "not supported"),
    ("architectures", ["GPT2LMHeadModel"], "'GPT2LMHeadModel' is not supported; supported arch"),
    ("architectures", ["Qwen3ForCausalLM"], "is not of model_type llama"),
    ("architectures", "LlamaForCausalLM", "must be a list"),
    ("architectures", [], "must be a list"),
    ("architectures", [3], "3 is not supported"),
    ("hidden_act", "gelu", "supported: silu"),
    ("mlp_bias", "yes", "true or false"),
    ("attention_bias", 1, "true or false"),
    ("rope_scaling", {"rope_type": "llama3"}, "low_freq_factor: must be"),
    ("rope_scaling", {"type": "linear"}, "factor: must be"),
    ("rope_scaling", {"type": "spiral", "factor": 2}, "'spiral' is not supported; supported: def"),
    ("rope_scaling", {"type": "yarn", "factor": 4, "truncate": 1}, "truncate: must be true or"),
    ("rope_scaling", {"type": "longrope", "short_factor": [1]}, "short_factor: must be a list of"),
    ("partial_rotary_factor", 0.1, "lets 0 of 6 channels turn"),
    ("rope_scaling", "linear", "object"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": "x"}, "rope_theta: must be"),
    ("vocab_size", ..., "whole number"),
    ("vocab_size", 0, "whole number"),
    ("vocab_size", -1, "whole number"),
    ("vocab_size", 1 << 60, "whole number"),
    ("vocab_size", 10**400, "a huge number"),
    ("vocab_size", 400.0, "whole number"),
    ("vocab_size", "400", "whole number"),
    ("vocab_size", True, "whole number"),
    ("hidden_size", 1 << 30, "whole number"),
    ("intermediate_size", None, "whole number"),
    ("num_hidden_layers", 5000, "whole number"),
    ("num_attention_heads", 0, "whole number"),
    ("num_key_value_heads", 3, "does not divide"),
    ("num_key_value_heads", 8, "whole number"),
    ("head_dim", 7, "even"),
    ("head_dim", 4096, "whole number"),
    ("max_position_embeddings", 0, "whole number"),
    ("rms_norm_eps", 0, "number"),
    ("rms_norm_eps", -1e-5, "number"),
    ("rms_norm_eps", "1e-5", "number"),
    ("rms_norm_eps", 1e400, "number"),
    ("rope_theta", 0.5, "number"),
    ("rope_theta", float("nan"), "number"),
    ("rope_theta", 10**400, "a huge number"),
    ("tie_word_embeddings", "yes", "true or false"),
    ("bos_token_id", 400, "token id"),
    ("bos_token_id", -1, "token id"),
    ("bos_token_id", True, "token id"),
    ("eos_token_id", "2", "token id"),
    ("eos_token_id", [2, 400], "token id"),
    ("eos_token_id", [[2]], "token id"),
    ("eos_token_id", list(range(100)), "more than 64"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD_FIELDS)
def test_wrong_fields_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message) as caught:
        parse_config(changed(**{field: value}), "m/config.json")
    assert str(caught.value).startswith("m/config.json: ")
    assert field in str(caught.value)
    assert len(str(caught.value)) < 300


def test_hidden_size_that_heads_do_not_divide() -> None:
    with pytest.raises(ModelFormatError, match="hidden_size: 25 is no multiple"):
        parse_config(changed(head_dim=..., hidden_size=25))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" ", "not JSON"),
        ("[]", "no JSON object"),
        ('{"vocab_size": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": ' * 50_000, "deep|not JSON"),
        (" " * (2 << 20), "longer than"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFormatError, match=message) as caught:
        load_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json does not exist"):
        load_config(tmp_path)


def test_generation_config_says_where_to_stop(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(changed(eos_token_id=2)))
    assert load_config(tmp_path).eos_ids == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert load_config(tmp_path).eos_ids == (3, 4)


def test_context_is_bounded_by_the_model() -> None:
    assert choose_context(512, None) == 512
    assert choose_context(1 << 20, None) == 4096
    assert choose_context(65_536, 65_536) == 65_536
    for asked in (0, 1, -4, 513):
        with pytest.raises(ConfigError, match="512"):
            choose_context(512, asked)


def test_model_names() -> None:
    assert model_path("tiny").name == "tiny"
    with pytest.raises(ModelNotFoundError, match="tiny"):
        model_path("/nowhere/at-all")

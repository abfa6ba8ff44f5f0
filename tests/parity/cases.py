"""The small models that are compared: a configuration and a seed for each.

Every family with every variation that its checkpoints have, small enough for seconds: windows and
original contexts lie below the 64 tokens that are compared, so that they matter.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

CONTEXT = 96  # positions that are served; what depends on the length depends on this
LENGTH = 64  # tokens whose logits are compared
NEW = 32  # greedy tokens
PROMPTS = (41, 17, 29)  # lengths of the prompts of a batch; the first is longer than two chunks
CHUNK = 16  # rows of a prompt that are taken in at once
RANK, ALPHA = 4, 8.0
ROWS, TRAINED = 2, 32  # shape of the batch whose gradient is compared

# Seeds whose greedy ids and chosen experts lead by enough; the others have 1.
SEEDS = {
    "llama": 2,
    "llama-bf16": 6,
    "llama-linear": 2,
    "llama-dynamic": 2,
    "llama-llama3": 2,
    "llama-yarn": 3,
    "llama-yarn-given": 5,
    "mistral-full": 2,
    "ministral3": 2,
    "ministral3-seeing": 2,
    "qwen3-sliding": 2,
    "qwen3_moe-mixed": 11,
    "gemma3": 3,
    "gemma3-caps": 4,
    "gpt_oss-bf16": 2,
    "gpt_oss-mxfp4": 2,
    "phi3-partial": 5,
    "phi3-partial-longrope": 2,
    "phi3-longrope-long": 10,
    "olmo2": 3,
    "granite": 2,
}

FP8_BLOCK = 32

Config = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model; `stored` is the type of its floating-point weights in the file."""

    name: str
    config: Config
    stored: str = "F32"
    mxfp4: bool = False  # experts as blocks of 4-bit numbers
    fp8: bool = False  # projections as 8-bit floats with a scale for each block of FP8_BLOCK

    @property
    def text(self) -> Config:
        """The configuration of the decoder, in models that also see a part of the whole."""
        part: Config = self.config.get("text_config", self.config)
        return part

    @property
    def architecture(self) -> str:
        """The `model_type` of the decoder."""
        return str(self.text["model_type"])

    @property
    def seed(self) -> int:
        """What its weights and ids are drawn from."""
        return SEEDS.get(self.name, 1)

    @property
    def kind(self) -> str:
        """What the file's weights are, in words for the table."""
        if self.fp8:
            return f"{self.stored}, projections FP8"
        return f"{self.stored}, experts MXFP4" if self.mxfp4 else self.stored

    @property
    def grows(self) -> bool:
        """Whether the rotation depends on the number of positions that are served."""
        scaling = self.text.get("rope_scaling") or self.text.get("rope_parameters") or {}
        return scaling.get("rope_type", scaling.get("type")) in ("dynamic", "longrope")


def _config(kind: str, model: str, **changes: Any) -> Config:
    return {
        "architectures": [model],
        "model_type": kind,
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": "float32",
        **changes,
    }


def _llama(**changes: Any) -> Config:
    return _config("llama", "LlamaForCausalLM", **changes)


def _scaled(**scaling: Any) -> Config:
    return _llama(rope_scaling={"factor": 4.0, **scaling})


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def _mistral(**changes: Any) -> Config:
    return _config("mistral", "MistralForCausalLM", head_dim=16, sliding_window=16, **changes)


def _ministral3(window: int | None) -> Config:
    config = _config("ministral3", "Ministral3ForCausalLM", head_dim=32, sliding_window=window)
    config.pop("rope_theta")
    config["rope_parameters"] = {
        "type": "yarn",
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 16,
        "max_position_embeddings": 128,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    return config


def _qwen2(**changes: Any) -> Config:
    return _config("qwen2", "Qwen2ForCausalLM", rms_norm_eps=1e-6, rope_theta=1e6, **changes)


def _qwen3(kind: str = "qwen3", model: str = "Qwen3ForCausalLM", **changes: Any) -> Config:
    usual = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "head_dim": 32, "attention_bias": False}
    return _config(kind, model, **{**usual, **changes})


def _qwen3_moe(**changes: Any) -> Config:
    experts = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "decoder_sparse_step": 1,
    }
    return _qwen3("qwen3_moe", "Qwen3MoeForCausalLM", **{**experts, **changes})


def _gemma3(**changes: Any) -> Config:
    usual = {
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 24,
    }
    config = _config("gemma3_text", "Gemma3ForCausalLM", **{**usual, **changes})
    config.pop("hidden_act")
    return config


def _gpt_oss(**changes: Any) -> Config:
    config = _config(
        "gpt_oss",
        "GptOssForCausalLM",
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        intermediate_size=64,
        sliding_window=16,
        rope_theta=150000,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 32,
        },
        swiglu_limit=7.0,
        attention_bias=True,
        layer_types=["sliding_attention", "full_attention"],
    )
    return {**config, **changes}


def _phi3(**changes: Any) -> Config:
    return _config("phi3", "Phi3ForCausalLM", **changes)


def _longrope(original: int, most: int) -> Config:
    return _phi3(
        max_position_embeddings=most,
        original_max_position_embeddings=original,
        rope_scaling={
            "type": "longrope",
            "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
            "long_factor": [1.0, 1.5, 2.0, 3.0, 4.5, 6.0, 8.0, 9.0],
        },
    )


def _smollm3(**changes: Any) -> Config:
    usual = {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0], "rms_norm_eps": 1e-6}
    return _config("smollm3", "SmolLM3ForCausalLM", rope_theta=2e6, **{**usual, **changes})


def _granite(**changes: Any) -> Config:
    return _config(
        "granite",
        "GraniteForCausalLM",
        embedding_multiplier=6.0,
        logits_scaling=2.0,
        residual_multiplier=0.6,
        attention_multiplier=0.2,
        **changes,
    )


def _seeing(kind: str, model: str, text: Config, **changes: Any) -> Config:
    """Return a model whose decoder is a part; homebox leaves what sees aside."""
    text = {k: v for k, v in text.items() if k not in ("architectures", "torch_dtype")}
    tied = text["tie_word_embeddings"]
    eyes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    return {
        "architectures": [model],
        "model_type": kind,
        "text_config": text,
        "vision_config": {**eyes, **changes.pop("eyes", {})},
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        **changes,
    }


_FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
}
_MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}

# Below this context llama.cpp takes none, so the short factors need a longer original one.
_LONG_ENOUGH = {"original_max_position_embeddings": 512, "max_position_embeddings": 2048}

CASES = (
    Case("llama", _llama()),
    Case("llama-bf16", _llama(torch_dtype="bfloat16"), stored="BF16"),
    Case("llama-f16", _llama(torch_dtype="float16"), stored="F16"),
    Case("llama-biases", _llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    Case("llama-linear", _scaled(type="linear")),
    Case(
        "llama-dynamic",
        _llama(
            max_position_embeddings=48,
            rope_scaling={
                "rope_type": "dynamic",
                "factor": 4.0,
            },
        ),
    ),
    Case("llama-llama3", _llama(rope_scaling=LLAMA3, head_dim=32)),
    Case("llama-yarn", _llama(rope_scaling=YARN)),
    Case(
        "llama-yarn-given",
        _llama(
            rope_scaling={**YARN, "attention_factor": 0.9, "beta_fast": 4.0, "beta_slow": 0.5},
            head_dim=32,
        ),
    ),
    Case(
        "llama-odd",  # sizes that are no multiples of panels, one head of keys
        _llama(
            vocab_size=101,
            hidden_size=72,
            intermediate_size=104,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=24,
        ),
    ),
    Case("mistral", _mistral()),
    Case("mistral-full", {**_mistral(), "sliding_window": None}),
    Case("ministral3", _ministral3(None)),
    Case("ministral3-sliding", _ministral3(16)),
    Case("qwen2", _qwen2(tie_word_embeddings=True)),
    Case(
        "qwen2-sliding",
        _qwen2(
            use_sliding_window=True,
            sliding_window=16,
            max_window_layers=1,
            num_hidden_layers=3,
        ),
    ),
    Case("qwen3", _qwen3(tie_word_embeddings=True)),
    Case(
        "qwen3-fp8",
        _qwen3(torch_dtype="bfloat16", quantization_config=_FP8),
        stored="BF16",
        fp8=True,
    ),
    Case(
        "qwen3-sliding",
        _qwen3(
            use_sliding_window=True,
            sliding_window=16,
            max_window_layers=1,
            num_hidden_layers=3,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            attention_bias=True,
        ),
    ),
    Case("qwen3_moe", _qwen3_moe(norm_topk_prob=True)),
    Case(
        "qwen3_moe-mixed",
        _qwen3_moe(
            norm_topk_prob=False,
            moe_intermediate_size=48,
            mlp_only_layers=[1],
            num_hidden_layers=3,
        ),
    ),
    Case(
        "gemma3",
        _gemma3(
            sliding_window_pattern=2,
            rope_theta=1e6,
            rope_local_base_freq=10000.0,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        ),
    ),
    Case(
        "gemma3-caps",
        _gemma3(
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            num_hidden_layers=3,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=4.0,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
    ),
    Case(
        "gemma3-seeing",
        _seeing(
            "gemma3",
            "Gemma3ForConditionalGeneration",
            _gemma3(sliding_window_pattern=2, rope_theta=1e6, rope_local_base_freq=10000.0),
            mm_tokens_per_image=4,
            image_token_index=95,
        ),
    ),
    Case(
        "ministral3-seeing",
        _seeing(
            "mistral3",
            "Mistral3ForConditionalGeneration",
            _ministral3(None),
            eyes={"model_type": "pixtral"},
            image_token_index=95,
        ),
    ),
    Case("gpt_oss", _gpt_oss(swiglu_limit=2.0)),
    Case("gpt_oss-bf16", _gpt_oss(torch_dtype="bfloat16"), stored="BF16"),
    Case(
        "gpt_oss-mxfp4",
        _gpt_oss(torch_dtype="bfloat16", quantization_config=_MXFP4),
        stored="BF16",
        mxfp4=True,
    ),
    Case("phi3", _phi3(sliding_window=16)),
    Case("phi3-partial", _phi3(partial_rotary_factor=0.5)),
    Case("phi3-longrope-short", _longrope(128, 512)),
    Case("phi3-longrope-long", _longrope(64, 512)),
    Case(
        "phi3-partial-longrope",
        {
            **_longrope(64, 512),
            "partial_rotary_factor": 0.75,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1 + 0.05 * i for i in range(12)],
                "long_factor": [1 + 0.7 * i for i in range(12)],
            },
        },
    ),
    Case(
        "smollm3-sliding",
        _smollm3(
            use_sliding_window=True,
            sliding_window=16,
            attention_bias=True,
            tie_word_embeddings=True,
        ),
    ),
    Case("smollm3", _smollm3(tie_word_embeddings=True)),
    Case("olmo2", _config("olmo2", "Olmo2ForCausalLM", rms_norm_eps=1e-6, rope_theta=500000)),
    Case("granite", _granite(tie_word_embeddings=True)),
)

BY_NAME = {case.name: case for case in CASES}


def changed(name: str, **changes: Any) -> Case:
    """Return a case with other numbers in its configuration."""
    case = BY_NAME[name]
    return dataclasses.replace(case, config={**case.config, **changes})


# What llama.cpp has in its code is so here too: every sixth layer of Gemma 3 is full, every fourth
# of SmolLM3 has no positions; it has at least 256 positions, and rounds the ramp of gpt-oss.
GGUF_CASES = (
    BY_NAME["llama"],
    BY_NAME["llama-biases"],
    BY_NAME["llama-linear"],
    BY_NAME["llama-llama3"],
    BY_NAME["llama-yarn"],
    BY_NAME["mistral-full"],
    BY_NAME["ministral3"],
    BY_NAME["qwen2"],
    BY_NAME["qwen3"],
    BY_NAME["qwen3_moe"],
    changed(
        "gemma3",
        num_hidden_layers=6,
        sliding_window_pattern=6,
        query_pre_attn_scalar=32,
    ),
    changed("gpt_oss-bf16", rope_scaling={"rope_type": "linear", "factor": 2.0}),
    changed("gpt_oss-mxfp4", rope_scaling={"rope_type": "linear", "factor": 2.0}),
    changed("phi3", sliding_window=None),
    changed("phi3-longrope-short", **_LONG_ENOUGH),
    BY_NAME["phi3-longrope-long"],
    changed("smollm3", no_rope_layers=[1, 1, 1, 0]),
    BY_NAME["olmo2"],
    BY_NAME["granite"],
)

# One of each architecture; their rows are whole blocks of 32 numbers.
BLOCKS_CASES = tuple({case.architecture: case for case in GGUF_CASES if not case.mxfp4}.values())

# A model whose rows are as long as blocks of 256 numbers.
WIDE = changed("llama", hidden_size=256, intermediate_size=256)
TYPES = (
    *("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "TQ1_0", "TQ2_0"),
)

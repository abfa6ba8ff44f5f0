"""What llama.cpp calls the families of models, their settings and their tensors.

The one idea: a GGUF file's metadata is told again as the `config.json` that it was made from, so
one description of each family (`architectures`) checks both.
Source: the keys and tensor names of the GGUF specification and of llama.cpp's loader; what the
loader has in its code and not in the file (every sixth layer of Gemma 3 is full, every fourth of
SmolLM3 has no positions) is in the family here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from homebox.model.architectures.checkpoint import Names, Origin, Source
from homebox.model.config import ModelConfig
from homebox.model.loading.gguf_settings import Settings

Raw = dict[str, Any]

TOP = {"embed": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"}
_PARTS = {
    **{name: f"attn_{name}" for name in "qkv"},
    "o": "attn_output",
    **{name: f"ffn_{name}" for name in ("gate", "up", "down")},
}
LAYER = {
    **{name: f"{part}.weight" for name, part in _PARTS.items()},
    **{f"{name}_bias": f"{part}.bias" for name, part in _PARTS.items()},
    "attn_norm": "attn_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "attn_post_norm": "post_attention_norm.weight",
    "mlp_post_norm": "post_ffw_norm.weight",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "sinks": "attn_sinks.weight",
    "router": "ffn_gate_inp.weight",
    "router_bias": "ffn_gate_inp.bias",
}
_BLOCK = "blk.{}."


@dataclass(frozen=True)
class Family:
    """One `general.architecture`; `extra` returns what it adds to the common settings."""

    name: str
    model_type: str
    names: Names
    extra: Callable[[Settings], Raw] = lambda _: {}


def _experts(prefix: str, config: ModelConfig, present: set[str]) -> dict[str, Origin]:
    """Return the origins of experts that are stacked in three tensors."""
    experts = config.experts
    if experts is None:
        return {}
    count, inner, hidden = experts.count, experts.inner, config.hidden_size
    found = {}
    for part, rows, columns in (
        ("gate", inner, hidden),
        ("up", inner, hidden),
        ("down", hidden, inner),
    ):
        module = f"{prefix}ffn_{part}_exps"
        found[f"expert_{part}"] = Origin((Source(f"{module}.weight", (count, rows, columns)),))
        if experts.bias:
            found[f"expert_{part}_bias"] = Origin((Source(f"{module}.bias", (count, rows)),))
    return found


def _names(
    layer: Mapping[str, str] | None = None,
    fused: Mapping[str, tuple[str, ...]] | None = None,
    interleaved: bool = False,
) -> Names:
    own = LAYER | dict(layer or {})
    return Names(own, fused or {}, 0.0, _experts, TOP, _BLOCK, interleaved)


def _llama(settings: Settings) -> Raw:
    if settings.number("expert_count", 0):
        settings.fail("expert_count", "experts are not supported in a llama model")
    return {
        "attention_bias": settings.has("blk.0.attn_q.bias"),
        "mlp_bias": settings.has("blk.0.ffn_up.bias"),
    }


def _mistral3(settings: Settings) -> Raw:
    rope = settings.rope_scaling() or {}
    rope |= settings.renamed({"llama_4_scaling_beta": "attention.temperature_scale"})
    if "rope.scaling.yarn_log_multiplier" in settings:
        rope["mscale"] = 1.0
        rope |= settings.renamed({"mscale_all_dim": "rope.scaling.yarn_log_multiplier"})
    return {"rope_scaling": None, "rope_parameters": rope or None}


def _qwen3_moe(settings: Settings) -> Raw:
    layers = range(settings.number("block_count", 0))
    dense = [i for i in layers if not settings.has(f"blk.{i}.ffn_gate_inp.weight")]
    inner = settings.get("feed_forward_length") or settings.get("expert_feed_forward_length")
    return settings.experts() | {
        "norm_topk_prob": True,
        "mlp_only_layers": dense,
        "intermediate_size": inner,
    }


def _gemma3(settings: Settings) -> Raw:
    large = settings.number("block_count", 0) == 62  # the 27B model scales by its width
    heads = max(settings.number("attention.head_count", 1), 1)
    whole = settings.number("embedding_length", 0) // heads
    rope = settings.rope_scaling()
    return settings.renamed(
        {
            "final_logit_softcapping": "final_logit_softcapping",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "rope_local_base_freq": "rope.freq_base_swa",
        }
    ) | {
        "query_pre_attn_scalar": whole if large else settings.get("attention.key_length"),
        "sliding_window": settings.get("attention.sliding_window"),
        "rope_theta": settings.get("rope.freq_base") or 1e6,
        "rope_scaling": rope,
    }


def _gpt_oss(settings: Settings) -> Raw:
    rope = settings.rope_scaling()
    if rope is not None:
        rope["truncate"] = False
    return settings.experts() | {
        "intermediate_size": settings.get("expert_feed_forward_length"),
        "sliding_window": settings.get("attention.sliding_window"),
        "attention_bias": settings.has("blk.0.attn_q.bias"),
        "rope_scaling": rope,
    }


def _granite(settings: Settings) -> Raw:
    return settings.renamed(
        {
            "attention_multiplier": "attention.scale",
            "embedding_multiplier": "embedding_scale",
            "residual_multiplier": "residual_scale",
            "logits_scaling": "logit_scale",
        }
    ) | {"attention_bias": settings.has("blk.0.attn_q.bias")}


def _phi3(settings: Settings) -> Raw:
    raw: Raw = {"sliding_window": settings.get("attention.sliding_window") or None}
    scaling = settings.long_rope()
    return raw | {"rope_scaling": scaling} if scaling else raw


def _olmo2(settings: Settings) -> Raw:
    if "attention.sliding_window" in settings:
        settings.fail("attention.sliding_window", "OLMo 3 is not supported, only OLMo 2")
    return {}


_INTERLEAVED = _names(interleaved=True)

FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "llama", _INTERLEAVED, _llama),
        Family("mistral3", "ministral3", _INTERLEAVED, _mistral3),
        Family("qwen2", "qwen2", _names()),
        Family("qwen3", "qwen3", _names()),
        Family("qwen3moe", "qwen3_moe", _names(), _qwen3_moe),
        Family("gemma3", "gemma3_text", _names(), _gemma3),
        Family("gpt-oss", "gpt_oss", _names({"mlp_norm": "post_attention_norm.weight"}), _gpt_oss),
        Family(
            "phi3",
            "phi3",
            _names(fused={"attn_qkv": ("q", "k", "v"), "ffn_up": ("gate", "up")}),
            _phi3,
        ),
        Family("smollm3", "smollm3", _INTERLEAVED),
        Family("olmo2", "olmo2", _names(), _olmo2),
        Family("granite", "granite", _INTERLEAVED, _granite),
    )
}

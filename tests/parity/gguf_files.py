"""Writes the models of the cases as GGUF files, as llama.cpp's converter of checkpoints does.

Sources: the tensor names and metadata keys of the `gguf` package, whose writer and quantisers are
used; what each architecture does with its weights before is noted where it is done.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import quants

from tests.parity.cases import Case
from tests.parity.weights import Stored, drawn, values

Array = npt.NDArray[Any]

KINDS = {
    "llama": "llama",
    "mistral": "llama",
    "ministral3": "mistral3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "gpt_oss": "gpt-oss",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "granite": "granite",
}
# Their rotations turn neighbouring channels, so rows of q and k are put in another order.
_PAIRED = ("llama", "mistral3", "smollm3", "granite")
# Where a block has its float16 factors, and what makes numbers of any bytes about 0.09 in size and
# 0 on average; the second factor is that of a minimum which is taken off.
_FACTORS = {
    Type.Q2_K: {80: 0.0065, 82: 0.0065 * 1.5},
    Type.Q3_K: {108: 0.0021},
    Type.Q4_K: {0: 0.00035, 2: 0.00035 * 7.5},
    Type.Q5_K: {0: 0.00017, 2: 0.00017 * 15.5},
    Type.Q6_K: {208: 0.000066},
    Type.IQ4_NL: {0: 0.0013},
    Type.TQ1_0: {52: 0.11},
    Type.TQ2_0: {64: 0.13},
}


def write_gguf(
    path: Path, case: Case, tensors: list[Stored], kind: str = "F32", plain: bool = False
) -> None:
    """Write a case; `kind` is the type of its matrices, everything else is float32.

    With `plain` the file has the numbers that such a file stands for, in float32.
    """
    arch = KINDS[case.architecture]
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata(case, arch).items():
        _add(writer, key, value)
    _add_vocabulary(writer, case.config["vocab_size"])
    source = {t.name: values(case, t) for t in tensors if t.kind != "U8"}
    for name, array in converted(case, arch, source).items():
        data, stored = encoded(case.seed, name, array, kind)
        if plain:
            data, stored = quants.dequantize(data, stored), Type.F32
        writer.add_tensor(name, data, raw_dtype=stored)
    for name, data in _blocks_of_experts(case, tensors).items():
        writer.add_tensor(name, data, raw_dtype=Type.MXFP4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def encoded(seed: int, name: str, array: Array, kind: str) -> tuple[Array, Type]:
    """Return a tensor's data and type: `kind` for matrices, float32 for the rest."""
    stored = Type[kind]
    if array.ndim == 1 or "ffn_gate_inp" in name or name.endswith(".bias") or kind == "F32":
        return array.astype(np.float32), Type.F32
    if stored in _FACTORS:
        return random_blocks(seed, name, array.shape, stored), stored
    return quants.quantize(array.astype(np.float32), stored), stored


def random_blocks(seed: int, name: str, shape: tuple[int, ...], stored: Type) -> Array:
    """Return blocks of random bytes with factors that make them ordinary weights."""
    block, nbytes = gguf.GGML_QUANT_SIZES[stored]
    rows, columns = math.prod(shape[:-1]), shape[-1] // block
    bits = np.floor((drawn(seed, f"blocks {name}", (rows, columns, nbytes)) + 1) * 128)
    data = bits.astype(np.uint8)
    if stored is Type.TQ2_0:
        data &= ~(data << 1 & 0xAA)  # two bits, of which 3 is no number of a ternary model
    for at, factor in _FACTORS[stored].items():
        data[..., at : at + 2] = np.array([factor], "<f2").view(np.uint8)
    return data.reshape(*shape[:-1], -1)


# -- metadata -----------------------------------------------------------------------------------


def metadata(case: Case, arch: str) -> dict[str, Any]:
    """Return the keys of a case, without those of the vocabulary."""
    config = case.config
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    width = config.get("head_dim") or hidden // heads
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    dim = int(width * config.get("partial_rotary_factor", 1.0))
    found = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": hidden,
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config.get("rope_theta") or rope["rope_theta"]),
        "rope.dimension_count": dim,
        "vocab_size": config["vocab_size"],
        **_scaling(config, rope),
        **_of_family(config, arch, rope),
    }
    return {f"{arch}.{key}": value for key, value in found.items()}


def _scaling(config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type"))
    if kind in ("linear", "yarn"):
        found = {"rope.scaling.type": kind, "rope.scaling.factor": rope["factor"]}
        if kind == "yarn":
            original = rope["original_max_position_embeddings"]
            found["rope.scaling.original_context_length"] = original
        return found
    if kind == "longrope":
        original = config["original_max_position_embeddings"]
        scale = config["max_position_embeddings"] / original
        factor = math.sqrt(1 + math.log(scale) / math.log(original))
        return {
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": factor,
        }
    return {}


def _of_family(config: Mapping[str, Any], arch: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that only some architectures have."""
    window = config.get("sliding_window")
    found: dict[str, Any] = {}
    if arch in ("gemma3", "gpt-oss") and window:
        found["attention.sliding_window"] = window
    if arch in ("qwen3moe", "gpt-oss"):
        count = config.get("num_experts") or config["num_local_experts"]
        inner = config.get("moe_intermediate_size") or config["intermediate_size"]
        found["expert_count"] = count
        found["expert_used_count"] = config["num_experts_per_tok"]
        found["expert_feed_forward_length"] = inner
    if arch == "granite":
        found["attention.scale"] = float(config["attention_multiplier"])
        found["embedding_scale"] = float(config["embedding_multiplier"])
        found["residual_scale"] = float(config["residual_multiplier"])
        found["logit_scale"] = float(config["logits_scaling"])
    if arch == "mistral3":
        found["rope.scaling.yarn_beta_fast"] = float(rope["beta_fast"])
        found["rope.scaling.yarn_beta_slow"] = float(rope["beta_slow"])
        found["rope.scaling.yarn_log_multiplier"] = float(rope["mscale_all_dim"])
        found["attention.temperature_scale"] = float(rope["llama_4_scaling_beta"])
    return found


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Add a vocabulary of single characters, as in `weights.vocabulary`."""
    pieces = ["<unk>", "<s>", "</s>", *(chr(0x30 + i) for i in range(size - 3))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([float(-i) for i in range(size)])
    writer.add_token_types([2, 3, 3, *[1] * (size - 3)])
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


# -- tensors ------------------------------------------------------------------------------------


def converted(case: Case, arch: str, source: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors by the names of GGUF files, with what converters do to them."""
    layers = case.config["num_hidden_layers"]
    number = next(k for k, text in gguf.MODEL_ARCH_NAMES.items() if text == arch)
    names = gguf.get_tensor_name_map(number, layers)
    found: dict[str, Array] = {}
    for name, array in _regrouped(case, source).items():
        base, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            base, kind = name, "weight"
        target = names.get_name(base)
        if target is None:
            raise ValueError(f"{arch} has no tensor for {name}")
        if arch == "gemma3" and base.endswith("norm"):
            array = array + np.float32(1)
        if arch in _PAIRED and base.endswith(("q_proj", "k_proj")):
            array = paired(case, array, base[-6])
        found[f"{target}.{kind}"] = np.ascontiguousarray(array)
    found.update(_rotations(case))
    return found


def paired(case: Case, array: Array, kind: str) -> Array:
    """Return rows of q or k with the two halves of each head interleaved."""
    config = case.config
    heads = config["num_attention_heads" if kind == "q" else "num_key_value_heads"]
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _regrouped(case: Case, source: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors with experts one behind the other, gate and up apart."""
    found: dict[str, Array] = {}
    experts: dict[str, dict[int, Array]] = {}
    for name, array in source.items():
        words = name.split(".")
        if ".experts." in name and words[-3].isdigit():
            joined = ".".join([*words[:-3], *words[-2:]])
            experts.setdefault(joined, {})[int(words[-3])] = array
        elif name.endswith("gate_up_proj") and "experts" in name:
            turned = array.swapaxes(1, 2)
            base = name.removesuffix("gate_up_proj")
            found[f"{base}gate_proj.weight"] = turned[:, ::2]
            found[f"{base}up_proj.weight"] = turned[:, 1::2]
        elif name.endswith("experts.gate_up_proj_bias"):
            base = name.removesuffix("gate_up_proj_bias")
            found[f"{base}gate_proj.bias"] = array[:, ::2]
            found[f"{base}up_proj.bias"] = array[:, 1::2]
        elif name.endswith("experts.down_proj"):
            found[f"{name}.weight"] = array.swapaxes(1, 2)
        elif name.endswith("experts.down_proj_bias"):
            found[f"{name.removesuffix('_bias')}.bias"] = array
        else:
            found[name] = array
    for name, members in experts.items():
        found[name] = np.stack([members[i] for i in range(len(members))])
    return found


def _rotations(case: Case) -> dict[str, Array]:
    """Return the factors of frequencies, for kinds of scaling that GGUF keeps as tensors."""
    config = case.config
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "longrope":
        return {
            f"rope_factors_{length}.weight": np.array(scaling[f"{length}_factor"], np.float32)
            for length in ("short", "long")
        }
    if kind != "llama3":
        return {}
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for i in range(0, width, 2):
        turns = original / (2 * math.pi * config["rope_theta"] ** (i / width))
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - kept) / scaling["factor"] + kept))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


def _blocks_of_experts(case: Case, tensors: list[Stored]) -> dict[str, Array]:
    """Return experts of 4-bit numbers: a scale and 16 bytes for each 32 numbers.

    A checkpoint's byte holds neighbours, the first one low; GGUF's byte j holds numbers j and
    j + 16.
    """
    raw = {t.name: values(case, t) for t in tensors if t.kind == "U8"}
    found = {}
    for name, blocks in raw.items():
        if not name.endswith("_blocks"):
            continue
        scales = raw[name.removesuffix("_blocks") + "_scales"]
        numbers = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)
        packed = numbers[..., :16] | numbers[..., 16:] << 4
        data = np.concatenate([scales[..., None], packed], -1).astype(np.uint8)
        layer = name.split(".")[2]
        data = data.reshape(*data.shape[:2], -1)
        if "gate_up" in name:
            found[f"blk.{layer}.ffn_gate_exps.weight"] = np.ascontiguousarray(data[:, ::2])
            found[f"blk.{layer}.ffn_up_exps.weight"] = np.ascontiguousarray(data[:, 1::2])
        else:
            found[f"blk.{layer}.ffn_down_exps.weight"] = data
    return found

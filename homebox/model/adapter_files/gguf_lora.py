"""GGUF files with a LoRA adapter, as llama.cpp loads them: read and written.

Each adapted tensor of the model, "blk.{i}.attn_q.weight", has two: ".lora_a" (rank, in) and
".lora_b" (out, rank). The one idea: the file has one alpha for all, and each product counts alpha /
its own rank, so a fused module, whose rank is a multiple, has that multiple in B. Where the model's
GGUF turns pairs of neighbouring channels, the rows of q's and k's B stand in that order too.
Invariant: shapes are checked before a number is read.
Source: llama.cpp's convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.adapter_files.modules import (
    Adapter,
    Fused,
    Module,
    Pair,
    combined,
    joined,
    modules_of,
    separated,
)
from homebox.model.config import ModelConfig
from homebox.model.files.stored import finite
from homebox.model.gguf.reader import GGUFFile, GGUFTensor
from homebox.model.gguf.types import GGMLType
from homebox.model.gguf.writer import write_gguf
from homebox.model.loading.gguf_families import FAMILIES
from homebox.model.lora import MAX_RANK, check_adapter
from homebox.model.strictmath import Float32

FILE = "adapter.gguf"
MAX_ALPHA = 1e6
# model_type -> the name of the architecture in GGUF files
NAMES = {family.model_type: name for name, family in FAMILIES.items()}
NAMES |= {"mistral": "llama", "gemma3": "gemma3"}
_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
}
_TENSOR = re.compile(
    r"(?P<module>blk\.(?:0|[1-9][0-9]{0,5})\.[a-z_]+\.weight)\.lora_(?P<half>[ab])"
)
_TYPES = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def architecture_name(config: ModelConfig) -> str:
    """Return the name that GGUF files give to the architecture of a model."""
    name = NAMES.get(config.architecture)
    if name is None:
        raise ModelFormatError(
            f"adapter: {config.architecture} models have no GGUF-LoRA; export it as peft"
        )
    return name


def write_gguf_lora(
    directory: Path,
    config: ModelConfig,
    tensors: Mapping[str, Float32],
    alpha: float,
    base: str,
    fused: Fused | None = None,
) -> list[Path]:
    """Write an adapter into an existing directory, float32; return the files.

    `base` is the name of the base model. Raises ModelFormatError if the tensors are none of an
    adapter for `config`, or GGUF has no name for its architecture.
    """
    check_adapter(config, tensors)
    name = architecture_name(config)
    metadata: dict[str, str | float] = {
        "general.architecture": name,
        "general.type": "adapter",
        "general.name": f"adapter of {base}",
        "general.base_model.count": 1,
        "general.base_model.0.name": base,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    stored: dict[str, Float32] = {}
    for module in modules_of(config, fused or {}).values():
        a, b = joined(module, tensors)
        b = _rows(b, module, config, name) * np.float32(len(module.parts))
        key = _gguf_module(module)
        stored[f"{key}.lora_a"] = np.ascontiguousarray(a, "<f4")
        stored[f"{key}.lora_b"] = np.ascontiguousarray(b, "<f4")
    write_gguf(directory / FILE, metadata, stored)
    return [directory / FILE]


def read_gguf_lora(path: Path, config: ModelConfig, fused: Fused | None = None) -> Adapter:
    """Read an adapter for a base; raises ModelFormatError that names file and field."""
    with GGUFFile(path) as file:
        alpha = _alpha(file, architecture_name(config))
        modules = {_gguf_module(m): m for m in modules_of(config, fused or {}).values()}
        found = _halves(file, modules)
        pairs: dict[str, Pair] = {}
        for key, halves in found.items():
            module = modules[key]
            pair = _pair(file, key, module, halves, alpha)
            b = _rows(pair.b, module, config, architecture_name(config), back=True)
            pairs |= separated(module, Pair(pair.a, b, pair.scale))
        made_for = file.metadata.get("general.base_model.0.name")
    return combined(config, pairs, str(path), made_for)


def _gguf_module(module: Module) -> str:
    return f"blk.{module.layer}.{_MODULES[module.name]}.weight"


def _rows(
    b: Float32, module: Module, config: ModelConfig, name: str, back: bool = False
) -> Float32:
    """Return B with the rows of q and k in the order of the model's GGUF, or back in ours."""
    if not FAMILIES[name].names.interleaved or not module.name.endswith((".q_proj", ".k_proj")):
        return b
    half = config.head_dim // 2
    inner = (half, 2) if back else (2, half)
    heads = b.reshape(-1, *inner, b.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(b.shape)


def _alpha(file: GGUFFile, wanted: str) -> float:
    """Check what the file says that it is; return its alpha."""
    for key, value, advice in (
        ("general.type", "adapter", "give the file of an adapter, not of a model"),
        ("general.architecture", wanted, "use the base that the adapter was made for"),
        ("adapter.type", "lora", "only LoRA adapters are supported"),
    ):
        found = file.metadata.get(key)
        if not isinstance(found, str) or found != value:
            shown = ascii(found)[:40] if isinstance(found, str) else "missing"
            raise ModelFormatError(f"{file.path}: {key}: {shown}, must be {value!r}; {advice}")
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise ModelFormatError(
            f"{file.path}: adapter.alora.invocation_tokens: adapters that begin at a token (aLoRA) "
            "are not supported; train one that always counts"
        )
    alpha = file.metadata.get("adapter.lora.alpha")
    if type(alpha) not in (int, float) or not 1e-6 <= float(alpha) <= MAX_ALPHA:  # type: ignore[arg-type]
        raise ModelFormatError(
            f"{file.path}: adapter.lora.alpha: must be a number from 1e-06 to {MAX_ALPHA:g}; "
            "convert the adapter again"
        )
    return float(alpha)  # type: ignore[arg-type]


def _halves(file: GGUFFile, modules: Mapping[str, Module]) -> dict[str, dict[str, GGUFTensor]]:
    """Return the model's tensor -> a or b -> the matrix in the file."""
    found: dict[str, dict[str, GGUFTensor]] = {}
    for name, tensor in file.tensors.items():
        matched = _TENSOR.fullmatch(name)
        if matched is None or matched["module"] not in modules:
            raise ModelFormatError(
                f"{file.path}: {ascii(name)[1:-1]}: the base adapts no such tensor; use the base "
                "that the adapter was made for, without embeddings, norms and experts"
            )
        found.setdefault(matched["module"], {})[matched["half"]] = tensor
    for key, halves in found.items():
        if len(halves) == 1:
            other = "b" if "a" in halves else "a"
            raise ModelFormatError(
                f"{file.path}: {key}.lora_{other}: is missing; convert the adapter again"
            )
    return found


def _pair(
    file: GGUFFile, key: str, module: Module, halves: Mapping[str, GGUFTensor], alpha: float
) -> Pair:
    """Read one product, having checked what it must look like."""
    rank = halves["a"].shape[0]
    most = MAX_RANK * len(module.parts)
    if not 1 <= rank <= most:
        raise ModelFormatError(f"{file.path}: {key}.lora_a: rank {rank} must be from 1 to {most}")
    wanted = {"a": (rank, module.inputs), "b": (sum(module.rows), rank)}
    values = {}
    for half, tensor in halves.items():
        if tensor.shape != wanted[half]:
            raise ModelFormatError(
                f"{file.path}: {tensor.name}: shape {list(tensor.shape)}, must be "
                f"{list(wanted[half])} for this base; use the base that the adapter was made for"
            )
        if tensor.type not in _TYPES:
            raise ModelFormatError(
                f"{file.path}: {tensor.name}: type {tensor.type.name} is not supported; supported: "
                f"{', '.join(kind.name for kind in _TYPES)}; convert the adapter with --outtype f32"
            )
        values[half] = tensor.dequantize()
        if not finite(values[half]):
            raise ModelFormatError(
                f"{file.path}: {tensor.name}: holds NaN or infinity; train the adapter again"
            )
    return Pair(values["a"], values["b"], alpha / rank)

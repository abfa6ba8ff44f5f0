"""The adapters that are compared, and the file of what the peers said about them.

Numbers are drawn by name, so that an adapter's directory can be made without PEFT; what PEFT writes
beside them, the configuration and the names, is kept.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.model.config import ModelConfig
from homebox.model.lora import adapter_shapes
from tests.parity.cases import RANK
from tests.parity.reference import FOLDER, _folded, _unfolded
from tests.parity.weights import Stored, adapter_values
from tests.unit.model_files import safetensors_bytes

Float32 = npt.NDArray[np.float32]

FILE = FOLDER / "adapters.json"
ROWS = (1, 33, 63)  # whose logits are kept
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Foreign:
    """An adapter that PEFT makes for one of the cases; `options` are of its LoraConfig."""

    name: str
    case: str
    options: dict[str, Any] = field(default_factory=dict)


FOREIGN = (
    Foreign("llama-some", "llama", {"target_modules": ["q_proj", "v_proj"]}),
    Foreign(
        "llama-rslora",
        "llama",
        {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
    ),
    Foreign(
        "llama-patterns",
        "llama",
        {
            "target_modules": ["q_proj", "down_proj", "o_proj"],
            "rank_pattern": {"q_proj": 2, "layers.1.self_attn.o_proj": 7},
            "alpha_pattern": {"^model.layers.0.mlp.down_proj": 32, r"layers\.1\.mlp\.down_proj": 3},
        },
    ),
    Foreign("qwen3-layers", "qwen3", {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
    Foreign("phi3-fused", "phi3", {"target_modules": "all-linear"}),
    Foreign(
        "phi3-ranks",
        "phi3",
        {"target_modules": ["qkv_proj", "gate_up_proj"], "rank_pattern": {"qkv_proj": 6}},
    ),
    Foreign("gemma3-all", "gemma3", {"target_modules": "all-linear"}),
    Foreign("qwen3_moe-attention", "qwen3_moe", {"target_modules": ATTENTION}),
    Foreign("gpt_oss-attention", "gpt_oss", {"target_modules": ATTENTION}),
)
# The cases for which an adapter of ours goes out.
OURS = (
    *("llama", "mistral", "ministral3", "qwen2", "qwen3", "qwen3_moe"),
    *("gemma3", "gpt_oss", "phi3", "smollm3", "olmo2", "granite"),
)


def own(config: ModelConfig, seed: int) -> dict[str, Float32]:
    """Return the adapter of ours for a case."""
    shapes = adapter_shapes(config, RANK)
    return {name: adapter_values(seed, name, shape) for name, shape in shapes.items()}


def write_foreign(folder: Path, config: Mapping[str, Any], tensors: dict[str, str]) -> None:
    """Write the directory that PEFT wrote."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    values = {t.name: adapter_values(1, t.name, t.shape) for t in _unfolded(tensors)}
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(values))


def shapes_of(shapes: Mapping[str, list[int]]) -> dict[str, str]:
    """Return names and shapes of an adapter's tensors, short."""
    return _folded([Stored(name, tuple(shape), "F32") for name, shape in shapes.items()])


def digest(paths: list[Path]) -> str:
    """Return the sha256 over the contents of files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def coded(logits: Float32) -> str:
    """Return the kept rows as text."""
    return base64.b64encode(logits[list(ROWS)].astype("<f4").tobytes()).decode()


def decoded(text: str) -> Float32:
    """Return the kept rows, (rows, vocabulary)."""
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(len(ROWS), -1)


def known() -> dict[str, Any]:
    """Return what the peers said, by "out" or "in" and name."""
    return dict(json.loads(FILE.read_text())) if FILE.exists() else {}


def note(key: str, entry: Mapping[str, Any]) -> None:
    """Keep what a peer said."""
    entries = {**known(), key: entry}
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(entries[k])}" for k in sorted(entries))
    FILE.write_text("{\n" + rows + "\n}\n")

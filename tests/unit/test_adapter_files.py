"""Adapters from files in a running model: the same as weights into which they were merged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.model.adapter_files import fused_of, read_adapter, write_adapter
from homebox.model.files.safetensors_reader import SafetensorsFile
from homebox.model.lora import adapter_shapes
from homebox.model.model import Model, load
from tests.unit.model_files import CONFIG, QWEN3, safetensors_bytes, write_model

PHI3: dict[str, Any] = {**CONFIG, "model_type": "phi3", "hidden_size": 32, "head_dim": 8}
IDS = list(range(5, 45))


def opened(folder: Path) -> Model:
    return load(folder, context=64, slots=1, adapters=2, weights="f32")


def write_base(folder: Path, base: dict[str, Any]) -> None:
    """Write a model; one of phi3 has q, k, v and gate, up in one tensor each."""
    if base is not PHI3:
        write_model(folder, base=base)
        return
    write_model(folder, base={**PHI3, "model_type": "llama"})
    config = (folder / "config.json").read_text().replace('"llama"', '"phi3"')
    (folder / "config.json").write_text(config)
    tensors = stored(folder / "model.safetensors")
    for layer in range(2):
        for module, parts in (("self_attn.qkv", "qkv"), ("mlp.gate_up", ("gate", "up"))):
            stem = f"model.layers.{layer}.{module.split('.')[0]}."
            split = [tensors.pop(f"{stem}{part}_proj.weight") for part in parts]
            name = f"model.layers.{layer}.{module}_proj.weight"
            tensors[name] = np.concatenate(split)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))


def stored(path: Path) -> dict[str, Any]:
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.tensors}


def write_merged(folder: Path, base: Path, adapter: Path, scale: float) -> None:
    """Write the base plus what the adapter's file says, module by module."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.model"):
        (folder / name).write_bytes((base / name).read_bytes())
    tensors = stored(base / "model.safetensors")
    low = stored(adapter / "adapter_model.safetensors")
    for name in [name for name in low if name.endswith(".lora_A.weight")]:
        weight = name.removeprefix("base_model.model.").replace(".lora_A", "")
        b = low[name.replace("lora_A", "lora_B")]
        tensors[weight] = tensors[weight] + np.float32(scale) * (b @ low[name])
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))


@pytest.mark.parametrize("base", [CONFIG, QWEN3, PHI3], ids=["llama", "qwen3", "phi3"])
def test_an_adapter_does_what_its_merged_weights_do(tmp_path: Path, base: dict[str, Any]) -> None:
    write_base(tmp_path / "base", base)
    model = opened(tmp_path / "base")
    generator = np.random.default_rng(3)
    tensors = {
        name: (generator.standard_normal(shape) / 8).astype(np.float32)
        for name, shape in adapter_shapes(model.config, 4).items()
    }
    write_adapter(tmp_path / "peft", "peft", model.config, tensors, 8.0, "base")
    write_adapter(tmp_path / "gguf", "gguf", model.config, tensors, 8.0, "base")
    assert bool(fused_of(model.config)) == (base is PHI3)
    write_merged(tmp_path / "merged", tmp_path / "base", tmp_path / "peft", 2.0)
    wanted = opened(tmp_path / "merged").logits(IDS)
    assert np.abs(wanted - model.logits(IDS)).max() > 0.5
    for path in (tmp_path / "peft", tmp_path / "gguf" / "adapter.gguf"):
        adapter = read_adapter(path, model.config)
        model.adapters.add("x", adapter.tensors, adapter.alpha)
        assert np.abs(model.logits(IDS, "x") - wanted).max() < 1e-4
        model.adapters.remove("x")

"""Makes small vocabularies and model directories for tests."""

import io
import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

from homebox.engine.graph import formats
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.tensor import Tensor
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import ModelConfig, is_vector
from homebox.model.loading.loader import file_name_of

MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
CALLS = ("<tool_call>", "</tool_call>")

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 400,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

# Heads wider than hidden_size / heads, and normalised.
QWEN3: dict[str, Any] = {
    **CONFIG,
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 2,
}

Array = npt.NDArray[np.float32]


@cache
def train_tokenizer(
    size: int = 380,
    kind: str = "bpe",
    rule: str = "identity",
    marks: tuple[str, ...] = MARKS + CALLS,
    byte_fallback: bool = True,
    remove_spaces: bool = False,
    dummy_prefix: bool = True,
) -> bytes:
    """Return the bytes of a sentencepiece model trained on made-up sentences."""
    dice = random.Random(5)
    words = ["the fish", "swims", "owner", "named", "sings;", "Ångström", "12", "(tea)", "über"]
    lines = (" ".join(dice.choices(words, k=7)) for _ in range(300))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=size,
        model_type=kind,
        byte_fallback=byte_fallback,
        normalization_rule_name=rule,
        remove_extra_whitespaces=remove_spaces,
        add_dummy_prefix=dummy_prefix,
        user_defined_symbols=[*marks, "\n"],
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class ArrayWeights:
    """Weights from arrays, packed in memory: what a transformer takes instead of a file."""

    def __init__(
        self, config: ModelConfig, arrays: Mapping[str, Array], form: formats.Format = formats.F32
    ) -> None:
        self.form = form
        self.buffers: dict[str, Buffer] = {}  # without names programs are not kept on disk
        self.tensors: dict[str, Tensor] = {}
        self.arrays: dict[str, Array] = {}  # what the bytes stand for, in the names of `arrays`
        stacked = dict(arrays)
        for layer in range(config.num_layers):
            parts = [stacked.pop(f"layers.{layer}.{name}") for name in "qkv"]
            stacked[f"layers.{layer}.qkv"] = np.concatenate(parts)
            if f"layers.{layer}.q_bias" in stacked:
                parts = [stacked.pop(f"layers.{layer}.{name}_bias") for name in "qkv"]
                stacked[f"layers.{layer}.qkv_bias"] = np.concatenate(parts)
        for name, array in stacked.items():
            if is_vector(name, array.shape):
                self.tensors[name] = Tensor.from_numpy(array, frozen=True)
                self.arrays[name] = array
                continue
            kind = formats.F32 if name.endswith("router") else form
            stored = formats.pack(kind, array)
            memory = Tensor.from_numpy(stored, frozen=True)
            self.tensors[name] = Tensor.packed(kind, *array.shape, memory)
            self.arrays[name] = formats.unpack(kind, stored, *array.shape)
        for layer in range(config.num_layers):
            whole, at = self.arrays.pop(f"layers.{layer}.qkv"), 0
            for name in "qkv":
                rows = config.projection_shape(name)[0]
                self.arrays[f"layers.{layer}.{name}"] = whole[at : at + rows]
                at += rows

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    """Return weights of the right shapes, scaled so that activations stay near 1."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in config.weight_shapes().items():
        values = generator.standard_normal(shape) / np.sqrt(shape[-1])
        weights[name] = (values if len(shape) > 1 else 1 + values).astype(np.float32)
    return weights


def file_tensors(weights: dict[str, Array]) -> dict[str, Array]:
    """Return weights under the names of a Hugging Face checkpoint."""
    return {file_name_of(name): array for name, array in weights.items()}


def rounded(array: Array, kind: str) -> Array:
    """Return float32 numbers that a safetensors type can hold."""
    if kind == "F16":
        return array.astype(np.float16).astype(np.float32)
    if kind == "BF16":
        bits = array.view(np.uint32)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return near.astype(np.uint32).view(np.float32)
    return array


def stored_bytes(array: Array, kind: str) -> bytes:
    """Return numbers that a safetensors type can hold as it stores them."""
    if kind == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()


def safetensors_bytes(
    tensors: dict[str, Array], metadata: dict[str, str] | None = None, kind: str = "F32"
) -> bytes:
    """Return a safetensors file of tensors of one type, written by hand."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, array in tensors.items():
        data = stored_bytes(array, kind)
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        body += data
    return pack(json.dumps(header).encode(), body)


def pack(header: bytes, body: bytes) -> bytes:
    """Return the bytes of a safetensors file with this header and data."""
    return len(header).to_bytes(8, "little") + header + body


def write_model(
    directory: Path,
    changes: dict[str, Any] | None = None,
    seed: int = 0,
    kind: str = "F32",
    base: dict[str, Any] | None = None,
) -> ModelConfig:
    """Write a whole model directory and return its configuration.

    `base` is the configuration before `changes`: CONFIG (llama) or QWEN3; `kind` is the type of the
    weights in the file.
    """
    raw = {**(base or CONFIG), **(changes or {})}
    config = parse_config(raw)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(raw))
    (directory / "tokenizer.model").write_bytes(train_tokenizer())
    weights = {n: rounded(w, kind) for n, w in random_weights(config, seed).items()}
    data = safetensors_bytes(file_tensors(weights), kind=kind)
    (directory / "model.safetensors").write_bytes(data)
    return config

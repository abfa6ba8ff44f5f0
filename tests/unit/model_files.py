"""Makes small vocabularies and model directories for tests."""

import io
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

from homebox.model.config import ModelConfig, parse_config
from homebox.model.loader import file_name_of

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


def safetensors_bytes(tensors: dict[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file of float32 tensors, written by hand."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, array in tensors.items():
        data = array.astype("<f4").tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        body += data
    return pack(json.dumps(header).encode(), body)


def pack(header: bytes, body: bytes) -> bytes:
    """Return the bytes of a safetensors file with this header and data."""
    return len(header).to_bytes(8, "little") + header + body


def write_model(
    directory: Path, changes: dict[str, Any] | None = None, seed: int = 0
) -> ModelConfig:
    """Write a whole model directory and return its configuration."""
    raw = {**CONFIG, **(changes or {})}
    config = parse_config(raw)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(raw))
    (directory / "tokenizer.model").write_bytes(train_tokenizer())
    tensors = file_tensors(random_weights(config, seed))
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return config

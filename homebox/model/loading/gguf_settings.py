"""Tells a GGUF file's metadata again as the `config.json` of the same model.

Invariant: nothing is checked here but what has no counterpart there; a failure names the file and
the key in the file.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.gguf import GGUFFile

Raw = dict[str, Any]

# config.json -> metadata, after the architecture's name.
COMMON = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
}
FACTORS = "rope_freqs.weight"  # by which each frequency is divided
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_MOST_FACTORS = 1024


class Settings:
    """The metadata of one architecture in one file."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self._file = file
        self._architecture = architecture

    def __contains__(self, key: str) -> bool:
        return f"{self._architecture}.{key}" in self._file.metadata

    def get(self, key: str) -> Any:
        """Return a setting as a plain value; None if it is missing.

        Sizes that are told layer by layer must be the same for all.
        """
        value: Any = self._file.metadata.get(f"{self._architecture}.{key}")
        if isinstance(value, np.ndarray):
            if not value.size or (value != value[0]).any():
                self.fail(key, "differs between layers, which is not supported")
            value = value[0].item()
        return value

    def number(self, key: str, default: int) -> int:
        """Return a whole number, or the default for anything else; it is checked later."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    def has(self, tensor: str) -> bool:
        """Whether the file has a tensor of this name."""
        return tensor in self._file.tensors

    def fail(self, key: str, reason: str) -> NoReturn:
        """Raise the error that says what is wrong with a setting."""
        raise ModelFormatError(f"{self._file.path}: {self._architecture}.{key}: {reason}")

    def renamed(self, keys: Mapping[str, str]) -> Raw:
        """Return those of the settings that are there, under their names in `config.json`."""
        return {name: self.get(key) for name, key in keys.items() if key in self}

    def experts(self) -> Raw:
        """Return the sizes of a mixture of experts."""
        return self.renamed(
            {
                "num_experts": "expert_count",
                "num_experts_per_tok": "expert_used_count",
                "moe_intermediate_size": "expert_feed_forward_length",
            }
        )

    def common(self) -> Raw:
        """Return what all families have."""
        raw = self.renamed(COMMON)
        for name, key in TOKENS.items():
            value = self._file.metadata.get(key)
            if value is not None:
                raw[name] = value
        embedding = self._file.tensors.get("token_embd.weight")
        raw["vocab_size"] = embedding.shape[0] if embedding is not None else 0
        raw["tie_word_embeddings"] = "output.weight" not in self._file.tensors
        raw["rope_scaling"] = self.factors() or self.rope_scaling()
        self._check_heads(raw)
        return raw

    def _check_heads(self, raw: Raw) -> None:
        """Say which channels turn; values must be as wide as keys."""
        width = self.get("attention.value_length")
        if width is not None and width != raw.get("head_dim", width):
            self.fail("attention.value_length", f"{width} is not attention.key_length")
        if "head_dim" not in raw:
            heads = max(self.number("attention.head_count", 1), 1)
            raw["head_dim"] = self.number("embedding_length", 0) // heads
        turning = self.number("rope.dimension_count", 0)
        if 0 < turning < raw["head_dim"]:
            raw["partial_rotary_factor"] = turning / raw["head_dim"]

    def rope_scaling(self) -> Raw | None:
        """Return how rotations are changed for long contexts; None if they are not."""
        kind = self.get("rope.scaling.type")
        if kind in (None, "none", "longrope"):
            return None
        found = self.renamed(
            {
                "factor": "rope.scaling.factor",
                "original_max_position_embeddings": "rope.scaling.original_context_length",
                "beta_fast": "rope.scaling.yarn_beta_fast",
                "beta_slow": "rope.scaling.yarn_beta_slow",
            }
        )
        return {"rope_type": kind} | found

    def factors(self) -> Raw | None:
        """Return the factors of frequencies that Llama 3.1 and later have as a tensor."""
        if not self.has(FACTORS):
            return None
        values = self._values(FACTORS)
        return {
            "rope_type": "longrope",
            "short_factor": values,
            "long_factor": values,
            "attention_factor": 1.0,
        }

    def long_rope(self) -> Raw | None:
        """Return the two sets of factors of Phi-3's long versions; None if there are none."""
        if not self.has(LONG) or not self.has(SHORT):
            return None
        return {
            "rope_type": "longrope",
            "short_factor": self._values(SHORT),
            "long_factor": self._values(LONG),
        } | self.renamed(
            {
                "original_max_position_embeddings": "rope.scaling.original_context_length",
                "attention_factor": "rope.scaling.attn_factor",
            }
        )

    def _values(self, name: str) -> list[float]:
        tensor = self._file.tensor(name)
        if len(tensor.shape) != 1 or tensor.shape[0] > _MOST_FACTORS:
            raise ModelFormatError(
                f"{self._file.path}: {name}: shape {list(tensor.shape)}, must be one row of at "
                f"most {_MOST_FACTORS}"
            )
        return [float(value) for value in tensor.dequantize()]

"""Describes a model's shape: `config.json` of a Hugging Face directory, checked field by field.

One frozen dataclass that everything else takes its sizes from. Invariant: a `ModelConfig` that
exists is consistent and within the limits below, so no later code checks a size again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import ModelFormatError, ModelNotFoundError

ARCHITECTURES = ("llama", "qwen3")
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")

MAX_JSON_BYTES = 1 << 20
_MAX_JSON_ITEMS = 1 << 19
_MAX_VOCAB = 1 << 20
_MAX_WIDTH = 1 << 17
_MAX_LAYERS = 1024
_MAX_HEADS = 1024
_MAX_POSITIONS = 1 << 24
_QWEN3_HEAD_DIM = 128


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a Llama-like decoder; each comment names the key in `config.json`."""

    vocab_size: int  # vocab_size
    hidden_size: int  # hidden_size
    intermediate_size: int  # intermediate_size
    num_layers: int  # num_hidden_layers
    num_heads: int  # num_attention_heads
    num_kv_heads: int  # num_key_value_heads, default num_attention_heads
    head_dim: int  # head_dim, default hidden_size / num_attention_heads; qwen3: 128
    max_positions: int  # max_position_embeddings
    rms_eps: float  # rms_norm_eps
    rope_theta: float  # rope_theta, default 10000
    tied: bool  # tie_word_embeddings, default false
    bos_id: int | None = None  # bos_token_id
    eos_ids: tuple[int, ...] = ()  # eos_token_id: a number, a list or null
    architecture: str = "llama"  # model_type

    @property
    def qk_norm(self) -> bool:
        """Whether each head's query and key are normalised, with a weight of head_dim numbers."""
        return self.architecture == "qwen3"

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(shape) for shape in self.weight_shapes().values())

    def projection_shape(self, name: str) -> tuple[int, int]:
        """Return (out, in) of one of `PROJECTIONS`."""
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q": (query, hidden),
            "k": (key, hidden),
            "v": (key, hidden),
            "o": (hidden, query),
            "gate": (inner, hidden),
            "up": (inner, hidden),
            "down": (hidden, inner),
        }[name]

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of every weight that the transformer takes, in a fixed order."""
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_layers):
            for name in PROJECTIONS:
                shapes[f"layers.{layer}.{name}"] = self.projection_shape(name)
            shapes[f"layers.{layer}.attn_norm"] = (self.hidden_size,)
            shapes[f"layers.{layer}.mlp_norm"] = (self.hidden_size,)
            if self.qk_norm:
                shapes[f"layers.{layer}.q_norm"] = (self.head_dim,)
                shapes[f"layers.{layer}.k_norm"] = (self.head_dim,)
        shapes["norm"] = (self.hidden_size,)
        if not self.tied:
            shapes["head"] = (self.vocab_size, self.hidden_size)
        return shapes


def read_json_file(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in `path`, refusing duplicates, NaN, other kinds and long files."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{path} does not exist; a model directory holds config.json, tokenizer.model and "
            "*.safetensors"
        ) from None
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise ModelFormatError(f"{path}: longer than {limit} bytes")
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object that `data` holds; `where` begins the error's text."""
    # Decoded JSON may take 40 times the memory of its text ("[],[],..."), so count first.
    values = sum(data.count(mark) for mark in (b"{", b"[", b","))
    if values > _MAX_JSON_ITEMS or data.count(b":") > _MAX_JSON_ITEMS // 2:
        raise ModelFormatError(f"{where}: more than {_MAX_JSON_ITEMS} JSON values")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ModelFormatError(f"{where}: the key {_show(name)} occurs twice")
        return result

    def constant(text: str) -> Any:
        raise ModelFormatError(f"{where}: {text} is not a JSON number")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError:
        raise ModelFormatError(f"{where}: not UTF-8 text") from None
    except RecursionError:
        raise ModelFormatError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise ModelFormatError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}: holds no JSON object")
    return value


def load_config(directory: Path) -> ModelConfig:
    """Read `config.json` (and the stop tokens of `generation_config.json`) of a model directory."""
    path = directory / "config.json"
    raw = read_json_file(path)
    generation = directory / "generation_config.json"
    if generation.exists():
        extra = read_json_file(generation)
        if extra.get("eos_token_id") is not None:
            raw = {**raw, "eos_token_id": extra["eos_token_id"]}
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Check a decoded `config.json` and return the model's shape.

    Raises ModelFormatError that names `where` and the field.
    """
    fields = _Fields(raw, where)
    kind = _refuse_unsupported(fields)
    heads = fields.integer("num_attention_heads", 1, _MAX_HEADS)
    hidden = fields.integer("hidden_size", 1, _MAX_WIDTH)
    kv_heads = fields.integer("num_key_value_heads", 1, heads, default=heads)
    if heads % kv_heads:
        fields.fail("num_key_value_heads", f"{kv_heads} does not divide {heads} attention heads")
    if fields.get("head_dim") is None and kind == "llama" and hidden % heads:
        fields.fail("hidden_size", f"{hidden} is no multiple of {heads} attention heads")
    usual = _QWEN3_HEAD_DIM if kind == "qwen3" else hidden // heads
    head_dim = fields.integer("head_dim", 2, 1024, default=usual)
    if head_dim % 2:
        fields.fail("head_dim", f"must be even for rotary positions, not {head_dim}")
    vocab = fields.integer("vocab_size", 1, _MAX_VOCAB)
    return ModelConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, _MAX_WIDTH),
        num_layers=fields.integer("num_hidden_layers", 1, _MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=fields.integer("max_position_embeddings", 1, _MAX_POSITIONS),
        rms_eps=fields.number("rms_norm_eps", 0.0, 1.0),
        rope_theta=_rope_theta(fields),
        tied=fields.boolean("tie_word_embeddings", default=False),
        bos_id=fields.token("bos_token_id", vocab),
        eos_ids=fields.tokens("eos_token_id", vocab),
        architecture=kind,
    )


def _refuse_unsupported(fields: "_Fields") -> str:
    """Check what must not be in a configuration; return the architecture."""
    kind = fields.get("model_type")
    if kind not in ARCHITECTURES:
        fields.fail(
            "model_type",
            f"{_show(kind)} is not supported; supported architectures: {', '.join(ARCHITECTURES)}",
        )
    if fields.get("hidden_act") not in (None, "silu", "swish"):
        fields.fail("hidden_act", f"{_show(fields.get('hidden_act'))} is not supported, only silu")
    for name in ("attention_bias", "mlp_bias"):
        if fields.boolean(name, default=False):
            fields.fail(name, "biases are not supported")
    if fields.get("quantization_config") is not None:
        fields.fail("quantization_config", "quantised weights are not supported")
    _refuse_windows(fields)
    return str(kind)


def _refuse_windows(fields: "_Fields") -> None:
    """Accept the fields of sliding windows where they say that no layer has one."""
    if fields.boolean("use_sliding_window", default=False):
        fields.fail("use_sliding_window", "sliding windows are not supported")
    kinds = fields.get("layer_types")
    if kinds is None:
        return
    if not isinstance(kinds, list):
        fields.fail("layer_types", f"must be a list or null, not {_show(kinds)}")
    if len(kinds) != fields.integer("num_hidden_layers", 1, _MAX_LAYERS):
        fields.fail("layer_types", f"names {len(kinds)} layers, not num_hidden_layers")
    for kind in kinds:
        if kind != "full_attention":
            fields.fail("layer_types", f"{_show(kind)} is not supported, only full_attention")


def _rope_theta(fields: "_Fields") -> float:
    for name in ("rope_scaling", "rope_parameters"):
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, dict):
            fields.fail(name, "must be an object or null")
        kind = value.get("rope_type", value.get("type", "default"))
        if kind != "default":
            fields.fail(name, f"type {_show(kind)} is not supported, only default")
        if "rope_theta" in value:
            inner = _Fields(value, f"{fields.where}: {name}")
            return inner.number("rope_theta", 1.0, 1e12)
    return fields.number("rope_theta", 1.0, 1e12, default=10000.0)


class _Fields:
    """Typed access to the keys of one JSON object; every failure names the file and the key."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def fail(self, name: str, reason: str) -> None:
        raise ModelFormatError(f"{self.where}: {name}: {reason}")

    def get(self, name: str) -> Any:
        return self.raw.get(name)

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.raw.get(name)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(name, f"must be a whole number from {low} to {high}, not {_show(value)}")
        return int(value)  # type: ignore[arg-type]

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number from `low` to `high`, but never 0."""
        value = self.raw.get(name)
        if value is None:
            value = default
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high or value == 0 or math.isnan(value):  # type: ignore[operator, arg-type]
            self.fail(name, f"must be a number from {low:g} to {high:g}, not {_show(value)}")
        return float(value)  # type: ignore[arg-type]

    def boolean(self, name: str, default: bool) -> bool:
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            self.fail(name, f"must be true or false, not {_show(value)}")
        return bool(value)

    def token(self, name: str, vocab: int) -> int | None:
        value = self.raw.get(name)
        return None if value is None else self._token(name, value, vocab)

    def tokens(self, name: str, vocab: int) -> tuple[int, ...]:
        value = self.raw.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            return (self._token(name, value, vocab),)
        if len(value) > 64:
            self.fail(name, "lists more than 64 tokens")
        return tuple(dict.fromkeys(self._token(name, item, vocab) for item in value))

    def _token(self, name: str, value: Any, vocab: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab:
            self.fail(name, f"must be a token id from 0 to {vocab - 1}, not {_show(value)}")
        return int(value)


def _show(value: Any) -> str:
    """Return a short printable form of a value from a file that nobody vouches for."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."

"""PEFT's `adapter_config.json`: read field by field, and written.

The file says by which factor each product counts, and names whatever else the training did. The one
idea: a field that could change what the adapter computes is understood or refused by its name.
Patterns are regular expressions there; only plain names are taken, so no hostile one is ever run.
Source: LoraConfig and get_pattern_key of https://github.com/huggingface/peft (0.21).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from homebox.errors import ModelFormatError
from homebox.model.files.json_file import show

Number = TypeVar("Number", int, float)

MAX_FILE_RANK = 4096
_MAX_ALPHA = 1e6
_MAX_PATTERNS = 1 << 12

# They say where the adapter came from, or how it was trained, and change nothing of its effect.
_NEUTRAL = {
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode"),
    *("lora_dropout", "target_modules", "exclude_modules", "layers_pattern", "megatron_core"),
    *("layers_to_transform", "eva_config", "corda_config", "lora_ga_config", "loftq_config"),
    *("qalora_group_size", "ensure_weight_tying", "runtime_config"),
}
_READ = {
    *("peft_type", "task_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "bias", "init_lora_weights"),
}
_MERGE = "merge the adapter into the model's weights and serve those"
# What a field means if it is set, and what to do then.
_REFUSED = {
    "fan_in_fan_out": f"transposed layers (Conv1D) are not supported; {_MERGE}",
    "use_dora": f"DoRA is not supported; train without it, or {_MERGE}",
    "lora_bias": f"biases of B are not supported; train without them, or {_MERGE}",
    "modules_to_save": f"whole modules beside the adapter are not supported; {_MERGE}",
    "trainable_token_indices": f"trained embeddings are not supported; {_MERGE}",
    "target_parameters": f"adapters of experts are not supported; {_MERGE}",
    "layer_replication": "repeated layers are not supported; adapt the model as it is",
    "alora_invocation_tokens": (
        "adapters that begin at a token (aLoRA) are not supported; train one that always counts"
    ),
    "use_qalora": f"QALoRA is not supported; {_MERGE}",
    "use_bdlora": f"block-diagonal adapters are not supported; {_MERGE}",
    "arrow_config": "routed adapters (Arrow) are not supported; import one of them",
}
# Beginnings that leave the base as it is; the others (pissa, olora, ...) subtract from it.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_NAME = re.compile(r"\^?(?:[A-Za-z0-9_-]|\\?\.)+\$?")


@dataclass(frozen=True)
class PeftConfig:
    """How much each module's product counts."""

    rank: int
    alpha: float
    rslora: bool = False  # scale = alpha / sqrt(rank)
    ranks: Mapping[str, int] = field(default_factory=dict)  # pattern -> rank
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: object = None  # base_model_name_or_path

    def rank_of(self, module: str) -> int:
        """Return the rank of a module, by its whole name in the model."""
        return _first(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor on a module's product."""
        rank = self.rank_of(module)
        return _first(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.rslora else rank)


def _first(patterns: Mapping[str, Number], module: str, usual: Number) -> Number:
    return next((value for key, value in patterns.items() if _fits(key, module)), usual)


def _fits(pattern: str, module: str) -> bool:
    """Whether a pattern names a module, wholly or from one of its dots on."""
    text = pattern.removeprefix("^").removesuffix("$")
    # Most patterns are another module's name, which its end shows at once.
    if not module.endswith(text.rpartition(".")[2]):
        return False
    wanted = re.findall(r"\\?.", text)
    tail = module[len(module) - len(wanted) :] if len(wanted) <= len(module) else ""
    # An unescaped dot is any character there.
    if len(tail) != len(wanted) or any(
        mark not in (".", letter, f"\\{letter}") for mark, letter in zip(wanted, tail, strict=True)
    ):
        return False
    before = module[: len(module) - len(wanted)]
    return not before or (not pattern.startswith("^") and before.endswith("."))


def parse_peft_config(raw: Mapping[str, Any], where: str) -> PeftConfig:
    """Check a decoded `adapter_config.json`; raises ModelFormatError naming `where` and field."""
    _refuse_others(raw, where)
    rank, alpha = raw.get("r", 8), raw.get("lora_alpha", 8)
    _check_rank(rank, f"{where}: r")
    _check_alpha(alpha, f"{where}: lora_alpha")
    rslora = raw.get("use_rslora", False)
    if not isinstance(rslora, bool):
        raise ModelFormatError(f"{where}: use_rslora: must be true or false, not {_show(rslora)}")
    ranks = _patterns(raw, "rank_pattern", where)
    for name, value in ranks.items():
        _check_rank(value, f"{where}: rank_pattern: {name}")
    alphas = _patterns(raw, "alpha_pattern", where)
    for name, value in alphas.items():
        _check_alpha(value, f"{where}: alpha_pattern: {name}")
    factors = {name: float(value) for name, value in alphas.items()}
    base = raw.get("base_model_name_or_path")
    return PeftConfig(rank, float(alpha), rslora, ranks, factors, base)


def _refuse_others(raw: Mapping[str, Any], where: str) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise ModelFormatError(
            f"{where}: peft_type: {_show(kind)} is not supported, only LORA; {_MERGE}"
        )
    task = raw.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ModelFormatError(
            f"{where}: task_type: {_show(task)} is not supported, only CAUSAL_LM; use an adapter "
            "that was trained to write text"
        )
    if raw.get("bias", "none") != "none":
        raise ModelFormatError(
            f"{where}: bias: {_show(raw['bias'])} is not supported, only none; {_MERGE}"
        )
    start = raw.get("init_lora_weights", True)
    if not any(start is known or (start == known and type(start) is str) for known in _STARTS):
        raise ModelFormatError(
            f"{where}: init_lora_weights: {_show(start)} changes the base's weights; save the "
            "adapter converted to LoRA (path_initial_model_for_weight_conversion)"
        )
    for name, value in raw.items():
        if name in _READ or name in _NEUTRAL or not value:
            continue
        reason = _REFUSED.get(name, f"a field that is not known; {_MERGE}")
        raise ModelFormatError(f"{where}: {ascii(name)[1:-1][:60]}: {_show(value)}: {reason}")


def _patterns(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS:
        raise ModelFormatError(
            f"{where}: {name}: must be an object of at most {_MAX_PATTERNS} names"
        )
    for key in value:
        if len(key) > 256 or not _NAME.fullmatch(key):
            raise ModelFormatError(
                f"{where}: {name}: {_show(key)}: only names of modules are supported, no other "
                "regular expressions; write the names out"
            )
    return value


def _check_rank(value: Any, where: str) -> None:
    if type(value) is not int or not 1 <= value <= MAX_FILE_RANK:
        raise ModelFormatError(
            f"{where}: must be a whole number from 1 to {MAX_FILE_RANK}, not {_show(value)}"
        )


def _check_alpha(value: Any, where: str) -> None:
    if type(value) not in (int, float) or not 1e-6 <= value <= _MAX_ALPHA:
        raise ModelFormatError(
            f"{where}: must be a number from 1e-06 to {_MAX_ALPHA:g}, not {_show(value)}"
        )


def written_config(
    rank: int, alpha: float, base: str, targets: Iterable[str], parts: Mapping[str, int]
) -> dict[str, Any]:
    """Return the fields of `adapter_config.json` for an adapter of one rank.

    `parts` says of how many products each fused module consists: its rank and its alpha are that
    many times the others', so that the factor is the same.
    """
    return {
        "alpha_pattern": {name: _plain(alpha * count) for name, count in parts.items()},
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": _plain(alpha),
        "lora_bias": False,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {name: rank * count for name, count in parts.items()},
        "revision": None,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _plain(alpha: float) -> int | float:
    """Return a whole alpha as one, which is what the field is declared as."""
    return int(alpha) if alpha.is_integer() else alpha


def _show(value: Any) -> str:
    """Return a short printable form of a value from a file that nobody vouches for."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return show(value)

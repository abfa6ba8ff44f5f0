"""Reads `config.json` of a model directory and finds the architecture that understands it.

Invariant: what is returned was checked field by field by the architecture's own file.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from homebox.model.architectures import Architecture, named, supported
from homebox.model.config import MAX_POSITIONS, ModelConfig
from homebox.model.files.config_fields import Fields
from homebox.model.files.json_file import read_json_file, show

TEXT = "text_config"  # where models that also see keep their decoder's configuration


def load_config(directory: Path) -> ModelConfig:
    """Read `config.json` (and the stop tokens of `generation_config.json`) of a model directory."""
    return parse_config(read_config(directory), str(directory / "config.json"))


def read_config(directory: Path) -> dict[str, Any]:
    """Return the decoded `config.json`, with the stop tokens of `generation_config.json`."""
    raw = read_json_file(directory / "config.json")
    generation = directory / "generation_config.json"
    if generation.exists():
        extra = read_json_file(generation)
        if extra.get("eos_token_id") is not None:
            raw = {**raw, "eos_token_id": extra["eos_token_id"]}
    return raw


def parse_config(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Check a decoded `config.json` and return the model's shape.

    Raises ModelFormatError that names `where` and the field.
    """
    fields = Fields(decoder_part(raw, where), where)
    return stretched(architecture_of(raw, where).parse(fields))


def stretched(config: ModelConfig) -> ModelConfig:
    """Return a configuration whose positions are those that its rotations were made to reach."""
    reach = [int(r.original * r.factor) for r in config.ropes if r.kind in ("dynamic", "yarn")]
    longest = min(max([config.max_positions, *reach]), MAX_POSITIONS)
    return replace(config, max_positions=longest)


def architecture_of(raw: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Return the architecture that a decoded `config.json` names.

    Raises ModelFormatError that lists those that there are.
    """
    classes = raw.get("architectures")
    if classes is not None:
        if not isinstance(classes, list) or not classes:
            Fields(raw, where).fail("architectures", f"must be a list, not {show(classes)}")
        for name in classes:
            _known(raw, where, "architectures", name)
    kind = decoder_part(raw, where).get("model_type")
    found = _known(raw, where, "model_type", kind)
    if kind != found.model_type:
        _refuse(raw, where, "model_type", kind)
    if raw.get(TEXT) is None and not all(name in found.classes for name in classes or ()):
        Fields(raw, where).fail("architectures", f"{show(classes)} is not of model_type {kind}")
    return found


def _known(raw: Mapping[str, Any], where: str, key: str, name: Any) -> Architecture:
    found = named(name) if isinstance(name, str) else None
    return _refuse(raw, where, key, name) if found is None else found


def _refuse(raw: Mapping[str, Any], where: str, key: str, name: Any) -> NoReturn:
    Fields(raw, where).fail(
        key, f"{show(name)} is not supported; supported architectures: {supported()}"
    )


def decoder_part(raw: Mapping[str, Any], where: str = "config.json") -> Mapping[str, Any]:
    """Return the configuration of the decoder: the whole, or its `text_config`.

    Tokens and `tie_word_embeddings` of the whole count where the part does not name them.
    """
    part = raw.get(TEXT)
    if part is None:
        return raw
    if not isinstance(part, dict):
        Fields(raw, where).fail(TEXT, f"must be an object, not {show(part)}")
    inherited = ("bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config")
    return {**{name: raw[name] for name in inherited if name in raw}, **part}

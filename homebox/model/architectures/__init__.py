"""The families of models that homebox runs: one file each, named as its `model_type`."""

from homebox.model.architectures import (
    gemma3,
    gpt_oss,
    granite,
    llama,
    ministral3,
    mistral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)
from homebox.model.architectures.base import Architecture

__all__ = ["ARCHITECTURES", "Architecture", "named", "supported"]

ARCHITECTURES: tuple[Architecture, ...] = tuple(
    module.ARCHITECTURE
    for module in (
        llama,
        mistral,
        ministral3,
        qwen2,
        qwen3,
        qwen3_moe,
        gemma3,
        gpt_oss,
        phi3,
        smollm3,
        olmo2,
        granite,
    )
)


def named(name: str) -> Architecture | None:
    """Return the architecture with this `model_type` or with this entry in `architectures`."""
    for one in ARCHITECTURES:
        if name == one.model_type or name in one.classes:
            return one
    return None


def supported() -> str:
    """Return the names of all architectures, for messages."""
    return ", ".join(one.model_type for one in ARCHITECTURES)

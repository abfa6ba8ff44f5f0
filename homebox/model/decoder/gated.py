"""The elementwise parts in which families differ: the gate of an MLP, and the end of the logits."""

from homebox.engine.graph.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.decoder.masked_attention import capped


def gated(activation: str, gate: Tensor, up: Tensor) -> Tensor:
    """Return the activation of the gate times up; both have one shape."""
    return (gate.silu() if activation == "silu" else gate.gelu_tanh()) * up


def capped_logits(config: ModelConfig, logits: Tensor) -> Tensor:
    """Return logits with the model's factor and its soft cap."""
    if config.logit_scale != 1.0:
        logits = logits * config.logit_scale
    return capped(logits, config.logit_cap)


def uncapped(config: ModelConfig, logits: Tensor, g: Tensor) -> Tensor:
    """Return the gradient of what `capped_logits` made these logits from, given theirs."""
    if config.logit_cap is not None:
        share = logits * (1.0 / config.logit_cap)
        g = g * (share * share * -1.0 + 1.0)
    return g if config.logit_scale == 1.0 else g * config.logit_scale

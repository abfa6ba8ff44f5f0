"""Chooses what a training step keeps in memory from the forward pass for the backward pass.

    none    everything that the backward pass reads
    matmul  inputs of layers and results of products with weights; norms, activations and the
            probabilities of attention are computed anew
    layer   inputs of layers only; each layer's forward pass runs a second time

Values computed anew have the same bits, so the choice costs time or memory and changes no result.
Kernels run in the order in which results are asked for, so a layer's second forward pass runs just
before its backward pass if gradients are asked for from the last layer to the first.
"""

from homebox.engine.graph.tensor import Tensor
from homebox.errors import ConfigError
from homebox.model.training.lora_layer import Gradients, Kept, LoraLayer

POLICIES = ("none", "matmul", "layer")


def check_policy(policy: str) -> str:
    """Return a policy's name; raises ConfigError if there is none of that name."""
    if policy not in POLICIES:
        raise ConfigError(f"checkpoint must be one of {', '.join(POLICIES)}, not {policy}")
    return policy


def layer_backward(
    policy: str, layer: LoraLayer, kept: Kept, g: Tensor
) -> tuple[Tensor, Gradients]:
    """Return the gradients of a layer's input and adapters, under a policy."""
    label = f"layers.{layer.index}"
    if policy == "matmul":
        kept = kept.again(label)
    elif policy == "layer":
        _, kept = layer.forward(kept.x.again(label))
    return layer.backward(kept, g)

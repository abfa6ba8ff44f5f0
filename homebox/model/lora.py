"""Names, shapes and first values of LoRA adapters (Hu et al., arXiv 2106.09685).

An adapter adds scale * B (A x) to every linear layer, scale = alpha / rank. Its tensors are called
"layers.{i}.{q,k,v,o,gate,up,down}.{A,B}": A float32 (rank, in), B float32 (out, rank).
Invariant: a fresh adapter is a pure function of (configuration, rank, seed), in integer arithmetic,
so that it has the same bits with every version of numpy; and it changes nothing, because B is 0.
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from homebox.errors import ModelFormatError
from homebox.model.config import PROJECTIONS, ModelConfig
from homebox.model.strictmath import Float32

DEFAULT_ALPHA = 32.0
MAX_RANK = 256


def adapter_shapes(config: ModelConfig, rank: int) -> dict[str, tuple[int, int]]:
    """Return the name and shape of every tensor of an adapter, in a fixed order."""
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(config.num_layers):
        for name in config.adapted(layer):
            outputs, inputs = config.projection_shape(name)
            shapes[f"layers.{layer}.{name}.A"] = (rank, inputs)
            shapes[f"layers.{layer}.{name}.B"] = (outputs, rank)
    return shapes


def init_adapter(config: ModelConfig, rank: int, seed: int) -> dict[str, Float32]:
    """Return a fresh adapter: A uniform in +-1/sqrt(in), B zero.

    Element j of tensor `name` is drawn from SplitMix64's output number j + 1 for the state
    sha256("homebox lora {seed} {name}")[:8] (little-endian): the top 24 bits, centred.
    """
    if not 1 <= rank <= MAX_RANK:
        raise ModelFormatError(f"adapter: rank must be from 1 to {MAX_RANK}, not {rank}")
    tensors = {}
    for name, shape in adapter_shapes(config, rank).items():
        if name.endswith(".B"):
            tensors[name] = np.zeros(shape, dtype=np.float32)
            continue
        key = hashlib.sha256(f"homebox lora {seed} {name}".encode()).digest()[:8]
        values = uniform(int.from_bytes(key, "little"), shape[0] * shape[1])
        # sqrt and the division are exactly defined by IEEE 754; one rounding to float32 follows.
        tensors[name] = (values / math.sqrt(shape[1])).astype(np.float32).reshape(shape)
    return tensors


def scaled(tensors: Mapping[str, Float32], scale: float) -> dict[str, Float32]:
    """Return an adapter with a smaller effect: every B times `scale`."""
    return {
        name: tensor * tensor.dtype.type(scale) if name.endswith(".B") else tensor
        for name, tensor in tensors.items()
    }


def uniform(state: int, count: int) -> npt.NDArray[np.float64]:
    """Return `count` numbers in (-1, 1): odd multiples of 2^-24."""
    steps = np.arange(1, count + 1, dtype=np.uint64)
    value = np.uint64(state) + steps * np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value = value ^ (value >> np.uint64(31))
    top = (value >> np.uint64(40)).astype(np.int64)
    return (2 * top + 1 - (1 << 24)).astype(np.float64) * 2.0**-24


def check_adapter(config: ModelConfig, tensors: Mapping[str, npt.NDArray[np.generic]]) -> int:
    """Return the rank of an adapter whose tensors are complete, finite and of the right shapes.

    Raises ModelFormatError naming the tensor.
    """
    first = f"layers.0.{PROJECTIONS[0]}.A"
    if first not in tensors:
        raise ModelFormatError(f"adapter: {first} is missing")
    shape = tensors[first].shape
    rank = int(shape[0]) if len(shape) == 2 else 0
    if not 1 <= rank <= MAX_RANK:
        raise ModelFormatError(f"adapter: {first}: shape {list(shape)} is none of an adapter")
    shapes = adapter_shapes(config, rank)
    for name in tensors:
        if name not in shapes:
            raise ModelFormatError(f"adapter: {ascii(name)[:80]} is not part of an adapter")
    for name, wanted in shapes.items():
        if name not in tensors:
            raise ModelFormatError(f"adapter: {name} is missing")
        array = tensors[name]
        if array.dtype != np.float32 or array.shape != wanted:
            raise ModelFormatError(
                f"adapter: {name}: {array.dtype} {list(array.shape)}, must be float32 "
                f"{list(wanted)}"
            )
        if not np.isfinite(array).all():
            raise ModelFormatError(f"adapter: {name}: holds NaN or infinity")
    return rank

"""Which modules of a model's files an adapter belongs to, and how fused modules are taken apart.

The one idea: a file's module computes one or several of our projections from one input, stacked by
rows. A low-rank product for it is cut apart by the rows of B; several products become one by
stacking A and placing the B on a diagonal. Invariant: both directions change no number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.architectures.checkpoint import MODULES
from homebox.model.config import ModelConfig
from homebox.model.lora import MAX_RANK, adapter_shapes, check_adapter
from homebox.model.strictmath import Float32

# A file's module -> our projections that it computes, in the order of its rows.
Fused = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Adapter:
    """An adapter in our names (`lora.adapter_shapes`), float32; its effect is alpha / rank."""

    tensors: dict[str, Float32]
    alpha: float
    rank: int
    made_for: str = ""  # what the file says of its base; nobody vouches for that


@dataclass(frozen=True)
class Module:
    """A linear layer in a model's files: `rows` of its outputs belong to each of `parts`."""

    layer: int
    name: str  # in the layer: self_attn.q_proj
    parts: tuple[str, ...]  # our names: layers.0.q
    rows: tuple[int, ...]
    inputs: int


@dataclass(frozen=True)
class Pair:
    """One low-rank product: scale * b @ a, a float32 (rank, in), b float32 (out, rank)."""

    a: Float32
    b: Float32
    scale: float


def modules_of(config: ModelConfig, fused: Fused) -> dict[str, Module]:
    """Return "layers.{i}.{module}" -> module, for all that an adapter of the model adapts."""
    found: dict[str, Module] = {}
    shapes = adapter_shapes(config, 1)
    inside = {part: name for name, parts in fused.items() for part in parts}
    for layer in range(config.num_layers):
        for projection, plain in MODULES.items():
            if f"layers.{layer}.{projection}.A" not in shapes:
                continue
            name = inside.get(projection, plain)
            parts = [f"layers.{layer}.{part}" for part in fused.get(name, (projection,))]
            rows = tuple(shapes[f"{part}.B"][0] for part in parts)
            inputs = shapes[f"{parts[0]}.A"][1]
            found[f"layers.{layer}.{name}"] = Module(layer, name, tuple(parts), rows, inputs)
    return found


def joined(module: Module, tensors: Mapping[str, Float32]) -> tuple[Float32, Float32]:
    """Return (A, B) of a file's module: A stacked, B on the diagonal of blocks."""
    parts = [(tensors[f"{part}.A"], tensors[f"{part}.B"]) for part in module.parts]
    if len(parts) == 1:
        return parts[0]
    a = np.concatenate([a for a, _ in parts])
    b = np.zeros((sum(module.rows), len(a)), np.float32)
    row = column = 0
    for _, block in parts:
        b[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return a, b


def separated(module: Module, pair: Pair) -> dict[str, Pair]:
    """Return our projection's name -> its product.

    What `joined` made comes apart at the rank that it had; of any other product all parts share A.
    """
    if len(module.parts) == 1:
        return {module.parts[0]: pair}
    ends = np.cumsum(module.rows)
    blocks = np.split(pair.b, ends[:-1])
    count = len(blocks)
    rank = pair.a.shape[0] // count
    if rank and rank * count == pair.a.shape[0] and _diagonal(blocks, rank):
        columns = [slice(i * rank, (i + 1) * rank) for i in range(count)]
        cut = [
            Pair(pair.a[own], block[:, own], pair.scale)
            for own, block in zip(columns, blocks, strict=True)
        ]
    else:
        cut = [Pair(pair.a, block, pair.scale) for block in blocks]
    return dict(zip(module.parts, cut, strict=True))


def _diagonal(blocks: Iterable[Float32], rank: int) -> bool:
    """Whether each block is zero outside of its own `rank` columns."""
    return not any(
        block[:, : i * rank].any() or block[:, (i + 1) * rank :].any()
        for i, block in enumerate(blocks)
    )


def combined(
    config: ModelConfig, pairs: Mapping[str, Pair], where: str, made_for: object = None
) -> Adapter:
    """Make one adapter of products of several ranks and scales; what is missing adds nothing.

    All get the largest rank, by rows of A and columns of B that are zero, and the largest scale,
    the others' share of it going into B. Raises ModelFormatError that begins with `where`.
    """
    if not pairs:
        raise ModelFormatError(f"{where}: tensors: holds none of an adapter for this model")
    rank = max(pair.a.shape[0] for pair in pairs.values())
    if rank > MAX_RANK:
        raise ModelFormatError(
            f"{where}: rank: {rank} is above the {MAX_RANK} allowed; reduce the adapter's rank"
        )
    scale = max(pair.scale for pair in pairs.values())
    tensors: dict[str, Float32] = {}
    for name, shape in adapter_shapes(config, rank).items():
        tensors[name] = np.zeros(shape, np.float32)
        pair = pairs.get(name[:-2])
        if pair is None:
            continue
        if name.endswith(".A"):
            tensors[name][: pair.a.shape[0]] = pair.a
        else:
            share = np.float32(pair.scale / scale)
            tensors[name][:, : pair.b.shape[1]] = pair.b * share
    try:
        check_adapter(config, tensors)
    except ModelFormatError as error:
        raise ModelFormatError(f"{where}: {error}") from None
    return Adapter(tensors, scale * rank, rank, _printable(made_for))


def _printable(name: object) -> str:
    """Return the name of a base as a file has it, safe to print; "" if that is none."""
    return "".join(c for c in name if c.isprintable())[:100] if isinstance(name, str) else ""

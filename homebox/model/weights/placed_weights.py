"""Weights on the device that multiplies with them: copied once when a model is loaded.

One idea: a weight is a tensor over some memory, so the same tensors over a copy of that memory are
the same weights elsewhere. What shares memory (q, k and v with their stack, a tied head with the
embedding) is copied once and shares memory again. Invariant: on the host nothing is copied.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from homebox.engine.graph.device import HOST, Buffer, Device
from homebox.engine.graph.formats import Format
from homebox.engine.graph.ops import Op, node
from homebox.engine.graph.tensor import Tensor
from homebox.errors import EngineError
from homebox.model.config import ModelConfig

Tell = Callable[[int, int], None]  # bytes that are there, and of how many


class PackedMatrices(Protocol):
    """Where the base's weights come from, in any format.

    `buffers` is their memory by names that are the same in every process; without it programs are
    not kept on disk. `tensors` has all of them by name, for whoever copies them to a device.
    """

    form: Format
    buffers: dict[str, Buffer]
    tensors: dict[str, Tensor]

    def tensor(self, name: str) -> Tensor:
        """Return a weight as a float32 tensor: (out, in), or (n,) for a norm or a bias.

        Names are those of `config.weight_shapes()`, save that q, k and v are stacked as qkv, and
        their biases as qkv_bias.
        """
        ...


class PlacedWeights:
    """A part of a model's weights on one device, as `PackedMatrices` for some layers."""

    def __init__(self, form: Format, tensors: dict[str, Tensor], names: Iterable[str] = ()) -> None:
        self.form = form
        self.tensors = tensors
        self.buffers: dict[str, Buffer] = {}
        for name in names:
            self.buffers[f"weights:{name}"] = memory_of(tensors[name])

    def tensor(self, name: str) -> Tensor:
        """Return a weight as `PackedWeights.tensor` does; KeyError for one of other layers."""
        return self.tensors[name]


def weights_on(
    device: Device,
    config: ModelConfig,
    weights: PackedMatrices,
    layers: range,
    tell: Tell | None = None,
) -> PackedMatrices:
    """Return the weights of some layers on a device; embedding and head go with the outer ones."""
    if device is HOST:
        return weights
    wanted = {
        name: tensor for name, tensor in weights.tensors.items() if needed(config, name, layers)
    }
    named = [name for name in wanted if f"weights:{name}" in weights.buffers]
    return PlacedWeights(weights.form, moved(wanted, device, tell), named)


def needed(config: ModelConfig, name: str, layers: range) -> bool:
    """Whether a stage of some layers reads the weight or segment of this name."""
    if name.startswith("layers."):
        return int(name.split(".")[1]) in layers
    last = layers.stop == config.num_layers
    if name == "embed":
        return layers.start == 0 or (last and config.tied)
    return last


def moved(
    tensors: Mapping[str, Tensor], device: Device, tell: Tell | None = None
) -> dict[str, Tensor]:
    """Return the same frozen tensors in memory of `device`; those that lie there stay."""
    found = {name: memory_of(tensor) for name, tensor in tensors.items()}
    there: dict[tuple[int, int], Buffer] = {}  # by address and size of the source
    copied: list[tuple[Buffer, Buffer]] = []
    missing = {(b.address, b.nbytes): b for b in found.values() if b.device is not device}
    # Larger ones first, so that their parts find them.
    ordered = sorted(missing.values(), key=lambda b: (-b.nbytes, b.address))
    total, done = sum(b.nbytes for b in _outer(ordered)), 0
    for source in ordered:
        part = _part_of(source, copied)
        if part is None:
            part = Buffer(source.count, source.dtype, dense=True, device=device)
            part.write(source.read())
            part.frozen = source.frozen
            copied.append((source, part))
            done += source.nbytes
            if tell is not None:
                tell(done, total)
        there[source.address, source.nbytes] = part
    return {
        name: _over(tensor, there.get((found[name].address, found[name].nbytes), found[name]))
        for name, tensor in tensors.items()
    }


def memory_of(tensor: Tensor) -> Buffer:
    """Return the memory of a weight, plain or packed."""
    source = tensor.node
    if source.op is Op.UNPACK:
        source = source.src[0]
    if source.op is not Op.BUFFER:
        raise EngineError(f"{tensor!r} is no weight in memory of its own")
    found: Buffer = source.arg
    return found


def _over(tensor: Tensor, buffer: Buffer) -> Tensor:
    """Return a weight over other memory."""
    source = tensor.node
    if source.op is Op.BUFFER:
        return Tensor(node(Op.BUFFER, source.dtype, source.shape, (), buffer))
    inner = source.src[0]
    memory = node(Op.BUFFER, inner.dtype, inner.shape, (), buffer)
    return Tensor(node(Op.UNPACK, source.dtype, source.shape, (memory,), source.arg))


def _inside(inner: Buffer, outer: Buffer) -> bool:
    return outer.address <= inner.address < outer.address + outer.nbytes


def _outer(buffers: Iterable[Buffer]) -> list[Buffer]:
    """Return the buffers that lie in no larger one of them, given largest first."""
    outer: list[Buffer] = []
    for buffer in buffers:
        if not any(_inside(buffer, other) for other in outer):
            outer.append(buffer)
    return outer


def _part_of(source: Buffer, copied: Iterable[tuple[Buffer, Buffer]]) -> Buffer | None:
    """Return the part of a copy that stands for `source`, if a copy holds it."""
    for original, copy in copied:
        if _inside(source, original):
            start = (source.address - original.address) // original.dtype.size
            return copy.part(start, source.count, source.dtype)
    return None

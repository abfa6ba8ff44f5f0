"""Puts a graph's memory onto another device, so that one graph can run on both."""

from collections.abc import Mapping, Sequence

from homebox.engine.graph.device import Block, Buffer, Device
from homebox.engine.graph.dtype import u8
from homebox.engine.graph.ops import Node, Op, node, toposort
from homebox.engine.graph.rewrite import with_sources
from homebox.engine.graph.tensor import Tensor


class Moved:
    """Copies of graphs whose buffers lie on a device; buffers that share memory share it there."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._blocks: dict[int, tuple[Block, Buffer]] = {}
        self._buffers: dict[Buffer, Buffer] = {}

    def tensors(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the same expressions over memory on the device, with today's contents."""
        done: dict[Node, Node] = {}
        for each in toposort([t.node for t in tensors]):
            if each.op is Op.BUFFER:
                moved = self.buffer(each.arg)
                done[each] = node(Op.BUFFER, each.dtype, each.shape, (), moved)
            else:
                done[each] = with_sources(each, tuple(done[s] for s in each.src))
        return [Tensor(done[t.node]) for t in tensors]

    def buffer(self, buffer: Buffer) -> Buffer:
        """Return the buffer's copy on the device."""
        if buffer in self._buffers:
            return self._buffers[buffer]
        block = buffer.block
        if id(block) not in self._blocks:
            whole = Buffer(block.nbytes, u8, device=self.device)
            whole.write(block.read(0, block.nbytes))
            self._blocks[id(block)] = (block, whole)
        whole = self._blocks[id(block)][1]
        made = whole.part(buffer.offset, buffer.count, buffer.dtype, buffer.frozen)
        self._buffers[buffer] = made
        return made

    def named(self, buffers: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return copies by the same names."""
        return {name: self.buffer(each) for name, each in buffers.items()}

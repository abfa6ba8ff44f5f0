"""What all kernels of products for work-groups begin with: the CPU's analysis, a SIMT emitter.

A group of a grouped product takes the number of its weight from memory and brings it into bounds,
so that whatever is read exists. Where there is no such weight sums are zero: loops over nothing
leave them so, or they are left out afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from homebox.engine.fusion.draft import Region
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Node, Sym, memory_of
from homebox.engine.graph.symbolic import Index, Loaded, of
from homebox.engine.kernels.contract_kernels import ContractLowering
from homebox.engine.kernels.packed_kernels import PackedLowering, Product
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Simt, Span


class ProductSimt(ContractLowering):
    """A product's lowering whose kernel is emitted through `s`; stands before other bases."""

    def __init__(
        self, region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
    ) -> None:
        super().__init__(region, realised, syms, "generic")
        self.s = SimtEmitter(realised, self.counters, syms)
        self.s.written.update(memory_of(n) for n in region.written)
        self.e = self.s
        self.target = target

    def place_outer(self, axis: int) -> tuple[Span, ...]:
        """Set the counters of the axes that only tell blocks of rows apart.

        Return the axis that the grid has for them, its `axis`-th; none if there is one block.
        """
        if not self.outer:
            return ()
        sizes = tuple(self.shape[i] for i in self.outer)
        self.s.spread(self.s.group(axis), [self.each[i] for i in self.outer], sizes)
        return (Span(sizes),)

    def within(self, flat: Index, group: Loaded | None) -> Index:
        """Return a place in a weight that exists: its number becomes a counter within bounds."""
        if group is None:
            return flat
        s, b = self.s, self.s.b
        counter = self.counters.loop(group.size)
        low = b.emit("max", dt.i64, 1, (s.integer(of(group)), b.int(0)))
        s.env[counter] = b.emit("min", dt.i64, 1, (low, b.int(group.size - 1)))
        step = flat.coefficient(group)
        return flat + of(group) * -step + of(counter) * step

    @contextmanager
    def existing(self, group: Loaded | None) -> Iterator[None]:
        """Open a loop that runs once if a block's weight exists, else never; it may hold barriers.

        All work-items of a work-group have the same block, so the bounds are equal for them.
        """
        if group is None:
            yield
            return
        s, b = self.s, self.s.b
        exists = s.mask(((of(group), group.size),))
        times = b.int(1) if exists is None else b.alu("where", exists, b.int(1), b.int(0))
        with b.loop(b.int(0), times):
            yield


class PackedSimt(ProductSimt, PackedLowering):
    """The same for products with packed weights."""

    def weights_within(self) -> list[Product]:
        """Return the products with weights that exist, once the counters of blocks are set."""
        found = []
        for each in self.products:
            first = self.within(each.packed.first, each.packed.group)
            found.append(replace(each, packed=replace(each.packed, first=first)))
        return found

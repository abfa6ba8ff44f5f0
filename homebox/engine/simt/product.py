"""What all kernels of products for work-groups begin with: the CPU's analysis, a SIMT emitter."""

from homebox.engine.fusion.draft import Region
from homebox.engine.graph.ops import Node, Sym, memory_of
from homebox.engine.kernels.contract_kernels import ContractLowering
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Simt


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

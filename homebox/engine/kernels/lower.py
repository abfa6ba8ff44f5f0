"""Lowers a region to linear IR for a CPU: explicit lanes, loops over work units.

A contraction gets register tiles over panels, everything else a map over its output. What is left
to a map although it is a sum of products is merely slower, never wrong.
"""

import logging

from homebox.engine.fusion.contract import packed_product
from homebox.engine.fusion.draft import Region
from homebox.engine.fusion.schedule import Lowered
from homebox.engine.graph.ops import Node, Op, Sym
from homebox.engine.kernels.attend_append import lower_unique
from homebox.engine.kernels.attend_kernels import lower_attend
from homebox.engine.kernels.contract_kernels import ContractLowering
from homebox.engine.kernels.map_kernels import MapLowering
from homebox.engine.kernels.pack_kernels import lower_pack
from homebox.engine.kernels.packed_kernels import PackedLowering

log = logging.getLogger(__name__)


def lower(region: Region, realised: frozenset[Node], syms: list[Sym], level: str) -> Lowered:
    """Return the kernel of a region for a CPU of this level (avx512, avx2, generic).

    `realised` are the nodes with memory, `syms` the run-time integers in the order of the vars
    buffer.
    """
    inside = realised - {region.root}
    if region.core is not None:
        packed = packed_product(region.core) is not None
        kind = PackedLowering if packed else ContractLowering
        lowered = kind(region, inside, syms, level).lower()
        if lowered is not None:
            return lowered
        log.info("no fast kernel fits the product behind %r; a slow one sums it", region.root)
    if region.root.op is Op.STORE and region.root.arg == "unique":
        lowered = lower_unique(region.root, inside, syms)
        if lowered is not None:
            return lowered
    if region.root.op is Op.ATTEND:
        return lower_attend(region.root, inside, syms, level)
    if region.root.op is Op.PACK:
        return lower_pack(region.root, inside, syms)
    return MapLowering(region.root, inside, syms).lower()

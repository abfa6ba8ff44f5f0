"""What is known while a graph is cut into kernels: regions so far, and which nodes get memory.

The passes that decide (`fuse`, `operands`, `merge`) all work on one `Draft`, one after the other.
"""

from dataclasses import dataclass

from homebox.engine.fusion.contract import classify, packed_product
from homebox.engine.fusion.prepare import operand_bases
from homebox.engine.fusion.schedule import FEW
from homebox.engine.graph.ops import Node, Op, is_name, numel_max, toposort
from homebox.engine.graph.rules import disabled


@dataclass(frozen=True, slots=True)
class Region:
    """One kernel to be: the node it writes, and the contraction at its heart, if any.

    `others` are further contractions with outputs of the same shape, which meet the first one on
    the way to the root. `resident` are small operands that the kernel computes for itself. `also`
    are further nodes that it writes, made from the root's elements (`twins`).
    """

    root: Node
    core: Node | None
    others: tuple[Node, ...] = ()
    resident: tuple[Node, ...] = ()
    also: tuple[Node, ...] = ()

    @property
    def cores(self) -> tuple[Node, ...]:
        """All contractions."""
        return () if self.core is None else (self.core, *self.others)

    @property
    def written(self) -> tuple[Node, ...]:
        """All nodes that get their memory from the kernel."""
        return (self.root, *self.also)


@dataclass(frozen=True, slots=True)
class Partition:
    """Regions in an order that respects every dependence, and the set of realised nodes."""

    regions: tuple[Region, ...]
    realised: frozenset[Node]
    roots: tuple[Node, ...]


def few_rows(core: Node) -> bool:
    """Whether a contraction has so few rows that it streams a packed weight once."""
    axes = classify(core)
    if axes is None or packed_product(core) is None:
        return False
    return numel_max(core.src[0].shape[i] for i in (*axes.batch, *axes.m)) <= FEW


def few_rows_beside(core: Node) -> bool:
    """Whether so few rows share a packed weight, be it one of several, that it is streamed."""
    axes = classify(core)
    if axes is None or packed_product(core) is None:
        return False
    return numel_max(core.src[0].shape[i] for i in axes.m) <= FEW


def is_forced(n: Node) -> bool:
    """Whether a node asks for memory itself."""
    return n.op in (Op.STORE, Op.COPY, Op.PACK, Op.ATTEND) and not is_name(n)


def merges(resident: bool) -> bool:
    """Whether kernels take over what a launch of its own would cost too much for (rule R5)."""
    return not resident and "R5" not in disabled()


class Draft:
    """The nodes of a graph, who uses them, which are realised, and the regions so far.

    Kernels of few rows compute small operands themselves if these may be `resident`.
    """

    def __init__(
        self, roots: list[Node], cores: set[Node], forced: set[Node], resident: bool
    ) -> None:
        self.roots = roots
        self.resident = resident
        self.merging = merges(resident)
        self.nodes = toposort(roots)
        self.cores = cores & set(self.nodes)
        self.users: dict[Node, list[Node]] = {}
        for each in self.nodes:
            for source in dict.fromkeys(each.src):
                self.users.setdefault(source, []).append(each)
        self.realised = {n for n in self.nodes if is_forced(n) and n.op is not Op.PACK}
        self.realised |= {*roots, *(forced & set(self.nodes))}
        for each in self.nodes:  # a store into something computed needs that in memory first
            if each.op is Op.STORE and each.src[0].op is not Op.BUFFER:
                self.realised.add(each.src[0])
        self.realised = {n for n in self.realised if n.op is not Op.BUFFER}
        self.readers: dict[Node, list[Node]] = {}  # operand -> the contractions that read it
        for core in self.cores:
            for base in operand_bases(core):
                self.readers.setdefault(base, []).append(core)
        self.bases = {base for base in self.readers if base.op is not Op.BUFFER}
        self.place = {n: i for i, n in enumerate(self.nodes)}
        self.short: set[Node] = set()  # sums that are computed wherever they are needed
        self.regions: dict[Node, Region] = {}

    def cone(self, root: Node) -> list[Node]:
        """Return the nodes that a region computes on the way, its root included."""
        found: dict[Node, None] = {root: None}
        stack = [root]
        while stack:
            each = stack.pop()
            for source in each.src:
                if source in found or source in self.realised or source.op is Op.BUFFER:
                    continue
                found[source] = None
                stack.append(source)
        return list(found)

"""Lowers regions to linear IR for SIMT devices: scalar work-items in groups, barriers between.

Analysis and expressions are those of the CPU lowering with one lane; only who computes which
element differs. A contraction becomes tiles in local memory, a kernel with row sums gets sixteen
work-items per row, anything else one per element.
Invariant: every work-item of a group reaches every barrier: none stands under a condition, and
loops around one have bounds that are equal for the group. Work-items beyond the edge compute
something that is never written.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.contract import packed_product
from homebox.engine.fusion.draft import Region
from homebox.engine.graph.indexing import Access, Conditions, accesses, holds
from homebox.engine.graph.ops import Dim, Node, Op, Sym, memory_of, size_max
from homebox.engine.graph.symbolic import Index, Loaded, Loop, flatten, of, replace
from homebox.engine.kernels.attend_append import number as number_of
from homebox.engine.kernels.loops import LANES
from homebox.engine.kernels.map_kernels import MapLowering
from homebox.engine.simt.attend import lower_attend
from homebox.engine.simt.gemm import lower_gemm
from homebox.engine.simt.gemm_mma import lower_mma
from homebox.engine.simt.gemv import lower_gemv
from homebox.engine.simt.pack import lower_pack
from homebox.engine.simt.simt_contract import ContractSimt
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import (
    Flat,
    LoweredSimt,
    Rows,
    Simt,
    Span,
    flat_schedule,
    most,
    rows_schedule,
)


def lower_simt(
    region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
) -> LoweredSimt:
    """Return the kernel of a region for work-items; its bits are those of the CPU's kernel.

    `realised` are the nodes with memory, `syms` the run-time integers in the order of the vars
    buffer. Raises EngineError if the target's local memory is too small.
    """
    inside = realised - set(region.written)
    if region.core is not None:
        if packed_product(region.core) is not None:
            lowered = lower_gemv(region, inside, syms, target)
            lowered = lowered or lower_mma(region, inside, syms, target)
            lowered = lowered or lower_gemm(region, inside, syms, target)
        else:
            lowered = ContractSimt(region, inside, syms, target).lower_simt()
        if lowered is not None:
            return lowered
    if region.root.op is Op.ATTEND:
        return lower_attend(region.root, inside, syms, target)
    if region.root.op is Op.PACK:
        return lower_pack(region, inside, syms, target)
    return MapSimt(region.root, inside, syms, target).lower_simt()


WIDE = 4  # elements of a work-item that lie side by side: 16 bytes
MANY = 1 << 15  # elements from which there are work-items enough with four each


@dataclass(frozen=True, slots=True)
class Walked:
    """An output's index, whose vector loop is `block` times the width of a row, plus `lane`."""

    index: tuple[Index, ...]
    block: Loop
    lane: Loop
    position: Index


class MapSimt(MapLowering):
    """Elementwise kernels, row and column reductions, copies and stores."""

    def __init__(
        self, root: Node, realised: frozenset[Node], syms: list[Sym], target: Simt
    ) -> None:
        super().__init__(root, realised, syms)
        self.s = SimtEmitter(realised, self.counters, syms)
        self.s.written.add(memory_of(root))
        self.e = self.s
        self.target = target

    def lower_simt(self) -> LoweredSimt:
        """Return the kernel: sixteen work-items per row if sums need them, else one per element."""
        each = [self.counters.loop(size_max(d)) for d in self.shape]
        reads = accesses(self.root, tuple(of(x) for x in each), self.realised, self.counters)
        flats = [r.flat for r in reads] + [i for r in reads for i in self._extra(r)]
        groups = self._groups(each, flats)
        counters, index = self._merge(groups)
        sizes = [self._size(g) for g in groups]
        vector = self._vector(counters, index, sizes)
        indexed = self.root.op is Op.STORE and len(self.root.src) > 2
        sequential = self._sequential(len(sizes)) if indexed and not self._distinct() else 0
        if vector is not None and vector < sequential:
            vector = None
        walk = self._walked(counters, index, sizes, vector, LANES)
        inline = [
            r for r in accesses(self.root, walk.index, self.realised, self.counters) if r.inline
        ]
        shared = [r.node for r in inline if not any(i.depends(walk.lane) for i in r.index)]
        if not shared:
            if self._even(index, inline, counters, sizes, vector):
                return self._wide(counters, index, sizes)
            return self._flat(counters, index, sizes, sequential, bool(inline))
        length = max(size_max(n.src[0].shape[n.arg[1][-1]]) for n in shared)
        outer = [i for i in range(sequential, len(sizes)) if i != vector]
        schedule = rows_schedule(self.target, [sizes[i] for i in outer], length)
        if schedule.width != LANES:
            walk = self._walked(counters, index, sizes, vector, schedule.width)
        return self._rows(walk, counters, sizes, (vector, sequential), schedule)

    def _walked(
        self,
        counters: list[Loop],
        index: tuple[Index, ...],
        sizes: list[Dim],
        vector: int | None,
        width: int,
    ) -> Walked:
        """Return the index with the vector loop cut into blocks of `width` work-items."""
        lane = self.counters.loop(width)
        if vector is None:
            return Walked(index, self.counters.loop(1), lane, of(lane))
        block = self.counters.loop(-(-size_max(sizes[vector]) // width))
        position = of(block) * width + of(lane)
        moved = tuple(replace(i, counters[vector], position) for i in index)
        return Walked(moved, block, lane, position)

    def _distinct(self) -> bool:
        """Whether the places of an indexed store are seen to differ, so that no order is needed."""
        rows = self.root.src[2]
        if [d for d in rows.shape if d != 1] != list(rows.shape[:1]):
            return False
        counter = self.counters.loop(size_max(rows.shape[0]))
        place = number_of(rows, (of(counter), *(Index(0) for _ in rows.shape[1:])))
        return place is not None and place.linear_in(counter) and place.coefficient(counter) != 0

    def _even(
        self,
        index: tuple[Index, ...],
        inline: list[Access],
        counters: list[Loop],
        sizes: list[Dim],
        vector: int | None,
    ) -> bool:
        """Whether there are many elements, and four neighbours lie side by side wherever read."""
        if vector is None or inline or self._indexed() or vector != len(sizes) - 1:
            return False
        size = sizes[vector]
        if not isinstance(size, int) or size % WIDE or most(sizes) < MANY:
            return False
        if any(n.op is Op.UNPACK for n in self._inside()):
            return False
        counter = counters[vector]
        return not any(
            r.inline
            or any(i.depends(counter) for i, _ in r.conditions)
            or not r.flat.linear_in(counter)
            or r.flat.coefficient(counter) not in (0, 1)
            for r in accesses(self.root, index, self.realised, self.counters)
        )

    def _inside(self) -> list[Node]:
        """Return the nodes that the kernel computes on the way."""
        found: dict[Node, None] = {self.root: None}
        stack = [self.root]
        while stack:
            for source in stack.pop().src:
                if source not in found and source not in self.realised:
                    found[source] = None
                    stack.append(source)
        return list(found)

    def _wide(
        self, counters: list[Loop], index: tuple[Index, ...], sizes: list[Dim]
    ) -> LoweredSimt:
        """Give four elements that lie side by side to each work-item."""
        s, b = self.s, self.s.b
        size = sizes[-1]
        lane, block = self.counters.loop(WIDE), self.counters.loop(size_max(size) // WIDE)
        position = of(block) * WIDE + of(lane)
        moved = tuple(replace(i, counters[-1], position) for i in index)
        outer = [*sizes[:-1], size_max(size) // WIDE]
        number = b.add(b.mul(s.group(), b.int(self.target.group)), s.local())
        s.spread(number, [*counters[:-1], block], outer)
        s.width = WIDE
        with ExitStack() as nest:
            total = s.product(outer)
            if total.constant is None or total.constant % self.target.group:
                nest.enter_context(b.when(b.alu("lt", number, total)))
            nest.enter_context(s.lanes(lane))
            self._element(moved, (), None)
        schedule = Flat(self.target.group, WIDE)
        grid = (Span(tuple(outer), schedule.group),)
        return LoweredSimt(b.kernel((schedule.group,)), tuple(s.memory), grid, schedule)

    def _flat(
        self,
        counters: list[Loop],
        index: tuple[Index, ...],
        sizes: list[Dim],
        sequential: int,
        summed: bool,
    ) -> LoweredSimt:
        """Give each element (all elements at one place of an indexed store) to a work-item."""
        s, b, outer = self.s, self.s.b, sizes[sequential:]
        schedule = flat_schedule(self.target, outer, summed)
        width = schedule.group
        number = b.add(b.mul(s.group(), b.int(width)), s.local())
        total = s.product(outer)
        inside = b.alu("lt", number, total)
        grid = (Span(tuple(outer), width),)
        with ExitStack() as nest:
            s.alone = True
            if summed and not sequential:
                # Work-items beyond the edge sum as well: compilers for CPUs would give a part of a
                # vector a loop of its own, and one was seen to sum in another order there.
                number = b.emit("min", number.dtype, 1, (number, b.add(total, b.int(-1))))
                s.spread(number, counters, outer)
                self._element(index, (), inside)
            else:
                s.spread(number, counters[sequential:], outer)
                nest.enter_context(b.when(inside))
                self._loops(counters, sizes, sequential, lambda: self._element(index, (), None))
        return LoweredSimt(b.kernel((width,)), tuple(s.memory), grid, schedule)

    def _rows(
        self,
        walk: Walked,
        counters: list[Loop],
        sizes: list[Dim],
        order: tuple[int | None, int],
        schedule: Rows,
    ) -> LoweredSimt:
        """Give each row to sixteen work-items, or to a group, which walk it side by side."""
        s, b, (vector, sequential) = self.s, self.s.b, order
        outer = [i for i in range(sequential, len(sizes)) if i != vector]
        spans = [sizes[i] for i in outer]
        rows, width, total = schedule.rows, schedule.width, s.product(spans)
        if width == LANES:
            line, place = s.share_rows(rows)
        else:
            room = self.target.local_memory // 2
            line, place = b.int(0), s.share_group(width, schedule.longest, room)
        number = b.add(b.mul(s.group(), b.int(rows)), line)
        mine: Value | None = None
        if rows > 1 and (total.constant is None or total.constant % rows):
            mine = b.alu("lt", number, total)
            number = b.emit("min", number.dtype, 1, (number, b.add(total, b.int(-1))))
        s.spread(number, [counters[i] for i in outer], spans)

        def row() -> None:
            if vector is None:
                first = b.alu("lt", place, b.int(1))
                self._element(walk.index, (), first if mine is None else b.alu("and", mine, first))
                return
            s.env[walk.lane] = place
            edge = ((walk.position, sizes[vector]),)
            size = s.extent(sizes[vector])
            up = s.divide(b.add(size, b.int(width - 1)), b.int(width))[0]
            if size.constant is not None:
                up = b.int(-(-size.constant // width))
            with b.loop(b.int(0), up) as i, s.moving(walk.lane):
                s.env[walk.block] = i
                self._element(walk.index, tuple(c for c in edge if not holds(c)), mine)

        self._loops(counters, sizes, sequential, row)
        grid = (Span(tuple(spans), rows),)
        return LoweredSimt(b.kernel((rows * width,)), tuple(s.memory), grid, schedule)

    def _loops(
        self, counters: list[Loop], sizes: list[Dim], sequential: int, body: Callable[[], None]
    ) -> None:
        """Run the body in loops over the first counters, which must run in order."""
        with ExitStack() as nest:
            for counter, size in zip(counters[:sequential], sizes[:sequential]):
                loop = self.s.b.loop(self.s.b.int(0), self.s.extent(size))
                self.s.env[counter] = nest.enter_context(loop)
            body()

    def _element(self, index: tuple[Index, ...], edge: Conditions, mine: Value | None) -> None:
        """Compute one element and write it if it is inside of all edges and `mine`."""
        s, b = self.s, self.s.b
        value = s.value(self.source, index, edge)
        if self.root.op is not Op.STORE:
            s.store(self.root, flatten(index, self.shape), value, self._both(mine, s.mask(edge)))
            return
        target, place, inside = self.root.src[0], index, edge
        if len(self.root.src) > 2:
            rows = self.root.src[2]
            row = of(Loaded(rows, index[: len(rows.shape)]))
            place = (row, *index[len(rows.shape) :])
            inside = (*edge, (row, target.shape[0]))
        with ExitStack() as guard:
            mask = self._both(mine, s.mask(inside))
            if mask is not None:
                guard.enter_context(b.when(mask))
            if self.root.arg == "add":
                value = b.alu("add", s.load(target, place, ()), value)
            s.store(target, flatten(place, target.shape), value, None)

    def _both(self, a: Value | None, b: Value | None) -> Value | None:
        if a is None or b is None:
            return a if b is None else b
        return self.s.b.alu("and", a, b)

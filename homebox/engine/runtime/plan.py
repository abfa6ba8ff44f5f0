"""Orders regions and gives their results places in memory.

Order: sources before users, and every read of a buffer's old contents before the kernel that
overwrites it. Memory: temporaries live in one arena and share bytes if their lives do not overlap.
"""

from collections.abc import Iterable, Mapping, Sequence

from homebox.engine.fusion.draft import Partition, Region
from homebox.engine.fusion.hazards import overlaps
from homebox.engine.graph.ops import Node, Op, memory_of, numel_max
from homebox.errors import EngineError

ALIGNMENT = 64


def reads_of(region: Region, realised: frozenset[Node]) -> set[Node]:
    """Return the nodes (buffers, stores, realised values) that a region reads from memory."""
    found: set[Node] = set()
    seen = set(region.written)
    stack = [*region.written]
    while stack:
        for source in stack.pop().src:
            if source in region.written:
                continue
            if source.op is Op.BUFFER or source in realised:
                found.add(source)
            elif source not in seen:
                seen.add(source)
                stack.append(source)
    return found


def order_regions(cut: Partition) -> list[Region]:
    """Return the regions in an order in which they can run; raise EngineError on a cycle."""
    regions = list(cut.regions)
    by_root = {n: i for i, r in enumerate(regions) for n in r.written}
    reads = [reads_of(r, cut.realised) for r in regions]
    readers: dict[Node, list[int]] = {}
    for i, nodes in enumerate(reads):
        for each in nodes:
            readers.setdefault(each, []).append(i)
    near = _neighbourhoods(readers)
    before: list[set[int]] = []
    for i, region in enumerate(regions):
        needed = {by_root[n] for n in reads[i] if n in by_root}
        if region.root.op is Op.STORE:
            for target in near.get(region.root.src[0], []):
                if overlaps(target, region.root.src[0]):
                    needed.update(j for j in readers[target] if j != i)
        before.append(needed)
    done: set[int] = set()
    out: list[Region] = []
    state = [0] * len(regions)
    for start in range(len(regions)):
        stack = [start]
        while stack:
            i = stack[-1]
            if i in done:
                stack.pop()
                continue
            waiting = [j for j in sorted(before[i], reverse=True) if j not in done]
            if not waiting:
                stack.pop()
                done.add(i)
                out.append(regions[i])
                continue
            if state[i]:
                raise EngineError(
                    f"{regions[i].root!r} overwrites memory that a later value still needs; "
                    "copy the old value first with .contiguous()"
                )
            state[i] = 1
            stack.extend(waiting)
    return out


def _neighbourhoods(read: Iterable[Node]) -> dict[Node, list[Node]]:
    """Return for each node the ones that may share its memory, itself among them."""
    near: dict[Node, list[Node]] = {n: [n] for n in read if n.op is not Op.BUFFER}
    group: list[Node] = []
    end = 0
    buffers = [n for n in read if n.op is Op.BUFFER]
    for each in sorted(buffers, key=lambda n: n.arg.address):
        if each.arg.address >= end:
            group = []
        group.append(each)
        near[each] = group
        end = max(end, each.arg.address + each.arg.nbytes)
    return near


def place(
    regions: Sequence[Region], realised: frozenset[Node], fixed: Mapping[Node, object]
) -> tuple[dict[Node, int], int]:
    """Return byte offsets into one arena for all results that have no memory yet, and its size."""
    first: dict[Node, int] = {}
    last: dict[Node, int] = {}
    for i, region in enumerate(regions):
        for each in {memory_of(n) for n in (*reads_of(region, realised), *region.written)}:
            if each.op is Op.BUFFER or each in fixed:
                continue
            first.setdefault(each, i)
            last[each] = i
    ending: dict[int, list[Node]] = {}
    for each, i in last.items():
        ending.setdefault(i, []).append(each)
    starting: dict[int, list[Node]] = {}
    for each, i in first.items():
        starting.setdefault(i, []).append(each)
    arena = _Arena()
    offsets: dict[Node, int] = {}
    for i in range(len(regions)):
        for each in starting.get(i, []):
            offsets[each] = arena.take(size_in_bytes(each))
        for each in ending.get(i, []):
            arena.give(offsets[each], size_in_bytes(each))
    return offsets, arena.size


def size_in_bytes(n: Node) -> int:
    """Return the bytes behind a node, rounded up to whole cache lines."""
    size = numel_max(n.shape) * n.dtype.size
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


class _Arena:
    """Best-fit allocation over offsets; freed neighbours join."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []  # (offset, size), sorted by offset
        self.size = 0

    def take(self, size: int) -> int:
        fitting = [(s, o) for o, s in self.free if s >= size]
        if fitting:
            s, o = min(fitting)
            self.free.remove((o, s))
            if s > size:
                self.free.append((o + size, s - size))
                self.free.sort()
            return o
        if self.free and sum(self.free[-1]) == self.size:
            o, s = self.free.pop()
            self.size = o + size
            return o
        o = self.size
        self.size += size
        return o

    def give(self, offset: int, size: int) -> None:
        self.free.append((offset, size))
        self.free.sort()
        joined: list[tuple[int, int]] = []
        for o, s in self.free:
            if joined and sum(joined[-1]) == o:
                joined[-1] = (joined[-1][0], joined[-1][1] + s)
            else:
                joined.append((o, s))
        self.free = joined

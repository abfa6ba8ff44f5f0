"""How the attention kernel reads keys and values: 16 numbers that lie side by side.

Keys are read as panels of 16 positions, values as panels of 16 channels, each in blocks of 64
positions. `key_read` and `value_read` follow a graph through movement, page tables, conversions and
scales down to memory, and say where a panel lies; if it does not lie so, `packed_keys` and
`packed_values` copy it.
Invariant: what a `Read` describes are the graph's own values, to the bit.
"""

from dataclasses import dataclass

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.indexing import Conditions, Counters, gathered, through
from homebox.engine.graph.ops import MOVEMENT, Node, Op, Sym, is_name, numel_max
from homebox.engine.graph.rules import scalar
from homebox.engine.graph.symbolic import ZERO, Index, Loop, flatten, of
from homebox.engine.graph.tensor import Tensor

BLOCK = 64  # positions that are worked on at once
PANEL = 16
GROUP = 32  # channels that share a scale


@dataclass(frozen=True, slots=True)
class Read:
    """Where numbers lie: element `flat` of the memory of `base` seen as `dtype`, times a scale.

    Where a condition fails the number is 0; conditions depend on the block only.
    """

    base: Node
    dtype: DType
    flat: Index
    conditions: Conditions
    scale: "Read | None" = None


@dataclass(frozen=True, slots=True)
class Walk:
    """The counters of a read: batch, head, block of 64 positions, then the place inside.

    Keys: position = 64 block + 16 panel + lane, channel = size of a group * group + step.
    Values: position = 64 block + step, channel = size of a group * group + 16 panel + lane.
    """

    batch: Loop
    head: Loop
    block: Loop
    panel: Loop
    lane: Loop
    group: Loop
    step: Loop
    width: int  # channels of a group
    index: tuple[Index, ...]  # of the element (B, H, L, D)

    @property
    def inner(self) -> tuple[Loop, ...]:
        """The counters inside of a block."""
        return (self.panel, self.lane, self.group, self.step)


def walk(n: Node, counters: Counters, keys: bool) -> Walk | None:
    """Return counters for keys or values (B, H, L, D); None if sizes do not fit."""
    if any(isinstance(d, Sym) for d in n.shape):
        return None
    batches, heads, length, dim = (d for d in n.shape if isinstance(d, int))
    if length % BLOCK:
        return None
    batch, head = counters.loop(batches), counters.loop(heads)
    block, lane = counters.loop(length // BLOCK), counters.loop(PANEL)
    first = of(batch), of(head)
    if keys:
        width = GROUP if dim % GROUP == 0 else dim
        panel, step = counters.loop(BLOCK // PANEL), counters.loop(width)
        group = counters.loop(dim // width)
        place = of(block) * BLOCK + of(panel) * PANEL + of(lane)
        index = (*first, place, of(group) * width + of(step))
    else:
        panels = -(-dim // PANEL)
        width = GROUP if panels % 2 == 0 else PANEL
        panel, step = counters.loop(width // PANEL), counters.loop(BLOCK)
        group = counters.loop(panels * PANEL // width)
        channel = of(group) * width + of(panel) * PANEL + of(lane)
        index = (*first, of(block) * BLOCK + of(step), channel)
    return Walk(batch, head, block, panel, lane, group, step, width, index)


def key_read(n: Node, w: Walk | None = None) -> Read | None:
    """Return how keys (B, H, L, D) are read along a walk; None if they do not lie in panels."""
    w = w or walk(n, Counters(), True)
    found = None if w is None else trace(n, w.index)
    if w is None or found is None or not _fits(found, w):
        return None
    scale = found.scale
    if scale is None:  # channels are walked in one go
        even = found.flat.coefficient(w.group) == w.width * found.flat.coefficient(w.step)
        return found if even or w.group.size == 1 else None
    beside = scale.flat.coefficient(w.lane) == 1 and not scale.flat.depends(w.step)
    return found if beside and w.width == GROUP else None


def value_read(n: Node, w: Walk | None = None) -> Read | None:
    """Return how values (B, H, L, D) are read along a walk; None if they do not lie in panels."""
    w = w or walk(n, Counters(), False)
    found = None if w is None else trace(n, w.index)
    if w is None or found is None or not _fits(found, w):
        return None
    scale = found.scale
    if scale is None:
        return found
    free = not scale.flat.depends(w.lane) and not scale.flat.depends(w.panel)
    beside = free and scale.flat.coefficient(w.step) == 1
    return found if beside and w.width == GROUP else None


def _fits(found: Read, w: Walk) -> bool:
    """Whether 16 lanes lie side by side, all else moves in steps, and everything is in memory."""
    for read in (found, found.scale):
        if read is None:
            continue
        if any(i.depends(x) for i, _ in read.conditions for x in w.inner):
            return False
        least, most = read.flat.bounds(valid=True)
        nbytes = numel_max(read.base.shape) * read.base.dtype.size
        if least < 0 or most >= nbytes // read.dtype.size:
            return False
        if not all(read.flat.linear_in(x) for x in w.inner):
            return False
    return found.flat.coefficient(w.lane) == 1


# -- from graph to memory -------------------------------------------------------------------------


def trace(n: Node, index: tuple[Index, ...]) -> Read | None:
    """Return where n[index] lies in memory, if it is a stored number, perhaps times another."""
    n, index, conditions = descend(n, index, ())
    if n.op is Op.MUL:
        for number, scale in (n.src, n.src[::-1]):
            found = _plain(number, index, conditions)
            other = _from_bytes(scale, index, conditions)
            if found is not None and other is not None:
                return Read(found.base, found.dtype, found.flat, found.conditions, other)
        return None
    return _plain(n, index, conditions)


def descend(
    n: Node, index: tuple[Index, ...], conditions: Conditions
) -> tuple[Node, tuple[Index, ...], Conditions]:
    """Follow movement, names and page tables down; return node, index and what must hold."""
    while n.op in MOVEMENT or n.op is Op.GATHER or is_name(n):
        if n.op is Op.GATHER:
            index, inside = gathered(n, index)
            conditions = (*conditions, inside)
        elif n.op is Op.RESHAPE and (kept := _unsqueezed(n, index)) is not None:
            index = kept
        elif not is_name(n):
            index, more = through(n, index)
            conditions = (*conditions, *more)
        n = n.src[0]
    return n, index, tuple(dict.fromkeys(conditions))


def _unsqueezed(n: Node, index: tuple[Index, ...]) -> tuple[Index, ...] | None:
    """Return the index before a reshape that only adds or drops axes of size 1, else None.

    Panels reach beyond an axis whose size is no multiple of 16; here they may, for nothing mixes.
    """
    old, new = n.src[0].shape, n.shape
    if [d for d in old if d != 1] != [d for d in new if d != 1]:
        return None
    wide = iter([i for i, d in zip(index, new, strict=True) if d != 1])
    return tuple(ZERO if d == 1 else next(wide) for d in old)


def _plain(n: Node, index: tuple[Index, ...], conditions: Conditions) -> Read | None:
    """Return where a number lies that is float32, or converted to it from another type."""
    n, index, conditions = descend(n, index, conditions)
    kind = n.dtype
    if n.op is Op.CAST and kind is dt.f32:
        n, index, conditions = descend(n.src[0], index, conditions)
        kind = n.dtype
        if n.op is Op.BITCAST:
            n, index, conditions = descend(n.src[0], index, conditions)
    in_memory = n.op in (Op.BUFFER, Op.STORE, Op.COPY)
    if not in_memory or kind not in (dt.f32, dt.f16, dt.bf16, dt.i8):
        return None
    return Read(n, kind, flatten(index, n.shape), conditions)


def _from_bytes(n: Node, index: tuple[Index, ...], conditions: Conditions) -> Read | None:
    """Return where a float32 lies of which the graph puts four bytes together."""
    n, index, conditions = descend(n, index, conditions)
    if n.op is not Op.BITCAST or n.dtype is not dt.f32 or n.src[0].dtype is not dt.u32:
        return None
    terms: dict[int, Index] = {}
    base: Node | None = None
    stack = [(n.src[0], index, conditions)]
    while stack:
        each, at, inside = descend(*stack.pop())
        if each.op is Op.ADD and len(terms) + len(stack) < 4:
            stack.extend((s, at, inside) for s in each.src)
            continue
        factor = 1
        if each.op is Op.MUL and (known := scalar(each.src[1])) is not None:
            factor = int(known)
            each, at, inside = descend(each.src[0], at, inside)
        if each.op is not Op.CAST or each.src[0].dtype is not dt.u8:
            return None
        each, at, inside = descend(each.src[0], at, inside)
        if each.op not in (Op.BUFFER, Op.STORE, Op.COPY) or base not in (None, each):
            return None
        base, conditions = each, inside
        terms[factor] = flatten(at, each.shape)
    if base is None or sorted(terms) != [1 << 8 * i for i in range(4)]:
        return None
    first = terms[1]
    if any(terms[1 << 8 * i] != first + i for i in range(4)):
        return None
    aligned = first.const % 4 == 0 and all(c % 4 == 0 for _, c in first.terms)
    return Read(base, dt.f32, first // 4, conditions) if aligned else None


# -- copies in the right order --------------------------------------------------------------------


def packed_keys(k: Tensor) -> Tensor:
    """Return keys (B, H, L, D) copied into panels of 16 positions, L rounded up to blocks."""
    batch, heads, length, dim = k.shape
    assert isinstance(length, int)
    rows = -(-length // BLOCK) * BLOCK
    panels = k.pad(2, 0, rows - length).reshape((batch, heads, rows // PANEL, PANEL, dim))
    lying = panels.permute(0, 1, 2, 4, 3).contiguous()
    return lying.permute(0, 1, 2, 4, 3).reshape((batch, heads, rows, dim))


def packed_values(v: Tensor) -> Tensor:
    """Return values (B, H, L, D) copied into panels of 16 channels, L rounded up to blocks."""
    batch, heads, length, dim = v.shape
    assert isinstance(length, int) and isinstance(dim, int)
    rows, wide = -(-length // BLOCK) * BLOCK, -(-dim // PANEL) * PANEL
    padded = v.pad(2, 0, rows - length).pad(3, 0, wide - dim)
    panels = padded.reshape((batch, heads, rows, wide // PANEL, PANEL))
    lying = panels.permute(0, 1, 3, 2, 4).contiguous()
    return lying.permute(0, 1, 3, 2, 4).reshape((batch, heads, rows, wide)).slice(3, 0, dim)

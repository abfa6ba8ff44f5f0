"""Products with one of several weights: which one a block of rows takes, and where it lies.

A grouped product gathers a matrix for each block out of several, by a number that is loaded from
memory (`packed` knows those of packed weights). Weights that are frozen are never gathered: kernels
load the number and read behind the GATHER, from the weights themselves or from panels of them all.
Invariant: the number moves with blocks of rows only, so that it is one for a whole tile.
"""

from homebox.engine.fusion import packed as packing
from homebox.engine.fusion.contract import Axes, Operand, loops, sides
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Counters
from homebox.engine.graph.ops import ELEMENTWISE, LEAF, MOVEMENT, Node, Op, is_name
from homebox.engine.graph.symbolic import Index, Loaded, Loop, flatten, of

MOST_TO_CHOOSE = 16  # nodes from memory to the number of a weight


def grouped_operand(
    n: Node, index: tuple[Index, ...], fixed: tuple[Loop, ...]
) -> tuple[Operand, Loaded] | None:
    """Follow a gather out of frozen weights down to them; return what is read, and which weight.

    The number of the weight must not depend on the loops in `fixed`. None if this is not so.
    """
    found, place, conditional = packing.follow(n, index)
    if found.op is not Op.GATHER or len(found.src[1].shape) != 1 or conditional:
        return None
    group, place = packing.chosen_weight(found, place)
    weights, place, conditional = packing.follow(found.src[0], place)
    if not _is_frozen(weights) or any(of(group).depends(x) for x in fixed):
        return None
    return Operand(weights, flatten(place, weights.shape), conditional), group


def _is_frozen(n: Node) -> bool:
    """Whether a node is a weight, or a copy of one in another order."""
    while n.op in MOVEMENT or n.op is Op.COPY:
        n = n.src[0]
    return n.op is Op.BUFFER and bool(n.arg.frozen) and n.dtype is dt.f32


def blocks_only(flat: Index, loop: Loop) -> bool:
    """Whether a counter of blocks moves a place by a coefficient, or by what is loaded for it."""
    return flat.linear_in(loop) or all(
        isinstance(a, (Loop, Loaded)) or not of(a).depends(loop) for a, _ in flat.terms
    )


def weights_beside(c: Node, axes: Axes) -> tuple[Operand, Loaded] | None:
    """Return what a contraction reads of several weights, and which; None if there is just one."""
    each = loops(c.src[0].shape, Counters())
    index = tuple(of(x) for x in each)
    fixed = tuple(each[i] for i in (*axes.k, axes.n))
    return grouped_operand(sides(c, axes)[1], index, fixed)


def chooser(group: Loaded | None) -> list[Node]:
    """Return the node that must lie in memory so that a number of a weight can be loaded.

    None must where a few operations make it from what lies there.
    """
    if group is None:
        return []
    held: Node = group.value
    while held.op in MOVEMENT:
        held = held.src[0]
    inside = {held}
    waiting = [held]
    while waiting:
        each = waiting.pop()
        if each.op in LEAF or each.op is Op.STORE or (each.op is Op.COPY and not is_name(each)):
            continue
        plain = each.op in ELEMENTWISE or each.op in MOVEMENT or is_name(each)
        if not plain or len(inside) > MOST_TO_CHOOSE:
            return [held]
        waiting += [s for s in each.src if s not in inside]
        inside.update(each.src)
    return []

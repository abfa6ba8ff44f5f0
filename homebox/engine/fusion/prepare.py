"""Makes both operands of a contraction readable in the order that its kernel wants.

The kernel takes b so that 16 neighbours along n lie side by side for each k (panels), a through any
strides. Weights are copied into panels once; activations that already lie well are read in place.
Invariant: what `operand_bases` returns for a prepared contraction is all that its kernel reads.
"""

from homebox.engine.fusion import packed as packing
from homebox.engine.fusion.contract import (
    PANEL,
    Axes,
    classify,
    loops,
    operand,
    packed_product,
    sides,
)
from homebox.engine.fusion.grouped import blocks_only, chooser, grouped_operand, weights_beside
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Counters
from homebox.engine.graph.ops import MOVEMENT, Dim, Node, Op, Shape, Sym, node, size_max
from homebox.engine.graph.symbolic import ZERO, of
from homebox.engine.graph.tensor import Tensor


def prepare(c: Node) -> Node | None:
    """Return the contraction with operands that a kernel can read; None if it is no contraction."""
    axes = classify(c)
    if axes is None:
        return None
    product = c.src[0]
    a, b = sides(c, axes)
    each = loops(product.shape, Counters())
    found = packed_product(c)
    if found is not None:
        if packing.readable(found, each, axes.n, axes.k[0], axes.batch):
            return c
        a = repeated(compact(a, product.shape).contiguous(), product.shape)
        return _with_sides(c, axes, a, b)
    counters = Counters()
    each = loops(product.shape, counters)
    panel, lane = counters.loop(-(-each[axes.n].size // PANEL)), counters.loop(PANEL)
    index = [of(x) for x in each]
    a_side = operand(a, tuple(index))
    index[axes.n] = of(panel) * PANEL + of(lane)
    b_side = operand(b, tuple(index))
    grouped = grouped_operand(b, tuple(index), (*(each[i] for i in axes.k), panel, lane))
    if grouped is not None:
        b_side = grouped[0]
    wanted = [each[i] for i in (*axes.k, *axes.m, *axes.batch)]
    copied = a_side.conditional or _read_behind(a_side.base)
    if copied or not all(a_side.flat.linear_in(x) for x in wanted):
        a = repeated(compact(a, product.shape).contiguous(), product.shape)
    wanted = [each[i] for i in axes.k] + [panel, lane]
    in_order = (
        not b_side.conditional
        and not _read_behind(b_side.base)
        and all(b_side.flat.linear_in(x) for x in wanted)
        and all(blocks_only(b_side.flat, each[i]) for i in axes.batch)
        and b_side.flat.coefficient(lane) == 1
        and size_max(product.shape[axes.n]) % PANEL == 0
    )
    if not in_order:
        if any(isinstance(d, Sym) for d in compact(b, product.shape).shape):
            return None  # cannot be packed; a slower kernel sums it where it lies
        b = packed_weights(b, product.shape, axes) or packed(b, product.shape, axes)
    return _with_sides(c, axes, a, b)


def _read_behind(n: Node) -> bool:
    """Whether products with packed weights read not this node but what it is made from.

    Other products take a copy of it, so that the node itself never gets memory.
    """
    widened = n.op is Op.CAST and n.dtype is dt.f32 and n.src[0].dtype is dt.bf16
    if n.op is Op.GATHER and len(n.src[1].shape) == 1 and len(n.shape) > 2:  # one of several
        n = n.src[0]
        while n.op in MOVEMENT:
            n = n.src[0]
    return n.op is Op.UNPACK or widened


def _with_sides(c: Node, axes: Axes, a: Node, b: Node) -> Node:
    """Return a contraction with other factors."""
    product = c.src[0]
    sources = (b, a) if axes.swap else (a, b)
    if sources == product.src:
        return c
    product = node(Op.MUL, product.dtype, product.shape, sources)
    return node(Op.REDUCE, c.dtype, c.shape, (product,), c.arg)


def operand_bases(c: Node) -> list[Node]:
    """Return the nodes that a contraction reads from memory."""
    found = packed_product(c)
    if found is not None:
        return [found.a, found.stored, *chooser(found.group)]
    bases = []
    for source in c.src[0].src:
        while source.op in MOVEMENT:
            source = source.src[0]
        bases.append(source)
    axes = classify(c)
    grouped = None if axes is None else weights_beside(c, axes)
    if axes is not None and grouped is not None:
        bases[0 if axes.swap else 1] = grouped[0].base
        bases += chooser(grouped[1])
    return bases


def varying(n: Node, shape: Shape) -> list[bool]:
    """Say for each axis whether a node's elements differ along it."""
    each = loops(shape, Counters())
    flat = operand(n, tuple(of(x) for x in each)).flat
    return [flat.depends(x) for x in each]


def compact(n: Node, shape: Shape) -> Tensor:
    """Return a node without the axes along which it only repeats (they become size 1)."""
    moves = varying(n, shape)
    arg = tuple((0, d, 1) if v else (0, 1, 1) for v, d in zip(moves, shape, strict=True))
    small: Shape = tuple(size for _, size, _ in arg)
    return Tensor(node(Op.SLICE, n.dtype, small, (n,), arg)) if small != shape else Tensor(n)


def repeated(t: Tensor, shape: Shape) -> Node:
    """Return a tensor's node, expanded."""
    return t.expand(shape).node


def packed(b: Node, shape: Shape, axes: Axes) -> Node:
    """Copy b into panels [batch][n / 16][k][16], and return it in its old shape again."""
    small = compact(b, shape)
    order = [*axes.batch, axes.n, *axes.k]
    order = [x for x in range(len(shape)) if x not in order] + order
    moved = small.permute(*order)
    dims = list(moved.shape)
    at = order.index(axes.n)
    n = size_max(dims[at])
    blocks = -(-n // PANEL)
    k = 1
    for d in dims[at + 1 :]:
        k *= size_max(d)
    padded = moved.pad(at, 0, blocks * PANEL - n)
    front: list[Dim] = list(dims[:at])
    rows = padded.reshape((*front, blocks, PANEL, k))
    last = len(front)
    panels = rows.permute(*range(last), last, last + 2, last + 1).contiguous()
    back = panels.permute(*range(last), last, last + 2, last + 1)
    back = back.reshape((*front, blocks * PANEL, *dims[at + 1 :])).slice(at, 0, n)
    unmoved = [order.index(x) for x in range(len(shape))]
    return repeated(back.permute(*unmoved), shape)


def packed_weights(b: Node, shape: Shape, axes: Axes) -> Node | None:
    """Gather b from panels of all its weights, [weight][n / 16][k][16]; None if it is no such b.

    The panels are made once, since the weights are frozen.
    """
    each = loops(shape, Counters())
    index = tuple(of(x) for x in each)
    if len(axes.batch) > 1 or grouped_operand(b, index, (each[axes.n], each[axes.k[0]])) is None:
        return None
    found, place, _ = packing.follow(b, index)
    block = [of(each[i]) for i in axes.batch] or [ZERO]
    ways = {0: (axes.n, axes.k[0]), 1: (axes.k[0], axes.n)}
    for turned, (first, second) in ways.items():
        if len(axes.k) == 1 and place == (*block, of(each[first]), of(each[second])):
            weights, chosen = (Tensor(s) for s in found.src)
            n, k = size_max(shape[axes.n]), size_max(shape[axes.k[0]])
            rows = (weights.transpose() if turned else weights).pad(1, 0, -n % PANEL)
            panels = rows.reshape((-1, -(-n // PANEL), PANEL, k)).permute(0, 1, 3, 2).contiguous()
            taken = panels.gather(chosen).permute(0, 1, 3, 2).reshape((-1, n + -n % PANEL, k))
            return _laid_out(taken, shape, axes)
    return None


def _laid_out(b: Tensor, shape: Shape, axes: Axes) -> Node:
    """Return matrices (blocks, whole panels of n, k) in the order of a contraction's axes."""
    roles = [*axes.batch, axes.n, axes.k[0]]
    if not axes.batch:
        b = b.reshape(b.shape[1:])
    b = b.permute(*sorted(range(len(roles)), key=lambda i: roles[i]))
    sizes: list[Dim] = [d if i in roles else 1 for i, d in enumerate(shape)]
    sizes[axes.n] = size_max(shape[axes.n]) + -size_max(shape[axes.n]) % PANEL
    # The padding is cut off last: a reshape of what is cut would take places apart by division.
    return repeated(b.reshape(tuple(sizes)).slice(axes.n, 0, shape[axes.n]), shape)

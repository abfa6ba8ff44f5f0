"""Algebraic rules on the graph: what can be simplified without changing more than rounding.

`simplify` folds constants and merges movement operations. R2 (scale hoisting) moves a factor that
does not depend on the summed axis out of a sum of products, so that a matmul need not wait for it.
Rules are plain functions; `NOFUSE=R2` leaves R2 out.
"""

import math
import os
from collections.abc import Callable

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import MOVEMENT, Node, Op, Sym, node, size_max
from homebox.engine.graph.rewrite import Rules
from homebox.engine.graph.tensor import Tensor, const, is_narrow

MOST_FACTORS = 32

simplify = Rules()
hoisting = Rules()


def disabled() -> frozenset[str]:
    """Return the fusion rules that NOFUSE=R1,R2,... switches off."""
    return frozenset(filter(None, os.environ.get("NOFUSE", "").upper().split(",")))


# -- constants ------------------------------------------------------------------------------------


def scalar(source: Node) -> float | int | bool | None:
    """Return the number that every element of a node equals, if that is plain to see."""
    while source.op in (Op.RESHAPE, Op.EXPAND, Op.PERMUTE, Op.SLICE):
        source = source.src[0]
    if source.op is Op.CONST:
        value: float | int | bool = source.arg
        return value
    return None


def filled(like: Node, value: float | int | bool) -> Node:
    """Return a node of the same type and shape whose elements all are `value`."""
    flat = Tensor(const(value, like.dtype)).reshape((1,) * len(like.shape))
    return flat.expand(like.shape).node if like.shape else const(value, like.dtype)


@simplify.on(Op.ADD)
def add_zero(n: Node) -> Node | None:
    """x + 0 = x."""
    a, b = n.src
    if scalar(b) == 0:
        return a
    return b if scalar(a) == 0 else None


@simplify.on(Op.MUL)
def multiply_by_one(n: Node) -> Node | None:
    """x * 1 = x."""
    a, b = n.src
    if scalar(b) == 1:
        return a
    return b if scalar(a) == 1 else None


@simplify.on(Op.ADD, Op.MUL, Op.MAX, Op.LT, Op.EQ, Op.XOR, Op.AND)
def fold_binary(n: Node) -> Node | None:
    """Compute an operation on constants, rounded as a kernel would."""
    a, b = (scalar(s) for s in n.src)
    if a is None or b is None:
        return None
    table: dict[Op, Callable[..., float | int | bool]] = {
        Op.ADD: lambda x, y: x + y,
        Op.MUL: lambda x, y: x * y,
        Op.MAX: lambda x, y: x if x > y else y,  # as the kernels do it, NaN included
        Op.LT: lambda x, y: x < y,
        Op.EQ: lambda x, y: x == y,
        Op.XOR: lambda x, y: x ^ y,
        Op.AND: lambda x, y: x & y,
    }
    return filled(n, table[n.op](a, b))


@simplify.on(Op.CAST)
def fold_cast(n: Node) -> Node | None:
    """Convert constants; drop conversions to the same type, and from a 16-bit float and back."""
    if n.src[0].dtype is n.dtype:
        return n.src[0]
    widened = n.src[0].op is Op.CAST and n.src[0].dtype is dt.f32
    if widened and is_narrow(n.dtype) and n.src[0].src[0].dtype is n.dtype:
        return n.src[0].src[0]
    value = scalar(n.src[0])
    if value is None or (not n.dtype.is_float and not math.isfinite(value)):
        return None
    return filled(n, value)


@simplify.on(Op.MUL, Op.ADD)
def constants_last(n: Node) -> Node | None:
    """Put constants on the right, so that equal expressions are one node."""
    a, b = n.src
    if scalar(a) is not None and scalar(b) is None:
        return node(n.op, n.dtype, n.shape, (b, a))
    return None


@simplify.on(Op.WHERE)
def known_choice(n: Node) -> Node | None:
    """Drop a choice whose condition is a constant or whose values are equal."""
    condition = scalar(n.src[0])
    if condition is None:
        return n.src[1] if n.src[1] is n.src[2] else None
    return n.src[1] if condition else n.src[2]


# -- movement -------------------------------------------------------------------------------------


@simplify.on(Op.RESHAPE)
def merge_reshape(n: Node) -> Node | None:
    """Of two reshapes the last one counts."""
    (s,) = n.src
    if s.shape == n.shape:
        return s
    if s.op is Op.RESHAPE:
        return Tensor(s.src[0]).reshape(n.shape).node
    return None


@simplify.on(Op.PERMUTE)
def merge_permute(n: Node) -> Node | None:
    """Join two orders of axes to one."""
    (s,) = n.src
    if n.arg == tuple(range(len(n.arg))):
        return s
    if s.op is Op.PERMUTE:
        return Tensor(s.src[0]).permute(*(s.arg[i] for i in n.arg)).node
    return None


@simplify.on(Op.EXPAND)
def merge_expand(n: Node) -> Node | None:
    """Of two repetitions the last one counts."""
    (s,) = n.src
    if s.shape == n.shape:
        return s
    return Tensor(s.src[0]).expand(n.shape).node if s.op is Op.EXPAND else None


@simplify.on(Op.SLICE)
def whole_slice(n: Node) -> Node | None:
    """Drop a slice of everything; slice before repeating, not after."""
    (s,) = n.src
    if all(
        start == 0 and step == 1 and size == dim
        for (start, size, step), dim in zip(n.arg, s.shape, strict=True)
    ):
        return s
    if s.op is Op.EXPAND:  # slicing repeated elements repeats fewer of them
        arg = tuple(
            (0, 1, 1) if inner == 1 and dim != 1 else part
            for part, inner, dim in zip(n.arg, s.src[0].shape, s.shape, strict=True)
        )
        shape = tuple(size for _, size, _ in arg)
        inner_slice = node(Op.SLICE, n.dtype, shape, s.src, arg)
        return Tensor(inner_slice).expand(n.shape).node
    return None


@simplify.on(Op.REDUCE)
def empty_reduce(n: Node) -> Node | None:
    """Summing over axes of size 1 is nothing."""
    (s,) = n.src
    return s if s.shape == n.shape else None


# -- R2: scale hoisting ---------------------------------------------------------------------------


def varies(source: Node, axis: int) -> bool:
    """Whether elements of a node can differ along an axis, as far as movement tells."""
    axes = {axis}
    while axes:
        if source.op is Op.EXPAND:
            axes = {a for a in axes if source.src[0].shape[a] != 1}
        elif source.op is Op.PERMUTE:
            axes = {source.arg[a] for a in axes}
        elif source.op is Op.RESHAPE:
            moved = reshaped_axes(source, axes)
            if moved is None:
                return True
            axes = moved
        elif source.op in (Op.SLICE, Op.COPY):
            pass
        elif source.op is Op.CONST:
            return False
        else:
            return any(source.shape[a] != 1 for a in axes)
        source = source.src[0]
    return False


def reshaped_axes(n: Node, axes: set[int]) -> set[int] | None:
    """Return the source's axes that hold exactly these axes of a reshape, None if they mix."""
    out: set[int] = set()
    old, new = n.src[0].shape, n.shape
    if 0 in (*old, *new):
        return None
    i = j = 0
    while i < len(old) or j < len(new):
        group_i, group_j = [i], [j]
        a = size_max(old[i]) if i < len(old) else 1
        b = size_max(new[j]) if j < len(new) else 1
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= size_max(old[i])
                group_i.append(i)
                i += 1
            else:
                b *= size_max(new[j])
                group_j.append(j)
                j += 1
        inside = [x for x in group_j if x < len(new) and new[x] != 1]
        wanted = [x for x in inside if x in axes]
        if wanted and wanted != inside:
            return None
        if wanted:
            out.update(x for x in group_i if x < len(old) and old[x] != 1)
    return out


def factors(source: Node) -> list[Node]:
    """Return nodes of the source's shape whose product it is, looking through movement.

    A product of more than `MOST_FACTORS` is taken apart only so far.
    """
    found: list[Node] = []
    waiting = [source]
    while waiting:
        each = inner = waiting.pop()
        moves: list[Node] = []
        while inner.op in MOVEMENT and inner.op is not Op.PAD:
            moves.append(inner)
            inner = inner.src[0]
        if inner.op is not Op.MUL or len(found) + len(waiting) >= MOST_FACTORS:
            found.append(each)
            continue
        for part in reversed(inner.src):
            for move in reversed(moves):
                part = node(move.op, part.dtype, move.shape, (part,), move.arg)
            waiting.append(part)
    return found


def joined(parts: list[Node]) -> Node:
    """Return the product of nodes of one shape, multiplied before it is repeated along any axis."""
    shape = parts[0].shape
    moving = [any(varies(p, a) for p in parts) for a in range(len(shape))]
    arg = tuple((0, d, 1) if m else (0, 1, 1) for m, d in zip(moving, shape, strict=True))
    small = tuple(size for _, size, _ in arg)
    cut = [Tensor(node(Op.SLICE, p.dtype, small, (p,), arg)) for p in parts]
    total = cut[0]
    for part in cut[1:]:
        total = total * part
    return total.expand(shape).node


@hoisting.on(Op.REDUCE)
def hoist_scale(n: Node) -> Node | None:
    """sum_k(s * a_k * b_k) = s * sum_k(a_k * b_k), if that leaves a product of two."""
    how, axes = n.arg
    (product,) = n.src
    if how != "add" or product.op is not Op.MUL or product.dtype is not dt.f32:
        return None
    if any(isinstance(product.shape[a], Sym) for a in axes):
        return None
    kept: list[Node] = []
    hoisted: list[Node] = []
    for operand in product.src:
        parts = factors(operand)
        inside = [p for p in parts if any(varies(p, a) for a in axes)]
        outside = [p for p in parts if p not in inside]
        if not inside or not outside:
            kept.append(operand)
            continue
        kept.append(joined(inside))
        hoisted.extend(outside)
    if not hoisted:
        return None
    total = node(Op.MUL, n.dtype, product.shape, tuple(kept))
    out = node(Op.REDUCE, n.dtype, n.shape, (total,), n.arg)
    for factor in hoisted:
        arg = tuple((0, 1, 1) if a in axes else (0, d, 1) for a, d in enumerate(product.shape))
        single = node(Op.SLICE, n.dtype, n.shape, (factor,), arg)
        out = node(Op.MUL, n.dtype, n.shape, (out, single))
    return out


@hoisting.on(Op.REDUCE)
def split_sum(n: Node) -> Node | None:
    """sum(a * b + c * d) = sum(a * b) + sum(c * d): two contractions instead of none."""
    (total,) = n.src
    if n.arg[0] != "add" or total.op is not Op.ADD or n.dtype is not dt.f32:
        return None
    if not all(part.op in (Op.MUL, Op.ADD) for part in total.src):
        return None
    parts = tuple(node(Op.REDUCE, n.dtype, n.shape, (part,), n.arg) for part in total.src)
    if not any(part.src[0].op is Op.MUL and _repeats(part.src[0]) for part in parts):
        return None
    return node(Op.ADD, n.dtype, n.shape, parts)


def _repeats(product: Node) -> bool:
    """Whether a factor only repeats along some axis, as in a matrix product."""
    return any(
        not varies(factor, axis)
        for factor in product.src
        for axis, size in enumerate(product.shape)
        if size != 1
    )

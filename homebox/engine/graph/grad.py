"""Reverse-mode differentiation on the graph: the gradient of a graph is a graph.

`gradient` walks from a scalar to the wanted nodes in reverse order of dependence; each op's rule
turns the gradient of its output into gradients of its sources, as more nodes. Integer and boolean
nodes have no gradient. A detached COPY stops the walk.
"""

import itertools
from collections.abc import Callable, Sequence

from homebox.engine.graph.ops import Node, Op, Sym, node, toposort
from homebox.engine.graph.tensor import LN_2, Tensor
from homebox.errors import EngineError

Gradients = tuple[Tensor | None, ...]
HALF_PI = 1.5707963267948966
_fresh = itertools.count()


def gradient(loss: Tensor, wanted: Sequence[Tensor], seed: Tensor | None = None) -> list[Tensor]:
    """Return d loss / d wanted for each tensor in `wanted`, with its shape.

    `seed` is the gradient of the loss itself, ones by default. A tensor on which the loss does not
    depend gets zeros. Raises EngineError for an op without a rule (STORE, integer arithmetic).
    """
    targets = {w.node for w in wanted}
    order = toposort([loss.node])
    needed: set[Node] = set()
    for each in order:
        detached = each.op is Op.COPY and each.arg == "detach"
        if not detached and (each in targets or any(s in needed for s in each.src)):
            needed.add(each)
    start = seed if seed is not None else Tensor.full(loss.shape, 1.0)
    grads: dict[Node, Tensor] = {loss.node: start}
    for each in reversed(order):
        if each not in needed or each not in grads or (each in targets and not each.src):
            continue
        incoming = grads[each] if each in targets else grads.pop(each)
        for source, part in zip(each.src, backward(each, incoming), strict=False):
            if part is None or source not in needed or not source.dtype.is_float:
                continue
            grads[source] = grads[source] + part if source in grads else part
    return [grads.get(w.node, Tensor.full(w.shape, 0.0)) for w in wanted]


def backward(n: Node, g: Tensor) -> Gradients:
    """Return the gradients of a node's sources, given the gradient of its value."""
    rule = RULES.get(n.op)
    if rule is None:
        raise EngineError(f"{n.op.name} has no gradient")
    return rule(n, g, [Tensor(s) for s in n.src])


def _mul(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    return g * src[1], g * src[0]


def _max(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    first = src[0] > src[1]
    return first.where(g, 0.0), first.where(0.0, g)


def _where(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    return None, src[0].where(g, 0.0), src[0].where(0.0, g)


def _expand(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    pairs = enumerate(zip(src[0].shape, n.shape, strict=True))
    axes = tuple(i for i, (old, new) in pairs if old != new)
    return (g.sum(axes, keepdim=True),)


def _permute(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    back = sorted(range(len(n.arg)), key=lambda i: n.arg[i])
    return (g.permute(*back),)


def _slice(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    for axis, (start, size, step) in enumerate(n.arg):
        if isinstance(start, Sym) or isinstance(size, Sym):
            raise EngineError("a slice that is known only at run time has no gradient")
        if step < 0:
            g = g.slice(axis, size - 1, size, -1)
            start = start - size + 1
        whole = src[0].shape[axis]
        if not isinstance(whole, Sym):
            g = g.pad(axis, start, whole - start - size)
    return (g,)


def _pad(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    for axis, (before, _) in enumerate(n.arg):
        g = g.slice(axis, before, src[0].shape[axis])
    return (g,)


def _reduce(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    (x,) = src
    how, axes = n.arg
    wide = g.expand(x.shape)
    if how == "add":
        return (wide,)
    if how == "max":  # ties share the gradient equally
        top = x.equal(Tensor(n).expand(x.shape)).where(1.0, 0.0)
        return (wide * top * top.sum(axes, keepdim=True).recip().expand(x.shape),)
    return (wide * Tensor(n).expand(x.shape) * x.recip(),)


def _gather(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    """The segment sum of the rows' gradients, in the order of the index."""
    table, index = src
    # Memory that is written to must not be shared with an equal copy: the argument makes it unique.
    zeros = node(Op.COPY, n.dtype, table.shape, (Tensor.full(table.shape, 0.0).node,), next(_fresh))
    sources = (zeros, g.node, index.node)
    return Tensor(node(Op.STORE, n.dtype, table.shape, sources, "add")), None


def _copy(n: Node, g: Tensor, src: list[Tensor]) -> Gradients:
    return (None if n.arg == "detach" else g,)


RULES: dict[Op, Callable[[Node, Tensor, list[Tensor]], Gradients]] = {
    Op.ADD: lambda n, g, src: (g, g),
    Op.MUL: _mul,
    Op.MAX: _max,
    Op.WHERE: _where,
    Op.CAST: lambda n, g, src: (g.cast(src[0].dtype) if src[0].dtype.is_float else None,),
    Op.EXP2: lambda n, g, src: (g * Tensor(n) * LN_2,),
    Op.LOG2: lambda n, g, src: (g * src[0].recip() * (1.0 / LN_2),),
    Op.SIN: lambda n, g, src: (g * (src[0] + HALF_PI).sin(),),
    Op.TANH: lambda n, g, src: (g * (Tensor(n) * Tensor(n) * -1.0 + 1.0),),
    Op.SQRT: lambda n, g, src: (g * Tensor(n).recip() * 0.5,),
    Op.RECIP: lambda n, g, src: (g * Tensor(n) * Tensor(n) * -1.0,),
    Op.RESHAPE: lambda n, g, src: (g.reshape(src[0].shape),),
    Op.PERMUTE: _permute,
    Op.EXPAND: _expand,
    Op.SLICE: _slice,
    Op.PAD: _pad,
    Op.REDUCE: _reduce,
    Op.GATHER: _gather,
    Op.COPY: _copy,
}

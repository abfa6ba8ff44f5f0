"""Products with packed weights: which matrix, which way round, and what lies on the other side.

A contraction whose b operand is an UNPACK is computed from the packed bytes; nothing is unpacked
into memory. What the other operand is decides the arithmetic: int8 blocks (`quantised()`) are
multiplied as integers, numbers rounded to bf16 as bf16, all else in float32 with exactly decoded
weights. `transposed` products sum over the weight's rows (the backward of a linear layer).
Grouped products gather a weight for each block of rows out of several that lie one below the other;
the number of each block's weight is loaded from memory, and a block without a weight sums nothing.
"""

from dataclasses import dataclass
from typing import Literal

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, PANEL, WEIGHTS, Format
from homebox.engine.graph.indexing import Condition, gathered, through
from homebox.engine.graph.ops import MOVEMENT, Node, Op, Sym, size_max
from homebox.engine.graph.symbolic import Index, Loaded, Loop, flatten, of

Arithmetic = Literal["int8", "bf16", "f32"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A product of activations with a packed weight.

    `stored` holds the weight's bytes, `shape` is (n, k) of the weight, `first` the row of it where
    the product begins: a multiple of 16, which run-time integers may choose, or the number `group`
    that is loaded from memory. `a` is the node in memory on the other side and `a_flat` where it is
    read, in elements of its float or int8 matrix.
    """

    form: Format
    stored: Node
    shape: tuple[int, int]
    first: Index
    transposed: bool
    arithmetic: Arithmetic
    a: Node
    a_flat: Index
    group: Loaded | None = None

    @property
    def exists(self) -> tuple[Condition, ...]:
        """What must hold so that the weight of a block of rows exists."""
        return () if self.group is None else ((of(self.group), self.group.size),)


def follow(n: Node, index: tuple[Index, ...]) -> tuple[Node, tuple[Index, ...], bool]:
    """Follow movement operations down; return node, index, and whether padding was read through."""
    conditional = False
    while n.op in MOVEMENT:
        index, conditions = through(n, index)
        conditional = conditional or bool(conditions)
        n = n.src[0]
    return n, index, conditional


def find(a: Node, b: Node, each: list[Loop], n_axis: int, k_axes: tuple[int, ...]) -> Packed | None:
    """Return the packed product of a and b, whose axes have the counters `each`; None if it is not.

    `a_flat` may be anything; whether a kernel can read it is asked by `readable`.
    """
    if len(k_axes) != 1:
        return None
    index = tuple(of(x) for x in each)
    n, k = of(each[n_axis]), of(each[k_axes[0]])
    weight, place, conditional = follow(b, index)
    group: Loaded | None = None
    if weight.op is Op.GATHER and not conditional and len(weight.src[1].shape) == 1:
        group, place = chosen_weight(weight, place)
        if any(of(group).depends(each[axis]) for axis in (n_axis, *k_axes)):
            return None
        weight, place, conditional = follow(weight.src[0], place)
    if weight.op is not Op.UNPACK or weight.arg.name not in WEIGHTS or conditional:
        return None
    rows, columns = size_max(weight.shape[0]), size_max(weight.shape[1])
    ways = {False: (n, k), True: (k, n)}
    for transposed, (row, column) in ways.items():
        apart = place[0] + row * -1
        known = [isinstance(a, Sym) or a == group for a, _ in apart.terms]
        chosen = all(known) and all(c % PANEL == 0 for _, c in apart.terms)
        if place[1] == column and chosen and apart.const % PANEL == 0:
            arithmetic, base, flat = _activations(a, index)
            if arithmetic == "int8" and (transposed or not weight.arg.quantised):
                if group is None:
                    return None
                # What is gathered would be far larger than the activations as numbers.
                arithmetic, base, flat = "f32", a, flatten(index, a.shape)
            if transposed and columns % 64:
                return None
            (stored,) = weight.src
            shape = (rows, columns)
            way = (shape, apart, transposed)
            return Packed(weight.arg, stored, *way, arithmetic, base, flat, group)
    return None


def chosen_weight(n: Node, place: tuple[Index, ...]) -> tuple[Loaded, tuple[Index, ...]]:
    """Return the number of the weight that a GATHER takes, and the place in all of them."""
    inner, (row, _) = gathered(n, place)
    ((group, _),) = row.terms
    assert isinstance(group, Loaded)
    return group, inner


def _activations(a: Node, index: tuple[Index, ...]) -> tuple[Arithmetic, Node, Index]:
    """Return the arithmetic that an operand asks for, the node that holds it, and the place."""
    base, place, conditional = follow(a, index)
    if conditional:
        return "f32", a, flatten(index, a.shape)
    if base.op is Op.UNPACK and base.arg is A8:
        return "int8", base.src[0], flatten(place, base.shape)
    if base.op is Op.CAST and base.dtype is dt.f32 and base.src[0].dtype is dt.bf16:
        narrow, place, conditional = follow(base.src[0], place)
        if not conditional:
            return "bf16", narrow, flatten(place, narrow.shape)
    return "f32", base, flatten(place, base.shape)


def readable(
    packed: Packed, each: list[Loop], n_axis: int, k_axis: int, batch: tuple[int, ...] = ()
) -> bool:
    """Whether the activations lie along k without gaps, and at even places everywhere else.

    Along `batch` axes each block of rows may begin anywhere.
    """
    flat = packed.a_flat
    return (
        not flat.depends(each[n_axis])
        and flat.coefficient(each[k_axis]) == 1
        and all(flat.linear_in(x) for i, x in enumerate(each) if i not in batch)
    )

"""Further results that a streamed product's kernel writes, and sums of rows that it computes.

On a card a launch costs as much as reading megabytes, so what is computed from a product's outputs,
element by element, is written by the product's own kernel: the weighted row that the next product
reads, and its int8 blocks. What the next product's outputs are scaled by, one over the root mean
square of a row, is summed by each of its groups: a row is small beside the weight they read.
Invariant: a twin has the numbers that a kernel of its own would give; it reads its region's root,
other twins and frozen memory, so that no order of kernels is ruled out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from homebox.engine.fusion.contract import classify, packed_product
from homebox.engine.fusion.packed import Packed
from homebox.engine.fusion.schedule import FEW
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, BLOCK
from homebox.engine.graph.indexing import Access, Counters, accesses
from homebox.engine.graph.ops import (
    ELEMENTWISE,
    MOVEMENT,
    Node,
    Op,
    Sym,
    is_name,
    node,
    numel_max,
    size_max,
    toposort,
)
from homebox.engine.graph.rewrite import with_sources
from homebox.engine.graph.symbolic import Index, Loop, flatten, of

LONGEST_ROW = 32768  # numbers of a row that every group of a product sums


def streams(cores: Sequence[Node], blocks: bool = False) -> bool:
    """Whether products of one region surely get the kernel that streams weights for few rows.

    With `blocks`, of few rows in each block of grouped products.
    """
    main = classify(cores[0])
    if main is None or len(main.m) > 1 or len(main.k) != 1 or bool(main.batch) != blocks:
        return False
    for core in cores:
        axes, shape = classify(core), core.src[0].shape
        packed = packed_product(core)
        if axes is None or packed is None or packed.transposed:
            return False
        if (axes.n, axes.m, axes.batch, len(axes.k)) != (main.n, main.m, main.batch, 1):
            return False
        if shape[:-1] != cores[0].src[0].shape[:-1] or axes.k[0] != len(shape) - 1:
            return False
        if any(isinstance(d, Sym) for d in shape) or numel_max(shape[a] for a in axes.m) > FEW:
            return False
        if not _in_words(packed, size_max(shape[-1])):
            return False
    return True


def _in_words(packed: Packed, k: int) -> bool:
    """Whether rows of activations begin where the kernel can read them."""
    if k % 2:
        return False
    step = {"f32": 1, "bf16": 2, "int8": k}[packed.arithmetic]
    starts = (packed.a_flat.const, *(c for _, c in packed.a_flat.terms if c != 1))
    return all(c % step == 0 for c in starts)


def rows_and_columns(root: Node) -> tuple[Counters, tuple[Loop, ...]] | None:
    """Return counters for a root of rows x columns; None if its shape is another one."""
    if len(root.shape) != 2 or any(isinstance(d, Sym) for d in root.shape):
        return None
    counters = Counters()
    return counters, tuple(counters.loop(size_max(d)) for d in root.shape)


def follows(
    twin: Node, root: Node, others: Iterable[Node], realised: set[Node] | frozenset[Node]
) -> bool:
    """Whether an element of `twin` is made from the root's element there and from frozen memory."""
    source = twin.src[0] if twin.op is Op.PACK else twin
    found = rows_and_columns(root)
    if found is None or source.shape != root.shape or not _plain(twin):
        return False
    if twin.op is Op.PACK and (twin.arg is not A8 or numel_max(root.shape[1:]) % BLOCK):
        return False
    if source is root:
        return True
    counters, loops = found
    index = tuple(of(x) for x in loops)
    inside = (realised | {root}) - {twin, *others}
    reads = accesses(source, index, inside, counters)
    own = [r for r in reads if r.node is root]
    if not own or any(r.flat != flatten(index, root.shape) or r.conditions for r in own):
        return False
    return all(_is_frozen(r) for r in reads if r.node is not root)


def beside(factor: Node, packed: Node, realised: set[Node] | frozenset[Node]) -> bool:
    """Whether a number for each row is made from the memory from which the rows are packed."""
    source = packed.src[0]
    found = rows_and_columns(source)
    if found is None or factor.dtype is not dt.f32 or factor.shape != (source.shape[0], 1):
        return False
    if factor.op not in (Op.REDUCE, *ELEMENTWISE):
        return False
    counters, (row, column) = found
    inside = realised - {factor, packed}
    sums = row_sums(factor, (of(row), Index(0)), row, inside, counters, ())
    reads = accesses(source, (of(row), of(column)), inside, counters)
    if not sums or any(r.inline for r in reads):
        return False
    others = accesses(factor, (of(row), Index(0)), inside, counters)
    needed = {r.node for r in others if not r.inline and not _is_frozen(r)}
    return needed == {r.node for r in reads if not _is_frozen(r)}


def _plain(twin: Node) -> bool:
    return twin.op in (Op.PACK, *ELEMENTWISE) and twin.dtype in (dt.f32, dt.bf16, dt.u8)


def _is_frozen(read: Access) -> bool:
    return read.node.op is Op.BUFFER and read.node.arg.frozen and not read.inline


def row_sums(
    source: Node,
    index: tuple[Index, ...],
    row: Loop,
    realised: set[Node] | frozenset[Node],
    counters: Counters,
    cores: Sequence[Node],
) -> list[Node] | None:
    """Return the sums over rows that an epilogue needs; None if some are of another kind.

    `row` is the counter of rows in `index`, the place of the epilogue's element in `source`.
    """
    found: list[Node] = []
    for read in accesses(source, index, realised | set(cores), counters):
        if not read.inline or read.node in cores:
            continue
        if not is_row_sum(read.node, row.size, realised) or read.conditions:
            return None
        if read.index != (of(row) if row.size > 1 else Index(0), Index(0)):
            return None
        found.append(read.node)
    return list(dict.fromkeys(found))


def rounded_copies(roots: Sequence[Node]) -> list[Node]:
    """Round what is copied before it is copied, if the copy is only read to be rounded to bf16.

    Copies lie in the shape in which their kernel computes them best; the kernel writes bf16 then.
    """
    order = toposort(roots)
    users: dict[Node, int] = Counter(source for n in order for source in dict.fromkeys(n.src))
    users.update((root, 2) for root in roots)
    done: dict[Node, Node] = {}
    for each in order:
        current = with_sources(each, tuple(done[s] for s in each.src))
        if each.op is Op.CAST and each.dtype is dt.bf16:
            current = _rounded_below(each, current, users)
        done[each] = current
    return [done[root] for root in roots]


def _rounded_below(n: Node, current: Node, users: Mapping[Node, int]) -> Node:
    """Return a CAST moved below a copy, or as it is now."""
    moves: list[Node] = []
    old, inner = n.src[0], current.src[0]
    while old.op in (Op.RESHAPE, Op.PERMUTE) and users[old] == 1:
        moves.append(inner)
        old, inner = old.src[0], inner.src[0]
    if old.op is not Op.COPY or is_name(old) or users[old] != 1 or old.dtype is not dt.f32:
        return current
    found = node(Op.CAST, n.dtype, inner.shape, inner.src)
    found = node(Op.COPY, n.dtype, inner.shape, (found,), inner.arg)
    for move in reversed(moves):
        found = node(move.op, n.dtype, move.shape, (found,), move.arg)
    return found


def is_row_sum(n: Node, rows: int, realised: set[Node] | frozenset[Node]) -> bool:
    """Whether a node is one sum for each row of a small matrix in memory."""
    wide = n.src[0].shape
    if n.op is not Op.REDUCE or n.dtype is not dt.f32 or n.shape != (rows, 1):
        return False
    if n.arg[1] != (1,) or numel_max(wide[1:]) > LONGEST_ROW:
        return False
    stack = [n.src[0]]
    while stack:
        each = stack.pop()
        if each in realised or each.op in (Op.BUFFER, Op.CONST):
            continue
        if each.op not in ELEMENTWISE and (each.op not in MOVEMENT or each.op is Op.PAD):
            return False
        stack.extend(each.src)
    return True

"""Keeps a store from overwriting what its own value still has to read.

A kernel writes a store's elements one after another, on several threads, while it computes them. A
value may therefore read the memory that is written only at the element being written (an in-place
update). Anything else (a flipped or transposed source, a sum over a row, an operand of a matrix
product, other rows of an indexed store) is computed into memory of its own first.
Invariant: a program's result is as if every store happened after its value was complete.
"""

from collections.abc import Container

from homebox.engine.fusion.contract import loops
from homebox.engine.fusion.prepare import operand_bases
from homebox.engine.graph.indexing import Counters, accesses
from homebox.engine.graph.ops import Node, Op, is_name, memory_of
from homebox.engine.graph.rewrite import with_sources
from homebox.engine.graph.symbolic import flatten, of
from homebox.engine.graph.tensor import Tensor


def overlaps(a: Node, b: Node) -> bool:
    """Whether the memories of two nodes share bytes."""
    a, b = memory_of(a), memory_of(b)
    if a is b:
        return True
    if a.op is not Op.BUFFER or b.op is not Op.BUFFER:
        return False
    one, other = a.arg, b.arg
    first: bool = one.address < other.address + other.nbytes
    second: bool = other.address < one.address + one.nbytes
    return first and second


def safe_store(store: Node, realised: set[Node], cores: Container[Node]) -> Node:
    """Return the store, with a copy in front of its value if it would disturb itself.

    `realised` are nodes below it that are certain to have memory, contractions (`cores`) included.
    """
    target, value, *index = store.src
    if value.op in (Op.COPY, Op.STORE) and not is_name(value):
        return store
    counters = Counters()
    at = tuple(of(x) for x in loops(value.shape, counters))
    flat = flatten(at, value.shape)
    reads = accesses(value, at, realised, counters)
    for rows in index:
        reads += accesses(rows, at[: len(rows.shape)], realised, counters)
    for read in reads:
        if read.node in cores:
            disturbed = any(overlaps(base, target) for base in operand_bases(read.node))
        elif read.node.op is Op.REDUCE or not overlaps(read.node, target):
            continue
        else:
            same = memory_of(read.node) is memory_of(target) and read.flat == flat
            disturbed = bool(index) or not same
        if disturbed:
            return with_sources(store, (target, Tensor(value).contiguous().node, *index))
    return store
